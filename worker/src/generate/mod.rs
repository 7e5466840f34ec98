//! Texts from a language model, many at once.
//!
//! ```text
//! language: directory -> model, tokenizer, template    blocks, schedule: texts -> the tokens of a pass
//! compute: tokens -> logits    sampling, grammar: logits -> a token    text: tokens -> text, up to a stop
//! engine: requests -> events, on a thread of its own
//! ```
//!
//! [`blocks`], [`schedule`], [`sampling`] and [`text`] know neither time nor tensors.

pub mod blocks;
pub mod compute;
pub mod engine;
pub mod grammar;
pub mod language;
pub mod metrics;
pub mod sampling;
pub mod schedule;
pub mod text;
