//! Classes of faults that last for a while, and operators that cannot cope with them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::{join_all, try_join_all};

use crate::operator::Bug;
use crate::play::{Play, reference};
use crate::proxy::Rules;
use crate::scenario::{Scenario, named};

/// How long the faults last.
pub(crate) const OUTAGE: Duration = Duration::from_secs(6);
/// The stories that suffer them.
pub(crate) const SCENARIOS: [&str; 4] = ["trained", "resumed", "swept", "served"];

/// A class of faults.
pub(crate) struct Class {
    pub(crate) name: &'static str,
    pub(crate) rules: fn() -> Rules,
    /// Whether the rules hold on, rather than for a while.
    pub(crate) lasts: bool,
    /// What an operator must not be like.
    pub(crate) bug: Bug,
}

/// Plays a story under the faults, and gives the time from their end to the final state.
pub(crate) async fn suffers(
    scenario: &'static Scenario,
    class: &Class,
    bug: Option<Bug>,
) -> Result<Duration> {
    let (want, _) = reference(scenario).await?;
    let play = Play::under(scenario, bug, (class.rules)()).await?;
    tokio::time::sleep(OUTAGE).await;
    let happened = play.proxy.last_fault().is_some();
    ensure!(happened, "{}: {} never happened", scenario.name, class.name);
    if !class.lasts {
        play.proxy.calm();
    }
    play.comes_to(want).await.with_context(|| format!("{}: {}", scenario.name, class.name))
}

/// All stories come to their final state under each class.
pub(crate) async fn all_is_well(classes: &[Class]) {
    let plays = classes.iter().map(async |class| {
        let plays = SCENARIOS.map(|name| suffers(named(name), class, None));
        let worst = try_join_all(plays).await?.into_iter().max().unwrap_or_default();
        println!("{}: at worst {:.1} s", class.name, worst.as_secs_f64());
        anyhow::Ok(())
    });
    try_join_all(plays).await.unwrap();
}

/// The operator that cannot cope with a class does not bring the story to its final state.
pub(crate) async fn bugs_are_caught(classes: &[Class], story: &str) {
    let plays = classes
        .iter()
        .map(async |class| (class, suffers(named(story), class, Some(class.bug)).await));
    for (class, outcome) in join_all(plays).await {
        is_caught(class.name, class.bug, outcome);
    }
}

/// The play of an operator with a bug went wrong, and by its final state.
pub(crate) fn is_caught(name: &str, bug: Bug, outcome: Result<Duration>) {
    let said = format!("{:#}", outcome.expect_err(&format!("{name}: {bug} is not caught")));
    assert!(said.contains("not in its final state"), "{said}");
}
