//! Decides whenever something changed.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{Notify, mpsc};

use crate::cache::GuardedJob;
use crate::context::Context;

/// Least time between two decisions: changes come in crowds.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest time between two.
const RESYNC: Duration = Duration::from_mins(1);

/// Decides for ever, and sends the jobs that are told something new to their controller.
pub async fn run(
    cx: Arc<Context>,
    changed: Arc<Notify>,
    jobs: mpsc::UnboundedSender<ObjectRef<GuardedJob>>,
) {
    loop {
        let now = cx.clock.now();
        let news = cx.admission.decide(&cx.caches, now);
        if !news.jobs.is_empty() {
            let told = |job: &GuardedJob| job.uid().is_some_and(|uid| news.jobs.contains(&uid));
            for job in cx.caches.training_jobs.state_filter(told) {
                // The receiver lives as long as the process.
                let _ = jobs.send(ObjectRef::from_obj(job.as_ref()));
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
