//! Names of the objects that the operator makes, safe in length.
//!
//! A child's name goes into DNS labels (63 bytes). A parent's name may have
//! 253, so a long one is cut and gets a hash of the whole, which keeps two
//! long names with the same beginning apart.

/// Longest DNS label, RFC 1123.
const MAX_LABEL: usize = 63;
/// Room that Kubernetes needs after a Job's name for `-INDEX-RANDOM` of its
/// pods, and for `-0.` host names.
const POD_SUFFIX: usize = 12;

/// Label on every child: the parent's kind in lower case.
pub const LABEL_KIND: &str = "hearth.dev/kind";
/// Label on every child: the parent's name (cut as child names are).
pub const LABEL_NAME: &str = "hearth.dev/name";
/// Label on deployment children: the revision.
pub const LABEL_REVISION: &str = "hearth.dev/revision";
/// Annotation on a trial: its number in its sweep, from 0.
pub const ANNOTATION_TRIAL: &str = "hearth.dev/trial";
/// Annotation on a trial of ASHA: the rung that its job runs, from 0.
pub const ANNOTATION_RUNG: &str = "hearth.dev/rung";
/// Annotation on a trial: what it set in the job, a JSON object by path.
pub const ANNOTATION_POINT: &str = "hearth.dev/point";
/// Annotation on a ModelDeployment: what a person said about its rollout. `kubectl hearth promote`,
/// `pause`, `resume`, `rollback` and `retry` write it; the operator only reads it.
pub const ANNOTATION_ORDER: &str = "hearth.dev/rollout-order";
/// Standard label: who manages this object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Standard label: the part an object plays (`worker`, `server`, `gateway`, `quantize`).
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Kueue's queue label, passed through to the child Job.
pub const LABEL_QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// Field manager of every write, and the value of [`LABEL_MANAGED_BY`].
pub const MANAGER: &str = "hearth-operator";

/// `base` followed by `-suffix`, at most 51 bytes so that pods made from it
/// keep valid host names. Stable: equal inputs give equal names.
pub fn child(base: &str, suffix: &str) -> String {
    let tail = if suffix.is_empty() { String::new() } else { format!("-{suffix}") };
    let room = MAX_LABEL - POD_SUFFIX - tail.len().min(MAX_LABEL - POD_SUFFIX - 10);
    let label = base.replace('.', "-");
    if label.len() <= room && label == base {
        return format!("{label}{tail}");
    }
    let hash = fnv1a(base.as_bytes()) & 0xffff_ffff;
    let cut: String = label.chars().take(room.saturating_sub(9)).collect();
    format!("{}-{:08x}{tail}", cut.trim_end_matches('-'), hash)
}

/// A short stable hash of any serialisable value, for revisions and snapshots:
/// 10 characters of `[0-9a-f]`.
pub fn digest<T: serde::Serialize>(value: &T) -> String {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    format!("{:016x}", fnv1a(&bytes))[..10].to_owned()
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>). Not for secrets.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_readable() {
        assert_eq!(child("spam", ""), "spam");
        assert_eq!(child("spam", "gateway"), "spam-gateway");
    }

    #[test]
    fn long_or_dotted_names_fit_and_stay_apart() {
        let a = child(&"a".repeat(200), "gateway");
        let b = child(&format!("{}b", "a".repeat(199)), "gateway");
        assert!(a.len() <= 51, "{a}");
        assert_ne!(a, b);
        assert_ne!(child("a.b", ""), child("a-b", ""));
    }
}
