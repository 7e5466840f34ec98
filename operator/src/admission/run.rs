//! Decides whenever something changed.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::sync::Notify;

use crate::cache::GuardedJob;
use crate::context::Context;

/// Least time between two decisions: changes come in crowds.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest time between two.
const RESYNC: Duration = Duration::from_mins(1);

/// Decides for ever, and hands the jobs that are told something new to `tell`.
pub async fn run(cx: Arc<Context>, changed: Arc<Notify>, tell: impl Fn(&GuardedJob)) {
    loop {
        let now = cx.clock.now();
        let news = cx.admission.decide(&cx.caches, now);
        if !news.jobs.is_empty() {
            let told = |job: &GuardedJob| job.uid().is_some_and(|uid| news.jobs.contains(&uid));
            for job in cx.caches.training_jobs.state_filter(told) {
                tell(&job);
            }
        }
        let left = news.look_again.map(|at| at.duration_since(now).unsigned_abs());
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(left.unwrap_or(RESYNC).min(RESYNC)) => {}
        }
    }
}
