//! Rows in a bucket of a real S3 server: fetched once, whole or not at all, and prepared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hearth_crds::worker_config::WorkerResult;
use hearth_worker::fetch::{FETCHED, FetchError, Wanted, fetch};
use hearth_worker::s3::Bucket;
use serde_json::{Value, json};

use crate::s3_server::{Fault, S3Server, quick};

/// Fetches without waiting for what is not there.
fn get(bucket: &Bucket, key: &str, output: &Path) -> Result<PathBuf, FetchError> {
    fetch(Wanted { bucket, key }, output, Instant::now())
}

/// Names and content of all files below a directory.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

/// What is in the directory of what was fetched.
fn names(output: &Path) -> Vec<String> {
    let entries = fs::read_dir(output.join(FETCHED)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_object_is_fetched_once_and_anew_when_it_changes() {
    let (server, output) = (S3Server::start(), tempfile::tempdir().unwrap());
    server.put("raw/rows 1%20é.jsonl", b"one");
    let proxy = server.proxy(|_| Fault::Pass);
    let bucket = proxy.bucket(quick());
    let key = "raw/rows 1%20é.jsonl";
    let path = get(&bucket, key, output.path()).unwrap();
    assert!(path.ends_with("rows 1%20é.jsonl"), "{}", path.display());
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert_eq!(proxy.requests(), 2, "HEAD and GET");
    assert_eq!(get(&bucket, key, output.path()).unwrap(), path);
    assert_eq!(proxy.requests(), 3, "HEAD alone");

    // As many bytes, but others.
    server.put(key, b"two");
    let changed = get(&bucket, key, output.path()).unwrap();
    assert_ne!(changed, path);
    assert_eq!(fs::read(&changed).unwrap(), b"two");
    assert_eq!(fs::read(&path).unwrap(), b"one", "a run that reads it goes on");

    // What somebody took away is fetched again.
    fs::remove_file(&changed).unwrap();
    get(&bucket, key, output.path()).unwrap();
    assert_eq!(fs::read(&changed).unwrap(), b"two");
}

#[test]
fn all_objects_below_a_prefix_are_fetched_in_parts_through_passing_faults() {
    let server = S3Server::start();
    // Three parts, of which each byte tells where it is.
    let large: Vec<u8> = (0..=250).cycle().take(12_000_000).collect();
    server.put("raw/a.jsonl", b"first");
    server.put("raw/deep/er/b.jsonl", &large);
    server.put("raw2/c.jsonl", b"of another prefix");
    for fault in [Fault::Pass, Fault::SlowDown, Fault::CutRequest, Fault::CutAnswer] {
        let output = tempfile::tempdir().unwrap();
        // No request meets more of them than it has attempts.
        let proxy = server
            .proxy(move |number| if matches!(number, 0 | 2 | 4) { fault } else { Fault::Pass });
        let got = get(&proxy.bucket(quick()), "raw/", output.path());
        let directory = got.unwrap_or_else(|error| panic!("{fault:?}: {}", error.sentence()));
        let found = files(&directory);
        let paths: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(paths, ["a.jsonl", "deep/er/b.jsonl"], "{fault:?}");
        assert_eq!(found["a.jsonl"], b"first");
        assert!(found["deep/er/b.jsonl"] == large, "{fault:?}: other bytes");
        assert!(proxy.requests() >= 5, "a list and four parts: {}", proxy.requests());
        assert_eq!(names(output.path()).len(), 1, "{:?}", names(output.path()));
    }
}

#[test]
fn a_fetch_that_was_cut_off_goes_on_at_whole_objects() {
    let (server, output) = (S3Server::start(), tempfile::tempdir().unwrap());
    for name in ["a", "b", "c"] {
        server.put(&format!("raw/{name}.jsonl"), name.repeat(1000).as_bytes());
    }
    // The list, and one object.
    let proxy = server.proxy(|number| if number < 2 { Fault::Pass } else { Fault::CutRequest });
    let mut options = quick();
    options.max_retries = 1;
    let error = get(&proxy.bucket(options), "raw/", output.path()).unwrap_err();
    assert_eq!(error.reason(), "ReadFailed", "{}", error.sentence());
    let left = names(output.path());
    assert!(left.len() == 1 && left[0].ends_with(".partial"), "it looks whole: {left:?}");
    let partial = output.path().join(FETCHED).join(&left[0]);
    let whole = files(&partial.join("files"));
    assert_eq!(whole.len(), 1, "{:?}", whole.keys());

    // Leftovers of parts, and a torn file in the place of a whole one.
    let torn = ["a.jsonl", "b.jsonl", "c.jsonl"];
    let torn = torn.into_iter().find(|name| !whole.contains_key(*name)).unwrap();
    fs::write(partial.join("files").join(torn), b"torn").unwrap();
    for number in 0..3 {
        fs::write(partial.join(format!("parts/{number}")), [b'x'; 5000]).unwrap();
    }
    let proxy = server.proxy(|_| Fault::Pass);
    let directory = get(&proxy.bucket(quick()), "raw/", output.path()).unwrap();
    assert_eq!(proxy.requests(), 3, "a list and the two objects that are missing");
    for (name, bytes) in files(&directory) {
        assert_eq!(bytes, name[..1].repeat(1000).into_bytes(), "{name}");
    }
    assert_eq!(files(&directory).len(), 3);
    assert_eq!(names(output.path()).len(), 1);
}

#[test]
fn an_object_that_changes_while_it_is_fetched_is_refused() {
    let server = S3Server::start();
    for (change, part) in [("2222", "ETag"), ("longer than before", "18 bytes, not 4")] {
        let output = tempfile::tempdir().unwrap();
        server.put("raw/a.jsonl", b"1111");
        let put = server.putter();
        let proxy = server.proxy(move |number| {
            if number == 1 {
                put("raw/a.jsonl", change.as_bytes());
            }
            Fault::Pass
        });
        let error = get(&proxy.bucket(quick()), "raw/", output.path()).unwrap_err();
        let told = error.sentence();
        assert_eq!(error.reason(), "ReadFailed", "{told}");
        assert!(told.contains("raw/a.jsonl changed") && told.contains(part), "{told}");
        let directory = get(&server.bucket(), "raw/", output.path()).unwrap();
        assert_eq!(files(&directory)["a.jsonl"], change.as_bytes());
    }
}

#[test]
fn what_cannot_be_fetched_says_why() {
    let (server, output) = (S3Server::start(), tempfile::tempdir().unwrap());
    server.put("raw/a.jsonl", b"1");
    let bucket = server.bucket();
    let (stranger, nowhere) =
        (server.bucket_with("models", "wrong"), server.bucket_with("nowhere", "hearth-secret"));
    for (bucket, key, reason, part) in [
        (
            &bucket,
            "raw/b.jsonl",
            "MissingInput",
            "s3://models/raw/b.jsonl: there is no such object",
        ),
        (&bucket, "raw", "MissingInput", "write s3://models/raw/ for all"),
        (&bucket, "raws/", "MissingInput", "no object of any bytes is below"),
        (&nowhere, "raw/a.jsonl", "MissingInput", "no bucket nowhere"),
        (&nowhere, "raw/", "MissingInput", "no bucket nowhere"),
        (&stranger, "raw/a.jsonl", "BadConfig", "data.secretName"),
        (&stranger, "raw/", "BadConfig", "data.secretName"),
        (&bucket, "raw/../a", "BadData", "\"..\""),
        (&bucket, "/raw/a", "BadData", "empty segment"),
    ] {
        let error = get(bucket, key, output.path()).unwrap_err();
        let told = error.sentence();
        assert_eq!(error.reason(), reason, "{key}: {told}");
        assert!(told.contains(part), "{key}: {told}");
    }
    assert!(!output.path().join(FETCHED).exists(), "nothing was written");
}

#[test]
fn an_object_that_comes_later_is_waited_for() {
    let (server, output) = (S3Server::start(), tempfile::tempdir().unwrap());
    let put = server.putter();
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        put("raw/a.jsonl", b"at last");
    });
    let bucket = server.bucket();
    let wanted = Wanted { bucket: &bucket, key: "raw/a.jsonl" };
    let path = fetch(wanted, output.path(), Instant::now() + Duration::from_mins(1)).unwrap();
    later.join().unwrap();
    assert_eq!(fs::read(path).unwrap(), b"at last");
}

/// The configuration of a preparation of `s3://models/raw/`.
fn config(root: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let mut config = json!({
        "version": "hearth.dev/worker/v1",
        "job": {"namespace": "local", "name": "tiny", "uid": "u-1"},
        "train": {"path": "", "uri": "s3://models/raw/", "format": "JSONL",
                  "text": "text", "label": "label"},
        "evalSplit": 0.25, "textFields": ["text"], "label": "label", "maxBadRows": 1,
        "preparation": {"seed": 3},
        "output": root.join("data"), "outputUri": "pvc://data/prepared",
    });
    change(&mut config);
    let path = root.join("prepare.json");
    fs::write(&path, config.to_string()).unwrap();
    path
}

fn command(root: &Path, config: &Path, environment: &[(&str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-worker"));
    command.arg("prepare").arg("--config").arg(config).stdout(Stdio::null());
    command.env("HEARTH_TERMINATION_LOG", root.join("told.json"));
    command.env_remove("AWS_ACCESS_KEY_ID");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

fn prepare(root: &Path, config: &Path, environment: &[(&str, String)]) -> WorkerResult {
    let output = command(root, config, environment).output().unwrap();
    let result: WorkerResult =
        serde_json::from_slice(&fs::read(root.join("told.json")).unwrap()).unwrap();
    assert_eq!(
        output.status.code(),
        Some(result.exit_code),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    result
}

/// What is told of the rows that were prepared.
fn card(root: &Path, result: &WorkerResult) -> Value {
    let id = Path::new(&result.data.as_ref().unwrap().uri).file_name().unwrap().to_owned();
    let text = fs::read(root.join("data").join(id).join("card.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Two files of 40 rows; the second has a malformed one besides.
fn put_rows(server: &S3Server) {
    let label = |at: usize| ["ham", "spam"][at % 2];
    let rows = |name: &str| -> String {
        let row = |at: usize| {
            json!({"text": format!("{name} says {at}"), "label": label(at)}).to_string()
        };
        (0..40).map(|at| row(at) + "\n").collect()
    };
    server.put("raw/a.jsonl", rows("ann").as_bytes());
    server.put("raw/b.jsonl", (rows("bob") + "no row\n").as_bytes());
}

#[test]
fn rows_of_a_bucket_are_prepared_and_told_by_where_they_came_from() {
    let (server, root) = (S3Server::start(), tempfile::tempdir().unwrap());
    put_rows(&server);
    let environment = server.environment();
    let root = root.path();
    let plain = config(root, |_| {});
    let result = prepare(root, &plain, &environment);
    assert!(result.succeeded, "{}", result.message);
    let data = result.data.as_ref().unwrap();
    assert_eq!((data.rows, data.train_rows + data.eval_rows), (81, 80), "{data:?}");
    let card = card(root, &result);
    let sources: Vec<_> = card["sources"].as_array().unwrap().iter().collect();
    assert_eq!(sources.len(), 2);
    assert!(sources.iter().all(|source| source["uri"] == "s3://models/raw/"), "{card}");
    assert_eq!((&sources[0]["name"], &sources[1]["name"]), (&json!("a.jsonl"), &json!("b.jsonl")));
    assert_eq!(card["malformedRows"][0]["file"], "s3://models/raw/b.jsonl", "{card}");
    assert!(!card.to_string().contains(FETCHED), "{card}");

    let again = prepare(root, &plain, &environment);
    assert!(again.message.contains("prepared already"), "{}", again.message);
    assert_eq!(names(&root.join("data")).len(), 1);

    let single = config(root, |config| config["train"]["uri"] = "s3://models/raw/b.jsonl".into());
    let told = self::card(root, &prepare(root, &single, &environment));
    assert_eq!(told["sources"][0]["uri"], "s3://models/raw/b.jsonl", "{told}");
    assert_eq!(told["malformedRows"][0]["file"], "s3://models/raw/b.jsonl", "{told}");

    let strict = config(root, |config| config["maxBadRows"] = 0.into());
    let refused = prepare(root, &strict, &environment);
    assert_eq!((refused.exit_code, refused.reason.as_str()), (65, "BadData"));
    assert!(refused.message.contains("s3://models/raw/b.jsonl:41"), "{}", refused.message);
    assert!(!refused.message.contains(FETCHED), "{}", refused.message);
}

#[test]
fn a_preparation_that_is_killed_while_it_fetches_goes_on() {
    let (server, root) = (S3Server::start(), tempfile::tempdir().unwrap());
    put_rows(&server);
    let root = root.path();
    let config = config(root, |_| {});
    // The list and one object; the other one hangs.
    let proxy = server
        .proxy(|number| if number < 2 { Fault::Pass } else { Fault::Late(Duration::from_mins(2)) });
    let mut child =
        command(root, &config, &proxy.environment()).stderr(Stdio::null()).spawn().unwrap();
    let fetched = root.join("data").join(FETCHED);
    let partial = || {
        let mut entries = fs::read_dir(&fetched).ok()?.flatten().map(|entry| entry.path());
        entries.find(|path| path.extension().is_some_and(|ending| ending == "partial"))
    };
    let whole = || {
        partial().is_some_and(|path| {
            fs::read_dir(path.join("files")).is_ok_and(|files| files.count() == 1)
        })
    };
    let deadline = Instant::now() + Duration::from_mins(1);
    while !whole() {
        assert!(Instant::now() < deadline, "nothing was fetched");
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let proxy = server.proxy(|_| Fault::Pass);
    let result = prepare(root, &config, &proxy.environment());
    assert_eq!(result.data.unwrap().rows, 81, "{}", result.message);
    assert_eq!(proxy.requests(), 2, "a list and the other object");
    assert_eq!(names(&root.join("data")).len(), 1, "{:?}", names(&root.join("data")));
}

#[test]
fn a_preparation_without_keys_or_rows_says_so_with_its_exit_code() {
    let (server, root) = (S3Server::start(), tempfile::tempdir().unwrap());
    let root = root.path();
    let plain = config(root, |_| {});
    let result = prepare(root, &plain, &server.environment());
    assert_eq!((result.exit_code, result.reason.as_str()), (66, "MissingInput"));
    assert!(result.message.contains("s3://models/raw/"), "{}", result.message);
    let without: Vec<_> = server.environment().into_iter().skip(1).collect();
    let result = prepare(root, &plain, &without);
    assert_eq!((result.exit_code, result.reason.as_str()), (64, "BadConfig"));
    assert!(result.message.contains("AWS_ACCESS_KEY_ID"), "{}", result.message);
}
