//! SIGKILL before and after each request that changes something.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;

use crate::operator::Bug;
use crate::play::{Play, reference};
use crate::proxy::Deed;
use crate::scenario::{ALL, Scenario, named};

/// One in so many writes is tried, and the last one, unless `HEARTH_FAULTS_ALL` is set.
const SHARE: usize = 5;

/// What came of one kill: whether its request was reached, and the time until the final state.
type Outcome = (bool, Duration);

async fn killed(
    scenario: &'static Scenario,
    at: usize,
    after: bool,
    bug: Option<Bug>,
) -> Result<Outcome> {
    let (want, _) = reference(scenario).await?;
    let kill = move |call: &crate::proxy::Call| {
        if call.write == at { Deed::Kill { after } } else { Deed::Pass }
    };
    let play = Play::under(scenario, bug, Box::new(kill)).await?;
    let time = play.comes_to(want).await;
    let side = if after { "after" } else { "before" };
    let time = time.with_context(|| format!("{}: killed {side} write {at}", scenario.name))?;
    Ok((play.proxy.last_fault().is_some(), time))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_changes_nothing_in_the_end() {
    let every = if std::env::var_os("HEARTH_FAULTS_ALL").is_some() { 1 } else { SHARE };
    let plays = ALL.iter().enumerate().map(async |(place, scenario)| {
        let (_, writes) = reference(scenario).await?;
        let kills = (1..=*writes)
            .filter(|at| (at + place) % every == 0 || *at == *writes)
            .flat_map(|at| [false, true].map(|after| killed(scenario, at, after, None)));
        anyhow::Ok((scenario.name, try_join_all(kills).await?))
    });
    let outcomes: BTreeMap<_, _> = try_join_all(plays).await.unwrap().into_iter().collect();
    assert!(outcomes.len() >= 8);
    let (mut tried, mut hit) = (0, 0);
    for (name, kills) in outcomes {
        let reached = kills.iter().filter(|(reached, _)| *reached).count();
        let worst = kills.iter().map(|(_, time)| *time).max().unwrap_or_default();
        println!(
            "{name}: {reached} of {} kills, at worst {:.1} s",
            kills.len(),
            worst.as_secs_f64()
        );
        assert!(reached > 0, "{name}: no kill happened");
        (tried, hit) = (tried + kills.len(), hit + reached);
    }
    // How many writes a story takes depends a little on who is faster.
    assert!(hit * 10 >= tried * 8, "{hit} of {tried} kills happened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_reports_before_it_acts_is_caught() {
    let caught = killed(named("trained"), 1, true, Some("reports-first")).await;
    let said = format!("{:#}", caught.expect_err("the planted bug is not caught"));
    assert!(said.contains("not in its final state"), "{said}");
    // Without a kill, nobody would notice.
    killed(named("trained"), usize::MAX, true, Some("reports-first")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_converged_is_left_alone() {
    let plays = ALL.iter().map(|scenario| left_alone(scenario, None));
    for (name, writes) in try_join_all(plays).await.unwrap() {
        assert_eq!(writes, 0, "{name}");
    }
    let (_, writes) = left_alone(named("suspended"), Some("writes-always")).await.unwrap();
    assert!(writes > 0, "the planted bug is not caught");
}

/// The writes of an operator that finds everything done.
async fn left_alone(
    scenario: &'static Scenario,
    bug: Option<Bug>,
) -> Result<(&'static str, usize)> {
    let play = Play::prepare(scenario, bug).await?;
    play.begin().await?;
    play.outcome().await?;
    let before = play.proxy.writes();
    // One that starts anew looks at every object.
    play.operator.kill();
    play.operator.start()?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    Ok((scenario.name, play.proxy.writes() - before))
}
