//! Rows made of rows. What is made of a row depends on the seed, the row and the number of the copy
//! alone, so that it is the same however many threads there are and in whatever order they work.

pub mod answers;
pub mod synonyms;
pub mod text;
pub mod translate;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Random numbers for one copy of a row: `purpose` tells apart what is drawn for it.
pub fn random(seed: u64, purpose: &str, row: &[u8], copy: u64) -> ChaCha8Rng {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.update(&copy.to_le_bytes());
    hash.update(blake3::hash(purpose.as_bytes()).as_bytes());
    hash.update(row);
    ChaCha8Rng::from_seed(*hash.finalize().as_bytes())
}
