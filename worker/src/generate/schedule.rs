//! Which tokens of which texts a pass computes.
//!
//! In: texts, and the tokens that were chosen. Out: the stretches of the next pass. Every running
//! text gets its next token in each pass; what is left of the pass's bound goes to prompts, piece by
//! piece (Agrawal et al. 2024, chunked prefill). Where the pool is full, the text that came last
//! gives its blocks back, and is computed anew later. Absent on purpose: tensors, time, threads.

use std::collections::VecDeque;

use super::blocks::{BLOCK, Blocks, Content, SLOTS, content};

/// Bounds of the texts and passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most texts that run at once; at least 1.
    pub running: usize,
    /// Most tokens of a pass; at least as many as texts may run.
    pub tokens: usize,
}

/// A text.
#[derive(Debug)]
pub struct Text<T> {
    /// Its tokens so far.
    pub tokens: Vec<u32>,
    /// Who wants it.
    pub of: T,
    /// Tokens that were remembered already when it first ran.
    pub cached: Option<usize>,
    computed: usize,
    blocks: Vec<u32>,
    /// Of its full blocks, as far as they were told to the pool.
    contents: Vec<Content>,
    root: Content,
}

/// Tokens of one text in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Of the running texts.
    pub text: usize,
    /// Its first token.
    pub start: usize,
    /// Tokens.
    pub count: usize,
    /// Whether it reaches the end of the text: the next token is to be chosen.
    pub chooses: bool,
}

/// Texts that run and wait.
#[derive(Debug)]
pub struct Schedule<T> {
    bounds: Bounds,
    blocks: Blocks,
    waiting: VecDeque<Text<T>>,
    running: Vec<Text<T>>,
}

impl<T> Text<T> {
    /// Of a prompt, which is not empty. Only texts of one `kind` share what is remembered.
    pub fn new(prompt: Vec<u32>, kind: &str, of: T) -> Self {
        Self {
            tokens: prompt,
            of,
            cached: None,
            computed: 0,
            blocks: Vec::new(),
            contents: Vec::new(),
            root: blake3::hash(kind.as_bytes()),
        }
    }

    /// Slots of its tokens in the pool.
    pub fn slots(&self, tokens: usize) -> Vec<i64> {
        let of_block = |block: &u32| {
            let first = i64::from(*block) * SLOTS;
            first..first + SLOTS
        };
        self.blocks.iter().flat_map(of_block).take(tokens).collect()
    }

    fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Contents of the full blocks of its tokens, all but the last token: that one is computed
    /// always, for the sake of what comes after it.
    fn shareable(&self) -> Vec<Content> {
        let whole = &self.tokens[..self.tokens.len() - 1];
        let mut parent = self.root;
        let blocks = whole.chunks_exact(BLOCK);
        blocks
            .map(|tokens| {
                parent = content(&parent, tokens);
                parent
            })
            .collect()
    }
}

impl<T> Schedule<T> {
    /// None yet; a pool of `blocks` blocks.
    pub fn new(bounds: Bounds, blocks: u32) -> Self {
        let blocks = Blocks::new(blocks);
        Self { bounds, blocks, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Most tokens of one text.
    pub fn capacity(&self) -> usize {
        self.blocks.count() * BLOCK
    }

    /// Adds a text, which will be no longer than [`Self::capacity`].
    pub fn add(&mut self, text: Text<T>) {
        self.waiting.push_back(text);
    }

    /// Texts that run.
    pub fn running(&self) -> &[Text<T>] {
        &self.running
    }

    /// A running text.
    pub fn text(&mut self, index: usize) -> &mut Text<T> {
        &mut self.running[index]
    }

    /// Texts that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Tokens of all texts, those that wait included.
    pub fn tokens(&self) -> usize {
        self.running.iter().chain(&self.waiting).map(|text| text.tokens.len()).sum()
    }

    /// Share of the pool's blocks that running texts use.
    pub fn used(&self) -> f64 {
        1.0 - self.blocks.available() as f64 / self.blocks.count().max(1) as f64
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Lets go of the texts that are not wanted any more.
    pub fn retain(&mut self, wanted: impl Fn(&T) -> bool) {
        self.waiting.retain(|text| wanted(&text.of));
        let mut index = 0;
        while index < self.running.len() {
            if wanted(&self.running[index].of) {
                index += 1;
            } else {
                self.end(index);
            }
        }
    }

    /// A running text is over. The ones after it move up.
    pub fn end(&mut self, index: usize) -> Text<T> {
        let mut text = self.running.remove(index);
        self.give_back(&mut text);
        text
    }

    /// The next pass: texts with one new token first. What it returns is computed before the next
    /// call; [`Self::computed`] says so.
    pub fn plan(&mut self) -> Vec<Stretch> {
        let mut plan = Vec::new();
        let mut left = self.bounds.tokens;
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].pending() == 1 && self.make_room(index) {
                plan.push(self.stretch(index, 1));
                left -= 1;
            }
            index += 1;
        }
        for index in 0..self.running.len() {
            left -= self.more_of_prompt(index, left, &mut plan);
        }
        while left > 0 && self.admit() {
            left -= self.more_of_prompt(self.running.len() - 1, left, &mut plan);
        }
        if plan.is_empty() && !self.running.is_empty() {
            // Prompts hold all blocks, and none can go on: the first one shall.
            while self.running.len() > 1 && self.blocks.available() == 0 {
                self.make_wait();
            }
            self.more_of_prompt(0, left, &mut plan);
        }
        plan.sort_by_key(|stretch| stretch.count > 1);
        plan
    }

    /// The stretches were computed, and what they chose is not yet added to the texts.
    pub fn computed(&mut self, plan: &[Stretch]) {
        for stretch in plan {
            let text = &mut self.running[stretch.text];
            text.computed = stretch.start + stretch.count;
            while (text.contents.len() + 1) * BLOCK <= text.computed {
                let number = text.contents.len();
                let parent = text.contents.last().unwrap_or(&text.root);
                let tokens = &text.tokens[number * BLOCK..(number + 1) * BLOCK];
                let content = content(parent, tokens);
                text.contents.push(content);
                self.blocks.holds(text.blocks[number], content);
            }
        }
    }

    fn stretch(&self, index: usize, count: usize) -> Stretch {
        let text = &self.running[index];
        let start = text.computed;
        Stretch { text: index, start, count, chooses: start + count == text.tokens.len() }
    }

    /// Takes as many tokens of a prompt into the pass as fit; their number.
    fn more_of_prompt(&mut self, index: usize, left: usize, plan: &mut Vec<Stretch>) -> usize {
        let text = &mut self.running[index];
        let is_planned = plan.iter().any(|stretch| stretch.text == index);
        if is_planned || left == 0 {
            return 0;
        }
        let wanted = text.computed + text.pending().min(left);
        while text.blocks.len() * BLOCK < wanted
            && let Some(block) = self.blocks.take()
        {
            text.blocks.push(block);
        }
        let count = wanted.min(text.blocks.len() * BLOCK) - text.computed;
        if count > 0 {
            plan.push(self.stretch(index, count));
        }
        count
    }

    /// Makes sure of a slot for the next token of a running text. False where that text itself had
    /// to go and wait.
    fn make_room(&mut self, index: usize) -> bool {
        loop {
            let text = &mut self.running[index];
            if text.blocks.len() * BLOCK > text.computed {
                return true;
            }
            if let Some(block) = self.blocks.take() {
                text.blocks.push(block);
                return true;
            }
            self.make_wait();
            if index >= self.running.len() {
                return false;
            }
        }
    }

    /// The text that came last gives its blocks back, and waits as the first.
    fn make_wait(&mut self) {
        let Some(mut text) = self.running.pop() else { return };
        self.give_back(&mut text);
        self.waiting.push_front(text);
    }

    /// Its last blocks are of the least use to others, and are the first to be needed.
    fn give_back(&mut self, text: &mut Text<T>) {
        for block in text.blocks.drain(..).rev() {
            self.blocks.release(block);
        }
        text.contents.clear();
        text.computed = 0;
    }

    /// Lets the first that waits run, if there is room for all of its tokens and the next one.
    fn admit(&mut self) -> bool {
        let Some(text) = self.waiting.front() else { return false };
        if self.running.len() >= self.bounds.running {
            return false;
        }
        let contents = text.shareable();
        let known = contents.iter().map_while(|content| self.blocks.find(content));
        let known: Vec<bool> = known.collect();
        let idle = known.iter().filter(|idle| **idle).count();
        let needed = (text.tokens.len() + 1).div_ceil(BLOCK) - known.len();
        if needed + idle > self.blocks.available() && !self.running.is_empty() {
            return false;
        }
        let Some(mut text) = self.waiting.pop_front() else { return false };
        for content in contents.into_iter().take(known.len()) {
            let Some(block) = self.blocks.share(&content) else { break };
            text.blocks.push(block);
            text.contents.push(content);
        }
        text.computed = text.blocks.len() * BLOCK;
        text.cached.get_or_insert(text.computed);
        self.running.push(text);
        true
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
