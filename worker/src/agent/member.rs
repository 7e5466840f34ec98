//! One agent's loop: tell the coordinator what is, bring about what it wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hearth_crds::worker_config::{ExitCode, JobIdentity};
use rustix::process::Signal;
use tokio::time::MissedTickBehavior;

use super::gang::Ranks;
use super::link::{Link, LinkError};
use super::protocol::{Action, Beat, Order};
use super::record::Files;
use super::terms::Timing;
use crate::monitor::SystemMetrics;

/// Between beats, where nothing happens.
const BEAT_INTERVAL: Duration = Duration::from_millis(250);
/// Added to it for each agent, so that a large job does not flood agent 0.
const BEAT_INTERVAL_PER_AGENT: Duration = Duration::from_millis(1);

/// Why an agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The coordinator said so.
    Finished {
        /// Exit code of an agent other than 0.
        exit_code: i32,
    },
    /// By SIGTERM; the ranks have ended.
    Left,
    /// The coordinator is gone for good, or has another agent in this place.
    Alone,
}

/// An agent.
pub struct Member {
    /// Index.
    pub agent: u32,
    /// Agents.
    pub agents: u32,
    /// The job.
    pub job: JobIdentity,
    /// Differs for each process.
    pub incarnation: String,
    /// Its ranks.
    pub ranks: Arc<Ranks>,
    /// Asked to stop by SIGTERM.
    pub leaving: Arc<AtomicBool>,
    /// Way to the coordinator.
    pub link: Link,
    /// Patience.
    pub timing: Timing,
    /// Time that ranks have to save.
    pub grace: Duration,
    /// Where the result would be.
    pub files: Files,
    /// Figures of its ranks and GPUs.
    pub system: Arc<SystemMetrics>,
}

impl Member {
    /// Runs until the job or this agent ends.
    pub async fn run(mut self) -> End {
        let mut interval =
            tokio::time::interval(BEAT_INTERVAL + BEAT_INTERVAL_PER_AGENT * self.agents);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut contact = Contact::new();
        loop {
            let changed = self.ranks.changed.clone();
            tokio::select! {
                () = changed.notified() => {}
                _ = interval.tick() => {}
            }
            // Before the beat, so that the beat that tells of the ranks' end is
            // sent once more before the agent goes.
            let left = self.leaving.load(Ordering::Relaxed) && !self.ranks.any_runs();
            match self.link.beat(&self.beat(false)).await {
                Ok(order) => {
                    contact.made(&order);
                    if let Some(end) = self.obey(order, &mut contact).await {
                        return end;
                    }
                }
                Err(LinkError::Replaced(why)) => {
                    tracing::error!("{why}");
                    self.ranks.stop().await;
                    return End::Alone;
                }
                Err(error) => {
                    if let Some(end) = self.endure(&mut contact, &error).await {
                        return end;
                    }
                }
            }
            if left {
                return End::Left;
            }
        }
    }

    fn beat(&self, done: bool) -> Beat {
        Beat {
            agent: self.agent,
            incarnation: self.incarnation.clone(),
            job: self.job.clone(),
            generation: self.ranks.generation(),
            ranks: self.ranks.reports(),
            leaving: self.leaving.load(Ordering::Relaxed),
            done,
            power_watts: self.system.power_watts(),
        }
    }

    async fn obey(&mut self, order: Order, contact: &mut Contact) -> Option<End> {
        match order.action {
            Action::Stop => self.ranks.stop().await,
            Action::Run(gang) if gang.generation > self.ranks.generation() => {
                self.ranks.stop().await;
                if !self.leaving.load(Ordering::Relaxed) {
                    tracing::info!(generation = gang.generation, "starting ranks");
                    self.ranks.start(&gang);
                }
            }
            Action::Run(_) => {}
            Action::Save { generation } => self.save(generation, contact),
            Action::Finish { exit_code } => {
                self.ranks.stop().await;
                // If it is lost, the coordinator's lease on this agent runs out.
                let _ = self.link.beat(&self.beat(true)).await;
                return Some(End::Finished { exit_code });
            }
        }
        None
    }

    /// Asks the ranks of `generation` to save, once; after the grace they are killed.
    fn save(&self, generation: u32, contact: &mut Contact) {
        match contact.saving {
            Some((asked, since)) if asked == generation => {
                if since.elapsed() > self.grace {
                    self.ranks.signal(Signal::KILL);
                }
            }
            _ => {
                tracing::info!("the gang is to have another size: ranks save and end");
                self.ranks.signal(Signal::TERM);
                contact.saving = Some((generation, Instant::now()));
            }
        }
    }

    /// Without the coordinator: ranks go on for a lease, then stop; the agent
    /// waits for a new agent 0 until the patience for joining is spent, or the
    /// disk says that the run has finished.
    async fn endure(&self, contact: &mut Contact, error: &LinkError) -> Option<End> {
        let alone = contact.newest.elapsed();
        if contact.should_log() {
            tracing::warn!(seconds = alone.as_secs(), "{error}");
        }
        if alone > self.timing.lease && !self.leaving.load(Ordering::Relaxed) {
            self.ranks.stop().await;
        }
        if let Some(run) = &contact.run
            && let Some(record) = self.files.record(&self.job)
            && record.finished
            && record.run == *run
        {
            tracing::info!("agent 0 has recorded the result and is gone");
            self.ranks.stop().await;
            return Some(End::Finished { exit_code: ExitCode::Done as i32 });
        }
        if alone > self.timing.join {
            tracing::error!("gave up waiting for agent 0");
            self.ranks.stop().await;
            return Some(End::Alone);
        }
        None
    }
}

/// Newest contact with the coordinator.
struct Contact {
    newest: Instant,
    logged: Option<Instant>,
    run: Option<String>,
    /// The generation that was asked to save, and when.
    saving: Option<(u32, Instant)>,
}

impl Contact {
    fn new() -> Self {
        Self { newest: Instant::now(), logged: None, run: None, saving: None }
    }

    fn made(&mut self, order: &Order) {
        self.newest = Instant::now();
        self.logged = None;
        self.run = Some(order.run.clone());
    }

    /// At first, then every ten seconds.
    fn should_log(&mut self) -> bool {
        let due = self.logged.is_none_or(|logged| logged.elapsed() > Duration::from_secs(10));
        if due {
            self.logged = Some(Instant::now());
        }
        due
    }
}

/// Hands SIGTERM on to the ranks, so that they save; after `grace` (or at a
/// second SIGTERM) they are killed.
pub async fn leave_on_sigterm(ranks: Arc<Ranks>, leaving: Arc<AtomicBool>, grace: Duration) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be caught: a stop will lose what was not saved");
        return;
    };
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!("asked to stop: ranks save and end");
    leaving.store(true, Ordering::Relaxed);
    ranks.signal(Signal::TERM);
    ranks.changed.notify_one();
    tokio::select! {
        () = tokio::time::sleep(grace) => tracing::warn!("ranks did not end in time: killing them"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    ranks.signal(Signal::KILL);
}
