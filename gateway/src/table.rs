//! The routing table: checked once, then used without further doubt.

use hearth_crds::routing::{Limits, RoutingTable};
use http::HeaderValue;
use http::uri::Authority;

/// Most variants of a table: names are metric labels, whose number is bounded.
const MAX_VARIANTS: usize = 16;

/// A table that can be routed by.
#[derive(Clone, Debug)]
pub struct Table {
    /// As it was written.
    pub document: RoutingTable,
    /// Backends with a share of the traffic, in the table's order. Empty before
    /// the first revision is ready.
    targets: Vec<Target>,
    /// Sum of the targets' weights; above 0 where there are targets.
    total: u32,
}

/// A backend with a share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Variant: `stable`, `canary`.
    pub name: String,
    /// Value of `x-hearth-revision`.
    pub revision: HeaderValue,
    /// `HOST:PORT`.
    pub authority: Authority,
    /// Share of requests, of [`Table::total`].
    pub weight: u32,
}

/// Why a document is no routing table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Not JSON of this form.
    #[error("the routing table cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// More than [`MAX_VARIANTS`].
    #[error("the routing table has {0} variants; the most is {MAX_VARIANTS}")]
    TooMany(usize),
    /// Two variants of one name, or one without a name.
    #[error("the routing table needs variants with distinct names; {0:?} is empty or twice there")]
    Name(String),
    /// Weights are percentages.
    #[error("the weights of the variants add up to {0}; they must add up to 100")]
    Weights(u64),
    /// Not `HOST:PORT`.
    #[error("backend {backend:?} of variant {variant:?} is not HOST:PORT")]
    Backend {
        /// Variant.
        variant: String,
        /// What was given.
        backend: String,
    },
    /// Not a header value.
    #[error("revision {revision:?} of variant {variant:?} cannot be a header")]
    Revision {
        /// Variant.
        variant: String,
        /// What was given.
        revision: String,
    },
}

impl Table {
    /// Reads the JSON document of `hearth_crds::routing`.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        Self::check(serde_json::from_str(text)?)
    }

    /// Checks what the types cannot say.
    pub fn check(document: RoutingTable) -> Result<Self, TableError> {
        let variants = &document.variants;
        if variants.len() > MAX_VARIANTS {
            return Err(TableError::TooMany(variants.len()));
        }
        let mut targets = Vec::with_capacity(variants.len());
        for (place, variant) in variants.iter().enumerate() {
            let repeated = variants[..place].iter().any(|other| other.name == variant.name);
            if variant.name.is_empty() || repeated {
                return Err(TableError::Name(variant.name.clone()));
            }
            targets.push(Target {
                name: variant.name.clone(),
                revision: HeaderValue::from_str(&variant.revision).map_err(|_| {
                    TableError::Revision {
                        variant: variant.name.clone(),
                        revision: variant.revision.clone(),
                    }
                })?,
                authority: authority(&variant.backend).ok_or_else(|| TableError::Backend {
                    variant: variant.name.clone(),
                    backend: variant.backend.clone(),
                })?,
                weight: variant.weight,
            });
        }
        let sum = variants.iter().map(|variant| u64::from(variant.weight)).sum();
        if !variants.is_empty() && sum != 100 {
            return Err(TableError::Weights(sum));
        }
        targets.retain(|target| target.weight > 0);
        let total = targets.iter().map(|target| target.weight).sum();
        Ok(Self { document, targets, total })
    }

    /// What the gateway lets in.
    pub fn limits(&self) -> &Limits {
        &self.document.limits
    }

    /// Sum of weights; 0 where there is nowhere to send a request.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The target of a request that drew `draw`. Over all draws in
    /// `0..total()`, each target comes up as often as its weight says.
    pub fn choose(&self, draw: u32) -> Option<&Target> {
        let mut left = draw;
        self.targets.iter().find(|target| match left.checked_sub(target.weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
    }
}

/// `HOST:PORT` with nothing around it.
fn authority(backend: &str) -> Option<Authority> {
    let authority: Authority = backend.parse().ok()?;
    let plain = authority.port_u16().is_some_and(|port| port > 0)
        && !authority.host().is_empty()
        && !backend.contains('@');
    plain.then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_crds::routing::Variant;
    use proptest::prelude::*;

    fn table(weights: &[u32]) -> Result<Table, TableError> {
        let variants = weights
            .iter()
            .enumerate()
            .map(|(place, weight)| Variant {
                name: format!("v{place}"),
                revision: format!("r{place}"),
                backend: format!("server-{place}:8080"),
                weight: *weight,
            })
            .collect();
        let limits =
            Limits { max_body_bytes: 1, max_in_flight_requests: 1, request_timeout_seconds: 1 };
        Table::check(RoutingTable { deployment: "d".into(), variants, limits })
    }

    #[test]
    fn what_cannot_be_routed_by_is_refused_with_the_reason() {
        let good = r#"{"deployment":"d","variants":[{"name":"stable","revision":"r1",
            "backend":"d-server-r1:8080","weight":100}],"limits":{"maxBodyBytes":1,
            "maxInFlightRequests":1,"requestTimeoutSeconds":1}}"#;
        assert_eq!(Table::parse(good).unwrap().total(), 100);
        for (old, new, want) in [
            ("\"weight\":100", "\"weight\":99", "add up to 99"),
            ("\"weight\":100", "\"weight\":100,\"colour\":1", "unknown field `colour`"),
            ("d-server-r1:8080", "d-server-r1", "is not HOST:PORT"),
            ("d-server-r1:8080", "user@host:80", "is not HOST:PORT"),
            ("d-server-r1:8080", "host:0", "is not HOST:PORT"),
            ("d-server-r1:8080", "http://host:80/x", "is not HOST:PORT"),
            ("\"revision\":\"r1\"", "\"revision\":\"r\\n1\"", "cannot be a header"),
            ("\"name\":\"stable\"", "\"name\":\"\"", "distinct names"),
            ("{\"deployment\"", "{\"deploy", "cannot be read"),
        ] {
            let said = Table::parse(&good.replacen(old, new, 1)).unwrap_err().to_string();
            assert!(said.contains(want), "{new}: {said}");
        }
        assert!(matches!(table(&[0; 17]), Err(TableError::TooMany(17))));
    }

    #[test]
    fn an_empty_table_is_good_and_sends_requests_nowhere() {
        let empty = table(&[]).unwrap();
        assert_eq!(empty.total(), 0);
        assert_eq!(empty.choose(0), None);
    }

    proptest! {
        #[test]
        fn each_target_gets_exactly_its_share(cuts in proptest::collection::vec(0_u32..=100, 0..8)) {
            let mut edges = cuts;
            edges.extend([0, 100]);
            edges.sort_unstable();
            let weights: Vec<u32> = edges.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let table = table(&weights).unwrap();
            let mut seen = vec![0_u32; weights.len()];
            for draw in 0..table.total() {
                let target = table.choose(draw).unwrap();
                seen[target.name[1..].parse::<usize>().unwrap()] += 1;
            }
            prop_assert_eq!(seen, weights);
            prop_assert!(table.choose(table.total()).is_none());
        }
    }
}
