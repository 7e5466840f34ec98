//! Lists that are old, and watches that lose events, end, or fall silent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::future::try_join_all;

use crate::cluster::until;
use crate::operator::Bug;
use crate::play::{LIMIT, Play, reference};
use crate::proxy::{Call, Deed, Rules};
use crate::scenario::{Scenario, named};

const OUTAGE: Duration = Duration::from_secs(6);
const SCENARIOS: [&str; 4] = ["trained", "resumed", "swept", "served"];
/// Kinds that an operator watches at least.
const WATCHED: usize = 12;

/// A class of faults, and an operator that cannot cope with it.
struct Class {
    name: &'static str,
    rules: fn() -> Rules,
    /// Whether the rules hold on, rather than for a while.
    lasts: bool,
    bug: Bug,
}

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

async fn suffers(scenario: &'static Scenario, class: &Class, bug: Option<Bug>) -> Result<Duration> {
    let (want, _) = reference(scenario).await?;
    let play = Play::under(scenario, bug, (class.rules)()).await?;
    tokio::time::sleep(OUTAGE).await;
    anyhow::ensure!(
        play.proxy.last_fault().is_some(),
        "{}: {} never happened",
        scenario.name,
        class.name
    );
    if !class.lasts {
        play.proxy.calm();
    }
    play.comes_to(want).await.with_context(|| format!("{}: {}", scenario.name, class.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_bad_watches_all_is_well() {
    let plays = CLASSES.iter().map(async |class| {
        let plays = SCENARIOS.map(|name| suffers(named(name), class, None));
        let worst = try_join_all(plays).await?.into_iter().max().unwrap_or_default();
        println!("{}: at worst {:.1} s", class.name, worst.as_secs_f64());
        anyhow::Ok(())
    });
    try_join_all(plays).await.unwrap();
}

/// An operator is killed after so many writes. The next one is told for a while that there is
/// nothing but the subject, as it was when the first one began.
async fn sees_old_lists(
    scenario: &'static Scenario,
    at: usize,
    bug: Option<Bug>,
) -> Result<Duration> {
    let (want, _) = reference(scenario).await?;
    let play = Play::prepare(scenario, bug).await?;
    let old = Arc::new(Mutex::new(BTreeMap::<String, Bytes>::new()));
    let noted = old.clone();
    play.proxy.listen(Box::new(move |question, list| {
        noted.lock().unwrap().entry(question.to_owned()).or_insert_with(|| list.clone());
    }));
    play.operator.start()?;
    until(LIMIT, "the first lists", async || {
        Ok((old.lock().unwrap().len() >= WATCHED).then_some(()))
    })
    .await?;
    play.raise().await?;
    until(LIMIT, "the writes", async || Ok((play.proxy.writes() >= at).then_some(()))).await?;
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
    play.comes_to(want)
        .await
        .with_context(|| format!("{}: old lists after write {at}", scenario.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_lists_deceive_nobody() {
    let plays =
        SCENARIOS.iter().flat_map(|name| [2, 6].map(|at| sees_old_lists(named(name), at, None)));
    try_join_all(plays).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_that_cannot_cope_with_bad_watches_are_caught() {
    let plays = CLASSES.iter().map(async |class| {
        (class.name, class.bug, suffers(named("swept"), class, Some(class.bug)).await)
    });
    let mut outcomes = futures::future::join_all(plays).await;
    let deceived = sees_old_lists(named("trained"), 6, Some("believes-lists")).await;
    outcomes.push(("old lists", "believes-lists", deceived));
    for (name, bug, outcome) in outcomes {
        let said = format!("{:#}", outcome.expect_err(&format!("{name}: {bug} is not caught")));
        assert!(said.contains("not in its final state"), "{said}");
    }
}
