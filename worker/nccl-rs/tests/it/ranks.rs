//! Runs a test's body as several ranks: the test's own executable, once a rank.
//!
//! The parent serves the store, so its port is free and known before any rank
//! starts. Nothing sleeps: ranks and parent wait for keys in the store.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nccl_rs::{GroupOptions, Interface, ProcessGroup, StoreOptions, TcpStore};

const RANK: &str = "NCCL_RS_TEST_RANK";
const SIZE: &str = "NCCL_RS_TEST_SIZE";
const PORT: &str = "NCCL_RS_TEST_PORT";

/// After this a test's ranks are killed: every wait in them is shorter.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a rank's body gets.
pub(crate) struct Member {
    pub(crate) rank: usize,
    pub(crate) size: usize,
    pub(crate) store: TcpStore,
}

impl Member {
    /// The default group: a timeout that a working test never meets.
    pub(crate) fn group(&self) -> Result<ProcessGroup> {
        self.group_with(&GroupOptions { timeout: Duration::from_secs(20), ..Default::default() })
    }

    pub(crate) fn group_with(&self, options: &GroupOptions) -> Result<ProcessGroup> {
        let interface = Interface::Address("127.0.0.1".to_owned());
        Ok(ProcessGroup::gloo(&self.store, self.rank, self.size, &interface, options)?)
    }
}

/// The parent's view of ranks that run.
pub(crate) struct Running {
    pub(crate) store: TcpStore,
    children: Vec<Option<Child>>,
}

impl Running {
    /// SIGKILL, as the kernel sends when memory runs out.
    pub(crate) fn kill(&mut self, rank: usize) -> Result<()> {
        let mut child = self.children[rank].take().context("the rank was killed before")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut failed = Vec::new();
        for (rank, child) in self.children.into_iter().enumerate() {
            let Some(child) = child else { continue };
            let output = ended(child, deadline)?;
            if !output.status.success() {
                failed.push(format!(
                    "rank {rank}: {}\n{}{}",
                    output.status,
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                ));
            }
        }
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    }
}

/// Waits for `child`, and kills it at `deadline`.
fn ended(mut child: Child, deadline: Instant) -> Result<Output> {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let pid = child.id().to_string();
    let watch = std::thread::spawn(move || {
        let left = deadline.saturating_duration_since(Instant::now());
        if stopped.recv_timeout(left) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            Command::new("kill").args(["-9", &pid]).status().ok();
        }
    });
    // The pipes are drained here, so that a rank never blocks on them.
    drop(child.stdin.take());
    let output = child.wait_with_output()?;
    drop(stop);
    watch.join().ok();
    Ok(output)
}

/// Runs `body` as `size` ranks and expects every one to succeed. `test` is the
/// calling test's full name.
pub(crate) fn run(test: &str, size: usize, body: fn(&Member) -> Result<()>) -> Result<()> {
    run_with(test, size, body, |_| Ok(()))
}

/// [`run`], with `meanwhile` in the parent while the ranks run.
pub(crate) fn run_with(
    test: &str,
    size: usize,
    body: fn(&Member) -> Result<()>,
    meanwhile: impl FnOnce(&mut Running) -> Result<()>,
) -> Result<()> {
    if let Ok(rank) = env::var(RANK) {
        return body(&from_environment(&rank)?);
    }
    let options = StoreOptions { timeout: Duration::from_secs(30), world_size: None };
    let store = TcpStore::serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &options)?;
    let mut children = Vec::new();
    for rank in 0..size {
        let child = Command::new(env::current_exe()?)
            .args([test, "--exact", "--nocapture"])
            .env(RANK, rank.to_string())
            .env(SIZE, size.to_string())
            .env(PORT, store.port().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        children.push(Some(child));
    }
    let mut running = Running { store, children };
    let outcome = meanwhile(&mut running);
    running.finish()?;
    outcome
}

fn from_environment(rank: &str) -> Result<Member> {
    // Two cores are shared by all ranks of all tests that run.
    tch::set_num_threads(1);
    let port = env::var(PORT)?.parse()?;
    let options = StoreOptions { timeout: Duration::from_secs(30), world_size: None };
    let store = TcpStore::connect("127.0.0.1", port, &options)?;
    Ok(Member { rank: rank.parse()?, size: env::var(SIZE)?.parse()?, store })
}

/// Fails unless `have` and `want` differ by at most `tolerance` everywhere.
pub(crate) fn assert_close(have: &tch::Tensor, want: &tch::Tensor, tolerance: f64) -> Result<()> {
    ensure!(have.size() == want.size(), "shape {:?}, wanted {:?}", have.size(), want.size());
    let difference = (have - want).abs().max().double_value(&[]);
    if difference.is_nan() || difference > tolerance {
        bail!("differs by {difference:e}, which is over {tolerance:e}");
    }
    Ok(())
}
