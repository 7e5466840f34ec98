//! `hearth-worker cache` as real processes: pods of one node that start together, die, meet a full
//! volume, and keep what a server reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use hearth_crds::worker_config::WorkerResult;
use hearth_worker::node_cache::{lock, source::ModelFiles};
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::serve_http::Server;

const DIRECTORY: &str = "HEARTH_TEST_CACHE";

/// The configuration of a server of `model` whose node keeps models in `cache`.
fn config(fixture: &Fixture, model: &Path, cache: &Path, max_bytes: Option<u64>) -> PathBuf {
    let name = model.file_name().unwrap().to_str().unwrap();
    let mut config = json!({
        "version": "hearth.dev/worker/v1",
        "job": {"namespace": "local", "name": "tiny", "uid": ""},
        "revision": "r1", "model": model, "accelerator": "CPU",
        "maxBatchSize": 8, "maxBatchDelayMilliseconds": 5, "maxQueueDepth": 64,
        "maxBodyBytes": 65536, "port": 1, "nodeCache": {"path": cache, "claim": "fast"}
    });
    if let Some(max_bytes) = max_bytes {
        config["nodeCache"]["maxBytes"] = max_bytes.into();
    }
    fixture.write(&format!("{name}-cache.json"), &config.to_string())
}

/// Starts a copy; its termination message goes to `LOG`.
fn begin(config: &Path, log: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-worker"));
    command.arg("cache").arg("--config").arg(config).env("HEARTH_TERMINATION_LOG", log);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn told(log: &Path) -> WorkerResult {
    serde_json::from_slice(&fs::read(log).unwrap()).unwrap()
}

/// Runs to its end.
fn cache(config: &Path) -> WorkerResult {
    let log = config.with_extension("log");
    let status = begin(config, &log).status().unwrap();
    let told = told(&log);
    assert_eq!(status.code(), Some(told.exit_code), "{told:?}");
    told
}

fn empty(fixture: &Fixture, name: &str) -> PathBuf {
    let path = fixture.path(name);
    fs::create_dir(&path).unwrap();
    path
}

/// A directory that no server could read, with weights of this size.
fn large(fixture: &Fixture, name: &str, bytes: u64) -> PathBuf {
    fixture.write(&format!("{name}/config.json"), name);
    let path = fixture.path(name);
    fs::File::create(path.join("model.safetensors")).unwrap().set_len(bytes).unwrap();
    path
}

#[test]
fn processes_that_start_together_copy_once() {
    let fixture = Fixture::new(0.0);
    let node = empty(&fixture, "node");
    let config = config(&fixture, &fixture.path("model"), &node, None);
    let logs: Vec<_> = (0..4).map(|index| fixture.path(&format!("log-{index}"))).collect();
    let copies: Vec<_> = logs.iter().map(|log| begin(&config, log).spawn().unwrap()).collect();
    for mut copy in copies {
        assert!(copy.wait().unwrap().success());
    }
    let mut reasons: Vec<_> = logs.iter().map(|log| told(log).reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["CacheHit", "CacheHit", "CacheHit", "CacheMiss"]);
}

#[test]
fn a_copy_that_was_killed_leaves_nothing_that_counts() {
    let fixture = Fixture::new(0.0);
    let node = empty(&fixture, "node");
    let config = config(&fixture, &large(&fixture, "large", 256 << 20), &node, None);
    let mut killed = begin(&config, &fixture.path("log")).spawn().unwrap();
    let begun = |name: &str| name.starts_with('.');
    let names = || {
        let names = fs::read_dir(&node).unwrap();
        names.map(|child| child.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let deadline = Instant::now() + Duration::from_mins(1);
    while !names().iter().any(|name| begun(name)) {
        assert!(Instant::now() < deadline, "no copy begins");
        std::thread::sleep(Duration::from_millis(1));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(names().iter().any(|name| begun(name)), "it was killed too late: {:?}", names());
    assert_eq!(cache(&config).reason, "CacheMiss");
    assert!(!names().iter().any(|name| begun(name)), "{:?}", names());
    assert_eq!(cache(&config).reason, "CacheHit");
}

#[test]
fn what_a_server_reads_stays_until_it_ends() {
    let fixture = Fixture::new(0.0);
    let node = empty(&fixture, "node");
    let model = crate::trained::model(&fixture, 40);
    let other = large(&fixture, "other", 2 << 20);
    let files = ModelFiles::find(&model, "").unwrap();
    assert!(files.bytes() < 1 << 20);
    let first = config(&fixture, &model, &node, Some(5 << 19));
    let second = config(&fixture, &other, &node, Some(5 << 19));
    assert_eq!(cache(&first).reason, "CacheMiss");
    // There is room for it alone.
    let third = config(&fixture, &large(&fixture, "third", 5 << 19), &node, Some((5 << 19) + 99));
    let held = lock::of_entry(&node, &files.key);

    let server = Server::of(fixture, model, |config| {
        config["nodeCache"] = json!({"path": node, "claim": "fast"});
    });
    assert!(lock::unused(&held).unwrap().is_none(), "the server holds no lock");
    let answer = server.post("/v1/classify", r#"{"inputs": "win cash now"}"#);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(cache(&second).reason, "CacheMiss");
    let full = cache(&third);
    assert_eq!((full.reason.as_str(), full.exit_code), ("CacheFull", 1));
    assert!(full.message.contains("in use"), "{}", full.message);
    assert!(held.exists());
    drop(server);
}

#[test]
fn a_server_whose_copy_is_gone_reads_the_claim() {
    let fixture = Fixture::new(0.0);
    let node = empty(&fixture, "node");
    let model = crate::trained::model(&fixture, 40);
    let server = Server::of(fixture, model, |config: &mut Value| {
        config["nodeCache"] = json!({"path": node, "claim": "fast"});
    });
    let answer = server.post("/v1/classify", r#"{"inputs": "win cash now"}"#);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Runs `script` in a mount namespace of its own, with `arguments` as its own.
fn mounted(script: &str, arguments: &[&Path], test: &str) -> Output {
    Command::new("unshare")
        .args(["-m", "sh", "-ec", script, "sh"])
        .args(arguments)
        .env(DIRECTORY, arguments[0])
        .env("TEST", test)
        .env("PROGRAM", std::env::current_exe().unwrap())
        .output()
        .unwrap()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not root: nothing was mounted");
    }
    root
}

#[test]
fn a_volume_that_is_full_or_read_only_is_told() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new(0.0);
    let node = empty(&fixture, "node");
    let config = config(&fixture, &large(&fixture, "large", 2 << 20), &node, None);
    for (options, code, reason, part) in [
        ("size=1m", 1, "CacheFull", "bytes are free on its volume"),
        ("size=8m,ro", 73, "OutputFailed", "give it a volume that can be written"),
        ("size=8m,nr_inodes=5", 1, "CacheFull", "free space on its volume"),
    ] {
        let log = fixture.path("log");
        let script = format!(
            "mount -t tmpfs -o {options} tmpfs \"$1\"; export HEARTH_TERMINATION_LOG=\"$3\"; exec \"$4\" cache --config \"$2\""
        );
        let program = Path::new(env!("CARGO_BIN_EXE_hearth-worker"));
        let ended = mounted(&script, &[&node, &config, &log, program], "");
        let told = told(&log);
        assert_eq!(ended.status.code(), Some(code), "{options}: {told:?}");
        assert_eq!((told.reason.as_str(), told.exit_code), (reason, code), "{options}: {told:?}");
        assert!(told.message.contains(part), "{options}: {}", told.message);
    }
}

/// As the server's container has it: the same file system, mounted for reading.
#[test]
fn a_lock_on_a_mount_for_reading_keeps_out_who_would_remove() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new(0.0);
    let (node, mounted_at) = (empty(&fixture, "node"), empty(&fixture, "readonly"));
    let script = "mount --bind \"$1\" \"$2\"; mount -o remount,bind,ro \"$2\"; exec \"$PROGRAM\" --exact \"$TEST\" --ignored --nocapture";
    let ended = mounted(script, &[&node, &mounted_at], "node_cache::locks_on_a_mount_for_reading");
    let log = String::from_utf8_lossy(&ended.stderr) + String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && log.contains("1 passed"), "{log}");
}

#[test]
#[ignore = "run by a_lock_on_a_mount_for_reading_keeps_out_who_would_remove"]
fn locks_on_a_mount_for_reading() {
    let node = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    let readonly = node.with_file_name("readonly");
    let (writable, readable) = (lock::of_entry(&node, "k"), lock::of_entry(&readonly, "k"));
    drop(lock::shared(&writable).unwrap());
    assert!(fs::File::create(readonly.join("new")).is_err());
    let held = lock::shared_as_reader(&readable).unwrap();
    assert!(lock::unused(&writable).unwrap().is_none());
    drop(held);
    assert!(lock::unused(&writable).unwrap().is_some());
}
