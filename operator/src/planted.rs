//! Bugs that `tests/faults` plants, to see that its tests catch them. None is in a release: the
//! feature `planted` is off there, and [`is`] is a constant.

#[cfg(feature = "planted")]
mod training_job;

#[cfg(not(feature = "planted"))]
pub use crate::training_job::reconcile as train;
#[cfg(feature = "planted")]
pub use training_job::train;

/// A bug; `HEARTH_PLANTED` of `hearth-operator-planted` names it in kebab case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The status says what is about to be done, and what it says is not done again.
    ReportsFirst,
    /// A failed reconcile is not tried again.
    ForgetsFailures,
    /// A failed write fails the job.
    ErrorsAreFinal,
    /// A write that met a conflict counts as done.
    TakesConflictForSuccess,
    /// No request has a time limit.
    WaitsForEver,
    /// A watch that failed is not begun again.
    GivesUpWatches,
    /// A version that is gone is asked for again and again.
    KeepsAGoneVersion,
    /// A Job that no list shows is lost.
    BelievesLists,
    /// A lost lease changes nothing.
    KeepsLeading,
    /// A status is written even where nothing changed.
    WritesAlways,
}

/// Whether this process has the bug.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn is(_: Bug) -> bool {
    false
}

/// Whether this process has the bug.
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var("HEARTH_PLANTED").ok().map(|name| named(&name)))
        == Some(bug)
}

/// A client of the API server.
#[cfg(not(feature = "planted"))]
pub fn client(config: kube::Config) -> kube::Result<kube::Client> {
    kube::Client::try_from(config)
}

/// A client of the API server; with [`Bug::GivesUpWatches`], it watches each kind once, with
/// [`Bug::TakesConflictForSuccess`] a write that met a conflict is answered as if it had been done.
#[cfg(feature = "planted")]
pub fn client(mut config: kube::Config) -> kube::Result<kube::Client> {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex, PoisonError};

    use http_body_util::BodyExt;
    use kube::client::Body;

    // The usual client tries some refusals again by itself.
    config.default_retry = !(is(Bug::ForgetsFailures) || is(Bug::ErrorsAreFinal));
    let namespace = config.default_namespace.clone();
    let client = kube::Client::try_from(config)?;
    let begun = Arc::new(Mutex::new(BTreeSet::<String>::new()));
    let send = tower::service_fn(move |request: http::Request<Body>| {
        let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let path = request.uri().path().to_owned();
        let again = watches && !begun.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
        let client = client.clone();
        async move {
            if again && is(Bug::GivesUpWatches) {
                std::future::pending::<()>().await;
            }
            if !(is(Bug::TakesConflictForSuccess) && request.method() == http::Method::PATCH) {
                return client.send(request).await;
            }
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let sent = http::Request::from_parts(head, Body::from(body.clone()));
            let answer = client.send(sent).await?;
            let conflict = answer.status() == http::StatusCode::CONFLICT;
            Ok(if conflict { http::Response::new(Body::from(body)) } else { answer })
        }
    });
    Ok(kube::Client::new(send, namespace))
}

#[cfg(feature = "planted")]
#[expect(clippy::panic, reason = "a test that names no bug must not go on")]
fn named(name: &str) -> Bug {
    match name {
        "reports-first" => Bug::ReportsFirst,
        "forgets-failures" => Bug::ForgetsFailures,
        "errors-are-final" => Bug::ErrorsAreFinal,
        "takes-conflict-for-success" => Bug::TakesConflictForSuccess,
        "waits-for-ever" => Bug::WaitsForEver,
        "gives-up-watches" => Bug::GivesUpWatches,
        "keeps-a-gone-version" => Bug::KeepsAGoneVersion,
        "believes-lists" => Bug::BelievesLists,
        "keeps-leading" => Bug::KeepsLeading,
        "writes-always" => Bug::WritesAlways,
        other => panic!("HEARTH_PLANTED: there is no bug named {other}"),
    }
}
