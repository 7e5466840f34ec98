//! Which pods belong to which parent, so that a look at one job is not a look at all pods.
//!
//! It holds names; what a pod is, and whether it is still there, the store says. Watches tell
//! the store first and the index second, so a pod that the store has is never missed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use hearth_crds::names;

use crate::seen::Seen;

/// A namespace, and the label with the name of a parent in it.
type Parent = (String, String);

/// Names of pods, by their parent.
#[derive(Clone, Debug, Default)]
pub struct PodIndex {
    names: Arc<Mutex<HashMap<Parent, BTreeSet<String>>>>,
}

impl PodIndex {
    /// Takes note of a pod that came, changed or went.
    pub fn saw(&self, pod: &Seen) {
        let Some(parent) = pod.metadata.labels.get(names::LABEL_NAME) else { return };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let key = (namespace.to_owned(), parent.to_owned());
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.entry(key).or_default().insert(pod.metadata.name.to_string());
    }

    /// The pods of a parent, by name. Those that `find` does not know are forgotten.
    pub fn pods(
        &self,
        namespace: &str,
        parent: &str,
        find: impl Fn(&str) -> Option<Arc<Seen>>,
    ) -> Vec<Arc<Seen>> {
        let key = (namespace.to_owned(), parent.to_owned());
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = names.get_mut(&key) else { return Vec::new() };
        let mut found = Vec::with_capacity(known.len());
        known.retain(|name| find(name).map(|pod| found.push(pod)).is_some());
        if known.is_empty() {
            names.remove(&key);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, parent: &str) -> Seen {
        let labels = json!({names::LABEL_NAME: parent});
        let metadata = json!({"namespace": "ns", "name": name, "labels": labels});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn names_of(index: &PodIndex, parent: &str, gone: &str) -> Vec<String> {
        let find = |name: &str| (name != gone).then(|| Arc::new(pod(name, parent)));
        index.pods("ns", parent, find).iter().map(|pod| pod.metadata.name.to_string()).collect()
    }

    #[test]
    fn a_parent_has_its_own_pods_in_order_and_not_those_that_went() {
        let index = PodIndex::default();
        for (name, parent) in [("b", "one"), ("a", "one"), ("c", "two"), ("a", "one")] {
            index.saw(&pod(name, parent));
        }
        assert_eq!(names_of(&index, "one", ""), ["a", "b"]);
        assert_eq!(names_of(&index, "one", "a"), ["b"]);
        assert_eq!(names_of(&index, "one", ""), ["b"]);
        assert_eq!(names_of(&index, "two", "c"), Vec::<String>::new());
        assert_eq!(names_of(&index, "three", ""), Vec::<String>::new());
    }
}
