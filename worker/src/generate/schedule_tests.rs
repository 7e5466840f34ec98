use std::collections::BTreeSet;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;

fn schedule(running: usize, tokens: usize, blocks: u32) -> Schedule<&'static str> {
    Schedule::new(Bounds { running, tokens }, blocks)
}

fn text(length: u32, of: &'static str) -> Text<&'static str> {
    Text::new((0..length).collect(), "", of)
}

/// One pass, after which every text that is asked for a token gets this one.
fn pass(schedule: &mut Schedule<&'static str>, token: u32) -> Vec<(&'static str, usize, usize)> {
    let plan = schedule.plan();
    schedule.computed(&plan);
    for stretch in plan.iter().filter(|stretch| stretch.chooses) {
        schedule.text(stretch.text).tokens.push(token);
    }
    let name = |stretch: &Stretch| schedule.running()[stretch.text].of;
    plan.iter().map(|stretch| (name(stretch), stretch.start, stretch.count)).collect()
}

#[test]
fn a_long_prompt_goes_piece_by_piece_beside_texts_that_run() {
    let mut schedule = schedule(4, 20, 64);
    schedule.add(text(10, "short"));
    assert_eq!(pass(&mut schedule, 9), [("short", 0, 10)]);
    schedule.add(text(50, "long"));
    schedule.text(0).tokens[0] = 7;
    assert_eq!(pass(&mut schedule, 9), [("short", 10, 1), ("long", 0, 19)]);
    assert_eq!(pass(&mut schedule, 9), [("short", 11, 1), ("long", 19, 19)]);
    assert_eq!(pass(&mut schedule, 9), [("short", 12, 1), ("long", 38, 12)]);
    assert_eq!(pass(&mut schedule, 9), [("short", 13, 1), ("long", 50, 1)]);
}

#[test]
fn no_more_texts_run_than_may() {
    let mut schedule = schedule(2, 64, 64);
    for name in ["a", "b", "c"] {
        schedule.add(Text::new(vec![name.len().try_into().unwrap(); 3], name, name));
    }
    assert_eq!(pass(&mut schedule, 9), [("a", 0, 3), ("b", 0, 3)]);
    assert_eq!((schedule.running().len(), schedule.waiting()), (2, 1));
    schedule.end(0);
    assert_eq!(pass(&mut schedule, 9), [("b", 3, 1), ("c", 0, 3)]);
}

#[test]
fn what_was_computed_for_one_text_is_not_computed_for_the_next() {
    let mut schedule = schedule(4, 256, 64);
    schedule.add(text(40, "first"));
    pass(&mut schedule, 9);
    schedule.add(text(40, "second"));
    schedule.add(Text::new((0..40).collect(), "other weights", "third"));
    let passed = pass(&mut schedule, 9);
    assert_eq!(passed, [("first", 40, 1), ("second", 32, 8), ("third", 0, 40)]);
    assert_eq!(schedule.running()[1].cached, Some(32));
    assert_eq!(schedule.running()[0].slots(32), schedule.running()[1].slots(32));
    for _ in 0..3 {
        schedule.end(0);
    }
    schedule.add(text(32, "fourth"));
    assert_eq!(pass(&mut schedule, 9), [("fourth", 16, 16)], "the last token is computed always");
}

#[test]
fn where_the_pool_is_full_the_last_text_waits_and_comes_back() {
    let mut schedule = schedule(4, 64, 4);
    schedule.add(text(31, "first"));
    schedule.add(Text::new((100..131).collect(), "", "second"));
    assert_eq!(pass(&mut schedule, 9), [("first", 0, 31), ("second", 0, 31)]);
    assert_eq!(pass(&mut schedule, 9), [("first", 31, 1), ("second", 31, 1)]);
    assert_eq!(pass(&mut schedule, 9), [("first", 32, 1)], "its next token takes a block");
    assert_eq!((schedule.running().len(), schedule.waiting()), (1, 1));
    schedule.end(0);
    let again = pass(&mut schedule, 9);
    assert_eq!(again.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), ["second"]);
    assert_eq!(schedule.running()[0].tokens.len(), 34, "what it said is kept");
}

#[test]
fn a_text_nobody_waits_for_gives_its_blocks_back() {
    let mut schedule = schedule(4, 64, 4);
    schedule.add(text(20, "gone"));
    schedule.add(text(3, "here"));
    pass(&mut schedule, 9);
    schedule.retain(|name| *name == "here");
    assert_eq!((schedule.running().len(), schedule.blocks.available()), (1, 3));
}

/// Texts of all lengths in pools of all sizes: each is computed whole, in order, every token once
/// since its last wait; no slot belongs to two texts unless they begin alike; nothing is lost.
#[test]
fn every_text_comes_to_its_end_whatever_the_pool() {
    for seed in 0..200 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let blocks = random.random_range(2..12);
        let running = random.random_range(1..6);
        let bounds = Bounds { running, tokens: random.random_range(running..running + 40) };
        let mut schedule: Schedule<u32> = Schedule::new(bounds, blocks);
        let longest = schedule.capacity();
        let mut ends = Vec::new();
        for number in 0..random.random_range(1..12u32) {
            let prompt = random.random_range(1..longest);
            let alike = random.random_bool(0.5);
            let first = if alike { 0 } else { 1000 * (number + 1) };
            ends.push(random.random_range(prompt + 1..=longest));
            schedule.add(Text::new((first..).take(prompt).collect(), "", number));
        }
        let mut ended = BTreeSet::new();
        for _ in 0..20_000 {
            let plan = schedule.plan();
            if plan.is_empty() {
                break;
            }
            let tokens: usize = plan.iter().map(|stretch| stretch.count).sum();
            assert!(tokens <= bounds.tokens && schedule.running().len() <= running, "{seed}");
            let mut written = BTreeSet::new();
            for stretch in &plan {
                let text = &schedule.running()[stretch.text];
                assert_eq!(stretch.start, text.computed, "{seed}");
                let slots = text.slots(stretch.start + stretch.count);
                assert_eq!(slots.len(), stretch.start + stretch.count, "{seed}");
                for slot in &slots[stretch.start..] {
                    assert!(written.insert(*slot), "{seed}: a slot is written twice");
                }
            }
            schedule.computed(&plan);
            let mut choosing: Vec<usize> =
                plan.iter().filter(|s| s.chooses).map(|stretch| stretch.text).collect();
            choosing.sort_unstable();
            for index in choosing.into_iter().rev() {
                let text = schedule.text(index);
                text.tokens.push(text.of);
                if text.tokens.len() > ends[text.of as usize] {
                    assert!(ended.insert(schedule.end(index).of));
                }
            }
        }
        assert_eq!(ended.len(), ends.len(), "{seed}: {:?}", schedule.running().len());
        assert_eq!(schedule.blocks.available(), blocks as usize, "{seed}: a block is lost");
    }
}
