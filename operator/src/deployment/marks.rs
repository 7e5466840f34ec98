//! What the children of a deployment are marked with, and found by.

/// Role of the pods that compress.
pub const QUANTIZE: &str = "quantize";
/// Role of the pods that serve.
pub const SERVER: &str = "server";
/// Role of the gateways.
pub const GATEWAY: &str = "gateway";
/// Annotation of a server Deployment: the directory that it serves.
pub const ANNOTATION_MODEL: &str = "hearth.dev/model";
/// Annotation of a server Deployment: digest of the source model.
pub const ANNOTATION_DIGEST: &str = "hearth.dev/digest";
/// Annotation of a server Deployment: the compression that the model came from.
pub const ANNOTATION_ARTIFACT: &str = "hearth.dev/artifact";
/// Annotation of a server Deployment: what that compression did, as JSON.
pub const ANNOTATION_COMPRESSION: &str = "hearth.dev/compression";
/// Annotation of the routing table: when traffic went to another revision.
pub const ANNOTATION_ROUTED_AT: &str = "hearth.dev/routed-at";
/// Annotation of the routing table: how far a rollout is, as JSON.
pub const ANNOTATION_ROLLOUT: &str = "hearth.dev/rollout";
