//! A checkpoint that some ranks wrote is read by others, divided otherwise, and
//! by the bytes that they need.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hearth_worker::checkpoint::directory::Directory;
use hearth_worker::checkpoint::manifest::{MANIFEST, Manifest};
use hearth_worker::checkpoint::part::{Holders, Part};
use hearth_worker::checkpoint::storage::{Draft, Upload};
use hearth_worker::checkpoint::{CheckpointStore, Storage};
use hearth_worker::train::state::TrainState;
use tch::{Device, Kind, Tensor};

const ROWS: i64 = 4096;
const COLUMNS: i64 = 24;

/// A directory that counts the bytes read.
#[derive(Debug)]
struct Counting {
    inner: Directory,
    read: AtomicU64,
}

impl Storage for Counting {
    fn read_at(&self, path: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.inner.read_at(path, offset, buffer)
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
    fn create(&self, path: &str, size: u64) -> io::Result<Box<dyn Upload>> {
        self.inner.create(path, size)
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
    fn draft(&self, step: u64, generation: u32) -> Draft {
        self.inner.draft(step, generation)
    }
}

fn whole() -> Tensor {
    Tensor::arange(ROWS * COLUMNS, (Kind::Float, Device::Cpu)).reshape([ROWS, COLUMNS])
}

/// The box at `offsets` of the weight.
fn cut(offsets: [i64; 2], shape: [i64; 2]) -> Part {
    let [row, column] = offsets;
    let tensor = whole().narrow(0, row, shape[0]).narrow(1, column, shape[1]);
    let tensor = tensor.contiguous();
    let holders = Holders::These(Vec::new());
    Part::slice("weight".into(), vec![ROWS, COLUMNS], offsets.to_vec(), tensor, holders)
}

fn zeroed(part: Part) -> Part {
    Part { tensor: part.tensor.zeros_like(), ..part }
}

struct Written {
    _root: tempfile::TempDir,
    storage: Arc<Counting>,
    store: CheckpointStore,
}

/// Step 1, with one shard for each list of parts.
fn written(shards: &[Vec<Part>]) -> Written {
    let root = tempfile::tempdir().unwrap();
    let inner = Directory::new(root.path().join("checkpoints"));
    let storage = Arc::new(Counting { inner, read: AtomicU64::new(0) });
    let store = CheckpointStore::new(Arc::clone(&storage) as _, 1);
    let files = shards
        .iter()
        .enumerate()
        .map(|(rank, parts)| store.write_shard(1, rank, parts).unwrap())
        .collect();
    let state = TrainState { step: 1, ..TrainState::default() };
    store.complete(&state, shards.len(), files).unwrap();
    Written { _root: root, storage, store }
}

/// Four ranks with a quarter of the rows each, and one small whole tensor.
fn by_rows() -> Written {
    let mut shards: Vec<Vec<Part>> =
        (0..4).map(|rank| vec![cut([rank * 1024, 0], [1024, COLUMNS])]).collect();
    shards[2].push(Part::whole("step".into(), Tensor::from_slice(&[7.0_f32]).reshape([0; 0])));
    written(&shards)
}

#[test]
fn any_division_is_read_as_any_other() {
    let written = by_rows();
    let checkpoint = written.store.newest().unwrap().checkpoint.unwrap();
    for (offsets, shape) in [
        ([0, 0], [ROWS, COLUMNS]),
        ([0, 0], [ROWS, 12]),
        ([0, 12], [ROWS, 12]),
        ([1000, 5], [100, 7]),
        ([3000, 0], [1096, COLUMNS]),
        ([2047, 3], [2, 1]),
    ] {
        let want = cut(offsets, shape);
        let scalar = Part::whole("step".into(), Tensor::zeros([], (Kind::Float, Device::Cpu)));
        let got = [zeroed(cut(offsets, shape)), scalar];
        checkpoint.restore_parts(&got).unwrap();
        assert!(got[0].tensor.equal(&want.tensor), "{offsets:?} {shape:?}");
        assert!((got[1].tensor.double_value(&[]) - 7.0).abs() < 1e-9);
    }
}

#[test]
fn only_the_bytes_that_are_needed_are_read() {
    let written = by_rows();
    let checkpoint = written.store.open_checked(1).unwrap();
    let before = written.storage.read.load(Ordering::Relaxed);
    let target = zeroed(cut([1500, 0], [100, COLUMNS]));
    checkpoint.restore_parts(&[target]).unwrap();
    let read = written.storage.read.load(Ordering::Relaxed) - before;
    let needed = 100 * u64::try_from(COLUMNS).unwrap() * 4;
    // Besides: four headers of some hundred bytes.
    assert!((needed..needed + 2048).contains(&read), "{read} bytes for {needed}");
}

#[test]
fn a_target_can_be_a_view_of_a_larger_buffer() {
    let written = by_rows();
    let checkpoint = written.store.open_checked(1).unwrap();
    let buffer = Tensor::zeros([10, COLUMNS + 6], (Kind::Float, Device::Cpu));
    let view = buffer.narrow(1, 3, COLUMNS);
    let part = Part { tensor: view.shallow_clone(), ..cut([2000, 0], [10, COLUMNS]) };
    checkpoint.restore_parts(&[part]).unwrap();
    assert!(view.equal(&whole().narrow(0, 2000, 10)));
    assert_eq!(buffer.narrow(1, 0, 3).count_nonzero(None::<i64>).int64_value(&[]), 0);
}

#[test]
fn what_is_missing_or_there_twice_is_refused() {
    let target = || [zeroed(cut([0, 0], [ROWS, COLUMNS]))];
    let refused = |shards: &[Vec<Part>]| {
        let written = written(shards);
        let checkpoint = written.store.open_checked(1).unwrap();
        checkpoint.restore_parts(&target()).unwrap_err().sentence()
    };
    let half = || cut([0, 0], [2048, COLUMNS]);
    let told = refused(&[vec![half()]]);
    assert!(told.contains("weight") && told.contains("have 49152 of the 98304"), "{told}");
    let told = refused(&[vec![half()], vec![cut([2000, 0], [2096, COLUMNS])]]);
    assert!(told.contains("overlap"), "{told}");
    let told = refused(&[vec![Part::whole("bias".into(), whole())]]);
    assert!(told.contains("weight is in no shard"), "{told}");
    let told = refused(&[vec![Part::whole("weight".into(), whole().narrow(0, 0, 8))]]);
    assert!(told.contains("has shape [8, 24]"), "{told}");
    // A copy of the same box is no contradiction.
    let twice = written(&[vec![half()], vec![half()], vec![cut([2048, 0], [2048, COLUMNS])]]);
    let checkpoint = twice.store.open_checked(1).unwrap();
    let [target] = target();
    checkpoint.restore_parts(std::slice::from_ref(&target)).unwrap();
    assert!(target.tensor.equal(&whole()));
}

#[test]
fn the_comparison_notices_boxes_in_each_others_places() {
    let swapped = |from: i64, to: i64| {
        let mut part = cut([from, 0], [2048, COLUMNS]);
        part.region.offsets[0] = to;
        part
    };
    // The planted bug: each of two ranks says that it has the other's rows.
    let written = written(&[vec![swapped(0, 2048)], vec![swapped(2048, 0)]]);
    let target = zeroed(cut([0, 0], [ROWS, COLUMNS]));
    let checkpoint = written.store.open_checked(1).unwrap();
    checkpoint.restore_parts(std::slice::from_ref(&target)).unwrap();
    assert!(!target.tensor.equal(&whole()));
}

#[test]
fn version_1_is_read_and_a_later_one_refused_with_a_sentence() {
    let written = written(&[vec![Part::whole("weight".into(), whole())]]);
    let path = written.storage.place(&format!("step-1/{MANIFEST}"));
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (version, readable) in [(1, true), (2, true), (3, false), (0, false)] {
        let told = Manifest { format_version: version, ..manifest.clone() };
        std::fs::write(&path, serde_json::to_vec(&told).unwrap()).unwrap();
        let opened = written.store.open(1);
        assert_eq!(opened.is_ok(), readable, "{version}");
        if let Err(reason) = opened {
            assert!(reason.contains("format version") && reason.contains("1 to 2"), "{reason}");
        }
    }
}
