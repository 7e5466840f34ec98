//! The HTTPRoute of the Gateway API that leads to the gateways. They split, hold and measure as they
//! do without it: a route to the revisions themselves would know neither sticky users nor figures.

use hearth_crds::model_deployment::Routing;
use kube::core::{DynamicObject, TypeMeta};
use serde_json::json;

use super::frame::Frame;
use crate::children::{Child, ChildId, Kind, LiveChildren};
use crate::deployment::marks::GATEWAY;
use crate::deployment::validate::ValidDeployment;

/// The route; none where the spec says nothing of it.
pub(super) fn child(frame: &Frame<'_>) -> Option<Child> {
    let valid = frame.valid;
    let asked = valid.spec.http_route.as_ref()?;
    // The gateways' Service has the same name.
    let name = valid.child_name("");
    let mut spec = json!({
        "parentRefs": asked.parent_refs,
        "rules": [{"backendRefs": [{"name": name, "port": 80}]}],
    });
    if !asked.hostnames.is_empty() {
        spec["hostnames"] = json!(asked.hostnames);
    }
    let types = TypeMeta {
        api_version: Kind::HTTPRoute.api_version(),
        kind: Kind::HTTPRoute.as_str().to_owned(),
    };
    let metadata = frame.parent.child_meta(&name, GATEWAY);
    let data = json!({"spec": spec});
    Some(Child::HttpRoute(Box::new(DynamicObject { types: Some(types), metadata, data })))
}

/// Whether there is a route, or may be one soon. The routing table says so before the route is
/// made, and until it was seen to be gone: whoever finds that mark looks for the route.
pub(super) fn is_or_will_be(valid: &ValidDeployment, live: &LiveChildren) -> bool {
    let id = ChildId { kind: Kind::HTTPRoute, name: valid.child_name("") };
    valid.spec.routing == Routing::HTTPRoute || live.contains_key(&id)
}
