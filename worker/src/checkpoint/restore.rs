//! Fills tensors, or boxes out of them, from whatever boxes a checkpoint's
//! shards hold. Reads headers, and then the bytes that are needed.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use tch::Tensor;

use super::manifest::Manifest;
use super::part::{Part, Region};
use super::shard::{self, Entry};
use super::storage::{Storage, step_name};

/// Most bytes in memory at a time, besides the targets.
const BLOCK: i64 = 32 << 20;
/// Bytes that are read and thrown away rather than asked around.
const GAP: i64 = 64 << 10;

/// Where the boxes of one tensor are.
#[derive(Debug)]
struct Source {
    file: String,
    entry: Entry,
}

/// Copies the checkpoint's values into the tensors of `targets`. Each must be
/// in it, whole, with its shape.
pub(super) fn fill(
    storage: &dyn Storage,
    manifest: &Manifest,
    targets: &[Part],
) -> Result<(), String> {
    let sources = index(storage, manifest)?;
    for target in targets {
        let Some(boxes) = sources.get(&target.name) else {
            return Err(format!("tensor {} is in no shard", target.name));
        };
        fill_one(storage, boxes, target).map_err(|reason| format!("{}: {reason}", target.name))?;
    }
    Ok(())
}

fn index(
    storage: &dyn Storage,
    manifest: &Manifest,
) -> Result<BTreeMap<String, Vec<Source>>, String> {
    let mut sources: BTreeMap<String, Vec<Source>> = BTreeMap::new();
    for shard in manifest.shards() {
        let file = format!("{}/{}", step_name(manifest.step), shard.name);
        let entries = shard::entries(storage, &file, shard.bytes)
            .map_err(|reason| format!("{}: {reason}", shard.name))?;
        for entry in entries {
            let file = file.clone();
            sources.entry(entry.name.clone()).or_default().push(Source { file, entry });
        }
    }
    Ok(sources)
}

fn fill_one(storage: &dyn Storage, boxes: &[Source], target: &Part) -> Result<(), String> {
    let mut seen = HashSet::new();
    let mut cuts: Vec<Region> = Vec::new();
    for source in boxes {
        let entry = &source.entry;
        if entry.shape != target.shape {
            return Err(format!("has shape {:?}, the model's is {:?}", entry.shape, target.shape));
        }
        if entry.kind != target.tensor.kind() {
            return Err(format!("is {:?}, the model's is {:?}", entry.kind, target.tensor.kind()));
        }
        let first = seen.insert(&entry.region);
        let Some(cut) = entry.region.intersect(&target.region).filter(|_| first) else { continue };
        if cuts.iter().any(|other| other.intersect(&cut).is_some()) {
            return Err("is in shards as boxes that overlap".into());
        }
        copy(storage, source, &cut, target)
            .map_err(|reason| format!("{}: {reason}", source.file))?;
        cuts.push(cut);
    }
    let (there, wanted) = (cuts.iter().map(Region::volume).sum::<i64>(), target.region.volume());
    if there == wanted {
        Ok(())
    } else {
        Err(format!("the shards have {there} of the {wanted} elements that are needed"))
    }
}

/// Copies `cut`, which lies in the source and in the target.
fn copy(storage: &dyn Storage, source: &Source, cut: &Region, target: &Part) -> Result<(), String> {
    let Entry { region, kind, start, .. } = &source.entry;
    let element = i64::try_from(kind.elt_size_in_bytes()).map_err(|error| error.to_string())?;
    for block in cut.blocks(BLOCK / element) {
        let runs = block.within(region).runs(&region.shape);
        let bytes = gather(&runs, element, &mut |first, buffer| {
            storage.read_at(&source.file, start + first, buffer)
        })
        .map_err(|error| error.to_string())?;
        let values = Tensor::f_from_data_size(&bytes, &block.shape, *kind);
        let place = block.within(&target.region);
        values
            .and_then(|values| {
                let mut view = target.tensor.f_detach()?;
                for (dimension, (offset, length)) in
                    place.offsets.iter().zip(&place.shape).enumerate()
                {
                    let dimension = i64::try_from(dimension).unwrap_or(i64::MAX);
                    view = view.f_narrow(dimension, *offset, *length)?;
                }
                tch::no_grad(|| view.f_copy_(&values))
            })
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Reads runs of elements one behind the other, those that are close to each
/// other in one go.
fn gather(
    runs: &[Range<i64>],
    element: i64,
    read: &mut dyn FnMut(u64, &mut [u8]) -> std::io::Result<()>,
) -> std::io::Result<Vec<u8>> {
    let byte = |index: i64| usize::try_from(index * element).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    let mut buffer = Vec::new();
    let mut next = 0;
    while next < runs.len() {
        let first = runs[next].start;
        let mut last = next;
        while let Some(following) = runs.get(last + 1)
            && (following.start - runs[last].end) * element <= GAP
            && (following.end - first) * element <= BLOCK
        {
            last += 1;
        }
        buffer.resize(byte(runs[last].end - first), 0);
        read(byte(first) as u64, &mut buffer)?;
        for run in &runs[next..=last] {
            bytes.extend_from_slice(&buffer[byte(run.start - first)..byte(run.end - first)]);
        }
        next = last + 1;
    }
    Ok(bytes)
}
