//! SIGTERM: all ranks save at the next step boundary and exit with 143.

use hearth_worker::event::RankEvent;

use crate::fixture::Fixture;
use crate::gang::Gang;

#[test]
fn sigterm_of_one_rank_saves_on_all_and_the_run_goes_on_later() {
    let fixture = Fixture::new(0.1);
    let config = |output: &str| {
        fixture.config(output, |config| {
            config["training"]["saveStrategy"] = "No".into();
            config["training"]["numTrainEpochs"] = 20.into();
        })
    };
    let whole = Gang::run(&config("whole"), 2).succeeded();
    let stopped = config("stopped");
    let mut gang = Gang::start(&stopped, 2);
    gang.until(|_, event| matches!(event, RankEvent::Step(report) if report.step == 3));
    gang.signal(1, "-TERM");
    let ended = gang.wait();
    assert_eq!(ended.codes, [Some(143), Some(143)], "{}", ended.log);
    let (last, _) = *ended.losses().last().unwrap();
    let saved = ended.of_rank_0(|event| match event {
        RankEvent::Checkpoint { step, .. } => Some(*step),
        _ => None,
    });
    assert_eq!(saved, [last], "the step that was saved is the last one made");
    assert_eq!(ended.failure().0, "Terminated");

    let resumed = Gang::run(&stopped, 2).succeeded();
    assert_eq!(resumed.resumed_from(), Some(last));
    let after: Vec<_> = whole.losses().into_iter().filter(|(step, _)| *step > last).collect();
    assert_eq!(resumed.losses(), after);
}
