//! A request's rows, and the features of the entities that they name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hearth_crds::features::{FeatureStore, OnFailure, TIME_FIELD};
use redis::{Pipeline, Value as Answer};
use serde_json::Value;

use crate::config::{View, Views, Wanted};
use crate::error::{ConfigError, LookupError, Reason};
use crate::layout::{entity_of, redis_key};
use crate::link::Link;
use crate::metrics::{FeatureMetrics, Outcome};
use crate::store::{Access, Store};
use crate::value;

/// A row of a request.
pub type Row = serde_json::Map<String, Value>;

/// Most entities of one request, each counted once a view.
pub const MAX_LOOKUPS: usize = 16_384;

/// Longest that a start waits for its store.
const START: Duration = Duration::from_secs(1);

/// Reads features of entities. One serves all requests of a process.
pub struct FeatureClient {
    views: Vec<(Arc<str>, View)>,
    on_failure: OnFailure,
    link: Link,
    metrics: FeatureMetrics,
}

/// What becomes of a row's view.
enum Need {
    /// The row holds all of its features.
    Nothing,
    /// The row has no entity.
    NoKey,
    /// The answer of this number.
    Entity(usize),
}

/// What is stored of an entity.
struct Entity {
    /// Values, in the order of the view's features.
    values: Vec<Result<Value, Reason>>,
    /// Milliseconds; none where the store does not say.
    age: Option<i64>,
}

/// An entity, and what is stored of it, or why nothing is.
struct Answered {
    entity: String,
    stored: Result<Entity, Reason>,
}

/// Entities that a request asks of, each once.
#[derive(Default)]
struct Asked {
    /// View's number and entity.
    entities: Vec<(usize, String)>,
    numbers: HashMap<(usize, String), usize>,
}

impl FeatureClient {
    /// Checks the settings and begins to connect; it waits up to a second for the store, and does without
    /// it until it is there. Must run in tokio.
    pub async fn start(
        store: &FeatureStore,
        access: Access,
        metrics: FeatureMetrics,
    ) -> Result<Self, ConfigError> {
        let views = Views::new(store)?;
        let link = Link::new(Arc::new(Store::new(store, access)?), views.timeout);
        let on_failure = views.on_failure;
        let views = views.all.into_iter().map(|view| (view.name.as_str().into(), view)).collect();
        let client = Self { views, on_failure, link, metrics };
        client.connected(START).await;
        Ok(client)
    }

    /// Waits for the store. False where it is not there within that time.
    pub async fn connected(&self, within: Duration) -> bool {
        self.link.connected(within).await
    }

    /// Looks up what each row lacks and adds it, or changes no row.
    pub async fn join(&self, rows: &mut [Row]) -> Result<(), LookupError> {
        let found = self.lookup(rows).await?;
        merge(rows, found);
        Ok(())
    }

    /// The features that each row lacks, in one round trip. What a row holds itself, be it null, is
    /// not among them.
    pub async fn lookup(&self, rows: &[Row]) -> Result<Vec<Row>, LookupError> {
        let mut asked = Asked::default();
        let needs: Vec<Vec<Need>> = rows.iter().map(|row| self.needs(row, &mut asked)).collect();
        if asked.entities.len() > MAX_LOOKUPS {
            let asked = asked.entities.len();
            return Err(LookupError::TooMany { asked, most: MAX_LOOKUPS });
        }
        let answered = self.ask(asked).await;
        let mut joined = Vec::with_capacity(rows.len());
        for (number, (row, needs)) in rows.iter().zip(&needs).enumerate() {
            joined.push(self.features_of(number, row, needs, &answered)?);
        }
        Ok(joined)
    }

    fn needs(&self, row: &Row, asked: &mut Asked) -> Vec<Need> {
        let views = self.views.iter().enumerate();
        views
            .map(|(number, (name, view))| {
                let held = view.features.iter().filter(|f| row.contains_key(&f.name)).count();
                self.metrics.kept(held as u64);
                if held == view.features.len() {
                    return Need::Nothing;
                }
                let Some(entity) = row.get(&view.key).and_then(entity_of) else {
                    self.metrics.looked_up(name, Outcome::Missing, 1);
                    return Need::NoKey;
                };
                Need::Entity(asked.number(number, entity))
            })
            .collect()
    }

    /// What is stored of each entity.
    async fn ask(&self, asked: Asked) -> Vec<Answered> {
        if asked.entities.is_empty() {
            return Vec::new();
        }
        let mut commands = Pipeline::with_capacity(asked.entities.len());
        for (view, entity) in &asked.entities {
            let view = &self.views[*view].1;
            commands.cmd("HMGET").arg(redis_key(&view.entity, entity)).arg(TIME_FIELD);
            view.features.iter().for_each(|feature| {
                commands.arg(&feature.field);
            });
        }
        let start = Instant::now();
        let answers = self.link.ask(&commands).await;
        self.metrics.took(start.elapsed().as_secs_f64());
        let answers = match answers {
            Ok(answers) if answers.len() == asked.entities.len() => {
                answers.into_iter().map(Ok).collect()
            }
            Ok(_) => vec![Err(Reason::Refused); asked.entities.len()],
            Err(reason) => vec![Err(reason); asked.entities.len()],
        };
        let now = now();
        let asked = asked.entities.into_iter().zip(answers);
        let answered = asked.map(|((view, entity), answer)| {
            let (name, view) = &self.views[view];
            let stored = answer.and_then(|answer| read(&answer, view, now));
            self.count(name, &stored);
            Answered { entity, stored }
        });
        answered.collect()
    }

    fn count(&self, view: &Arc<str>, entity: &Result<Entity, Reason>) {
        let outcome = match entity {
            Ok(entity) => {
                entity.age.into_iter().for_each(|age| self.metrics.aged(age));
                let unreadable = entity.values.contains(&Err(Reason::Unreadable));
                if unreadable { Outcome::Error } else { Outcome::Hit }
            }
            Err(Reason::Stale) => Outcome::Stale,
            Err(Reason::Timeout) => Outcome::Timeout,
            Err(Reason::Down | Reason::Refused | Reason::Unreadable) => Outcome::Error,
            Err(Reason::NoKey | Reason::NoEntity | Reason::NoFeature) => Outcome::Missing,
        };
        self.metrics.looked_up(view, outcome, 1);
    }

    fn features_of(
        &self,
        number: usize,
        row: &Row,
        needs: &[Need],
        answered: &[Answered],
    ) -> Result<Row, LookupError> {
        let mut features = Row::new();
        for ((_, view), need) in self.views.iter().zip(needs) {
            let entity = match need {
                Need::Nothing => continue,
                Need::NoKey => Err(Reason::NoKey),
                Need::Entity(at) => answered[*at].stored.as_ref().map_err(|reason| *reason),
            };
            for (at, feature) in view.features.iter().enumerate() {
                if row.contains_key(&feature.name) {
                    continue;
                }
                let value = entity.and_then(|entity| entity.values[at].clone());
                let value = value.or_else(|reason| self.instead(feature, reason));
                let value = value.map_err(|reason| LookupError::Row {
                    row: number,
                    view: view.name.clone(),
                    entity: match need {
                        Need::Entity(at) => Some(answered[*at].entity.clone()),
                        Need::Nothing | Need::NoKey => None,
                    },
                    feature: Some(feature.name.clone()),
                    reason,
                })?;
                features.insert(feature.name.clone(), value);
            }
        }
        Ok(features)
    }

    /// A feature's default, where it may take the value's place.
    fn instead(&self, feature: &Wanted, reason: Reason) -> Result<Value, Reason> {
        match &feature.default {
            Some(default) if !reason.is_failure() || self.on_failure == OnFailure::Defaults => {
                self.metrics.defaulted(1);
                Ok(default.clone())
            }
            _ => Err(reason),
        }
    }
}

impl Asked {
    fn number(&mut self, view: usize, entity: String) -> usize {
        let entities = &mut self.entities;
        *self.numbers.entry((view, entity)).or_insert_with_key(|asked| {
            entities.push(asked.clone());
            entities.len() - 1
        })
    }
}

/// Adds what was found to rows; what a row holds stays as it is.
fn merge(rows: &mut [Row], found: Vec<Row>) {
    for (row, features) in rows.iter_mut().zip(found) {
        for (name, value) in features {
            row.entry(name).or_insert(value);
        }
    }
}

/// What the store says of an entity.
fn read(answer: &Answer, view: &View, now: i64) -> Result<Entity, Reason> {
    let Answer::Array(fields) = answer else {
        return Err(Reason::Refused);
    };
    let [time, fields @ ..] = fields.as_slice() else {
        return Err(Reason::Refused);
    };
    if fields.len() != view.features.len() {
        return Err(Reason::Refused);
    }
    if [time].into_iter().chain(fields).all(|field| *field == Answer::Nil) {
        return Err(Reason::NoEntity);
    }
    let time = text(time).and_then(|time| time.parse::<i64>().ok());
    let age = time.map(|time| now.saturating_sub(time).max(0));
    if view.max_age.is_some_and(|most| age.is_none_or(|age| age > most)) {
        return Err(Reason::Stale);
    }
    let values = fields.iter().zip(&view.features).map(|(field, feature)| match field {
        Answer::Nil => Err(Reason::NoFeature),
        field => {
            text(field).and_then(|text| value::parse(text, feature.type_)).ok_or(Reason::Unreadable)
        }
    });
    Ok(Entity { values: values.collect(), age })
}

fn text(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
