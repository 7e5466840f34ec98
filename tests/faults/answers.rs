//! Requests that are refused, cut short, or never answered.

use futures::future::try_join_all;

use crate::classes::{Class, all_is_well, bugs_are_caught, suffers};
use crate::operator::Bug;
use crate::proxy::{Call, Deed, Rules};
use crate::scenario::named;

const CLASSES: &[Class] = &[
    class("429", || writes(Deed::Refuse(429)), "forgets-failures"),
    class("500", || writes(Deed::Refuse(500)), "forgets-failures"),
    class("503", || writes(Deed::Refuse(503)), "forgets-failures"),
    class("409", || writes(Deed::Refuse(409)), "takes-conflict-for-success"),
    class("504 after the write was done", || writes(Deed::RefuseAfter(504)), "errors-are-final"),
    class("a truncated answer", || writes(Deed::Truncate), "errors-are-final"),
    class("no answer", || writes(Deed::Silence), "waits-for-ever"),
];

const fn class(name: &'static str, rules: fn() -> Rules, bug: Bug) -> Class {
    Class { name, rules, lasts: false, bug }
}

fn writes(deed: Deed) -> Rules {
    Box::new(move |call| if call.is_write() { deed.clone() } else { Deed::Pass })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_bad_answers_all_is_well() {
    all_is_well(CLASSES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_watches_that_fail_at_first_are_tried_again() {
    let rules: [fn() -> Rules; 3] = [
        || Box::new(|call| if call.is_write() { Deed::Pass } else { Deed::Refuse(500) }),
        || Box::new(|call| lists(call, Deed::Truncate)),
        || Box::new(|call| lists(call, Deed::Silence)),
    ];
    let plays =
        rules.map(async |rules| suffers(named("trained"), &class("reads", rules, ""), None).await);
    try_join_all(plays).await.unwrap();
}

fn lists(call: &Call, deed: Deed) -> Deed {
    if call.is_list() { deed } else { Deed::Pass }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_that_cannot_cope_with_bad_answers_are_caught() {
    bugs_are_caught(CLASSES, "trained").await;
}
