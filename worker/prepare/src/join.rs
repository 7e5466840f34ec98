//! Features of entities that join rows, each as it was at the row's time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::BooleanArray;
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use hearth_crds::features::{FeatureJoin, FeatureView};
use hearth_crds::preparation::PrepareConfig;
use hearth_crds::worker_config::DataFile;
use hearth_features::{Columns, Fill, History, HistoryOptions, Joined, TableError};

use crate::bad_rows::BadRows;
use crate::error::PrepareError;
use crate::progress::Counter;
use crate::rows::Touched;
use crate::source::{Bad, Bounds, Rows, Source, format_of};

/// The sources of features, in the order of `data.preparation.join`.
pub(crate) fn sources(config: &PrepareConfig) -> Result<Vec<Source>, PrepareError> {
    let joins = &config.preparation.join;
    let open = |(place, join): (usize, &FeatureJoin)| {
        let path = config.features.get(place).cloned();
        let path = path.unwrap_or_else(|| PathBuf::from(&join.source));
        let format = format_of(&path);
        let data = DataFile { path, format, uri: join.source.clone(), ..DataFile::default() };
        Source::open(&data, Touched::of_features(join))
    };
    joins.iter().enumerate().map(open).collect()
}

/// Features of all joins.
#[derive(Default)]
pub(crate) struct Joins {
    all: Vec<Join>,
}

struct Join {
    history: History,
    /// Of the rows that are joined.
    columns: Columns,
    setting: String,
}

impl Joins {
    /// Reads the features.
    pub(crate) fn load(
        config: &PrepareConfig,
        sources: &[Source],
        bounds: Bounds,
        counter: &mut Counter<'_>,
    ) -> Result<Self, PrepareError> {
        let joins = config.preparation.join.iter().zip(sources).enumerate();
        let load = |(place, (join, source)): (usize, (&FeatureJoin, &Source))| {
            let setting = format!("data.preparation.join[{place}]");
            let history = history(join, &setting, source, bounds, counter)?;
            let columns = Columns { key: join.key.clone(), time: join.time.clone() };
            Ok(Join { history, columns, setting })
        };
        Ok(Self { all: joins.map(load).collect::<Result<_, _>>()? })
    }

    /// The schema of joined rows, of rows from `path`.
    pub(crate) fn schema(
        &self,
        schema: &SchemaRef,
        path: &Path,
    ) -> Result<SchemaRef, PrepareError> {
        self.all.iter().try_fold(Arc::clone(schema), |schema, join| {
            let joined = join.history.schema(&schema, &join.columns);
            joined.map(Arc::new).map_err(|error| match error {
                TableError::Internal(_) => PrepareError::internal(error),
                told => join.refused(format!("{}: {told}", path.display())),
            })
        })
    }

    /// Joins rows. Those whose key or time cannot be read are malformed.
    pub(crate) fn join(&self, rows: Rows) -> Result<Rows, PrepareError> {
        self.all.iter().try_fold(rows, |rows, join| join.join(rows))
    }
}

impl Join {
    fn join(&self, mut rows: Rows) -> Result<Rows, PrepareError> {
        let joined = self.history.join(&rows.batch, &self.columns);
        let Joined { rows: batch, flaws } = joined.map_err(PrepareError::internal)?;
        if flaws.is_empty() {
            return Ok(Rows { batch, ..rows });
        }
        let mut keep = vec![true; batch.num_rows()];
        for (row, reason) in flaws {
            keep[row] = false;
            rows.bad.push(Bad { line: rows.lines[row], reason });
        }
        let mut kept = keep.iter();
        rows.lines.retain(|_| kept.next().copied().unwrap_or(true));
        let batch = filter_record_batch(&batch, &BooleanArray::from(keep));
        Ok(Rows { batch: batch.map_err(PrepareError::internal)?, ..rows })
    }

    fn refused(&self, detail: String) -> PrepareError {
        PrepareError::Setting { setting: self.setting.clone(), detail }
    }
}

fn history(
    join: &FeatureJoin,
    setting: &str,
    source: &Source,
    bounds: Bounds,
    counter: &mut Counter<'_>,
) -> Result<History, PrepareError> {
    let seconds = |of: i32| Duration::from_secs(u64::try_from(of).unwrap_or(0));
    let options = HistoryOptions {
        fill: Fill::Defaults,
        delay: seconds(join.delay_seconds),
        ..HistoryOptions::default()
    };
    let view = FeatureView {
        name: "join".to_owned(),
        entity: None,
        key: join.key.clone(),
        features: join.features.clone(),
        max_age_seconds: join.max_age_seconds,
    };
    let columns = Columns {
        key: join.source_key.as_ref().unwrap_or(&join.key).clone(),
        time: join.source_time.as_ref().unwrap_or(&join.time).clone(),
    };
    let refused = |detail: String| PrepareError::Setting { setting: setting.to_owned(), detail };
    let mut builder =
        History::builder(&view, columns, &options).map_err(|error| refused(error.to_string()))?;
    source.each_batch(bounds, &mut BadRows::new(0), counter, &mut |file, first, batch| {
        builder.add(&batch).map_err(|error| match error {
            TableError::Value { ref column, row, wanted } => {
                let detail = format!(
                    "column {column:?} holds what is not {wanted}; repair it, or leave it empty"
                );
                PrepareError::damaged(file, first + row, detail)
            }
            other => refused(format!("{}: {other}", file.display())),
        })
    })?;
    source.unchanged()?;
    Ok(builder.finish())
}
