//! Two agents of one job on this machine.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hearth_crds::worker_config::{WorkerResult, WorkerStatus};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::fixture::Fixture;

/// Longest time for a whole run on a busy machine.
const RUN: Duration = Duration::from_mins(3);

/// How a crew differs from the usual one.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// Applied to the configuration.
    pub(crate) change: fn(&mut Value),
    /// `--hang-seconds`.
    pub(crate) hang_seconds: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { change: |_| (), hang_seconds: 60.0 }
    }
}

/// Two agents, killed with all their ranks when dropped.
pub(crate) struct Crew {
    fixture: Fixture,
    config: PathBuf,
    port: u16,
    hang_seconds: f64,
    agents: [Option<Child>; 2],
}

impl Crew {
    /// Starts both agents.
    pub(crate) fn start(options: Options) -> Self {
        let Options { change, hang_seconds } = options;
        let fixture = Fixture::new(0.1);
        let port = free_port();
        let config = fixture.config("job", |config| {
            settings(config);
            config["coordinatorPort"] = port.into();
            change(config);
        });
        let mut crew = Self { fixture, config, port, hang_seconds, agents: [None, None] };
        crew.start_agent(0);
        crew.start_agent(1);
        crew
    }

    /// Starts an agent that does not run.
    pub(crate) fn start_agent(&mut self, index: usize) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.fixture.path(&format!("agent-{index}.log")))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_hearth-worker"))
            .args(["agent", "--index", &index.to_string()])
            .args(["--hang-seconds", &self.hang_seconds.to_string()])
            .arg("--config")
            .arg(&self.config)
            .env("HEARTH_TERMINATION_LOG", self.fixture.path(&format!("termination-{index}")))
            .env("HEARTH_THREADS", "1")
            .stderr(log)
            .spawn()
            .unwrap();
        self.agents[index] = Some(child);
    }

    /// `kill -9` of an agent.
    pub(crate) fn kill_agent(&mut self, index: usize) {
        let mut child = self.agents[index].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM to both agents.
    pub(crate) fn terminate(&self) {
        for child in self.agents.iter().flatten() {
            kill_process(pid_of(child), Signal::TERM).unwrap();
        }
    }

    /// Signals the rank of agent `index`.
    pub(crate) fn kill_rank(&self, index: usize, signal: Signal) {
        kill_process(self.rank_pid(index), signal).unwrap();
    }

    /// The process of the rank of agent `index`.
    pub(crate) fn rank_pid(&self, index: usize) -> Pid {
        let agent = pid_of(self.agents[index].as_ref().unwrap()).as_raw_pid();
        let is_child = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            rest.split_whitespace().nth(1) == Some(&agent.to_string())
        };
        let processes = std::fs::read_dir("/proc").unwrap();
        let mut pids =
            processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
        pids.find(is_child).and_then(Pid::from_raw).expect("the agent runs a rank")
    }

    /// Waits until training has done `step` steps.
    pub(crate) fn wait_for_step(&self, step: i64) -> WorkerStatus {
        wait_for(&format!("step {step}"), RUN, || {
            self.status().filter(|status| status.progress.step >= step)
        })
    }

    /// Agent 0's status, if it answers.
    pub(crate) fn status(&self) -> Option<WorkerStatus> {
        let (_, body) = self.get("/status")?;
        serde_json::from_str(&body).ok()
    }

    /// `GET` of agent 0: status and body.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        self.ask("GET", path, "")
    }

    /// Tells agent 0 how many agents there should be.
    pub(crate) fn resize(&self, replicas: u32) {
        let body = format!(r#"{{"replicas": {replicas}}}"#);
        assert_eq!(self.ask("PUT", "/replicas", &body).unwrap().0, 204);
    }

    /// Answer of agent 0: status and body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Waits for both agents' ends.
    pub(crate) fn exit_codes(&mut self) -> [Option<i32>; 2] {
        let deadline = Instant::now() + RUN;
        let logs = |index: usize| {
            let path = self.fixture.path(&format!("agent-{index}.log"));
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let logs = [logs(0), logs(1)];
        [0, 1].map(|index| {
            let child = self.agents[index].as_mut().unwrap();
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    self.agents[index] = None;
                    return status.code();
                }
                assert!(
                    Instant::now() < deadline,
                    "agent {index} does not end:\n{}",
                    logs.concat()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    }

    /// A configuration for another run on the same data, to another output.
    pub(crate) fn other(&self, output: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        self.fixture.config(output, |config| {
            settings(config);
            change(config);
        })
    }

    /// A path in the directory of its files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.fixture.path(name)
    }

    /// `result.json`.
    pub(crate) fn result(&self) -> WorkerResult {
        read(&self.fixture.path("job/result.json"))
    }

    /// What agent 0 left for the kubelet.
    pub(crate) fn termination_message(&self) -> WorkerResult {
        read(&self.fixture.path("termination-0"))
    }
}

fn settings(config: &mut Value) {
    config["replicas"] = 2.into();
    config["maxRestarts"] = 3.into();
    config["training"]["maxSteps"] = 120.into();
    config["training"]["saveSteps"] = 10.into();
}

impl Drop for Crew {
    fn drop(&mut self) {
        let ranks: Vec<Pid> = [0, 1]
            .into_iter()
            .filter(|index| self.agents[*index].is_some())
            .filter_map(|index| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.rank_pid(index))).ok()
            })
            .collect();
        for child in self.agents.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for rank in ranks {
            let _ = kill_process(rank, Signal::KILL);
        }
        if std::thread::panicking() {
            for index in [0, 1] {
                let log = self.fixture.path(&format!("agent-{index}.log"));
                eprintln!(
                    "--- agent {index}\n{}",
                    std::fs::read_to_string(log).unwrap_or_default()
                );
            }
        }
    }
}

/// Polls until there is something.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process is there.
pub(crate) fn runs(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap()).unwrap()
}

fn read(path: &Path) -> WorkerResult {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
