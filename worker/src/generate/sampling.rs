//! Logits → the next token.
//!
//! As OpenAI's API and vLLM have it: penalties and biases on the logits, then temperature, then
//! what top-k, top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024) leave. Log-probabilities
//! are of the model's own logits.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How a token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest.
    pub temperature: f32,
    /// Share of probability that is left, of the likeliest tokens; 1 leaves all.
    pub top_p: f32,
    /// Tokens that are left; 0 leaves all.
    pub top_k: usize,
    /// Least probability, as a share of the likeliest token's.
    pub min_p: f32,
    /// Taken from the logit of a token that was said.
    pub presence_penalty: f32,
    /// Taken from a token's logit each time that it was said.
    pub frequency_penalty: f32,
    /// Divides positive logits of tokens that were said or asked, and multiplies negative ones
    /// (Keskar et al. 2019); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Added to logits.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Of the random numbers.
    pub seed: u64,
    /// Likeliest tokens to tell of besides the chosen one; `None` tells of none.
    pub logprobs: Option<usize>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
            logprobs: None,
        }
    }
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Its id.
    pub id: u32,
    /// Where they are wanted.
    pub logprobs: Option<Logprobs>,
}

/// Natural logarithms of probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// Of the likeliest tokens, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Chooses the tokens of one text.
#[derive(Debug)]
pub struct Sampler {
    how: Sampling,
    random: ChaCha8Rng,
    /// How often each token was said; 0 for one of the prompt alone.
    said: BTreeMap<u32, u32>,
}

impl Sampler {
    /// Of a text that begins with `prompt`.
    pub fn new(how: Sampling, prompt: &[u32]) -> Self {
        let random = ChaCha8Rng::seed_from_u64(how.seed);
        let counts = (how.repetition_penalty - 1.0).abs() > f32::EPSILON;
        let said = prompt.iter().filter(|_| counts).map(|token| (*token, 0)).collect();
        Self { how, random, said }
    }

    /// Chooses among `logits` `[V]`, which it changes. `permit` forbids tokens by
    /// `f32::NEG_INFINITY`; it must leave one.
    pub fn choose(&mut self, logits: &mut [f32], permit: impl FnOnce(&mut [f32])) -> Chosen {
        let told = self.how.logprobs.map(|count| Told::of(logits, count));
        self.adjust(logits);
        permit(logits);
        let id = if self.how.temperature <= 0.0 { likeliest(logits) } else { self.draw(logits) };
        *self.said.entry(id).or_insert(0) += 1;
        Chosen { id, logprobs: told.map(|told| told.with(id)) }
    }

    fn adjust(&self, logits: &mut [f32]) {
        let how = &self.how;
        for (token, times) in &self.said {
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            let by = how.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / by } else { *logit * by };
            if *times > 0 {
                *logit -= how.presence_penalty + how.frequency_penalty * *times as f32;
            }
        }
        for (token, bias) in &how.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let how = &self.how;
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // What is less likely by 1e-12 is nothing to an f32's sum.
        let least = how.min_p.max(1e-12).ln() * how.temperature;
        let mut left: Vec<(u32, f32)> = (0..)
            .zip(logits)
            .filter(|(_, logit)| **logit - best >= least)
            .map(|(id, logit)| (id, ((logit - best) / how.temperature).exp()))
            .collect();
        let restricts = how.top_p < 1.0 || (how.top_k > 0 && how.top_k < left.len());
        if restricts {
            keep_likeliest(&mut left, how.top_k, how.top_p);
        }
        let sum: f32 = left.iter().map(|(_, weight)| weight).sum();
        let mut place = self.random.random::<f32>() * sum;
        for (id, weight) in &left {
            place -= weight;
            if place < 0.0 {
                return *id;
            }
        }
        left.last().map_or_else(|| likeliest(logits), |(id, _)| *id)
    }
}

/// The first `top_k` of the likeliest (0: all), and of those the first that have `top_p` of the
/// probability together.
fn keep_likeliest(left: &mut Vec<(u32, f32)>, top_k: usize, top_p: f32) {
    if top_k > 0 && top_k < left.len() {
        left.select_nth_unstable_by(top_k - 1, |a, b| likelier(*a, *b));
        left.truncate(top_k);
    }
    let wanted = top_p * left.iter().map(|(_, weight)| weight).sum::<f32>();
    // Mostly few tokens have nearly all: those alone are sorted first.
    let mut sorted = 64.min(left.len());
    loop {
        if sorted < left.len() {
            left.select_nth_unstable_by(sorted - 1, |a, b| likelier(*a, *b));
        }
        left[..sorted].sort_unstable_by(|a, b| likelier(*a, *b));
        let mut sum = 0.0;
        let enough = left[..sorted].iter().position(|(_, weight)| {
            sum += weight;
            sum >= wanted
        });
        match enough {
            Some(last) => return left.truncate(last + 1),
            None if sorted == left.len() => return,
            None => sorted = (sorted * 16).min(left.len()),
        }
    }
}

/// The likelier first; of equals, the one with the lower id.
fn likelier(one: (u32, f32), other: (u32, f32)) -> std::cmp::Ordering {
    other.1.total_cmp(&one.1).then(one.0.cmp(&other.0))
}

fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in (0..).zip(logits) {
        if *logit > best.1 {
            best = (id, *logit);
        }
    }
    best.0
}

/// What is told of the model's own logits.
struct Told {
    logits: Vec<f32>,
    total: f32,
    top: Vec<(u32, f32)>,
}

impl Told {
    fn of(logits: &[f32], count: usize) -> Self {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - best).exp()).sum();
        #[expect(clippy::cast_possible_truncation, reason = "a logarithm of f32 logits")]
        let total = best + sum.ln() as f32;
        let mut top: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        keep_top(&mut top, count);
        let top = top.into_iter().map(|(id, logit)| (id, logit - total)).collect();
        Self { logits: logits.to_vec(), total, top }
    }

    fn with(self, id: u32) -> Logprobs {
        Logprobs { chosen: self.logits[id as usize] - self.total, top: self.top }
    }
}

fn keep_top(top: &mut Vec<(u32, f32)>, count: usize) {
    if count == 0 {
        return top.clear();
    }
    if count < top.len() {
        top.select_nth_unstable_by(count - 1, |a, b| likelier(*a, *b));
        top.truncate(count);
    }
    top.sort_unstable_by(|a, b| likelier(*a, *b));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(how: &Sampling, logits: &[f32]) -> Vec<f32> {
        let mut sampler = Sampler::new(how.clone(), &[]);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            let id = sampler.choose(&mut logits.to_vec(), |_| {}).id;
            counts[id as usize] += 1.0 / 20_000.0;
            sampler.said.clear();
        }
        counts
    }

    fn close(got: &[f32], want: &[f32]) {
        let far = got.iter().zip(want).any(|(got, want)| (got - want).abs() > 0.015);
        assert!(!far, "{got:?} is not {want:?}");
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        close(&shares(&Sampling::default(), &logits), &[0.5, 0.3, 0.2]);
        let sum = 0.25 + 0.09 + 0.04;
        let sharper = Sampling { temperature: 0.5, ..Sampling::default() };
        close(&shares(&sharper, &logits), &[0.25 / sum, 0.09 / sum, 0.04 / sum]);
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        close(&shares(&greedy, &logits), &[1.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_cut_off_never_comes() {
        let logits = [0.2f32.ln(), 0.5f32.ln(), 0.3f32.ln()];
        let top_p = Sampling { top_p: 0.79, ..Sampling::default() };
        close(&shares(&top_p, &logits), &[0.0, 0.625, 0.375]);
        let top_k = Sampling { top_k: 1, ..Sampling::default() };
        close(&shares(&top_k, &logits), &[0.0, 1.0, 0.0]);
        let min_p = Sampling { min_p: 0.5, ..Sampling::default() };
        close(&shares(&min_p, &logits), &[0.0, 0.625, 0.375]);
    }

    #[test]
    fn top_p_sorts_as_many_tokens_as_it_needs() {
        let even: Vec<(u32, f32)> = (0..5000).map(|id| (id, 1.0)).collect();
        for (top_p, left) in [(0.001, 5), (0.5, 2500), (1.0, 5000)] {
            let mut tokens = even.clone();
            keep_likeliest(&mut tokens, 0, top_p);
            assert_eq!(tokens.len(), left);
        }
    }

    #[test]
    fn the_same_seed_says_the_same() {
        let say = |seed| -> Vec<u32> {
            let mut sampler = Sampler::new(Sampling { seed, ..Sampling::default() }, &[]);
            (0..20).map(|_| sampler.choose(&mut [0.0; 50], |_| {}).id).collect()
        };
        assert_eq!(say(7), say(7));
        assert_ne!(say(7), say(8));
    }

    #[test]
    fn penalties_and_biases_change_what_is_likeliest() {
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        let say = |how: Sampling, prompt: &[u32]| -> Vec<u32> {
            let mut sampler = Sampler::new(how, prompt);
            (0..3).map(|_| sampler.choose(&mut [1.0, 0.9, -1.0], |_| {}).id).collect()
        };
        assert_eq!(say(greedy.clone(), &[0]), [0, 0, 0]);
        let presence = Sampling { presence_penalty: 0.2, ..greedy.clone() };
        assert_eq!(say(presence, &[0]), [0, 1, 0], "what was asked is not what was said");
        let frequency = Sampling { frequency_penalty: 0.15, ..greedy.clone() };
        assert_eq!(say(frequency, &[]), [0, 1, 0]);
        let repetition = Sampling { repetition_penalty: 1.5, ..greedy.clone() };
        assert_eq!(say(repetition, &[0]), [1, 0, 0]);
        let bias = Sampling { logit_bias: [(2, 5.0)].into(), ..greedy };
        assert_eq!(say(bias, &[]), [2, 2, 2]);
    }

    #[test]
    fn logprobs_are_the_model_s_own() {
        let how = Sampling {
            temperature: 0.0,
            logit_bias: [(2, 9.0)].into(),
            logprobs: Some(2),
            ..Sampling::default()
        };
        let mut logits = [0.2f32.ln() + 3.0, 0.5f32.ln() + 3.0, 0.3f32.ln() + 3.0];
        let chosen = Sampler::new(how, &[]).choose(&mut logits, |_| {});
        let told = chosen.logprobs.unwrap();
        assert_eq!(chosen.id, 2);
        assert!((told.chosen - 0.3f32.ln()).abs() < 1e-5);
        let top: Vec<u32> = told.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(top, [1, 2]);
        assert!((told.top[0].1 - 0.5f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn what_is_forbidden_never_comes() {
        let mut sampler = Sampler::new(Sampling::default(), &[]);
        for _ in 0..100 {
            let chosen = sampler.choose(&mut [9.0, 0.0, 0.0], |logits| {
                logits[0] = f32::NEG_INFINITY;
            });
            assert_ne!(chosen.id, 0);
        }
    }
}
