//! Answers that were computed before.
//!
//! The key of a text is a hash of the revision and of its tokens, that of a picture one of its prepared
//! pixels: texts that the model cannot tell apart share an answer, and no text is kept. Equal texts
//! that come while the first is computed wait for it. No lock is held meanwhile: an entry stands open
//! instead ([`quick_cache`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, GuardResult};

use super::engine::{Answer, Unit};

/// Hash of a revision and of a text's tokens.
type Key = [u8; 32];

/// Bytes of an entry besides its numbers: its key, its place in the table and in the order of what
/// goes first, and its share of what both hold in reserve.
const ENTRY_BYTES: u64 = 224;

/// Answers, bounded in bytes. What was asked for once goes before what was asked for often.
#[derive(Debug)]
pub struct AnswerCache {
    answers: Cache<Key, Answer, Bytes>,
    revision: blake3::Hasher,
    metrics: CacheMetrics,
}

/// What an answer weighs.
#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Key, Answer> for Bytes {
    fn weight(&self, _key: &Key, answer: &Answer) -> u64 {
        entry_bytes(answer.len())
    }
}

fn entry_bytes(numbers: usize) -> u64 {
    ENTRY_BYTES + 4 * numbers as u64
}

/// The figures of a cache.
#[derive(Debug, Default)]
pub struct CacheMetrics {
    hits: Counter,
    misses: Counter,
    bytes: Gauge,
}

impl CacheMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "cache_hits",
            "Texts answered with what an equal one got",
            metrics.hits.clone(),
        );
        registry.register("cache_misses", "Texts computed beside a cache", metrics.misses.clone());
        registry.register("cache_bytes", "Bytes that answers take", metrics.bytes.clone());
        metrics
    }
}

impl AnswerCache {
    /// An empty cache for answers of so many numbers each.
    pub fn new(bytes: u64, revision: &str, numbers: usize, metrics: CacheMetrics) -> Self {
        let items = usize::try_from(bytes / entry_bytes(numbers)).unwrap_or(usize::MAX);
        let mut hasher = blake3::Hasher::new();
        hasher.update(revision.as_bytes()).update(&[0]);
        Self { answers: Cache::with_weighter(items, bytes, Bytes), revision: hasher, metrics }
    }

    /// Answers of texts that were tokenized, in their order. Those that are not here are given to
    /// `compute`, each once, which gives one answer a text.
    pub async fn answers<U: Unit, E, F: Future<Output = Result<Vec<Answer>, E>>>(
        &self,
        texts: Vec<Vec<U>>,
        compute: impl Fn(Vec<Vec<U>>) -> F,
    ) -> Result<Vec<Answer>, E> {
        let Distinct { mut texts, keys, places } = self.distinct(texts);
        let mut found = vec![Answer::from([]); keys.len()];
        let (mut guards, mut wanted, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
        for (index, key) in keys.iter().enumerate() {
            match self.answers.get_value_or_guard(key, Some(Duration::ZERO)) {
                GuardResult::Value(answer) => found[index] = answer,
                GuardResult::Guard(guard) => {
                    guards.push((index, guard));
                    wanted.push(std::mem::take(&mut texts[index]));
                }
                GuardResult::Timeout => elsewhere.push(index),
            }
        }
        let mut computed = wanted.len();
        if !wanted.is_empty() {
            for ((index, guard), answer) in guards.into_iter().zip(compute(wanted).await?) {
                // An entry that others pushed out is no loss.
                let _ = guard.insert(answer.clone());
                found[index] = answer;
            }
        }
        // Requests that wait for each other's texts would wait for ever: from here on none holds
        // an entry open while it waits for another's.
        for index in elsewhere {
            match self.answers.get_value_or_guard_async(&keys[index]).await {
                Ok(answer) => found[index] = answer,
                // Whoever computed it was refused, or went away.
                Err(guard) => {
                    computed += 1;
                    for answer in compute(vec![std::mem::take(&mut texts[index])]).await? {
                        found[index] = answer;
                    }
                    let _ = guard.insert(found[index].clone());
                }
            }
        }
        self.metrics.misses.inc_by(computed as u64);
        self.metrics.hits.inc_by((places.len() - computed) as u64);
        self.metrics.bytes.set(i64::try_from(self.answers.weight()).unwrap_or(i64::MAX));
        Ok(places.into_iter().map(|index| found[index].clone()).collect())
    }

    fn key<U: Unit>(&self, text: &[U]) -> Key {
        let mut hasher = self.revision.clone();
        U::hash(text, &mut hasher);
        *hasher.finalize().as_bytes()
    }

    fn distinct<U: Unit>(&self, texts: Vec<Vec<U>>) -> Distinct<U> {
        let mut distinct = Distinct { texts: Vec::new(), keys: Vec::new(), places: Vec::new() };
        let mut seen = HashMap::new();
        for text in texts {
            let key = self.key(&text);
            let place = match seen.entry(key) {
                Entry::Occupied(place) => *place.get(),
                Entry::Vacant(place) => {
                    distinct.texts.push(text);
                    distinct.keys.push(key);
                    *place.insert(distinct.keys.len() - 1)
                }
            };
            distinct.places.push(place);
        }
        distinct
    }
}

/// The texts of a request, each once.
struct Distinct<U> {
    texts: Vec<Vec<U>>,
    keys: Vec<Key>,
    /// For each text of the request, which of these it is.
    places: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::ready;

    use tokio::sync::Notify;

    use super::*;

    fn cache(bytes: u64) -> AnswerCache {
        AnswerCache::new(bytes, "r1", 1, CacheMetrics::default())
    }

    #[expect(clippy::cast_precision_loss, reason = "small ids")]
    fn answer(text: &[u32]) -> Answer {
        Answer::from([text[0] as f32])
    }

    fn texts(first: &[u32]) -> Vec<Vec<u32>> {
        first.iter().map(|id| vec![*id, 9]).collect()
    }

    /// What was asked of a cache, and what it had computed for it.
    async fn ask(cache: &AnswerCache, first: &[u32]) -> (Vec<f32>, Vec<u32>) {
        let computed = RefCell::new(Vec::new());
        let compute = |texts: Vec<Vec<u32>>| {
            computed.borrow_mut().extend(texts.iter().map(|text| text[0]));
            ready(Ok::<_, ()>(texts.iter().map(|text| answer(text)).collect()))
        };
        let answers = cache.answers(texts(first), compute).await.unwrap();
        (answers.iter().map(|answer| answer[0]).collect(), computed.into_inner())
    }

    #[tokio::test]
    async fn a_batch_hits_in_part_and_keeps_its_order() {
        let cache = cache(1 << 20);
        assert_eq!(ask(&cache, &[3, 1]).await, (vec![3.0, 1.0], vec![3, 1]));
        assert_eq!(ask(&cache, &[2, 1, 2, 3]).await, (vec![2.0, 1.0, 2.0, 3.0], vec![2]));
        assert_eq!((cache.metrics.hits.get(), cache.metrics.misses.get()), (3, 3));
        let bytes = 3 * entry_bytes(1);
        assert_eq!(cache.metrics.bytes.get().unsigned_abs(), bytes);
    }

    #[test]
    fn a_key_tells_revisions_and_lengths_apart() {
        let (one, other) = (cache(1), AnswerCache::new(1, "r2", 1, CacheMetrics::default()));
        assert_eq!(one.key(&[1_u32, 2]), one.key(&[1_u32, 2]));
        assert_ne!(one.key(&[1_u32, 2]), other.key(&[1_u32, 2]));
        assert_ne!(one.key(&[1_u32, 2]), one.key(&[1_u32, 2, 0]));
    }

    #[tokio::test]
    async fn its_memory_stays_within_its_bytes_and_what_is_asked_for_often_stays() {
        const BYTES: u64 = 4 << 20;
        let cache = cache(BYTES);
        for id in 1..100_000 {
            let id = if id % 1000 == 0 { 0 } else { id };
            ask(&cache, &[id]).await;
        }
        // An Arc of one float: two counters and the float, in a chunk of 32 bytes.
        let (tables, numbers) = (cache.answers.memory_used(), 32 * cache.answers.len() as u64);
        let used = (tables.entries + tables.map) as u64 + numbers;
        assert!(used <= BYTES, "{used} bytes for {} answers", cache.answers.len());
        assert!(used > BYTES / 2, "{used} bytes for {} answers", cache.answers.len());
        assert_eq!(ask(&cache, &[99_999, 0]).await, (vec![99_999.0, 0.0], vec![]));
    }

    #[tokio::test]
    async fn a_cache_without_room_computes_all() {
        let cache = cache(1);
        assert_eq!(ask(&cache, &[1, 1, 2]).await, (vec![1.0, 1.0, 2.0], vec![1, 2]));
        assert_eq!(ask(&cache, &[1]).await, (vec![1.0], vec![1]));
    }

    #[tokio::test]
    async fn equal_texts_in_flight_are_computed_once() {
        let (cache, gate) = (cache(1 << 20), Notify::new());
        let slow = |texts: Vec<Vec<u32>>| {
            let open = gate.notified();
            async move {
                open.await;
                Ok::<_, ()>(texts.iter().map(|text| answer(text)).collect())
            }
        };
        let first = cache.answers(texts(&[1, 2]), slow);
        // It asks for a text that the first computes, and has one of its own.
        let second = async {
            let both = ask(&cache, &[3, 1]).await;
            assert_eq!(both, (vec![3.0, 1.0], vec![3]));
        };
        let third = async {
            tokio::task::yield_now().await;
            gate.notify_one();
        };
        let (answers, (), ()) = tokio::join!(first, second, third);
        assert_eq!(answers.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn who_waits_for_one_that_fails_computes_it_itself() {
        let (cache, gate) = (cache(1 << 20), Notify::new());
        let failing = |_| {
            let open = gate.notified();
            async move {
                open.await;
                Err::<Vec<Answer>, _>("refused")
            }
        };
        let first = cache.answers(texts(&[1, 2]), failing);
        let second = async { assert_eq!(ask(&cache, &[2, 1]).await.1, [2, 1]) };
        let third = async {
            tokio::task::yield_now().await;
            gate.notify_one();
        };
        let (answers, (), ()) = tokio::join!(first, second, third);
        assert_eq!(answers.unwrap_err(), "refused");
    }
}
