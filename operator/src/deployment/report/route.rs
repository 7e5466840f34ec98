//! Whether an HTTPRoute leads to the gateways. Pure.

use std::time::Duration;

use hearth_crds::condition::{Finding, Truth, finding, model_deployment as types};
use hearth_crds::model_deployment::Routing;

use crate::deployment::observed::{Observed, Route};
use crate::deployment::validate::ValidDeployment;
use crate::seen::{Condition, RouteParent};

/// Gateways say within seconds what they think of a route, and it is not watched.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What is to be said of the route; nothing where none is asked for.
pub(super) fn routed(valid: &ValidDeployment, seen: &Observed) -> Option<Finding> {
    if valid.spec.routing == Routing::Gateway {
        return None;
    }
    let say = |truth, reason, message: String| Some(finding(types::ROUTED, truth, reason, message));
    let parents = match &seen.route {
        Route::NotAsked => return None,
        Route::NotServed => {
            return say(
                Truth::False,
                "NoGatewayAPI",
                "this cluster serves no HTTPRoutes of gateway.networking.k8s.io/v1: install the Gateway API and a controller of it, or set routing to Gateway. Inside the cluster, the address answers all the same".into(),
            );
        }
        Route::Served(parents) => parents,
    };
    let wanted = valid.spec.http_route.as_ref().map_or(0, |route| route.parent_refs.len());
    match parents.iter().find_map(refusal) {
        Some(refused) => say(
            Truth::False,
            "Refused",
            format!("a Gateway of httpRoute.parentRefs says {}: {}", refused.reason, words(refused)),
        ),
        None if parents.iter().filter(|parent| accepts(parent)).count() >= wanted => {
            say(Truth::True, "Accepted", "The Gateways lead to Hearth's gateway.".into())
        }
        None => say(
            Truth::Unknown,
            "Waiting",
            "not all Gateways of httpRoute.parentRefs have taken the route on yet: do they exist, and do their listeners allow routes of this namespace?".into(),
        ),
    }
}

/// What a Gateway says; controllers that leave it out are spoken for, by the reasons of
/// `RouteConditionReason` (gateway-api, apis/v1/shared_types.go).
fn words(refused: &Condition) -> &str {
    match refused.reason.as_str() {
        _ if !refused.message.is_empty() => &refused.message,
        "NotAllowedByListeners" => {
            "its listeners take no routes of this namespace; look at their allowedRoutes"
        }
        "NoMatchingListenerHostname" => {
            "none of its listeners has a hostname of httpRoute.hostnames; change either"
        }
        "NoMatchingParent" => {
            "it has no listener of that sectionName or port; correct httpRoute.parentRefs"
        }
        _ => "it gives no further word; look at the log of its controller",
    }
}

/// When to look at the route again, where somebody's word on it is awaited.
pub(super) fn look_again(valid: &ValidDeployment, seen: &Observed) -> Option<Duration> {
    routed(valid, seen).filter(|found| found.status != Truth::True).map(|_| LOOK_EVERY)
}

fn condition<'a>(parent: &'a RouteParent, type_: &str) -> Option<&'a Condition> {
    parent.conditions.iter().find(|condition| condition.type_ == type_)
}

fn accepts(parent: &RouteParent) -> bool {
    condition(parent, "Accepted").is_some_and(Condition::holds)
}

/// What a Gateway has against the route.
fn refusal(parent: &RouteParent) -> Option<&Condition> {
    let no = |type_| condition(parent, type_).filter(|condition| condition.status == "False");
    no("Accepted").or_else(|| no("ResolvedRefs"))
}
