//! What is kept of an object's metadata, and of parts that most objects lack.
//!
//! A cluster of 5,000 jobs has 40,000 objects. A map of labels alone takes half a kilobyte for
//! each, however few they are, and owners, finalizers and foreign labels are read by nobody.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;

use hearth_crds::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use crate::children::{ANNOTATION_HASH, ANNOTATION_PARENT, ANNOTATION_SPEC_HASH};
use crate::observed::{owner, version};

/// Annotation, and label, of a pod of an Indexed Job.
pub const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// What Hearth marks its objects with begins so.
const OURS: &str = "hearth.dev/";
/// Texts that stand in most objects: they cost no room of their own.
const COMMON: [&str; 16] = [
    names::LABEL_KIND,
    names::LABEL_NAME,
    names::LABEL_REVISION,
    names::LABEL_COMPONENT,
    ANNOTATION_HASH,
    ANNOTATION_PARENT,
    ANNOTATION_SPEC_HASH,
    COMPLETION_INDEX,
    "trainingjob",
    "hyperparamsweep",
    "modeldeployment",
    "worker",
    "server",
    "gateway",
    "0",
    "1",
];

/// What is read of the standard metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Name.
    pub name: Box<str>,
    /// Namespace, where the kind has them.
    pub namespace: Option<Box<str>>,
    /// UID.
    pub uid: Box<str>,
    /// UID of the controlling owner.
    pub owner: Option<Box<str>>,
    /// Resource version as a number.
    pub version: u64,
    /// Counts changes of the spec.
    pub generation: Option<i64>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When it should have been gone, if it is being deleted.
    pub deleted: Option<Timestamp>,
    /// Hearth's labels; all of an object without a namespace, since pods choose nodes by any.
    pub labels: Texts,
    /// Hearth's annotations.
    pub annotations: Texts,
}

impl Metadata {
    /// What is read of `full`.
    pub fn of(full: &ObjectMeta) -> Self {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        let everything = full.namespace.is_none();
        Self {
            name: text(&full.name),
            namespace: full.namespace.as_deref().map(Into::into),
            uid: text(&full.uid),
            owner: owner(full).map(Into::into),
            version: version(full),
            generation: full.generation,
            created: full.creation_timestamp.as_ref().map(|time| time.0),
            deleted: full.deletion_timestamp.as_ref().map(|time| time.0),
            labels: Texts::of(full.labels.as_ref(), |key| everything || is_read(key)),
            annotations: Texts::of(full.annotations.as_ref(), is_read),
        }
    }
}

/// Whether anything reads a label or an annotation of this name.
fn is_read(key: &str) -> bool {
    key.starts_with(OURS) || key == names::LABEL_COMPONENT || key == COMPLETION_INDEX
}

/// A few texts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts(Box<[(Cow<'static, str>, Cow<'static, str>)]>);

impl Texts {
    /// Those of `all` whose name is `wanted`.
    fn of(all: Option<&BTreeMap<String, String>>, wanted: impl Fn(&str) -> bool) -> Self {
        let wanted = all.into_iter().flatten().filter(|(key, _)| wanted(key));
        Self(wanted.map(|(key, value)| (shared(key), shared(value))).collect())
    }

    /// The text of this name.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }
}

fn shared(text: &str) -> Cow<'static, str> {
    let common = COMMON.into_iter().find(|common| *common == text);
    common.map_or_else(|| Cow::Owned(text.to_owned()), Cow::Borrowed)
}

/// A part that takes no room where it says nothing.
#[derive(Clone, Debug, Default)]
pub struct Part<T>(Option<Box<T>>);

impl<T: Default + PartialEq> From<T> for Part<T> {
    fn from(whole: T) -> Self {
        Self((whole != T::default()).then(|| Box::new(whole)))
    }
}

/// A part that says nothing.
pub trait Empty: Sized + 'static {
    /// The one of this type.
    fn empty() -> &'static Self;
}

impl<T: Empty> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::empty())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::seen::Seen;

    fn seen(object: serde_json::Value) -> Seen {
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_is_read_stays_and_nothing_else() {
        let labels = json!({"hearth.dev/name": "spam", "app.kubernetes.io/component": "worker",
            "app.kubernetes.io/managed-by": "hearth-operator", "job-name": "spam-train"});
        let owners = json!([
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": "u-0"},
            {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u-1", "controller": true},
        ]);
        let annotations = json!({"hearth.dev/parent": "spam", COMPLETION_INDEX: "7",
            "kubectl.kubernetes.io/last-applied-configuration": "{}"});
        let pod = seen(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u-2",
            "resourceVersion": "42", "labels": labels, "annotations": annotations,
            "ownerReferences": owners, "deletionTimestamp": "2026-11-29T17:00:00Z"}}));
        let kept = &pod.metadata;
        let all = |texts: &Texts| texts.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        let mut labels = all(&kept.labels);
        labels.sort();
        assert_eq!(labels, ["app.kubernetes.io/component=worker", "hearth.dev/name=spam"]);
        assert_eq!(kept.annotations.get(COMPLETION_INDEX), Some("7"));
        assert_eq!(kept.annotations.get("hearth.dev/parent"), Some("spam"));
        assert_eq!(kept.annotations.iter().count(), 2);
        assert_eq!((kept.owner.as_deref(), kept.version), (Some("u-1"), 42));
        assert!(kept.deleted.is_some() && kept.created.is_none());
    }

    #[test]
    fn a_node_keeps_the_labels_that_pods_choose_it_by() {
        let node = seen(json!({"metadata": {"name": "n", "labels": {"zone": "a", "disk": "ssd"}}}));
        assert_eq!(node.metadata.labels.get("zone"), Some("a"));
        assert_eq!(node.metadata.labels.iter().count(), 2);
    }

    #[test]
    fn contents_that_never_change_are_not_kept() {
        let map = |immutable: bool| {
            seen(json!({"metadata": {"name": "m"}, "data": {"k": "v"}, "immutable": immutable}))
                .data
        };
        assert!(map(false).is_some() && map(true).is_none());
    }

    #[test]
    fn an_object_that_says_little_takes_little() {
        assert!(size_of::<Seen>() <= 256, "{}", size_of::<Seen>());
        let service = seen(json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "None"}}));
        assert!(service.spec.0.is_none() && service.status.0.is_none());
        assert_eq!(service.spec.suspend, None);
    }
}
