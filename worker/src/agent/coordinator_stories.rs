//! Failures told as stories: lines are what agents do and how time passes,
//! `=> …` lines are every change that the coordinator then makes.
//!
//! ```text
//! beat 0 1            agents 0 and 1 send a beat (all ranks run, where some do)
//! beat 1 stopped      agent 1 has no rank any more
//! rank 1 killed 9     so ended rank 1, as its agent tells from now on
//! after 7s            time passes; agents that are not `quiet` keep beating
//! ```

use std::fmt::Write as _;

use hearth_crds::worker_config::JobIdentity;

use super::*;
use crate::agent::protocol::Told;
use crate::event::Phase;

/// Simulated agents obey at once, unless told otherwise.
struct Theatre {
    coordinator: Coordinator,
    shape: Shape,
    now: Duration,
    agents: Vec<Agent>,
}

#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a line of a story")]
struct Agent {
    incarnation: u32,
    quiet: bool,
    stuck: bool,
    leaving: bool,
    done: bool,
    generation: u32,
    ranks: Vec<RankReport>,
}

impl Agent {
    fn new(incarnation: u32) -> Self {
        Self {
            incarnation,
            quiet: true,
            stuck: false,
            leaving: false,
            done: false,
            generation: 0,
            ranks: Vec::new(),
        }
    }
}

fn running(rank: u32) -> RankReport {
    RankReport {
        rank,
        state: RankState::Running,
        step: 10,
        phase: Phase::Training,
        silent_milliseconds: 100,
        limit_milliseconds: 30_000,
        standstill: None,
        pace: None,
    }
}

impl Theatre {
    fn new(agents: u32, ranks_per_agent: u32, max_restarts: u32, carried: Carried) -> Self {
        let shape = Shape { agents, ranks_per_agent, max_restarts };
        let coordinator = Coordinator::new(shape, Timing::default(), carried, Duration::ZERO);
        let agents = (0..agents).map(|_| Agent::new(1)).collect();
        Self { coordinator, shape, now: Duration::ZERO, agents }
    }

    /// Plays one line; the changes that followed.
    fn play(&mut self, line: &str) -> Vec<Change> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| word.parse::<u32>().unwrap();
        match words.as_slice() {
            ["join", agents @ ..] => {
                for agent in agents {
                    self.agents[number(agent) as usize].quiet = false;
                }
            }
            ["quiet", agent] => self.agents[number(agent) as usize].quiet = true,
            ["stuck", agent] => self.agents[number(agent) as usize].stuck = true,
            ["leave", agent] => self.agents[number(agent) as usize].leaving = true,
            ["done", agent] => self.agents[number(agent) as usize].done = true,
            ["replace", agent] => {
                let old = self.agents[number(agent) as usize].incarnation;
                self.agents[number(agent) as usize] = Agent { quiet: false, ..Agent::new(old + 1) };
            }
            ["unstarted", agent] => {
                let agent = &mut self.agents[number(agent) as usize];
                (agent.stuck, agent.generation) = (true, agent.generation - 1);
                agent.ranks.clear();
            }
            ["lone", agent] => {
                let agent = &mut self.agents[number(agent) as usize];
                agent.ranks.clear();
            }
            ["rank", rank, how @ ..] => self.end_rank(number(rank), how),
            ["wanted", agents] => self.resize(number(agents)),
            ["recorded"] => self.coordinator.recorded(),
            ["after", time] => {
                let time: f64 = time.trim_end_matches('s').parse().unwrap();
                return self.pass(Duration::from_secs_f64(time));
            }
            _ => panic!("{line}"),
        }
        self.pass(Duration::from_millis(100))
    }

    /// Agents that are new say nothing until they join.
    fn resize(&mut self, agents: u32) {
        self.coordinator.resize(agents);
        let more = (self.agents.len()..agents as usize).map(|_| Agent::new(1));
        self.agents.extend(more);
    }

    fn end_rank(&mut self, number: u32, how: &[&str]) {
        let agent = number / self.shape.ranks_per_agent;
        let ranks = &mut self.agents[agent as usize].ranks;
        let rank = ranks.iter_mut().find(|rank| rank.rank == number).unwrap();
        rank.state = match how {
            ["finished"] => RankState::Finished,
            ["killed", signal] => RankState::Killed { signal: signal.parse().unwrap() },
            ["exited", code] => RankState::Exited { code: code.parse().unwrap(), told: None },
            ["exited", code, reason] => {
                let told = Told { reason: (*reason).to_owned(), message: "it said so".to_owned() };
                RankState::Exited { code: code.parse().unwrap(), told: Some(told) }
            }
            ["silent", step] => {
                rank.step = step.parse().unwrap();
                rank.silent_milliseconds = 40_000;
                return;
            }
            ["working"] => {
                rank.silent_milliseconds = 0;
                return;
            }
            _ => panic!("{how:?}"),
        };
    }

    /// Time passes in tenths of a second; in each, every agent beats, the
    /// coordinator decides, and the agents obey.
    fn pass(&mut self, time: Duration) -> Vec<Change> {
        let until = self.now + time;
        let mut changes = Vec::new();
        while self.now < until {
            self.now += Duration::from_millis(100);
            (0..self.agents.len()).for_each(|index| self.beat(index));
            changes.extend(self.coordinator.advance(self.now));
            (0..self.agents.len()).for_each(|index| self.obey(index));
        }
        changes
    }

    fn beat(&mut self, index: usize) {
        let agent = self.agents[index].clone();
        if agent.quiet {
            return;
        }
        let Agent { leaving, done, generation, ranks, .. } = agent;
        let job = JobIdentity { namespace: "n".into(), name: "j".into(), uid: "u".into() };
        let incarnation = format!("{index}-{}", agent.incarnation);
        let beat = Beat {
            agent: u32::try_from(index).unwrap(),
            incarnation,
            job,
            generation,
            ranks,
            leaving,
            done,
            power_watts: None,
        };
        self.coordinator.hear(beat, self.now).unwrap();
    }

    fn obey(&mut self, index: usize) {
        let per_agent = self.shape.ranks_per_agent;
        let agent = &mut self.agents[index];
        let index = u32::try_from(index).unwrap();
        match self.coordinator.directive(index) {
            _ if agent.quiet || agent.stuck => {}
            Directive::Stop | Directive::Finish(_) => agent.ranks.clear(),
            Directive::Run(generation) if generation > agent.generation => {
                agent.generation = generation;
                agent.ranks = (index * per_agent..(index + 1) * per_agent).map(running).collect();
            }
            Directive::Save(generation) if generation == agent.generation => {
                let terminated = RankState::Exited { code: 143, told: None };
                agent.ranks.iter_mut().for_each(|rank| rank.state = terminated.clone());
            }
            Directive::Run(_) | Directive::Save(_) => {}
        }
    }
}

fn say(change: &Change) -> String {
    let of = |failure: &Failure| match failure.rank {
        Some(rank) => format!("{} rank {rank}", failure.reason),
        None => failure.reason.clone(),
    };
    match change {
        Change::Started { generation, agents } => format!("start {generation} of {agents}"),
        Change::Broke(failure) => format!("broke {}", of(failure)),
        Change::Left => "left".to_owned(),
        Change::Resized => "resized".to_owned(),
        Change::Ended(Verdict::Succeeded) => "succeeded".to_owned(),
        Change::Ended(Verdict::Failed { failure, exit_code }) => {
            format!("failed {exit_code} {}", of(failure))
        }
    }
}

/// Plays `story` and demands exactly the changes that it tells.
fn tell(mut stage: Theatre, story: &str) -> Theatre {
    let lines: Vec<&str> = story.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut told = String::new();
    for line in lines.iter().filter(|line| !line.starts_with("=>")) {
        writeln!(told, "{line}").unwrap();
        for change in stage.play(line) {
            writeln!(told, "=> {}", say(&change)).unwrap();
        }
    }
    assert_eq!(told.lines().collect::<Vec<_>>(), lines, "the story went:\n{told}");
    stage
}

fn two_agents(max_restarts: u32) -> Theatre {
    Theatre::new(2, 1, max_restarts, Carried::default())
}

#[test]
fn an_undisturbed_job_starts_once_and_succeeds() {
    let stage = tell(
        two_agents(3),
        "join 0
         after 60s
         join 1
         => start 1 of 2
         after 3600s
         rank 1 finished
         after 5s
         rank 0 finished
         => succeeded",
    );
    assert_eq!(stage.coordinator.restarts(), 0);
}

#[test]
fn a_killed_rank_is_the_cause_though_its_peer_fails_first() {
    let stage = tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         rank 0 exited 1 PeerLost
         rank 1 killed 9
         after 1s
         => broke RankKilled rank 1
         => start 2 of 2
         after 60s",
    );
    assert_eq!((stage.coordinator.restarts(), stage.coordinator.generation()), (1, 2));
}

#[test]
fn a_killed_rank_is_replaced_within_a_second() {
    let mut stage = tell(two_agents(3), "join 0 1\n=> start 1 of 2\nafter 10s");
    let at = stage.now;
    let mut changes = stage.play("rank 1 killed 9");
    while !changes.contains(&Change::Started { generation: 2, agents: 2 }) {
        changes = stage.pass(Duration::from_millis(100));
    }
    assert!(stage.now <= at + Duration::from_secs(1), "{:?}", stage.now);
}

#[test]
fn a_permanent_error_ends_the_job_at_once() {
    let stage = tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         rank 0 killed 9
         rank 1 exited 65 BadData
         after 1s
         => failed 65 BadData rank 1
         after 600s",
    );
    assert_eq!(stage.coordinator.restarts(), 0);
    assert_eq!(stage.coordinator.directive(0), Directive::Stop, "the result is not on disk yet");
}

#[test]
fn a_lost_agent_is_awaited() {
    tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         quiet 1
         after 5s
         after 2s
         => broke AgentLost
         after 600s
         replace 1
         => start 2 of 2
         after 60s",
    );
}

#[test]
fn a_replaced_agent_is_noticed_before_its_lease_ends() {
    tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         replace 1
         after 1s
         => broke AgentLost
         => start 2 of 2",
    );
}

#[test]
fn a_lost_agent_explains_its_peers_failure() {
    let mut stage = tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         quiet 1
         rank 0 exited 1 PeerLost
         after 1s
         => broke PeerLost rank 0",
    );
    assert_eq!(stage.coordinator.last_failure().unwrap().reason, "PeerLost");
    assert_eq!(stage.play("after 6s"), []);
    let failure = stage.coordinator.last_failure().unwrap();
    assert_eq!(failure.reason, "AgentLost");
    assert!(failure.message.starts_with("agent 1 has sent no heartbeat for 6."), "{failure:?}");
    assert_eq!(stage.coordinator.restarts(), 1, "one failure, counted once");
}

#[test]
fn a_hang_is_broken_and_a_late_step_is_not() {
    tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         rank 1 silent 10
         rank 1 working
         after 60s
         rank 0 silent 11
         rank 1 silent 10
         after 1s
         => broke RankHung rank 1
         => start 2 of 2",
    );
}

#[test]
fn the_budget_is_spent_after_max_restarts() {
    let stage = tell(
        two_agents(1),
        "join 0 1
         => start 1 of 2
         rank 0 killed 9
         after 1s
         => broke RankKilled rank 0
         => start 2 of 2
         rank 1 exited 1
         after 1s
         => failed 70 RestartsExhausted rank 1",
    );
    let failure = stage.coordinator.last_failure().unwrap();
    assert!(failure.message.contains("maxRestarts allows 1"), "{failure:?}");
    assert!(failure.message.contains("RankExited: rank 1 (agent 1) exited with code 1"));
}

#[test]
fn a_rank_that_asks_for_a_smaller_batch_did_not_fail() {
    let stage = tell(
        two_agents(0),
        "join 0 1
         => start 1 of 2
         rank 1 exited 1 BatchHalved
         after 1s
         => broke BatchHalved rank 1
         => start 2 of 2
         rank 0 exited 1 BatchHalved
         after 1s
         => broke BatchHalved rank 0
         => start 3 of 2",
    );
    assert_eq!(stage.coordinator.restarts(), 0);
}

#[test]
fn no_start_while_an_old_rank_still_runs() {
    let mut stage = tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         stuck 1
         rank 0 killed 9
         after 1s
         => broke RankKilled rank 0
         after 60s",
    );
    assert_eq!(stage.coordinator.missing(stage.now), [1]);
    stage.agents[1].stuck = false;
    assert_eq!(stage.play("after 1s"), [Change::Started { generation: 2, agents: 2 }]);
}

#[test]
fn an_agent_that_is_told_to_leave_is_no_failure() {
    let stage = tell(
        two_agents(0),
        "join 0 1
         => start 1 of 2
         leave 1
         after 20s
         rank 0 exited 143 Terminated
         after 3s
         rank 1 exited 143 Terminated
         => left
         after 60s
         replace 1
         => start 2 of 2",
    );
    assert_eq!(stage.coordinator.restarts(), 0);
}

#[test]
fn a_permanent_error_ends_the_job_even_while_an_agent_leaves() {
    tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         leave 1
         rank 0 exited 66 MissingInput
         after 1s
         => failed 66 MissingInput rank 0",
    );
}

#[test]
fn an_agent_that_stops_its_ranks_or_never_starts_them_breaks_the_gang() {
    tell(
        two_agents(9),
        "join 0 1
         => start 1 of 2
         lone 1
         after 1s
         => broke AgentLost
         => start 2 of 2
         unstarted 1
         after 25s
         after 6s
         => broke AgentLost
         => start 3 of 2",
    );
}

#[test]
fn a_new_coordinator_counts_the_old_ones_death_and_goes_beyond_its_generation() {
    let carried =
        Carried { generation: 4, restarts: 1, was_running: true, agents: 2, last_failure: None };
    let mut stage = Theatre::new(2, 1, 3, carried.clone());
    // Agent 1 saw a generation that the record on disk does not have.
    stage.agents[1].generation = 6;
    let stage = tell(
        stage,
        "join 0
         => broke AgentLost
         join 1
         => start 7 of 2",
    );
    assert_eq!(stage.coordinator.restarts(), 2);

    let rested = Carried { was_running: false, ..carried.clone() };
    let stage = tell(Theatre::new(2, 1, 3, rested), "join 0 1\n=> start 5 of 2");
    assert_eq!(stage.coordinator.restarts(), 1);

    tell(Theatre::new(2, 1, 1, carried), "join 0\n=> failed 70 RestartsExhausted");
}

#[test]
fn agents_that_never_join_end_the_wait_with_a_failure_to_retry() {
    let stage = tell(two_agents(3), "join 0\nafter 1799s\nafter 2s\n=> failed 1 AgentLost");
    let Stage::Ended(verdict) = stage.coordinator.stage() else { panic!() };
    assert_eq!(verdict.exit_code_of_others(), 1, "all agents are started again, or none is");
}

#[test]
fn agents_go_once_the_result_is_recorded_and_agent_0_last() {
    let mut stage = tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         rank 0 finished
         rank 1 finished
         => succeeded
         after 10s",
    );
    assert_eq!(stage.coordinator.directive(0), Directive::Stop);
    assert!(!stage.coordinator.may_exit(stage.now));
    stage.play("recorded");
    assert_eq!(stage.coordinator.directive(0), Directive::Finish(0));
    assert!(!stage.coordinator.may_exit(stage.now), "agent 1 does not know yet");
    stage.play("done 1");
    assert!(stage.coordinator.may_exit(stage.now));
}

#[test]
fn agent_0_does_not_wait_for_an_agent_that_is_gone() {
    let stage = tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         rank 0 finished
         rank 1 finished
         => succeeded
         recorded
         quiet 1
         after 7s",
    );
    assert!(stage.coordinator.may_exit(stage.now));
}

#[test]
fn an_older_process_cannot_take_an_agents_place_again() {
    let mut stage = tell(two_agents(3), "join 0 1\n=> start 1 of 2\nreplace 1");
    let old = Beat {
        agent: 1,
        incarnation: "1-1".to_owned(),
        job: JobIdentity { namespace: "n".into(), name: "j".into(), uid: "u".into() },
        generation: 1,
        ranks: vec![running(1)],
        leaving: false,
        done: false,
        power_watts: None,
    };
    let now = stage.now;
    assert_eq!(stage.coordinator.hear(old.clone(), now), Err(Refusal::Replaced { agent: 1 }));
    let stranger = Beat { agent: 1024, incarnation: "x".to_owned(), ..old };
    let refused = Refusal::NoSuchAgent { agent: 1024 };
    assert_eq!(stage.coordinator.hear(stranger, now), Err(refused));
}

#[test]
fn a_large_gang_needs_every_rank_to_finish() {
    let mut stage = tell(Theatre::new(3, 2, 3, Carried::default()), "join 0 1 2\n=> start 1 of 3");
    for rank in 0..5 {
        assert_eq!(stage.play(&format!("rank {rank} finished")), [], "rank {rank}");
    }
    assert_eq!(stage.play("rank 5 finished"), [Change::Ended(Verdict::Succeeded)]);
}

#[test]
fn a_gang_grows_once_the_new_agents_are_there() {
    let stage = tell(
        two_agents(0),
        "join 0 1
         => start 1 of 2
         after 60s
         wanted 4
         after 600s
         join 2
         after 600s
         join 3
         after 1s
         => resized
         => start 2 of 4
         after 60s",
    );
    assert_eq!((stage.coordinator.restarts(), stage.coordinator.size()), (0, 4));
    assert_eq!(stage.coordinator.ranks().count(), 4);
}

#[test]
fn a_gang_shrinks_at_once_and_the_others_may_go() {
    let stage = tell(
        Theatre::new(3, 2, 0, Carried::default()),
        "join 0 1 2
         => start 1 of 3
         wanted 1
         after 1s
         => resized
         => start 2 of 1
         leave 1
         quiet 2
         after 60s
         rank 0 finished
         rank 1 finished
         => succeeded",
    );
    assert_eq!(stage.coordinator.restarts(), 0);
}

#[test]
fn a_gang_that_was_to_grow_goes_on_as_it_was_after_a_failure() {
    tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         wanted 3
         rank 1 killed 9
         after 1s
         => broke RankKilled rank 1
         after 15s
         after 5s
         => start 2 of 2
         join 2
         after 1s
         => resized
         => start 3 of 3",
    );
}

#[test]
fn a_new_coordinator_starts_as_large_as_the_last_gang_if_it_must() {
    let carried = Carried { generation: 4, agents: 1, ..Carried::default() };
    let stage = tell(
        Theatre::new(3, 1, 3, carried.clone()),
        "join 0
         after 15s
         after 5s
         => start 5 of 1",
    );
    assert_eq!(stage.coordinator.wanted(), 3);
    let first = Carried { agents: 0, ..carried };
    tell(Theatre::new(3, 1, 3, first), "join 0\nafter 60s\njoin 1\njoin 2\n=> start 5 of 3");
}

#[test]
fn what_fails_while_ranks_save_is_no_failure_unless_no_start_can_mend_it() {
    let begun = "join 0 1\n=> start 1 of 2\nstuck 0\nstuck 1\nwanted 1\n";
    let stage = tell(
        two_agents(0),
        &format!("{begun}rank 0 killed 9\nafter 5s\nrank 1 exited 143\n=> resized"),
    );
    assert_eq!(stage.coordinator.restarts(), 0);
    tell(
        two_agents(0),
        &format!("{begun}quiet 1\nrank 0 exited 143\nafter 5s\nafter 1s\n=> resized"),
    );
    tell(two_agents(3), &format!("{begun}rank 0 exited 65 BadData\n=> failed 65 BadData rank 0"));
    let done = "rank 0 finished\nrank 1 finished\n=> succeeded";
    tell(two_agents(3), &format!("{begun}{done}"));
}

#[test]
fn a_change_of_mind_while_ranks_save_is_heard() {
    tell(
        two_agents(3),
        "join 0 1
         => start 1 of 2
         stuck 0
         wanted 1
         after 5s
         wanted 2
         rank 0 exited 143
         => resized
         after 1s",
    );
}
