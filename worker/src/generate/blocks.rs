//! Who has which slots of the pool: blocks of them, shared by texts that begin alike.
//!
//! In: what is taken and given back. Out: numbers of blocks. Absent on purpose: tensors.

use std::collections::{BTreeMap, HashMap};

/// Slots of a block.
pub const BLOCK: usize = 16;
/// The same, as tensors count.
pub const SLOTS: i64 = 16;

/// Names what a block holds: its tokens, and all that comes before them.
pub type Content = blake3::Hash;

/// The content of a block of `tokens` after a block of `parent`.
pub fn content(parent: &Content, tokens: &[u32]) -> Content {
    let mut hasher = blake3::Hasher::new();
    hasher.update(parent.as_bytes());
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    hasher.finalize()
}

/// The blocks of a pool. One that nobody uses any more keeps what it holds until it is needed, those
/// first that were given back first.
#[derive(Debug)]
pub struct Blocks {
    users: Vec<u32>,
    holds: Vec<Option<Content>>,
    by_content: HashMap<Content, u32>,
    /// Nobody's, and hold nothing.
    empty: Vec<u32>,
    /// Nobody's, by when they were given back.
    idle: BTreeMap<u64, u32>,
    idle_since: Vec<u64>,
    clock: u64,
}

impl Blocks {
    /// So many.
    pub fn new(count: u32) -> Self {
        Self {
            users: vec![0; count as usize],
            holds: vec![None; count as usize],
            by_content: HashMap::new(),
            empty: (0..count).rev().collect(),
            idle: BTreeMap::new(),
            idle_since: vec![0; count as usize],
            clock: 0,
        }
    }

    /// Blocks in all.
    pub fn count(&self) -> usize {
        self.users.len()
    }

    /// Blocks that can be taken.
    pub fn available(&self) -> usize {
        self.empty.len() + self.idle.len()
    }

    /// One that holds nothing of use.
    pub fn take(&mut self) -> Option<u32> {
        let block = match self.empty.pop() {
            Some(block) => block,
            None => self.idle.pop_first()?.1,
        };
        if let Some(content) = self.holds[block as usize].take() {
            self.by_content.remove(&content);
        }
        self.users[block as usize] = 1;
        Some(block)
    }

    /// The one that holds this, for one more user.
    pub fn share(&mut self, content: &Content) -> Option<u32> {
        let block = *self.by_content.get(content)?;
        let index = block as usize;
        if self.users[index] == 0 {
            self.idle.remove(&self.idle_since[index]);
        }
        self.users[index] += 1;
        Some(block)
    }

    /// Whether a block that holds this could be shared, and whether nobody uses it.
    pub fn find(&self, content: &Content) -> Option<bool> {
        self.by_content.get(content).map(|block| self.users[*block as usize] == 0)
    }

    /// A block is full, of this. Where another holds the same, that one is shared from then on.
    pub fn holds(&mut self, block: u32, content: Content) {
        if self.by_content.contains_key(&content) {
            return;
        }
        self.by_content.insert(content, block);
        self.holds[block as usize] = Some(content);
    }

    /// One user less.
    pub fn release(&mut self, block: u32) {
        let index = block as usize;
        self.users[index] -= 1;
        if self.users[index] > 0 {
            return;
        }
        if self.holds[index].is_none() {
            self.empty.push(block);
            return;
        }
        self.clock += 1;
        self.idle_since[index] = self.clock;
        self.idle.insert(self.clock, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Content {
        blake3::hash(b"")
    }

    #[test]
    fn what_is_given_back_is_found_until_it_is_needed() {
        let mut blocks = Blocks::new(2);
        let (one, two) = (content(&root(), &[1]), content(&root(), &[2]));
        let first = blocks.take().unwrap();
        blocks.holds(first, one);
        let second = blocks.take().unwrap();
        blocks.holds(second, two);
        assert_eq!((blocks.take(), blocks.available()), (None, 0));
        blocks.release(second);
        blocks.release(first);
        assert_eq!(blocks.share(&one), Some(first));
        assert_eq!(blocks.take(), Some(second), "the one that was given back first");
        assert_eq!(blocks.share(&two), None, "its content is gone");
        assert_eq!(blocks.find(&one), Some(false));
    }

    #[test]
    fn a_shared_block_stays_until_its_last_user_goes() {
        let mut blocks = Blocks::new(1);
        let block = blocks.take().unwrap();
        blocks.holds(block, root());
        assert_eq!(blocks.share(&root()), Some(block));
        blocks.release(block);
        assert_eq!(blocks.take(), None);
        blocks.release(block);
        assert_eq!(blocks.take(), Some(block));
    }

    #[test]
    fn a_block_is_named_by_all_that_comes_before_it() {
        let after = |first: &[u32]| content(&content(&root(), first), &[7]);
        assert_ne!(after(&[1]), after(&[2]));
        assert_eq!(after(&[1]), after(&[1]));
    }
}
