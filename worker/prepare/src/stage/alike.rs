//! Which pictures show the same, by their perceptual hashes.

use std::fs::File;
use std::io::{self, BufReader, Read as _};

use crate::picture::near::NearHashes;

use super::clean::Cleaned;
use super::compare::Rows;
use super::fate::{Fate, Fates};

/// Decides on pictures whose hashes differ in at most `distance` bits from those of one that stays.
/// Rows for evaluation come first: a training row that shows what one of them does goes.
pub(super) fn alike(rows: Rows<'_>, distance: u32, fates: &mut Fates) -> io::Result<()> {
    let mut seen = NearHashes::new(distance);
    let train = u32::try_from(rows.train.kept()).map_err(io::Error::other)?;
    for (first, cleaned) in [(train, rows.eval), (0, Some(rows.train))] {
        let eval = if first == 0 { seen.len() } else { 0 };
        for (row, hash) in (first as usize..).zip(cleaned.into_iter().flat_map(hashes)) {
            let (fate, hash) = (&mut fates.rows[row], hash?);
            if fate.stays()
                && let Err(other) = seen.stay(hash)
            {
                *fate = if other < eval { Fate::AlsoInEval } else { Fate::NearDuplicate };
            }
        }
    }
    Ok(())
}

/// Hashes of all rows, in their order.
fn hashes(cleaned: &Cleaned) -> impl Iterator<Item = io::Result<u64>> {
    cleaned.parts.iter().filter(|(_, report)| report.kept() > 0).flat_map(|(files, _)| {
        let mut input = files.signatures().map(BufReader::new);
        std::iter::from_fn(move || match &mut input {
            Ok(input) => next(input).transpose(),
            Err(error) => Some(Err(error.kind().into())),
        })
    })
}

fn next(input: &mut BufReader<File>) -> io::Result<Option<u64>> {
    let mut halves = [[0; 4]; 2];
    for half in &mut halves {
        match input.read_exact(half) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let [higher, lower] = halves.map(|half| u64::from(u32::from_le_bytes(half)));
    Ok(Some(higher << 32 | lower))
}
