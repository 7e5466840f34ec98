//! Follows one object through the API until its [`Verdict`] is in.

use std::fmt::Debug;

use futures::TryStreamExt as _;
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watch_object};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};

use super::WatchError;
use super::verdict::{Followed, Verdict};
use crate::display::{self, Display};
use crate::exit;
use crate::render::{self, Snapshot};

/// Follows an object of kind `K`.
pub(super) struct Follower<K> {
    api: Api<K>,
    namespace: String,
    name: String,
    url: String,
}

impl<K> Follower<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Followed
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    pub(super) fn new(client: Client, namespace: String, name: String, url: String) -> Self {
        Self { api: Api::namespaced(client, &namespace), namespace, name, url }
    }

    /// The object as it is now.
    pub(super) async fn read(&self) -> Result<K, WatchError> {
        self.api.get(&self.name).await.map_err(|error| self.explain(error))
    }

    /// Shows the object's way until it is done; the exit code.
    pub(super) async fn until_done(self) -> Result<i32, WatchError> {
        // A watch retries for ever; a plain read tells what is wrong at once.
        let mut now = self.read().await?;
        let mut display = Display::new(&self.name);
        let mut interrupts = signal(SignalKind::interrupt()).ok();
        let mut before: Option<K> = None;
        let events = watch_object(self.api.clone(), &self.name)
            .default_backoff()
            .map_err(|error| trouble(&error));
        tokio::pin!(events);
        loop {
            show(&mut display, before.as_ref(), &now);
            match now.verdict() {
                Verdict::GoesOn => {}
                Verdict::Done(text) => {
                    display.end();
                    display::out(&format!("{} {text}", self.name));
                    return Ok(exit::DONE);
                }
                Verdict::Failed(text) => {
                    display.end();
                    display::err(&format!("{} failed: {text}", self.name));
                    return Ok(exit::FAILED);
                }
            }
            let next = tokio::select! {
                next = self.next(&mut events, &mut display) => next?,
                () = interrupted(interrupts.as_mut()) => {
                    display.end();
                    display::err(&format!("{} goes on; it is only no longer watched", self.name));
                    return Ok(exit::INTERRUPTED);
                }
            };
            before = Some(std::mem::replace(&mut now, next));
        }
    }

    /// The object's next state. Troubles on the way are told and pass.
    async fn next<S>(&self, events: &mut S, display: &mut Display) -> Result<K, WatchError>
    where
        S: futures::Stream<Item = Result<Option<K>, String>> + Unpin,
    {
        loop {
            match events.try_next().await {
                Ok(Some(Some(object))) => return Ok(object),
                Ok(Some(None) | None) => {
                    let kind = kind_of::<K>().0;
                    return Err(WatchError::Deleted { kind, name: self.name.clone() });
                }
                Err(trouble) => display.state(&format!("no news ({trouble}); trying again")),
            }
        }
    }

    /// What the API's refusal means, and what to do.
    fn explain(&self, error: kube::Error) -> WatchError {
        let (kind, resource) = kind_of::<K>();
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        match error {
            // The API server names the object; an unknown path is a bare 404.
            kube::Error::Api(status) if status.code == 404 => {
                if status.details.as_ref().is_some_and(|details| details.name == name) {
                    WatchError::NotFound { kind, resource, namespace, name }
                } else {
                    WatchError::NotInstalled { kind }
                }
            }
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                WatchError::Denied { kind, resource, namespace, name, message: status.message }
            }
            source @ (kube::Error::Api(_) | kube::Error::SerdeError(_)) => {
                WatchError::Api { kind, name, source }
            }
            source => WatchError::Unreachable { url: self.url.clone(), source },
        }
    }
}

fn kind_of<K: Resource<DynamicType = ()>>() -> (&'static str, &'static str) {
    match K::kind(&()).as_ref() {
        "ModelDeployment" => ("ModelDeployment", "modeldeployments"),
        _ => ("TrainingJob", "trainingjobs"),
    }
}

fn trouble(error: &watcher::Error) -> String {
    // The innermost cause says most; the layers around it repeat "error".
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

async fn interrupted(signal: Option<&mut tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn show<K: Followed>(display: &mut Display, before: Option<&K>, now: &K) {
    let known = before.map(Followed::conditions).unwrap_or_default();
    for news in render::condition_news(known, now.conditions()) {
        display.say(&news);
    }
    match now.training() {
        Some(snapshot) => {
            // What happened before the watch began is no news.
            let old = before.map_or_else(|| Some(snapshot.clone()), Followed::training);
            let nothing = Snapshot::default;
            display.training(&old.unwrap_or_else(nothing), &snapshot);
        }
        None => display.state(&now.state()),
    }
}
