//! Which locations a back end can reach.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hearth_crds::source::Source;

use crate::fault::Fault;

/// Where a plan is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Pods of a Kubernetes cluster.
    Cluster,
    /// Processes of this machine.
    Local(LocalMachine),
}

/// What a local run needs to know besides the job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalMachine {
    /// The directory that stands for each claim of a `pvc://CLAIM/PATH`.
    pub claims: BTreeMap<String, PathBuf>,
    /// Port of agent 0.
    pub coordinator_port: u16,
}

/// Parses the location in `field`, and refuses one that `backend` cannot reach.
pub fn reachable(field: &str, uri: &str, backend: &Backend) -> Result<Source, Fault> {
    let source = Source::parse(uri)
        .map_err(|error| Fault::invalid(field, error.to_string(), "correct the location"))?;
    match (&source, backend) {
        (Source::Pvc { claim, .. }, Backend::Cluster) if !is_object_name(claim) => {
            Err(Fault::invalid(
                field,
                format!("{claim:?} cannot be the name of a PersistentVolumeClaim"),
                "use lower case letters, digits, \"-\" and \".\"",
            ))
        }
        (Source::Pvc { .. }, Backend::Cluster) | (Source::File { .. }, Backend::Local(_)) => {
            Ok(source)
        }
        (Source::Pvc { claim, .. }, Backend::Local(machine)) => {
            if machine.claims.contains_key(claim) {
                return Ok(source);
            }
            Err(Fault::invalid(
                field,
                format!("no directory stands for the claim {claim}"),
                format!("say which one with --volume {claim}=DIRECTORY, or use file:///PATH"),
            ))
        }
        (Source::File { .. }, Backend::Cluster) => Err(Fault::invalid(
            field,
            format!("{uri} is a path of one machine, and pods run on any"),
            "put the files on a PersistentVolumeClaim and use pvc://CLAIM/PATH",
        )),
        (Source::S3 { .. }, _) => Err(Fault::unsupported(
            field,
            format!(
                "{uri} is in a bucket, which this version cannot read here: from buckets come rows of data.train and data.eval alone"
            ),
            "copy it to a PersistentVolumeClaim and use pvc://CLAIM/PATH",
        )),
        (Source::HuggingFace { .. }, _) => Err(Fault::unsupported(
            field,
            format!("{uri} is in a hub, which this version cannot read"),
            "download it once to a PersistentVolumeClaim and use pvc://CLAIM/PATH",
        )),
    }
}

/// As [`reachable`], for rows: where they are prepared, they may be in a bucket.
pub fn reachable_rows(
    field: &str,
    uri: &str,
    backend: &Backend,
    prepared: bool,
) -> Result<Source, Fault> {
    match Source::parse(uri) {
        Ok(Source::S3 { .. }) if !prepared => Err(Fault::invalid(
            field,
            format!("{uri} is in a bucket, which preparation alone reads, and there is none"),
            "write data.preparation, be it {}",
        )),
        Ok(Source::S3 { key, .. }) if !is_plain(key.strip_suffix('/').unwrap_or(&key)) => {
            Err(Fault::invalid(
                field,
                format!(
                    "{uri} has a key with an empty segment, \".\" or \"..\", of which no path can be made"
                ),
                "name another object, or rename it",
            ))
        }
        Ok(source @ Source::S3 { .. }) => Ok(source),
        _ => reachable(field, uri, backend),
    }
}

/// Whether a key can be a path below a directory.
fn is_plain(key: &str) -> bool {
    key.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The path at which the back end's processes see a location that
/// [`reachable`] let through; empty where it must be fetched first.
pub fn path_of(source: &Source, backend: &Backend) -> PathBuf {
    match (source, backend) {
        (Source::Pvc { claim, path }, Backend::Local(machine)) => {
            machine.claims.get(claim).map(|root| root.join(path)).unwrap_or_default()
        }
        (Source::Pvc { .. } | Source::File { .. }, _) => source.mounted_path().unwrap_or_default(),
        (Source::S3 { .. } | Source::HuggingFace { .. }, _) => PathBuf::new(),
    }
}

/// Whether this can name an object: an RFC 1123 subdomain.
fn is_object_name(name: &str) -> bool {
    let label = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty()
            && part.chars().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Faults of resource figures that the API server would refuse.
pub fn quantity_faults(field: &str, resources: &hearth_crds::pod::Resources) -> Vec<Fault> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let mut faults = Vec::new();
    for (side, figures) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, figure) in figures {
            let good = match figure {
                IntOrString::Int(count) => *count >= 0,
                IntOrString::String(text) => is_quantity(text),
            };
            if !good {
                faults.push(Fault::invalid(
                    format!("{field}.{side}[{name}]"),
                    "is no resource quantity",
                    "write a figure such as 2, 500m or 8Gi",
                ));
            }
        }
    }
    faults
}

/// Whether this is a non-negative Kubernetes quantity
/// (`apimachinery/pkg/api/resource/quantity.go`).
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 15] =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = digits.parse::<f64>().is_ok_and(|n| n.is_finite() && n >= 0.0);
    let plain = digits.starts_with(|c: char| c.is_ascii_digit());
    number && plain && SUFFIXES.contains(&&text[digits.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_back_end_reaches_its_own_locations() {
        let local = Backend::Local(LocalMachine {
            claims: BTreeMap::from([("models".into(), "/srv/models".into())]),
            coordinator_port: 1,
        });
        for (uri, cluster, locally) in [
            ("pvc://models/a", "", ""),
            ("pvc://data/a", "", "--volume data=DIRECTORY"),
            ("pvc://Models/a", "cannot be the name", "--volume Models"),
            ("file:///tmp/a", "pods run on any", ""),
            ("s3://bucket/key", "cannot read", "cannot read"),
            ("hf://org/name", "cannot read", "cannot read"),
            ("models/a", "no known scheme", "no known scheme"),
        ] {
            for (backend, want) in [(&Backend::Cluster, cluster), (&local, locally)] {
                match reachable("spec.x", uri, backend) {
                    Ok(_) => assert_eq!(want, "", "{uri}"),
                    Err(fault) => {
                        let said = fault.to_string();
                        assert!(!want.is_empty() && said.contains(want), "{uri}: {said}");
                    }
                }
            }
        }
        let source = reachable("spec.x", "pvc://models/a/b", &local).unwrap();
        assert_eq!(path_of(&source, &local), PathBuf::from("/srv/models/a/b"));
        assert_eq!(path_of(&source, &Backend::Cluster), PathBuf::from("/mnt/hearth/models/a/b"));
    }

    #[test]
    fn rows_may_be_in_a_bucket_where_they_are_prepared() {
        let local = Backend::Local(LocalMachine::default());
        for (uri, prepared, want) in [
            ("s3://bucket/rows.jsonl", true, ""),
            ("s3://bucket/rows/", true, ""),
            ("s3://bucket/rows.jsonl", false, "write data.preparation"),
            ("s3://bucket/a//b", true, "empty segment"),
            ("s3://bucket//a", true, "empty segment"),
            ("s3://bucket/a/../b", true, "empty segment"),
            ("s3://bucket", true, "s3://BUCKET/KEY"),
            ("hf://org/rows", true, "cannot read"),
        ] {
            for backend in [&Backend::Cluster, &local] {
                let said = reachable_rows("spec.x", uri, backend, prepared).err();
                let said = said.map(|fault| fault.to_string()).unwrap_or_default();
                assert_eq!(said.is_empty(), want.is_empty(), "{uri}: {said}");
                assert!(said.contains(want), "{uri}: {said}");
            }
        }
        let source = Source::parse("s3://bucket/rows/").unwrap();
        assert_eq!(path_of(&source, &Backend::Cluster), PathBuf::new());
    }

    #[test]
    fn quantities_are_known() {
        for (text, good) in [
            ("8Gi", true),
            ("500m", true),
            ("1.5", true),
            ("8GB", false),
            ("-1", false),
            ("", false),
        ] {
            assert_eq!(is_quantity(text), good, "{text}");
        }
    }
}
