//! A checkpoint that is cut off at any of its operations costs at most itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use hearth_worker::checkpoint::directory::Directory;
use hearth_worker::checkpoint::{CheckpointStore, Storage};

use crate::checkpoint_state::{restart, save};
use crate::faulty_disk::{Bug, Fault, FaultyDisk};

const ROWS: i64 = 40;
/// Set for a process that is to die: directory, and number of the operation.
const DIES_IN: &str = "HEARTH_TEST_DIES_IN";
const DIES_AT: &str = "HEARTH_TEST_DIES_AT";

fn honest(root: &Path) -> Arc<dyn Storage> {
    Arc::new(Directory::new(root.to_owned()))
}

/// Two good checkpoints, of steps 1 and 2.
fn two_saved(root: &Path) {
    let storage = honest(root);
    CheckpointStore::new(Arc::clone(&storage), 1).prepare().unwrap();
    save(&storage, (1, ROWS, 2)).unwrap();
    save(&storage, (2, ROWS, 2)).unwrap();
}

/// After an interrupted save of step 3: restarts, and goes on to step 4.
fn goes_on(root: &Path, complete: bool) -> Result<(), String> {
    let storage = honest(root);
    let step = restart(&storage, ROWS)?;
    if step != 3 && (complete || step != 2) {
        return Err(format!("step {step} was restored"));
    }
    save(&storage, (4, ROWS, 2)).map_err(|error| error.sentence())?;
    match restart(&storage, ROWS)? {
        4 => Ok(()),
        other => Err(format!("step {other} was restored after step 4 was saved")),
    }
}

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// What was done stays done.
    OfTheProcess,
    /// What was not synced is lost.
    OfTheMachine,
}

/// Saves step 3 on a disk that dies at its operation `at`; `None` where it has
/// fewer operations.
fn dies_at(at: usize, death: Death, bug: Option<Bug>) -> Option<Result<(), String>> {
    let root = tempfile::tempdir().unwrap();
    two_saved(root.path());
    let disk = Arc::new(FaultyDisk::new(Fault::Dies, at, bug));
    let storage: Arc<dyn Storage> =
        Arc::new(Directory::on(root.path().to_owned(), Arc::clone(&disk) as _));
    let complete = save(&storage, (3, ROWS, 2)).is_ok();
    if death == Death::OfTheMachine {
        disk.lose_power();
    }
    disk.struck().then(|| goes_on(root.path(), complete))
}

/// Results of a death at each operation.
fn sweep(death: Death, bug: Option<Bug>) -> Vec<Result<(), String>> {
    (0..).map_while(|at| dies_at(at, death, bug)).collect()
}

#[test]
fn a_death_at_any_operation_costs_no_complete_checkpoint() {
    for death in [Death::OfTheProcess, Death::OfTheMachine] {
        let results = sweep(death, None);
        assert!(results.len() >= 15, "{} operations", results.len());
        for (at, result) in results.iter().enumerate() {
            assert_eq!(*result, Ok(()), "{death:?}, operation {at}");
        }
    }
}

#[test]
fn the_sweep_notices_files_that_are_not_synced() {
    assert!(sweep(Death::OfTheMachine, Some(Bug::NoSync)).iter().any(Result::is_err));
}

#[test]
fn the_sweep_notices_a_checkpoint_that_is_written_in_place() {
    assert!(sweep(Death::OfTheProcess, Some(Bug::InPlace)).iter().any(Result::is_err));
}

#[test]
fn the_sweep_notices_that_old_checkpoints_go_before_the_new_one_is_complete() {
    let root = tempfile::tempdir().unwrap();
    two_saved(root.path());
    // The planted bug: room is made first.
    honest(root.path()).remove(1).unwrap();
    honest(root.path()).remove(2).unwrap();
    let disk = Arc::new(FaultyDisk::new(Fault::Dies, 3, None));
    let storage: Arc<dyn Storage> = Arc::new(Directory::on(root.path().to_owned(), disk));
    save(&storage, (3, ROWS, 1)).unwrap_err();
    assert!(goes_on(root.path(), false).is_err());
}

#[test]
fn an_operation_that_fails_is_told_with_file_and_cause() {
    let mut failures = 0;
    for at in 0.. {
        let root = tempfile::tempdir().unwrap();
        two_saved(root.path());
        let disk = Arc::new(FaultyDisk::new(Fault::Fails, at, None));
        let storage: Arc<dyn Storage> =
            Arc::new(Directory::on(root.path().to_owned(), Arc::clone(&disk) as _));
        let result = save(&storage, (3, ROWS, 2));
        if !disk.struck() {
            break;
        }
        let told = match &result {
            Ok(finished) => finished.not_removed.clone().expect("the failure went unnoticed"),
            Err(error) => error.sentence(),
        };
        assert!(told.contains("planned failure"), "operation {at}: {told}");
        assert!(told.contains("step-"), "operation {at}: {told}");
        goes_on(root.path(), result.is_ok()).unwrap_or_else(|wrong| panic!("{at}: {wrong}"));
        failures += 1;
    }
    assert!(failures >= 15, "{failures} operations");
}

#[test]
fn a_full_disk_leaves_the_last_checkpoint_and_says_what_to_do() {
    let mut failures = 0;
    for at in 0.. {
        let root = tempfile::tempdir().unwrap();
        two_saved(root.path());
        let disk = Arc::new(FaultyDisk::new(Fault::Full, at, None));
        let storage: Arc<dyn Storage> =
            Arc::new(Directory::on(root.path().to_owned(), Arc::clone(&disk) as _));
        let Err(error) = save(&storage, (3, ROWS, 2)) else { break };
        let told = error.sentence();
        assert!(told.contains("free space") && told.contains("last good"), "{at}: {told}");
        assert_eq!(restart(&honest(root.path()), ROWS), Ok(2), "operation {at}");
        failures += 1;
    }
    assert!(failures >= 8, "{failures} operations");
}

/// In a mount namespace of its own, which takes the file system away again.
#[test]
fn a_real_file_system_that_is_full_leaves_the_last_checkpoint() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: the injected ENOSPC alone was tried");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=100k tmpfs \"$1\" && shift && exec \"$@\"";
    let ended = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(root.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "checkpoint_crash::fills_a_small_disk", "--ignored", "--nocapture"])
        .env(DIES_IN, root.path())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&ended.stderr) + String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && log.contains("1 passed"), "{log}");
}

#[test]
#[ignore = "run by a_real_file_system_that_is_full_leaves_the_last_checkpoint"]
fn fills_a_small_disk() {
    let root = PathBuf::from(std::env::var_os(DIES_IN).unwrap());
    // Two checkpoints of 40 kB are there; a third does not fit.
    two_saved(&root);
    let told = save(&honest(&root), (3, ROWS, 2)).unwrap_err().sentence();
    assert!(told.contains("No space left") && told.contains("free space"), "{told}");
    assert_eq!(restart(&honest(&root), ROWS), Ok(2));
}

#[test]
fn a_process_killed_at_any_operation_costs_no_complete_checkpoint() {
    let mut deaths = 0;
    for at in 0.. {
        let root = tempfile::tempdir().unwrap();
        two_saved(root.path());
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "checkpoint_crash::dies_at_an_operation", "--ignored"])
            .env(DIES_IN, root.path())
            .env(DIES_AT, at.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        goes_on(root.path(), ended.success())
            .unwrap_or_else(|wrong| panic!("operation {at}: {wrong}"));
        if ended.success() {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 15, "{deaths} operations");
}

#[test]
#[ignore = "run by a_process_killed_at_any_operation_costs_no_complete_checkpoint"]
fn dies_at_an_operation() {
    let root = PathBuf::from(std::env::var_os(DIES_IN).unwrap());
    let at = std::env::var(DIES_AT).unwrap().parse().unwrap();
    let disk = Arc::new(FaultyDisk::new(Fault::Aborts, at, None));
    let storage: Arc<dyn Storage> = Arc::new(Directory::on(root, disk));
    save(&storage, (3, ROWS, 2)).unwrap();
}
