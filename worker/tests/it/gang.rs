//! Starts the ranks of a gang as an agent does, and reads their events.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use hearth_worker::event::RankEvent;

/// Longest wait for anything; a hang is a failure, not a wait.
const PATIENCE: Duration = Duration::from_mins(1);

/// The ranks of one generation.
pub(crate) struct Gang {
    children: Vec<Child>,
    events: Receiver<(usize, RankEvent)>,
    seen: Vec<(usize, RankEvent)>,
}

/// How a gang ended.
pub(crate) struct Ended {
    /// Exit code of each rank; `None` where a signal killed it.
    pub codes: Vec<Option<i32>>,
    /// Events in the order in which they came, with their rank.
    pub events: Vec<(usize, RankEvent)>,
    /// Standard error of all ranks.
    pub log: String,
}

impl Gang {
    /// Starts `ranks` processes.
    pub(crate) fn start(config: &Path, ranks: usize) -> Self {
        Self::start_with(config, ranks, &[])
    }

    /// Starts `ranks` processes with more variables in their environment.
    pub(crate) fn start_with(config: &Path, ranks: usize, variables: &[(&str, &str)]) -> Self {
        // The port is free again once the listener is gone; only a gang of
        // more than one rank uses it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (sender, events) = channel();
        let children = (0..ranks)
            .map(|rank| {
                let mut child = Command::new(env!("CARGO_BIN_EXE_hearth-worker"))
                    .args(["train", "--config"])
                    .arg(config)
                    .envs([
                        ("RANK", rank.to_string()),
                        ("LOCAL_RANK", rank.to_string()),
                        ("WORLD_SIZE", ranks.to_string()),
                        ("MASTER_ADDR", "127.0.0.1".to_owned()),
                        ("MASTER_PORT", port.to_string()),
                        ("HEARTH_THREADS", "1".to_owned()),
                        ("HEARTH_COMM_TIMEOUT_SECONDS", "40".to_owned()),
                    ])
                    .envs(variables.iter().copied())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                let lines = BufReader::new(child.stdout.take().unwrap()).lines();
                let sender = sender.clone();
                thread::spawn(move || {
                    for line in lines.map_while(Result::ok) {
                        let event = serde_json::from_str(&line)
                            .unwrap_or_else(|error| panic!("{error} in event {line}"));
                        if sender.send((rank, event)).is_err() {
                            return;
                        }
                    }
                });
                child
            })
            .collect();
        Self { children, events, seen: Vec::new() }
    }

    /// Starts `ranks` processes and waits for their end.
    pub(crate) fn run(config: &Path, ranks: usize) -> Ended {
        Self::start(config, ranks).wait()
    }

    /// Reads events until `found` says so.
    pub(crate) fn until(&mut self, found: impl Fn(usize, &RankEvent) -> bool) {
        loop {
            let Ok((rank, event)) = self.events.recv_timeout(PATIENCE) else {
                panic!("the event did not come; so far: {:#?}", self.seen);
            };
            let done = found(rank, &event);
            self.seen.push((rank, event));
            if done {
                return;
            }
        }
    }

    /// Sends a signal to one rank.
    pub(crate) fn signal(&self, rank: usize, name: &str) {
        let pid = self.children[rank].id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Kills every rank at once.
    pub(crate) fn kill(mut self) {
        self.children.iter_mut().for_each(|child| child.kill().unwrap());
        self.wait();
    }

    /// Waits for the end of all ranks.
    pub(crate) fn wait(mut self) -> Ended {
        // Events end when every rank has closed its standard output.
        while let Ok(event) = self.events.recv_timeout(PATIENCE) {
            self.seen.push(event);
        }
        let mut log = String::new();
        let codes = self
            .children
            .iter_mut()
            .map(|child| {
                child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
                child.wait().unwrap().code()
            })
            .collect();
        Ended { codes, events: self.seen, log }
    }
}

impl Ended {
    /// Panics unless every rank ended well.
    #[must_use]
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.codes.iter().all(|code| *code == Some(0)), "{:?}\n{}", self.codes, self.log);
        self
    }

    /// Steps of rank 0 with their losses.
    pub(crate) fn losses(&self) -> Vec<(i64, f64)> {
        self.of_rank_0(|event| match event {
            RankEvent::Step(report) => Some((report.step, report.loss)),
            _ => None,
        })
    }

    /// Reasons and messages of rank 0's notes.
    pub(crate) fn notes(&self) -> Vec<(String, String)> {
        self.of_rank_0(|event| match event {
            RankEvent::Note { reason, message } => Some((reason.clone(), message.clone())),
            _ => None,
        })
    }

    /// The step from which training was taken up.
    pub(crate) fn resumed_from(&self) -> Option<i64> {
        self.of_rank_0(|event| match event {
            RankEvent::Resumed { step, .. } => Some(*step),
            _ => None,
        })
        .first()
        .copied()
    }

    /// Reason and message of rank 0's failure.
    pub(crate) fn failure(&self) -> (String, String) {
        self.failure_of(0)
    }

    /// Reason and message of a rank's failure.
    pub(crate) fn failure_of(&self, rank: usize) -> (String, String) {
        let failure = self.events.iter().find_map(|(of, event)| match event {
            RankEvent::Failed { reason, message, .. } if *of == rank => {
                Some((reason.clone(), message.clone()))
            }
            _ => None,
        });
        failure.unwrap_or_else(|| panic!("no failure of rank {rank}\n{}", self.log))
    }

    /// What `pick` takes of rank 0's events.
    pub(crate) fn of_rank_0<T>(&self, pick: impl Fn(&RankEvent) -> Option<T>) -> Vec<T> {
        self.events
            .iter()
            .filter(|(rank, _)| *rank == 0)
            .filter_map(|(_, event)| pick(event))
            .collect()
    }
}
