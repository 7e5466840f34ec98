//! Gangs at work, step by step, and what is told of them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::*;
use crate::event::StepReport;

/// A gang whose ranks compute and wait for data for so many seconds a step.
struct Gang {
    meters: Vec<PaceMeter>,
    /// Of each rank: seconds of computing and of data.
    work: Vec<(f64, f64)>,
    /// Each time is off by up to this share of it.
    noise: f64,
    on_gpus: bool,
    generation: u32,
    classes: Vec<usize>,
    random: ChaCha8Rng,
    stragglers: Stragglers,
    now: f64,
    step: i64,
}

impl Gang {
    fn new(work: &[(f64, f64)]) -> Self {
        Self {
            meters: vec![PaceMeter::default(); work.len()],
            work: work.to_vec(),
            noise: 0.0,
            on_gpus: false,
            generation: 1,
            classes: vec![0; work.len()],
            random: ChaCha8Rng::seed_from_u64(7),
            stragglers: Stragglers::default(),
            now: 0.0,
            step: 0,
        }
    }

    fn noisy(&mut self, seconds: f64) -> f64 {
        let share = f64::from(self.random.next_u32()) / f64::from(u32::MAX);
        seconds * (1.0 + self.noise * (2.0 * share - 1.0))
    }

    /// Makes steps, and looks as often as beats come; what is found.
    fn work(&mut self, steps: usize) -> Vec<Finding> {
        let mut found = Vec::new();
        for _ in 0..steps {
            let work = self.work.clone();
            let times: Vec<(f64, f64)> = work
                .into_iter()
                .map(|(compute, data)| (self.noisy(compute), self.noisy(data)))
                .collect();
            let longest = times.iter().map(|(compute, data)| compute + data).fold(0.0, f64::max);
            // The reduction itself takes a little.
            let seconds = longest + 0.001;
            self.step += 1;
            self.now += seconds;
            for (meter, (compute, data)) in self.meters.iter_mut().zip(&times) {
                let blocked = seconds - compute - data;
                meter.hear(&RankEvent::Step(StepReport {
                    step: self.step,
                    seconds,
                    data_seconds: *data,
                    blocked_seconds: (!self.on_gpus).then_some(blocked),
                    ..StepReport::default()
                }));
            }
            if self.step % 5 == 0 {
                found.extend(self.look());
            }
        }
        found
    }

    fn look(&mut self) -> Vec<Finding> {
        let ranks: Vec<Runner> = (0..)
            .zip(&self.meters)
            .map(|(rank, meter)| Runner { rank, agent: rank / 2, pace: meter.pace() })
            .collect();
        let class = |rank: u32| self.classes.get(rank as usize).copied();
        let now = Duration::from_secs_f64(self.now);
        self.stragglers.look((self.generation, &ranks), class, now)
    }
}

fn messages(found: &[Finding]) -> Vec<&str> {
    let lags = found.iter().filter_map(|finding| match finding {
        Finding::Lags(told) => Some(told.message.as_str()),
        Finding::Recovered { .. } => None,
    });
    lags.collect()
}

#[test]
fn a_rank_that_computes_twice_as_long_is_told_once() {
    let mut gang = Gang::new(&[(0.098, 0.0), (0.1, 0.0), (0.097, 0.001), (0.21, 0.0)]);
    let found = gang.work(1000);
    let want = "rank 3 (agent 1) holds up the others: it computes 210 ms a step, the others 98 ms; see what else uses its node, and whether its processor is throttled";
    assert_eq!(messages(&found), [want]);
    assert_eq!(found.len(), 1);
    assert_eq!(gang.stragglers.told().map(|told| told.agent), Some(1));
}

#[test]
fn of_two_ranks_the_slow_one_is_told() {
    for slow in [0, 1] {
        let mut work = [(0.05, 0.0); 2];
        work[slow].0 = 0.1;
        let found = Gang::new(&work).work(500);
        let told = messages(&found);
        assert!(told.len() == 1 && told[0].starts_with(&format!("rank {slow} ")), "{told:?}");
    }
}

#[test]
fn a_rank_that_waits_for_its_data_is_told_with_that() {
    for on_gpus in [false, true] {
        let mut gang = Gang::new(&[(0.2, 0.005), (0.2, 0.15), (0.2, 0.005)]);
        gang.on_gpus = on_gpus;
        let found = gang.work(500);
        let want = "rank 1 (agent 0) holds up the others: it waits 150 ms a step for its data, the others 5.0 ms; see what slows its node's way to the data";
        assert_eq!(messages(&found), [want], "on GPUs: {on_gpus}");
    }
}

#[test]
fn on_gpus_nothing_is_said_of_computing() {
    let mut gang = Gang::new(&[(0.1, 0.001), (0.3, 0.001)]);
    gang.on_gpus = true;
    assert_eq!(gang.work(1000), []);
}

#[test]
fn equal_ranks_are_never_told_however_much_they_vary() {
    for seed in 0..40 {
        for noise in [0.0, 0.1, 0.3, 0.6] {
            let mut gang = Gang::new(&vec![(0.05, 0.01); 2 + seed % 7]);
            gang.random = ChaCha8Rng::seed_from_u64(seed as u64);
            gang.noise = noise;
            let found = gang.work(1500);
            assert_eq!(found, [], "seed {seed}, noise {noise}");
        }
    }
}

#[test]
fn a_rank_that_takes_twice_as_long_is_told_whichever_it_is_and_no_other() {
    for seed in 0..40 {
        let ranks = 2 + seed % 7;
        let slow = seed % ranks;
        let mut gang = Gang::new(&vec![(0.05, 0.01); ranks]);
        gang.random = ChaCha8Rng::seed_from_u64(seed as u64);
        gang.noise = 0.3;
        gang.work[slow] = (0.1, 0.02);
        let found = gang.work(1500);
        let told = messages(&found);
        assert!(
            told.len() == 1 && told[0].starts_with(&format!("rank {slow} ")),
            "seed {seed}: rank {slow} of {ranks} is slow, told: {found:?}"
        );
    }
}

#[test]
fn what_is_a_small_part_of_the_step_is_not_told() {
    // Twice the others' own time, and yet 3 % of a step that waits for the network.
    let mut gang = Gang::new(&[(0.01, 0.0), (0.02, 0.0)]);
    let report = |own: f64| {
        RankEvent::Step(StepReport {
            seconds: 0.3,
            blocked_seconds: Some(0.3 - own),
            ..StepReport::default()
        })
    };
    for _ in 0..500 {
        gang.meters[0].hear(&report(0.01));
        gang.meters[1].hear(&report(0.02));
        gang.now += 0.3;
        assert_eq!(gang.look(), []);
    }
}

#[test]
fn a_moment_of_trouble_is_not_told() {
    let mut gang = Gang::new(&[(0.1, 0.0); 3]);
    gang.work(100);
    gang.work[2].0 = 0.4;
    // Two looks at most see it.
    assert_eq!(gang.work(25), []);
    gang.work[2].0 = 0.1;
    assert_eq!(gang.work(1000), []);
}

#[test]
fn fast_steps_are_not_told_of_before_some_seconds_have_passed() {
    let mut gang = Gang::new(&[(0.001, 0.0), (0.003, 0.0)]);
    let looks = BETWEEN_LOOKS.as_secs_f64() * f64::from(LOOKS);
    let found = gang.work(100_000);
    assert_eq!(messages(&found).len(), 1);
    let mut again = Gang::new(&[(0.001, 0.0), (0.003, 0.0)]);
    while again.now < looks - 0.1 {
        assert_eq!(again.work(10), []);
    }
}

#[test]
fn a_rank_that_recovers_and_lags_again_is_told_again() {
    let mut gang = Gang::new(&[(0.1, 0.0); 3]);
    gang.work[1].0 = 0.3;
    assert_eq!(messages(&gang.work(300)).len(), 1);
    // Between the limits of lagging and of having recovered nothing changes.
    for compute in [0.14, 0.3, 0.14] {
        gang.work[1].0 = compute;
        assert_eq!(gang.work(300), [], "{compute}");
    }
    gang.work[1].0 = 0.1;
    assert_eq!(gang.work(300), [Finding::Recovered { rank: 1 }]);
    assert_eq!(gang.stragglers.told(), None);
    gang.work[1].0 = 0.3;
    assert_eq!(messages(&gang.work(300)).len(), 1);
}

#[test]
fn another_that_lags_is_told_too() {
    let mut gang = Gang::new(&[(0.1, 0.0); 4]);
    gang.work[1].0 = 0.3;
    let first = gang.work(300);
    gang.work[2].0 = 0.4;
    let second = gang.work(300);
    assert!(messages(&first)[0].starts_with("rank 1 "), "{first:?}");
    assert!(messages(&second)[0].starts_with("rank 2 "), "{second:?}");
    assert_eq!((first.len(), second.len()), (1, 1));
}

#[test]
fn ranks_with_other_work_are_not_compared() {
    let stages = [(0.1, 0.0), (0.3, 0.0), (0.1, 0.0), (0.3, 0.0)];
    let mut gang = Gang::new(&stages);
    gang.classes = vec![0, 1, 0, 1];
    assert_eq!(gang.work(500), []);
    gang.work[3].0 = 0.6;
    assert_eq!(messages(&gang.work(500)).len(), 1);
    // Alone in its stage.
    let mut alone = Gang::new(&stages[..2]);
    alone.classes = vec![0, 1];
    assert_eq!(alone.work(500), []);
}

#[test]
fn replicas_of_a_stage_have_the_same_work() {
    let of = |ways: &Parallelism| -> Vec<Option<usize>> {
        (0..8).map(|rank| class(ways, rank, 8)).collect()
    };
    let same = Parallelism { tensor: 2, ..Parallelism::default() };
    assert_eq!(of(&same), [Some(0); 8]);
    let stages = Parallelism { pipeline: 2, ..Parallelism::default() };
    assert_eq!(of(&stages), [0, 0, 0, 0, 1, 1, 1, 1].map(Some));
    let both = Parallelism { pipeline: 2, expert: 2, ..Parallelism::default() };
    assert_eq!(of(&both), [0, 1, 0, 1, 2, 3, 2, 3].map(Some));
    assert_eq!(of(&Parallelism { tensor: 3, ..Parallelism::default() }), [None; 8]);
}

#[test]
fn one_rank_alone_is_never_told() {
    assert_eq!(Gang::new(&[(1.0, 0.5)]).work(500), []);
}

#[test]
fn a_new_generation_starts_anew() {
    let mut gang = Gang::new(&[(0.1, 0.0), (0.3, 0.0)]);
    assert_eq!(messages(&gang.work(300)).len(), 1);
    gang.generation = 2;
    gang.meters = vec![PaceMeter::default(); 2];
    assert_eq!(gang.work(20), []);
    assert_eq!(gang.stragglers.told(), None);
    assert_eq!(messages(&gang.work(300)).len(), 1);
}

#[test]
fn first_steps_and_those_after_an_evaluation_do_not_count() {
    let mut meter = PaceMeter::default();
    let phase = |phase| RankEvent::Phase { phase, step: 0 };
    let step = |seconds| RankEvent::Step(StepReport { seconds, ..StepReport::default() });
    meter.hear(&phase(Phase::Loading));
    for _ in 0..FIRST_STEPS {
        meter.hear(&step(9.0));
    }
    for _ in 0..WINDOW / 2 {
        assert_eq!(meter.pace(), None);
        for between in [Phase::Evaluating, Phase::Saving, Phase::Training] {
            meter.hear(&phase(between));
        }
        meter.hear(&step(9.0));
        // A sign of life within a long step.
        meter.hear(&phase(Phase::Training));
        meter.hear(&step(1.0));
        meter.hear(&step(1.0));
    }
    let pace = meter.pace().unwrap();
    assert_eq!((pace.steps, pace.seconds), (WINDOW as u64, 1.0));
    assert_eq!(pace.own_seconds, None);
}
