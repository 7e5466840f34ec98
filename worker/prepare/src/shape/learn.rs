//! Training rows → what is done with columns, and what rows are made with.

use std::collections::BTreeMap;

use hearth_crds::preparation::{Column, Missing, OutlierMethod, TableAugmentation};
use serde::{Deserialize, Serialize};

use super::Learning;
use super::table::{column, mend};
use crate::error::PrepareError;
use crate::files::{read_json, write_json};
use crate::rows::arrays::{holds_numbers, values_of};
use crate::table::ColumnValues;
use crate::table::rule::{ColumnRule, RuleError};
use crate::table::rules::{LearnedColumn, TableRules};
use crate::table::statistics::{NumberStatistics, Statistics, Wanted};

/// Most labels between whose rows others are made.
const LABELS: usize = 1000;

/// What the training rows taught.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Learned {
    pub(super) rules: TableRules,
    /// Standard deviations of mended numbers, by column: not of the label, nor of what rows are split,
    /// grouped or ordered by.
    pub(super) deviations: BTreeMap<String, f64>,
    /// Rows by label, where that is needed.
    pub(super) labels: BTreeMap<String, u64>,
}

impl Learning<'_> {
    /// What an earlier run wrote down, or else what the rows teach.
    pub(super) fn learned(&self) -> Result<Learned, PrepareError> {
        let path = self.work.join("learned.json");
        if let Some(known) = read_json(&path) {
            return Ok(known);
        }
        let rules = self.rules()?;
        let learned = self.mended(rules)?;
        write_json(&path, &learned).map_err(|error| PrepareError::writing(&path, error))?;
        Ok(learned)
    }

    fn table(&self) -> Option<&TableAugmentation> {
        self.config.preparation.augment.as_ref()?.table.as_ref()
    }

    fn rules(&self) -> Result<TableRules, PrepareError> {
        let specs = self.recipe.columns.resolved(self.schema)?;
        let statistics = self.statistics(&specs)?;
        let mut columns = BTreeMap::new();
        for (name, spec) in specs {
            let statistics = &statistics[&name];
            let rule = ColumnRule::new(&name, &spec, statistics).map_err(refused)?;
            let type_ = spec.type_.ok_or_else(|| PrepareError::internal("a column of no type"))?;
            columns.insert(name, LearnedColumn { type_, min: spec.min, max: spec.max, rule });
        }
        let mut crosses = Vec::new();
        for pair in self.table().iter().flat_map(|table| &table.crosses) {
            let pair = <[String; 2]>::try_from(pair.clone());
            crosses.push(pair.map_err(|_| PrepareError::Setting {
                setting: "data.preparation.augment.table.crosses".to_owned(),
                detail: "each is of two columns; write [A, B]".to_owned(),
            })?);
        }
        Ok(TableRules { columns, crosses })
    }

    /// Statistics of the columns; of no values where none are needed.
    fn statistics(
        &self,
        specs: &BTreeMap<String, Column>,
    ) -> Result<BTreeMap<String, Statistics>, PrepareError> {
        let ranked = |spec: &Column| {
            let fences = spec.outliers.as_ref().is_some_and(|of| of.method == OutlierMethod::IQR);
            fences || spec.missing == Missing::Median
        };
        let needs = |spec: &Column| {
            let missing = matches!(spec.missing, Missing::Mean | Missing::Median | Missing::Mode);
            missing || spec.outliers.is_some()
        };
        let mut all = BTreeMap::new();
        for (name, spec) in specs {
            let field = self.schema.field_with_name(name).map_err(PrepareError::internal)?;
            let kind = if holds_numbers(field.data_type()) {
                ColumnValues::Number(Vec::new())
            } else {
                ColumnValues::Category(Vec::new())
            };
            let wanted = Wanted::of(ranked(spec), spec.missing == Missing::Mode, specs.len());
            all.insert(name.clone(), Statistics::like(&kind, wanted));
        }
        if !specs.values().any(needs) {
            return Ok(all);
        }
        self.reading.training(&mut |batch| {
            for (name, statistics) in all.iter_mut().filter(|(name, _)| needs(&specs[*name])) {
                if let Some(values) = values_of(column(&batch, name)?) {
                    statistics.extend(&values);
                }
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// What mended rows teach.
    fn mended(&self, rules: TableRules) -> Result<Learned, PrepareError> {
        let table = self.table();
        let labels = table.is_some_and(|table| table.smote.is_some());
        let noise = table.is_some_and(|table| table.perturb.is_some() || table.windows.is_some());
        let mut learned = Learned { rules, ..Learned::default() };
        if !labels && !noise {
            return Ok(learned);
        }
        let mut numbers = self.numbers();
        let mut counts = BTreeMap::<String, u64>::new();
        self.reading.training(&mut |batch| {
            let (batch, _) = mend(&learned.rules, batch)?;
            for (name, statistics) in &mut numbers {
                if let Some(ColumnValues::Number(values)) = values_of(column(&batch, name)?) {
                    for value in values {
                        statistics.push(value);
                    }
                }
            }
            if labels {
                for label in self.labels(&batch)?.into_iter().flatten() {
                    *counts.entry(label).or_default() += 1;
                }
            }
            if counts.len() > LABELS {
                let detail = format!("there are over {LABELS} labels, so they are no classes");
                return Err(smote_setting(format!("{detail}; leave it out")));
            }
            Ok(())
        })?;
        learned.labels = counts;
        let deviation = |(name, of): (String, NumberStatistics)| Some((name, of.deviation()?));
        learned.deviations = numbers.into_iter().filter_map(deviation).collect();
        Ok(learned)
    }

    /// Columns of numbers that may vary.
    fn numbers(&self) -> BTreeMap<String, NumberStatistics> {
        let touched = &self.recipe.touched;
        let windows = self.table().and_then(|table| table.windows.as_ref());
        let fixed: Vec<&str> = touched
            .label()
            .into_iter()
            .chain(touched.split().map(|(_, field)| field))
            .chain(touched.time())
            .chain(windows.and_then(|of| of.series.as_deref()))
            .collect();
        let fields = self.schema.fields().iter().filter(|field| {
            holds_numbers(field.data_type()) && !fixed.contains(&field.name().as_str())
        });
        let none = Wanted { exact: 0, distinct: 0 };
        fields.map(|field| (field.name().clone(), NumberStatistics::new(none))).collect()
    }

    /// Labels of rows, as texts.
    pub(super) fn labels(
        &self,
        batch: &arrow_array::RecordBatch,
    ) -> Result<Vec<Option<String>>, PrepareError> {
        let name = self.recipe.touched.label().ok_or_else(|| {
            smote_setting(
                "rows have no label whose rare values it could add to; leave it out".into(),
            )
        })?;
        match values_of(column(batch, name)?) {
            Some(ColumnValues::Category(labels)) => Ok(labels),
            Some(ColumnValues::Number(labels)) => {
                Ok(labels.into_iter().map(|label| label.map(|label| label.to_string())).collect())
            }
            None => Err(smote_setting(format!("labels ({name:?}) are no classes; leave it out"))),
        }
    }
}

/// What is wrong with `smote`.
pub(super) fn smote_setting(detail: String) -> PrepareError {
    PrepareError::Setting { setting: "data.preparation.augment.table.smote".to_owned(), detail }
}

fn refused(error: RuleError) -> PrepareError {
    let RuleError { column, field, detail } = error;
    let setting = format!("data.preparation.table.columns.{column}.{field}");
    PrepareError::Setting { setting, detail }
}
