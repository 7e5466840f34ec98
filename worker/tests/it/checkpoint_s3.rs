//! Checkpoints on a real S3 server: what a directory keeps, a bucket keeps, and
//! a server that is slow, overloaded or gone costs no complete checkpoint.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_worker::checkpoint::manifest::{FileEntry, Manifest};
use hearth_worker::checkpoint::storage::{Draft, Upload, from_uri};
use hearth_worker::checkpoint::{CheckpointStore, Storage};
use hearth_worker::event::RankEvent;

use crate::checkpoint_state::{blank, restart, save};
use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::s3_server::{Fault, S3Server, flip_a_bit, quick};

/// 31 kB: one request a file.
const SMALL: i64 = 40;
/// 6 MB: two parts.
const LARGE: i64 = 8000;

#[test]
fn steps_are_saved_found_restored_and_removed() {
    let server = S3Server::start();
    let storage = server.storage();
    let store = CheckpointStore::new(Arc::clone(&storage), 1);
    store.prepare().unwrap();
    assert!(store.newest().unwrap().checkpoint.is_none());
    for step in 1..=4 {
        let finished = save(&storage, (step, LARGE, 2)).unwrap();
        assert_eq!(
            finished.path.to_str(),
            Some(format!("s3://models/spam/checkpoints/step-{step}").as_str())
        );
        assert_eq!(finished.not_removed, None);
    }
    let mut steps = storage.steps().unwrap();
    steps.sort_unstable();
    assert_eq!(steps, [3, 4]);
    assert!(!server.file("step-1").exists() && !server.file("step-2/g2").exists());
    assert_eq!(restart(&storage, LARGE), Ok(4));
    // The shard itself is a plain safetensors file.
    let bytes = std::fs::read(server.file("step-4/g4/rank-0.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(header < 1000 && bytes[8] == b'{');
}

#[test]
fn passing_faults_of_every_kind_are_ridden_out() {
    let server = S3Server::start();
    for fault in [
        Fault::SlowDown,
        Fault::CutRequest,
        Fault::CutAnswer,
        Fault::Late(Duration::from_millis(600)),
    ] {
        server.clear();
        // Every second request meets it; one that is late is given up and made again.
        let proxy = server.proxy(move |number| if number % 2 == 0 { fault } else { Fault::Pass });
        let mut options = quick();
        if matches!(fault, Fault::Late(_)) {
            options.request_timeout = Duration::from_millis(300);
        }
        let storage = proxy.storage(options);
        let saved = save(&storage, (1, LARGE, 2)).and_then(|_| save(&storage, (2, LARGE, 1)));
        let saved = saved.unwrap_or_else(|error| panic!("{fault:?}: {}", error.sentence()));
        assert_eq!(saved.not_removed, None, "{fault:?}");
        assert_eq!(restart(&storage, LARGE), Ok(2), "{fault:?}");
        assert!(proxy.requests() > 20, "{fault:?}: {} requests", proxy.requests());
        assert_eq!(server.storage().steps().unwrap(), [2], "{fault:?}");
    }
}

/// Saves step 3 by a server that is gone from request `at` on, with `wrap` put
/// around the storage; `None` where a save makes fewer requests.
fn gone_from(
    server: &S3Server,
    (at, rows, fault): (usize, i64, Fault),
    wrap: impl Fn(Arc<dyn Storage>) -> Arc<dyn Storage>,
) -> Option<Result<(), String>> {
    server.clear();
    let honest = server.storage();
    save(&honest, (1, rows, 2)).unwrap();
    save(&honest, (2, rows, 2)).unwrap();
    let proxy = server.proxy(move |number| if number < at { Fault::Pass } else { fault });
    let mut options = quick();
    options.max_retries = 1;
    let result = save(&wrap(proxy.storage(options)), (3, rows, 2));
    if proxy.requests() <= at {
        return None;
    }
    let told = match &result {
        Ok(finished) => finished.not_removed.clone().expect("a failure went unnoticed"),
        Err(error) => error.sentence(),
    };
    assert!(told.contains("s3://models/spam"), "{told}");
    Some(restart(&honest, rows).and_then(|step| {
        if step != 3 && (result.is_ok() || step != 2) {
            return Err(format!("step {step} was restored"));
        }
        save(&honest, (4, rows, 2)).map_err(|error| error.sentence())?;
        restart(&honest, rows).map(drop)
    }))
}

#[test]
fn a_server_gone_at_any_request_costs_no_complete_checkpoint() {
    let server = S3Server::start();
    for (rows, fault, least) in
        [(SMALL, Fault::SlowDown, 6), (SMALL, Fault::CutRequest, 6), (LARGE, Fault::CutRequest, 9)]
    {
        let results: Vec<_> =
            (0..).map_while(|at| gone_from(&server, (at, rows, fault), |plain| plain)).collect();
        assert!(results.len() >= least, "{} requests", results.len());
        for (at, result) in results.iter().enumerate() {
            assert_eq!(*result, Ok(()), "{fault:?} from request {at} on");
        }
    }
}

/// The planted bug: the manifest is published before the files that it names.
#[derive(Debug)]
struct ManifestFirst {
    inner: Arc<dyn Storage>,
    published: Mutex<bool>,
}

impl Storage for ManifestFirst {
    fn create(&self, path: &str, size: u64) -> io::Result<Box<dyn Upload>> {
        if !std::mem::replace(&mut *self.published.lock().unwrap(), true) {
            let draft = self.inner.draft(3, 3);
            let name = path.rsplit_once('/').unwrap().1;
            let shard = FileEntry::new(format!("{}{name}", draft.prefix), size, blake3::hash(b""));
            let files = vec![shard];
            let manifest = Manifest { format_version: 2, step: 3, world_size: 1, files };
            self.inner.publish(&draft, &manifest.to_text()?)?;
        }
        self.inner.create(path, size)
    }
    fn place(&self, path: &str) -> PathBuf {
        self.inner.place(path)
    }
    fn prepare(&self) -> io::Result<()> {
        self.inner.prepare()
    }
    fn steps(&self) -> io::Result<Vec<u64>> {
        self.inner.steps()
    }
    fn publish(&self, draft: &Draft, manifest: &[u8]) -> io::Result<()> {
        self.inner.publish(draft, manifest)
    }
    fn remove(&self, step: u64) -> io::Result<()> {
        self.inner.remove(step)
    }
    fn size(&self, path: &str) -> io::Result<u64> {
        self.inner.size(path)
    }
    fn read_at(&self, path: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(path, offset, buffer)
    }
    fn draft(&self, step: u64, generation: u32) -> Draft {
        self.inner.draft(step, generation)
    }
}

#[test]
fn the_sweep_notices_a_manifest_that_is_written_first() {
    let server = S3Server::start();
    let wrap = |inner| -> Arc<dyn Storage> {
        Arc::new(ManifestFirst { inner, published: Mutex::new(false) })
    };
    let caught = (0..3)
        .filter_map(|at| gone_from(&server, (at, SMALL, Fault::CutRequest), wrap))
        .any(|result| result.is_err());
    assert!(caught);
}

#[test]
fn a_server_that_does_not_answer_is_no_empty_bucket() {
    let server = S3Server::start();
    save(&server.storage(), (1, SMALL, 2)).unwrap();
    // At the list, at the manifest, and at a file of the checkpoint.
    for at in 0..4 {
        let proxy =
            server.proxy(move |number| if number < at { Fault::Pass } else { Fault::SlowDown });
        let mut options = quick();
        options.max_retries = 2;
        let store = CheckpointStore::new(proxy.storage(options), 9);
        let told = store.newest().expect_err("taken for an empty bucket").sentence();
        assert!(told.contains("503") && told.contains("checkpoints"), "{at}: {told}");
    }
}

#[test]
fn a_flipped_bit_in_any_object_is_noticed() {
    let server = S3Server::start();
    let storage = server.storage();
    for path in ["step-2/g2/rank-0.safetensors", "step-2/g2/state.json", "step-2/manifest.json"] {
        server.clear();
        save(&storage, (1, SMALL, 3)).unwrap();
        save(&storage, (2, SMALL, 3)).unwrap();
        flip_a_bit(&server.file(path));
        let found = CheckpointStore::new(Arc::clone(&storage), 9).newest().unwrap();
        let checkpoint = found.checkpoint.unwrap();
        assert_eq!((checkpoint.state.step, found.rejected.len()), (1, 1), "{path}");
        checkpoint.restore(&blank(SMALL)).unwrap();
    }
}

#[test]
fn objects_of_a_save_that_was_cut_off_are_removed() {
    let server = S3Server::start();
    let storage = server.storage();
    save(&storage, (1, SMALL, 2)).unwrap();
    let store = CheckpointStore::new(Arc::clone(&storage), 7);
    store.write_shard(2, 0, &crate::checkpoint_state::request(2, SMALL, 2).parts).unwrap();
    // Another generation got so far with a step that is complete.
    store.write_shard(1, 1, &[]).unwrap();
    assert!(server.file("step-2/g7").exists() && server.file("step-1/g7").exists());
    store.prepare().unwrap();
    assert!(!server.file("step-2/g7/rank-0.safetensors").exists());
    assert!(!server.file("step-1/g7/rank-1.safetensors").exists());
    assert_eq!(restart(&storage, SMALL), Ok(1));
}

/// Runs `uses_the_environment` in a process with these variables; its output.
fn in_environment(variables: &[(&str, String)]) -> (bool, String) {
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "checkpoint_s3::uses_the_environment", "--ignored", "--nocapture"])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    (ended.status.success(), text.into_owned())
}

#[test]
fn a_killed_job_goes_on_from_its_bucket_bit_for_bit() {
    let server = S3Server::start();
    let variables = server.environment();
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let fixture = Fixture::new(0.1);
    let whole = Gang::run(&fixture.config("whole", |_| ()), 2).succeeded().losses();
    let config = fixture.config("job", |config| {
        config["checkpoints"] = "s3://models/spam/checkpoints".into();
    });
    let mut run = Gang::start_with(&config, 2, &variables);
    run.until(|_, event| matches!(event, RankEvent::Checkpoint { .. }));
    run.until(|_, event| matches!(event, RankEvent::Step(step) if step.step >= 12));
    run.kill();
    assert!(!fixture.path("job/checkpoints").exists());
    let rest = Gang::start_with(&config, 2, &variables).wait().succeeded();
    assert!(rest.resumed_from().is_some_and(|step| step >= 5), "{:?}", rest.notes());
    let saved = rest.of_rank_0(|event| match event {
        RankEvent::Checkpoint { path, .. } => Some(path.display().to_string()),
        _ => None,
    });
    assert!(saved.last().unwrap().starts_with("s3://models/spam/checkpoints/step-"), "{saved:?}");
    let rest = rest.losses();
    assert_eq!(rest, whole[whole.len() - rest.len()..], "bit for bit");
}

#[test]
fn server_and_keys_come_from_the_environment() {
    let server = S3Server::start();
    let variables = server.environment();
    let (done, text) = in_environment(&variables);
    assert!(done && text.contains("1 passed"), "{text}");
    assert_eq!(restart(&server.storage(), SMALL), Ok(1));
    for (missing, says) in [
        ("AWS_SECRET_ACCESS_KEY", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("AWS_ALLOW_HTTP", "set AWS_ALLOW_HTTP=true"),
    ] {
        let fewer: Vec<_> =
            variables.iter().filter(|(name, _)| *name != missing).cloned().collect();
        let (done, text) = in_environment(&fewer);
        assert!(!done && text.contains(says), "{text}");
    }
}

#[test]
#[ignore = "run by server_and_keys_come_from_the_environment"]
fn uses_the_environment() {
    let storage = from_uri("s3://models/spam/checkpoints")
        .unwrap_or_else(|error| panic!("{}", error.sentence()));
    save(&storage, (1, SMALL, 1)).unwrap();
}
