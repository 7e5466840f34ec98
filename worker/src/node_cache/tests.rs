use std::fs;
use std::io::Write as _;
use std::time::Duration;

use super::*;
use crate::files::write_synced;

/// A claim with models and a cache.
struct Node {
    root: tempfile::TempDir,
    cache: NodeCacheDirectory,
}

impl Node {
    fn new(max_bytes: Option<u64>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let cache =
            NodeCacheDirectory { path: root.path().join("cache"), claim: "fast".into(), max_bytes };
        fs::create_dir(&cache.path).unwrap();
        Self { root, cache }
    }

    /// A model of 3,000,000 bytes and a few.
    fn model(&self, name: &str) -> ModelFiles {
        let directory = self.root.path().join(name);
        if !directory.exists() {
            fs::create_dir_all(directory.join("1_Pooling")).unwrap();
            let weights = vec![name.len().to_le_bytes()[0]; 3_000_000];
            put(&directory.join("model.safetensors"), &weights);
            put(&directory.join("config.json"), name.as_bytes());
            put(&directory.join("1_Pooling/config.json"), b"{}");
        }
        ModelFiles::find(&directory, name).unwrap()
    }

    fn ensure(&self, name: &str) -> Result<Outcome, CacheError> {
        ensure(&self.cache, &self.model(name))
    }

    fn copy(&self, name: &str) -> PathBuf {
        self.cache.path.join(self.model(name).key)
    }

    /// What is in the cache, but for the lock of copies.
    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.cache.path).unwrap();
        let names = names.map(|child| child.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != lock::COPYING).collect();
        names.sort();
        names
    }

    /// Makes a model one that was asked for so long ago.
    fn age(&self, name: &str, minutes: u64) {
        let lock = lock::shared(&lock::of_entry(&self.cache.path, &self.model(name).key)).unwrap();
        lock.set_modified(SystemTime::now() - Duration::from_mins(minutes)).unwrap();
    }
}

fn put(path: &Path, bytes: &[u8]) {
    write_synced(path, |out| out.write_all(bytes)).unwrap();
}

const MISS: Outcome = Outcome::Copied { removed: 0 };

#[test]
fn a_model_is_copied_once_however_many_start_together() {
    let node = Node::new(None);
    let model = node.model("a");
    let outcomes = std::thread::scope(|scope| {
        let starters: Vec<_> =
            (0..8).map(|_| scope.spawn(|| ensure(&node.cache, &model).unwrap())).collect();
        starters.into_iter().map(|starter| starter.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == MISS).count(), 1, "{outcomes:?}");
    for file in &model.files {
        let copied = fs::read(node.copy("a").join(&file.name)).unwrap();
        assert!(copied == fs::read(model.directory.join(&file.name)).unwrap(), "{}", file.name);
    }
    assert_eq!(node.names(), [model.key.clone(), format!("{}.lock", model.key)]);
}

#[test]
fn a_damaged_copy_is_replaced_and_what_broke_off_goes() {
    let node = Node::new(None);
    node.ensure("a").unwrap();
    let copy = node.copy("a");
    let weights = copy.join("model.safetensors");
    let flipped = |at: usize| {
        let mut bytes = fs::read(&weights).unwrap();
        bytes[at] ^= 1;
        put(&weights, &bytes);
    };
    let broken: [(&str, &dyn Fn()); 5] = [
        ("a flipped bit", &|| flipped(2_000_000)),
        ("a short file", &|| put(&weights, b"short")),
        ("a missing file", &|| fs::remove_file(copy.join("1_Pooling/config.json")).unwrap()),
        ("no list of files", &|| fs::remove_file(copy.join(".hearth-files.json")).unwrap()),
        ("nothing", &|| fs::remove_dir_all(&copy).unwrap()),
    ];
    for (case, harm) in broken {
        harm();
        let left = format!(".{}.tmp-1", copy.file_name().unwrap().to_str().unwrap());
        fs::create_dir(node.cache.path.join(&left)).unwrap();
        assert_eq!(node.ensure("a").unwrap(), MISS, "{case}");
        assert_eq!(node.ensure("a").unwrap(), Outcome::Hit, "{case}");
        assert!(!node.names().contains(&left), "{case}");
    }
}

#[test]
fn the_one_longest_not_asked_for_goes_and_one_in_use_stays() {
    let node = Node::new(Some(6_500_000));
    for (name, minutes) in [("a", 10), ("bb", 20)] {
        assert_eq!(node.ensure(name).unwrap(), MISS);
        node.age(name, minutes);
    }
    let bb = lock::shared_as_reader(&lock::of_entry(&node.cache.path, &node.model("bb").key));
    let bb = bb.unwrap();
    // "bb" is older, and in use.
    assert_eq!(node.ensure("ccc").unwrap(), Outcome::Copied { removed: 1 });
    assert!(node.copy("bb").exists() && !node.copy("a").exists());
    let lock_of_a = lock::of_entry(&node.cache.path, &node.model("a").key);
    assert!(!lock_of_a.exists());

    let ccc = lock::shared_as_reader(&lock::of_entry(&node.cache.path, &node.model("ccc").key));
    let error = node.ensure("dddd").unwrap_err();
    assert_eq!((error.reason(), error.exit_code()), ("CacheFull", ExitCode::Failure));
    let told = error.sentence();
    for part in ["claim fast", "maxBytes is 6500000", "in use", "raise serving.nodeCache.maxBytes"]
    {
        assert!(told.contains(part), "{told}");
    }
    drop(bb);
    assert_eq!(node.ensure("dddd").unwrap(), Outcome::Copied { removed: 1 });
    assert!(node.copy("ccc").exists() && !node.copy("bb").exists());
    drop(ccc);
    assert_eq!(node.names().len(), 4, "{:?}", node.names());
}

#[test]
fn a_model_larger_than_the_limit_is_refused_for_good() {
    let node = Node::new(Some(1_000));
    let error = node.ensure("a").unwrap_err();
    assert_eq!((error.reason(), error.exit_code()), ("BadConfig", ExitCode::Usage));
    assert!(error.sentence().contains("has 3000003 bytes"), "{}", error.sentence());
}

#[test]
fn a_model_that_is_not_what_its_card_says_is_not_kept() {
    let node = Node::new(None);
    let directory = node.model("a").directory;
    let hash = blake3::hash(b"other").to_hex().to_string();
    let card = serde_json::json!({"formatVersion": 1, "task": "CausalLM", "clean": [], "maxLength": 8,
        "labels": [], "step": null, "metrics": null, "files": {"model.safetensors": hash}});
    put(&directory.join("hearth.json"), card.to_string().as_bytes());
    let error = node.ensure("a").unwrap_err();
    assert_eq!((error.reason(), error.exit_code()), ("BadModel", ExitCode::Data));
    assert!(error.sentence().contains("model.safetensors: its content"), "{}", error.sentence());
    assert_eq!(node.names(), [format!("{}.lock", node.model("a").key)]);
}

#[test]
fn a_model_that_is_written_meanwhile_is_not_kept() {
    let node = Node::new(None);
    let seen = node.model("a");
    put(&seen.directory.join("model.safetensors"), &vec![9; 3_000_000]);
    let error = ensure(&node.cache, &seen).unwrap_err();
    assert!(matches!(error, CacheError::Changed(_)), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Failure);
    assert_eq!(node.ensure("a").unwrap(), MISS);
}

#[test]
fn what_cannot_be_written_says_what_to_do() {
    let write = |kind| CacheError::Write {
        path: "/mnt/hearth-node-cache".into(),
        claim: "fast".into(),
        source: io::Error::from(kind),
    };
    for (kind, code, reason, advice) in [
        (io::ErrorKind::StorageFull, ExitCode::Failure, "CacheFull", "maxBytes below its size"),
        (io::ErrorKind::QuotaExceeded, ExitCode::Failure, "CacheFull", "free space"),
        (
            io::ErrorKind::ReadOnlyFilesystem,
            ExitCode::CannotCreate,
            "OutputFailed",
            "can be written",
        ),
        (io::ErrorKind::PermissionDenied, ExitCode::CannotCreate, "OutputFailed", "group 65532"),
    ] {
        let error = write(kind);
        assert_eq!((error.exit_code(), error.reason()), (code, reason));
        let told = error.sentence();
        assert!(told.contains("claim fast") && told.contains(advice), "{told}");
    }
}

#[test]
fn a_server_without_a_copy_reads_the_model_where_it_lies() {
    let node = Node::new(None);
    let model = node.model("a");
    let config = |cache| ServeConfig {
        version: hearth_crds::worker_config::CONFIG_VERSION.into(),
        job: hearth_crds::worker_config::JobIdentity {
            namespace: "team-a".into(),
            name: "spam".into(),
            uid: String::new(),
        },
        revision: "r".into(),
        model: model.directory.clone(),
        accelerator: hearth_crds::training_job::Accelerator::CPU,
        runtime: hearth_crds::model_deployment::ServingRuntime::Libtorch,
        max_batch_size: 1,
        max_batch_delay_milliseconds: 1,
        max_queue_depth: 1,
        max_body_bytes: 1,
        response_cache_bytes: 0,
        adapters: Vec::new(),
        features: None,
        node_cache: cache,
        port: 1,
    };
    let (path, held) = hold(&config(None));
    assert!(path == model.directory && held.is_none());
    let cached = config(Some(node.cache.clone()));
    let (path, held) = hold(&cached);
    assert!(path == model.directory && held.is_none());
    let told = fill(&cached).unwrap();
    assert_eq!((told.reason.as_str(), told.exit_code), ("CacheMiss", 0));
    let (path, held) = hold(&cached);
    assert!(path.starts_with(&node.cache.path) && held.is_some(), "{}", path.display());
    assert_eq!(fill(&cached).unwrap().reason, "CacheHit");
    put(&path.join("model.safetensors"), b"short");
    let (path, held) = hold(&cached);
    assert!(path == model.directory && held.is_none());
}
