//! Watches child Jobs and pods, by the names that they share with their parents.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::Pin;
use std::time::Instant;

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};

const DIGITS: usize = 5;

/// The name of a job. Its children's names begin with it.
pub(crate) fn name(prefix: &str, index: usize) -> String {
    format!("{prefix}-{index:0DIGITS$}")
}

/// The job that an object of this name belongs to.
fn parent(prefix: &str, name: &str) -> Option<usize> {
    name.strip_prefix(prefix)?.strip_prefix('-')?.get(..DIGITS)?.parse().ok()
}

/// An object that a watch told of, or the end of a watch's list.
enum Sight {
    Job(String),
    Pod(String),
    Listed,
    Nothing,
}

type Sights = Pin<Box<dyn Stream<Item = anyhow::Result<Sight>>>>;

/// What was seen of all jobs' children.
pub(crate) struct Children {
    sights: Sights,
    prefix: String,
    jobs: Vec<Option<Instant>>,
    jobs_missing: usize,
    pods: HashSet<String>,
    pods_wanted: usize,
    last: Instant,
}

impl Children {
    /// Begins to watch for the children of `jobs` jobs with `pods` pods each.
    pub(crate) async fn watch(
        client: &Client,
        (namespace, prefix): (&str, &str),
        jobs: usize,
        pods: usize,
    ) -> anyhow::Result<Self> {
        let job_sights = sights::<Job>(client, namespace, Sight::Job);
        let pod_sights = sights::<Pod>(client, namespace, Sight::Pod);
        let watches = if pods == 0 { vec![job_sights] } else { vec![job_sights, pod_sights] };
        let mut unlisted = watches.len();
        let mut sights: Sights = Box::pin(futures::stream::select_all(watches));
        while unlisted > 0 {
            if let Sight::Listed = sights.next().await.context("a watch ended")?? {
                unlisted -= 1;
            }
        }
        Ok(Self {
            sights,
            prefix: prefix.to_owned(),
            jobs: vec![None; jobs],
            jobs_missing: jobs,
            pods: HashSet::new(),
            pods_wanted: jobs * pods,
            last: Instant::now(),
        })
    }

    /// Returns once every job has its children.
    pub(crate) async fn all_seen(&mut self) -> anyhow::Result<()> {
        while self.jobs_missing > 0 || self.pods.len() < self.pods_wanted {
            let sight = self.sights.next().await.context("the watches ended")??;
            if self.take(sight) {
                self.last = Instant::now();
            }
        }
        Ok(())
    }

    /// Whether it was news.
    fn take(&mut self, sight: Sight) -> bool {
        match sight {
            Sight::Job(name) => {
                let index = parent(&self.prefix, &name);
                let Some(slot) = index.and_then(|index| self.jobs.get_mut(index)) else {
                    return false;
                };
                let new = slot.is_none();
                if new {
                    *slot = Some(Instant::now());
                    self.jobs_missing -= 1;
                }
                new
            }
            Sight::Pod(name) => parent(&self.prefix, &name).is_some() && self.pods.insert(name),
            Sight::Listed | Sight::Nothing => false,
        }
    }

    /// When each job's first child Job was seen; all have been.
    pub(crate) fn jobs_seen(&self) -> impl Iterator<Item = Instant> {
        self.jobs.iter().flatten().copied()
    }

    /// When the last child was seen.
    pub(crate) fn last_seen(&self) -> Instant {
        self.last
    }

    /// What has not been seen, for people.
    pub(crate) fn missing(&self) -> String {
        let pods = self.pods_wanted - self.pods.len();
        format!("{} jobs without a child Job, {pods} pods missing", self.jobs_missing)
    }
}

/// What a watch of one kind tells.
fn sights<K>(client: &Client, namespace: &str, sight: fn(String) -> Sight) -> Sights
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + Send + Sync + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(client.clone(), namespace);
    let events = watcher(api, watcher::Config::default());
    Box::pin(events.map(move |event| {
        Ok(match event.context("a watch failed")? {
            Event::Apply(object) | Event::InitApply(object) => sight(object.name_any()),
            Event::InitDone => Sight::Listed,
            Event::Init | Event::Delete(_) => Sight::Nothing,
        })
    }))
}
