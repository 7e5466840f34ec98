//! Requests that are refused, cut short, or never answered.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;

use crate::operator::Bug;
use crate::play::{Play, reference};
use crate::proxy::{Call, Deed};
use crate::scenario::{Scenario, named};

/// How long the faults last.
const OUTAGE: Duration = Duration::from_secs(6);
const SCENARIOS: [&str; 4] = ["trained", "resumed", "swept", "served"];

/// A class of faults, and an operator that cannot cope with it.
struct Class {
    name: &'static str,
    deed: fn(&Call) -> Deed,
    bug: Bug,
}

const CLASSES: &[Class] = &[
    Class { name: "429", deed: |call| writes(call, Deed::Refuse(429)), bug: "forgets-failures" },
    Class { name: "500", deed: |call| writes(call, Deed::Refuse(500)), bug: "forgets-failures" },
    Class { name: "503", deed: |call| writes(call, Deed::Refuse(503)), bug: "forgets-failures" },
    Class {
        name: "409",
        deed: |call| writes(call, Deed::Refuse(409)),
        bug: "takes-conflict-for-success",
    },
    Class {
        name: "504 after the write was done",
        deed: |call| writes(call, Deed::RefuseAfter(504)),
        bug: "errors-are-final",
    },
    Class {
        name: "a truncated answer",
        deed: |call| writes(call, Deed::Truncate),
        bug: "errors-are-final",
    },
    Class { name: "no answer", deed: |call| writes(call, Deed::Silence), bug: "waits-for-ever" },
];

fn writes(call: &Call, deed: Deed) -> Deed {
    if call.is_write() { deed } else { Deed::Pass }
}

async fn suffers(scenario: &'static Scenario, class: &Class, bug: Option<Bug>) -> Result<Duration> {
    let (want, _) = reference(scenario).await?;
    let play = Play::under(scenario, bug, Box::new(class.deed)).await?;
    tokio::time::sleep(OUTAGE).await;
    anyhow::ensure!(
        play.proxy.last_fault().is_some(),
        "{}: {} never happened",
        scenario.name,
        class.name
    );
    play.proxy.calm();
    play.comes_to(want).await.with_context(|| format!("{}: {}", scenario.name, class.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_bad_answers_all_is_well() {
    let plays = CLASSES.iter().map(async |class| {
        let plays = SCENARIOS.map(|name| suffers(named(name), class, None));
        let worst = try_join_all(plays).await?.into_iter().max().unwrap_or_default();
        println!("{}: at worst {:.1} s", class.name, worst.as_secs_f64());
        anyhow::Ok(())
    });
    try_join_all(plays).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_watches_that_fail_at_first_are_tried_again() {
    let deeds: [fn(&Call) -> Deed; 3] = [
        |call| if call.is_write() { Deed::Pass } else { Deed::Refuse(500) },
        |call| if call.is_list() { Deed::Truncate } else { Deed::Pass },
        |call| if call.is_list() { Deed::Silence } else { Deed::Pass },
    ];
    let plays = deeds.map(|deed| {
        let class = Class { name: "reads", deed, bug: "" };
        async move { suffers(named("trained"), &class, None).await }
    });
    try_join_all(plays).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_that_cannot_cope_with_bad_answers_are_caught() {
    let plays = CLASSES
        .iter()
        .map(async |class| (class, suffers(named("trained"), class, Some(class.bug)).await));
    for (class, outcome) in futures::future::join_all(plays).await {
        let said = format!(
            "{:#}",
            outcome.expect_err(&format!("{}: {} is not caught", class.name, class.bug))
        );
        assert!(said.contains("not in its final state"), "{said}");
    }
}
