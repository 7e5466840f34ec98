//! The routing table: checked once, then used without further doubt.

use std::sync::Arc;

use hearth_crds::routing::{
    Limits, RoutingTable, SHADOW, Split, USER_BUCKETS, Variant, user_bucket, user_hash,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::load::{InFlightOf, Loads};
use crate::meter::Meter;
use crate::turns::{ROUND, Turns};

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
    /// Whose turn it is, where requests are split.
    turns: Arc<Turns>,
    /// The first variant, whatever its weight: the one that has proved itself.
    stable: Option<Target>,
    /// Header that names the user, where users are split.
    user_header: Option<HeaderName>,
    /// Who gets copies of requests, and how many percent.
    shadow: Option<(Target, u32)>,
    /// Counts what becomes of requests, while that is wanted.
    meter: Option<Arc<Meter>>,
}

/// A backend with a share of the traffic.
#[derive(Clone, Debug)]
pub struct Target {
    /// Variant: `stable`, `canary`.
    pub name: String,
    /// Value of `x-hearth-revision`.
    pub revision: HeaderValue,
    /// `HOST:PORT`.
    pub authority: Authority,
    /// Share of requests, of [`Table::total`].
    pub weight: u32,
    /// Requests of this revision that are in flight.
    pub(crate) in_flight: InFlightOf,
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
    /// Not a header's name.
    #[error("split.header {0:?} cannot be the name of a header")]
    Header(String),
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
            let Variant { name, revision, backend, weight } = variant;
            targets.push(Target { weight: *weight, ..target(name, revision, backend)? });
        }
        let sum = variants.iter().map(|variant| u64::from(variant.weight)).sum();
        if !variants.is_empty() && sum != ROUND {
            return Err(TableError::Weights(sum));
        }
        let stable = targets.first().cloned();
        targets.retain(|target| target.weight > 0);
        let total = targets.iter().map(|target| target.weight).sum();
        let user_header = match &document.split {
            Split::Request => None,
            Split::User { header, .. } => {
                let name = header.parse().map_err(|_| TableError::Header(header.clone()))?;
                Some(name)
            }
        };
        let shadow = match &document.shadow {
            Some(shadow) => {
                Some((target(SHADOW, &shadow.revision, &shadow.backend)?, shadow.percent))
            }
            None => None,
        };
        let meter = document.measure.clone().map(Meter::new);
        let turns = Arc::new(Turns::new(rand::random()));
        Ok(Self { document, targets, total, turns, stable, user_header, shadow, meter })
    }

    /// Counts requests in flight where `loads` does.
    pub(crate) fn count_in(&mut self, loads: &Loads) {
        let variants = &self.document.variants;
        let names = variants.iter().map(|variant| (variant.revision.clone(), variant.weight));
        let shadow = self.document.shadow.iter().map(|shadow| (shadow.revision.clone(), 0));
        let counters = loads.follow(self.document.scaling, names.chain(shadow));
        let shadow = self.shadow.iter_mut().map(|(target, _)| target);
        for target in self.targets.iter_mut().chain(&mut self.stable).chain(shadow) {
            let counter = target.revision.to_str().ok().and_then(|name| counters.get(name));
            target.in_flight.clone_from(counter.unwrap_or(&InFlightOf::default()));
        }
    }

    /// Goes on with the counts of `before`, where it measures the same.
    pub(crate) fn keep_counts(&mut self, before: Option<&Self>) {
        let before = before.and_then(|before| before.meter.as_ref());
        if let (Some(meter), Some(before)) = (&mut self.meter, before)
            && meter.measure() == before.measure()
        {
            *meter = Arc::clone(before);
        }
    }

    /// Counts what becomes of requests, while that is wanted.
    pub fn meter(&self) -> Option<&Arc<Meter>> {
        self.meter.as_ref()
    }

    /// Who gets copies of requests, and how many percent.
    pub(crate) fn shadow(&self) -> Option<&(Target, u32)> {
        self.shadow.as_ref()
    }

    /// Who answers where `target` cannot be reached: the first variant, if that is another.
    pub(crate) fn instead_of(&self, target: &Target) -> Option<&Target> {
        self.stable.as_ref().filter(|stable| stable.name != target.name)
    }

    /// Where a request goes, and whether it counts: where users are split, one without a user
    /// does not. Its user does.
    pub(crate) fn pick(&self, headers: &HeaderMap) -> Option<(&Target, bool)> {
        let Some(header) = &self.user_header else {
            return Some((self.choose(self.turns.take())?, true));
        };
        let Some(user) = headers.get(header) else {
            return Some((self.targets.first()?, false));
        };
        let target = self.of_user(user.as_bytes())?;
        if let (Some(meter), Split::User { salt, .. }) = (&self.meter, &self.document.split) {
            meter.user(&target.name, user_hash(salt, user.as_bytes()));
        }
        Some((target, true))
    }

    /// The variant of a user; `None` where users are not split.
    pub(crate) fn of_user(&self, user: &[u8]) -> Option<&Target> {
        let Split::User { salt, .. } = &self.document.split else { return None };
        let (first, others) = self.targets.split_first()?;
        // A variant that grows takes users from the first one, and never from another.
        let mut left = user_bucket(salt, user);
        for target in others {
            let size = target.weight * (USER_BUCKETS / 100);
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => return Some(target),
            }
        }
        Some(first)
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

/// A backend without weight, named as it should be.
fn target(name: &str, revision: &str, backend: &str) -> Result<Target, TableError> {
    let variant = || name.to_owned();
    Ok(Target {
        name: variant(),
        revision: HeaderValue::from_str(revision).map_err(|_| TableError::Revision {
            variant: variant(),
            revision: revision.to_owned(),
        })?,
        authority: authority(backend).ok_or_else(|| TableError::Backend {
            variant: variant(),
            backend: backend.to_owned(),
        })?,
        weight: 0,
        in_flight: InFlightOf::default(),
    })
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
    use hearth_crds::routing::{CANARY, Measure, STABLE};
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
        Table::check(RoutingTable::new("d".into(), variants, limits))
    }

    fn by_user(canary: u32) -> Table {
        let mut document = table(&[100 - canary, canary]).unwrap().document;
        document.variants[0].name = STABLE.into();
        document.variants[1].name = CANARY.into();
        document.split = Split::User { header: "x-user-id".into(), salt: "d/r1".into() };
        Table::check(document).unwrap()
    }

    #[test]
    fn a_user_stays_with_a_variant_and_moves_once_as_its_share_grows() {
        let users: Vec<_> = (0..20_000).map(|user| format!("user-{user}")).collect();
        let is_canary = |table: &Table, user: &str| {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static("x-user-id"),
                user.parse().unwrap(),
            )]);
            let (target, counted) = table.pick(&headers).unwrap();
            assert!(counted);
            assert_eq!(table.of_user(user.as_bytes()).unwrap().name, target.name);
            target.name == CANARY
        };
        let mut before = vec![false; users.len()];
        for weight in [0, 5, 50, 100] {
            let table = by_user(weight);
            let now: Vec<_> = users.iter().map(|user| is_canary(&table, user)).collect();
            let share = now.iter().filter(|is| **is).count() as f64 / users.len() as f64;
            assert!((share - f64::from(weight) / 100.0).abs() < 0.01, "{weight}: {share}");
            assert!(before.iter().zip(&now).all(|(then, now)| *now || !then), "{weight}");
            before = now;
        }
        let half = by_user(50);
        let (target, counted) = half.pick(&HeaderMap::new()).unwrap();
        assert_eq!((target.name.as_str(), counted), (STABLE, false));
    }

    #[test]
    fn counts_go_on_while_the_measurement_is_the_same() {
        let measuring = |id: &str| {
            let mut document = table(&[90, 10]).unwrap().document;
            document.measure = Some(Measure { id: id.into(), interval_seconds: 10 });
            Table::check(document).unwrap()
        };
        let first = measuring("a");
        let (mut same, mut other) = (measuring("a"), measuring("b"));
        same.keep_counts(Some(&first));
        other.keep_counts(Some(&first));
        let is_first = |table: &Table| Arc::ptr_eq(table.meter().unwrap(), first.meter().unwrap());
        assert!(is_first(&same) && !is_first(&other));
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
            (
                "\"limits\"",
                "\"split\":{\"by\":\"User\",\"header\":\"a b\",\"salt\":\"\"},\"limits\"",
                "name of a header",
            ),
            ("{\"deployment\"", "{\"deploy", "cannot be read"),
        ] {
            let said = Table::parse(&good.replacen(old, new, 1)).unwrap_err().to_string();
            assert!(said.contains(want), "{new}: {said}");
        }
        assert!(matches!(table(&[0; 17]), Err(TableError::TooMany(17))));
    }

    /// Of every 100 requests each variant gets its weight, and of 100,000 users to within 0.5 %.
    #[test]
    fn shares_of_many_choices_are_the_weights() {
        const CHOICES: u32 = 100_000;
        let near = |found: u32, weight: u32, what: &str| {
            let share = f64::from(found) / f64::from(CHOICES) * 100.0;
            assert!((share - f64::from(weight)).abs() < 0.5, "{what}: {share} % for {weight} %");
        };
        let weights = [50, 30, 15, 5];
        let table = table(&weights).unwrap();
        for rounds in [1, 7] {
            let mut found = weights.map(|_| 0);
            for _ in 0..rounds * ROUND {
                let (target, _) = table.pick(&HeaderMap::new()).unwrap();
                found[target.name[1..].parse::<usize>().unwrap()] += 1;
            }
            assert_eq!(found.map(|found| found / rounds), weights.map(u64::from));
        }
        for weight in [1, 10, 50, 90] {
            let table = by_user(weight);
            let of = |user: &u32| table.of_user(format!("user-{user}").as_bytes()).unwrap();
            let found = (0..CHOICES).filter(|user| of(user).name == CANARY).count();
            near(u32::try_from(found).unwrap(), weight, "users");
        }
    }

    #[test]
    fn an_empty_table_is_good_and_sends_requests_nowhere() {
        let empty = table(&[]).unwrap();
        assert_eq!(empty.total(), 0);
        assert!(empty.choose(0).is_none());
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
