//! What plans need to know of the operator itself.

use crate::pods::Images;

/// What plans need to know of the operator itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Images of pods.
    pub images: Images,
    /// The operator's namespace, from which workers may be asked how they are.
    pub namespace: String,
    /// The namespace of the scraper of metrics, where there is one.
    pub metrics_namespace: Option<String>,
}
