//! What the builders of a deployment's objects share.

use hearth_crds::names;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::children::{Child, Parent};
use crate::deployment::validate::ValidDeployment;
use crate::settings::Settings;

/// What every builder here needs.
pub(super) struct Frame<'a> {
    pub(super) valid: &'a ValidDeployment,
    pub(super) parent: Parent,
    pub(super) settings: &'a Settings,
}

impl Frame<'_> {
    /// Metadata of a child of this revision.
    pub(super) fn meta(&self, name: &str, component: &str, revision: &str) -> ObjectMeta {
        let mut meta = self.parent.child_meta(name, component);
        let labels = meta.labels.get_or_insert_default();
        labels.insert(names::LABEL_REVISION.into(), revision.to_owned());
        meta
    }

    /// Metadata of the pods of this revision.
    pub(super) fn pod_meta(&self, component: &str, revision: Option<&str>) -> ObjectMeta {
        let mut meta = self.parent.child_meta("", component);
        if let Some(revision) = revision {
            let labels = meta.labels.get_or_insert_default();
            labels.insert(names::LABEL_REVISION.into(), revision.to_owned());
        }
        ObjectMeta { name: None, namespace: None, owner_references: None, ..meta }
    }

    /// Labels that select the pods of this revision.
    pub(super) fn selector(&self, component: &str, revision: &str) -> LabelSelector {
        let mut labels = self.parent.selector(component);
        labels.insert(names::LABEL_REVISION.into(), revision.to_owned());
        LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
    }
}

/// A drain takes one of several pods at a time.
pub(super) fn budget(metadata: ObjectMeta, selector: LabelSelector) -> Child {
    Child::PodDisruptionBudget(PodDisruptionBudget {
        metadata,
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
