//! Cleaned rows → what becomes of each.

use hearth_crds::preparation::{PrepareConfig, SplitBy};

use crate::error::PrepareError;
use crate::files::remove_directory;
use crate::progress::Counter;
use crate::rows::Recipe;

use super::alike::alike;
use super::compare::{Rows, exact};
use super::fate::Fates;
use super::near::near;
use super::split::{By, split};

/// Decides, or takes what an earlier run decided.
pub(crate) fn decide(
    config: &PrepareConfig,
    recipe: &Recipe,
    rows: Rows<'_>,
    counter: &mut Counter<'_>,
) -> Result<Fates, PrepareError> {
    let count = rows.train.kept() + rows.eval.map_or(0, super::clean::Cleaned::kept);
    if count >= u64::from(u32::MAX) {
        return Err(PrepareError::Setting {
            setting: "data.train".to_owned(),
            detail: format!("{count} rows; at most {} are prepared at once", u32::MAX - 1),
        });
    }
    let place = rows.scratch.parent().unwrap_or(rows.scratch);
    if let Some(known) = Fates::read(place, count) {
        counter.add(count, rows.steps());
        return Ok(known);
    }
    let writing = |error| PrepareError::writing(rows.scratch, error);
    let mut fates = rows.undecided();
    let deduplicate = config.preparation.deduplicate.as_ref();
    let first_stays = deduplicate.is_some_and(|deduplicate| deduplicate.exact);
    exact(rows, first_stays, &mut fates).map_err(writing)?;
    counter.add(count, 1);
    if let Some(similar) = recipe.similar() {
        near(rows, similar, &mut fates, &mut || counter.add(0, 1)).map_err(writing)?;
    }
    if let Some(distance) = recipe.hash_distance() {
        alike(rows, distance, &mut fates).map_err(writing)?;
    }
    if let (None, Some(share)) = (&config.eval, config.eval_split) {
        let asked = config.preparation.split.as_ref();
        let by = match asked.map(|split| split.by) {
            None | Some(SplitBy::Label) => By::Label,
            Some(SplitBy::Group) => By::Group,
            Some(SplitBy::Time) => By::Time,
        };
        if !split(rows, by, share, config.preparation.seed, &mut fates).map_err(writing)? {
            let detail = match by {
                By::Group => {
                    "all rows are of one group, which cannot be divided; split by Label, or take data.eval"
                }
                By::Label | By::Time => {
                    "too few rows to hold some out for evaluation; take more, or leave evalSplit out"
                }
            };
            let setting = "data.evalSplit".to_owned();
            return Err(PrepareError::Setting { setting, detail: detail.to_owned() });
        }
        if !first_stays {
            // Equal rows may be on both sides now.
            let conflicting = fates.told.conflicting_labels;
            exact(rows, false, &mut fates).map_err(writing)?;
            fates.told.conflicting_labels = conflicting;
        }
    }
    fates.write(place).map_err(writing)?;
    remove_directory(rows.scratch).map_err(writing)?;
    Ok(fates)
}
