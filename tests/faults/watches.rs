//! Lists that are old, and watches that lose events, end, or fall silent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::future::try_join_all;

use crate::classes::{Class, OUTAGE, SCENARIOS, all_is_well, bugs_are_caught, is_caught};
use crate::cluster::until;
use crate::operator::Bug;
use crate::play::{LIMIT, Play, reference};
use crate::proxy::{Call, Deed, Rules};
use crate::scenario::{Scenario, named};

/// Kinds that an operator watches at least.
const WATCHED: usize = 12;

const CLASSES: &[Class] = &[
    Class {
        name: "a lost event",
        rules: || Box::new(|call| watched(call, Deed::Cut(1))),
        lasts: false,
        bug: "gives-up-watches",
    },
    Class {
        name: "410 in a watch",
        rules: || Box::new(|call| watched(call, Deed::Expire(1))),
        lasts: false,
        bug: "gives-up-watches",
    },
    Class { name: "410 for a version", rules: too_old, lasts: true, bug: "keeps-a-gone-version" },
    Class {
        name: "a watch that falls silent",
        rules: || Box::new(|call| watched(call, Deed::Fade)),
        lasts: false,
        bug: "waits-for-ever",
    },
];

fn watched(call: &Call, deed: Deed) -> Deed {
    if call.watch { deed } else { Deed::Pass }
}

/// Each watch loses its first event and ends, and the version that it began with is too old from
/// then on.
fn too_old() -> Rules {
    let begun = Mutex::new(BTreeMap::<String, String>::new());
    Box::new(move |call| {
        if !call.watch {
            return Deed::Pass;
        }
        let mut begun = begun.lock().unwrap();
        match begun.get(&call.question) {
            None => {
                begun.insert(call.question.clone(), call.version.clone());
                Deed::Cut(0)
            }
            Some(version) if *version == call.version => Deed::Refuse(410),
            Some(_) => Deed::Pass,
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_bad_watches_all_is_well() {
    all_is_well(CLASSES).await;
}

/// The last write that an operator gets done.
#[derive(Clone, Copy)]
struct Last {
    name: &'static str,
    is: fn(&Call) -> bool,
}

/// An operator is killed after a write: none of its later ones reaches the server. The next one is
/// told for a while that there is nothing but the subject, as it was when the first one began.
async fn sees_old_lists(
    scenario: &'static Scenario,
    final_write: Last,
    bug: Option<Bug>,
) -> Result<Duration> {
    let (want, _) = reference(scenario).await?;
    let play = Play::prepare(scenario, bug).await?;
    let old = Arc::new(Mutex::new(BTreeMap::<String, Bytes>::new()));
    let noted = old.clone();
    play.proxy.listen(Box::new(move |question, list| {
        noted.lock().unwrap().entry(question.to_owned()).or_insert_with(|| list.clone());
    }));
    let ended = Arc::new(AtomicBool::new(false));
    let ends = ended.clone();
    play.proxy.rules(Box::new(move |call| {
        if call.is_write() && ends.fetch_or((final_write.is)(call), Ordering::SeqCst) {
            return Deed::Silence;
        }
        Deed::Pass
    }));
    play.operator.start()?;
    until(LIMIT, "the first lists", async || {
        Ok((old.lock().unwrap().len() >= WATCHED).then_some(()))
    })
    .await?;
    play.raise().await?;
    until(LIMIT, "the last write", async || {
        let done = ended.load(Ordering::SeqCst) && play.proxy.quiet() > Duration::from_millis(500);
        Ok(done.then_some(()))
    })
    .await?;
    play.operator.kill();
    let old = old.lock().unwrap().clone();
    play.proxy.rules(Box::new(move |call| {
        // Parents are up to date: they are what makes the operator act on the rest.
        if call.path.contains("hearth.dev") || call.is_write() {
            return Deed::Pass;
        }
        match old.get(&call.question) {
            Some(list) => Deed::Answer(list.clone()),
            None if call.watch => Deed::Delay(OUTAGE),
            None => Deed::Pass,
        }
    }));
    play.operator.start()?;
    tokio::time::sleep(OUTAGE).await;
    play.proxy.calm();
    let told = || format!("{}: old lists after {}", scenario.name, final_write.name);
    play.comes_to(want).await.with_context(told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_lists_deceive_nobody() {
    let lasts = [
        Last { name: "the second write", is: |call| call.write == 2 },
        Last { name: "the sixth write", is: |call| call.write == 6 },
    ];
    let plays =
        SCENARIOS.iter().flat_map(|name| lasts.map(|last| sees_old_lists(named(name), last, None)));
    try_join_all(plays).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_that_cannot_cope_with_bad_watches_are_caught() {
    bugs_are_caught(CLASSES, "swept").await;
    // It has said that there is a Job, and then is told that there is none.
    let says = Last { name: "the first status", is: |call| call.path.ends_with("/status") };
    let deceived = sees_old_lists(named("trained"), says, Some("believes-lists")).await;
    is_caught("old lists", "believes-lists", deceived);
}
