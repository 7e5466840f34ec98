//! Columns of lists, such as windows of a time series: a feature of each place.
//!
//! A column `load` of lists of 24 numbers becomes the features `load[0]` to `load[23]`. All lists of a
//! column have the length of the first, for a tree knows a place and no end.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use arrow_select::take::take;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Result, TabularError};
use crate::learn::FeatureOptions;

/// Most numbers of a list.
const MOST_PLACES: usize = 100_000;

/// A column whose lists are as long as one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListColumn {
    /// Its name.
    pub name: String,
    /// Numbers of each list.
    pub length: usize,
}

impl ListColumn {
    /// Names of its features, in the order of their places.
    pub fn places(&self) -> impl Iterator<Item = String> {
        (0..self.length).map(|place| place_name(&self.name, place))
    }
}

/// The name of the feature at a place of a column's lists.
pub(crate) fn place_name(column: &str, place: usize) -> String {
    format!("{column}[{place}]")
}

/// Of each place's feature, the column and the place.
pub(crate) fn by_place(lists: &[ListColumn]) -> HashMap<String, (&str, usize)> {
    let places = |list: &'_ ListColumn| {
        let name = list.name.clone();
        (0..list.length).map(move |place| (place_name(&name, place), place))
    };
    let all = lists.iter().flat_map(|list| {
        places(list).map(|(feature, place)| (feature, (list.name.as_str(), place)))
    });
    all.collect()
}

/// Columns of lists of numbers in rows of that schema that an option does not leave out. Their lengths are
/// those of the first row, or an error says what is wrong with it.
pub(crate) fn found(
    batch: &RecordBatch,
    label: &str,
    options: &FeatureOptions,
) -> Result<Vec<ListColumn>> {
    let mut lists = Vec::new();
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let name = field.name();
        let unasked = options.features.as_ref().is_some_and(|asked| !asked.contains(name));
        let left_out = unasked || options.excluded.contains(name) || name == label;
        if left_out || !holds_numbers(field.data_type()) || array.is_empty() {
            continue;
        }
        let length = match span(array, 0) {
            Some((_, length)) if (1..=MOST_PLACES).contains(&length) => length,
            Some((_, length)) => {
                let detail = format!(
                    "row 0 has a list of {length} numbers; 1 to {MOST_PLACES} are learned from; exclude it"
                );
                return Err(TabularError::column(name, detail));
            }
            None => return Err(TabularError::column(name, none(0))),
        };
        lists.push(ListColumn { name: name.clone(), length });
    }
    Ok(lists)
}

/// Options as the columns in place of lists have them: the name of a list stands for all its places.
pub(crate) fn options(asked: &FeatureOptions, lists: &[ListColumn]) -> FeatureOptions {
    let each = |names: &Vec<String>| -> Vec<String> {
        let of = |name: &String| match lists.iter().find(|list| list.name == *name) {
            Some(list) => list.places().collect(),
            None => vec![name.clone()],
        };
        names.iter().flat_map(of).collect()
    };
    FeatureOptions {
        features: asked.features.as_ref().map(each),
        excluded: each(&asked.excluded),
        categories: each(&asked.categories),
        labels: asked.labels.clone(),
    }
}

/// Rows with a column of each place in place of `lists`. `before` rows came before these.
///
/// # Errors
///
/// A list of another length, which the error names with its row, a row without one, and a column that is
/// called as a place.
pub(crate) fn spread(
    batch: &RecordBatch,
    lists: &[ListColumn],
    before: usize,
) -> Result<RecordBatch> {
    let schema = batch.schema_ref();
    let (mut fields, mut columns): (Vec<Arc<Field>>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (field, array) in schema.fields().iter().zip(batch.columns()) {
        match lists.iter().find(|list| list.name == *field.name()) {
            None => {
                fields.push(Arc::clone(field));
                columns.push(Arc::clone(array));
            }
            Some(list) => {
                for (name, column) in list.places().zip(list.columns(array, before)?) {
                    if schema.field_with_name(&name).is_ok() {
                        let detail = format!("rows have a column {name:?} besides; rename one");
                        return Err(TabularError::column(&list.name, detail));
                    }
                    fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
                    columns.push(column);
                }
            }
        }
    }
    let spread = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
    spread.map_err(|error| TabularError::Data(error.to_string()))
}

impl ListColumn {
    /// A column of each place.
    fn columns(&self, array: &ArrayRef, before: usize) -> Result<Vec<ArrayRef>> {
        let wrong = |detail: String| TabularError::column(&self.name, detail);
        let Some(values) = values(array) else {
            let held = array.data_type();
            return Err(wrong(format!("it holds {held}, and lists of numbers in training rows")));
        };
        let mut starts = Vec::with_capacity(array.len());
        for row in 0..array.len() {
            match span(array, row) {
                Some((start, length)) if length == self.length => starts.push(start as u64),
                Some((_, length)) => {
                    let (row, first) = (before + row, self.length);
                    return Err(wrong(format!(
                        "row {row} has a list of {length} numbers, and the first row one of {first}; give all lists one length, or exclude the column"
                    )));
                }
                None => return Err(wrong(none(before + row))),
            }
        }
        let at = |place: usize| {
            let indices: UInt64Array = starts.iter().map(|start| start + place as u64).collect();
            let taken = take(values, &indices, None);
            taken.map_err(|error| wrong(error.to_string()))
        };
        (0..self.length).map(at).collect()
    }

    /// Puts what a row of a request has under the column's name under those of its places; what is wrong
    /// with it else. Without a list, or with `null`, all places are missing.
    fn spread_row(&self, row: &mut Map<String, Value>) -> std::result::Result<(), String> {
        let numbers = match row.remove(&self.name) {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(numbers)) => numbers,
            Some(_) => return Err(format!("is no list; write one of {} numbers", self.length)),
        };
        if numbers.len() != self.length {
            let found = numbers.len();
            return Err(format!("is a list of {found}; write one of {} numbers", self.length));
        }
        row.extend(self.places().zip(numbers));
        Ok(())
    }
}

/// Rows of a request with a field of each place in place of `lists`.
pub(crate) fn spread_rows(
    rows: &[Map<String, Value>],
    lists: &[ListColumn],
) -> Result<Vec<Map<String, Value>>> {
    let mut spread = rows.to_vec();
    for (number, row) in spread.iter_mut().enumerate() {
        for list in lists {
            let done = list.spread_row(row);
            done.map_err(|detail| TabularError::row(number, &list.name, detail))?;
        }
    }
    Ok(spread)
}

fn none(row: usize) -> String {
    format!("row {row} has no list; have the preparation drop such rows, or exclude the column")
}

/// Whether a type is of lists of numbers, or of `true` and `false`.
fn holds_numbers(data_type: &DataType) -> bool {
    let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) =
        data_type
    else {
        return false;
    };
    let item = item.data_type();
    item.is_integer() || matches!(item, DataType::Float64 | DataType::Float32 | DataType::Boolean)
}

/// The numbers of all lists, one after another.
fn values(array: &ArrayRef) -> Option<&dyn Array> {
    if !holds_numbers(array.data_type()) {
        return None;
    }
    Some(match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().values(),
        DataType::LargeList(_) => array.as_list::<i64>().values(),
        _ => array.as_fixed_size_list().values(),
    })
}

/// Where a row's list starts among the numbers, and its length; `None` where there is none.
fn span(array: &ArrayRef, row: usize) -> Option<(usize, usize)> {
    if array.is_null(row) {
        return None;
    }
    let whole = |number: i64| usize::try_from(number).unwrap_or(0);
    let between = |start: i64, end: i64| (whole(start), whole(end - start));
    Some(match array.data_type() {
        DataType::List(_) => {
            let offsets = array.as_list::<i32>().value_offsets();
            between(offsets[row].into(), offsets[row + 1].into())
        }
        DataType::LargeList(_) => {
            let offsets = array.as_list::<i64>().value_offsets();
            between(offsets[row], offsets[row + 1])
        }
        _ => {
            let lists = array.as_fixed_size_list();
            (lists.value_offset_at(row), whole(lists.value_length().into()))
        }
    })
}

#[cfg(test)]
mod tests {
    use arrow_array::types::{Float64Type, Int64Type};
    use arrow_array::{FixedSizeListArray, Int64Array, ListArray};

    use super::*;

    fn batch(lists: Vec<Option<Vec<Option<f64>>>>) -> RecordBatch {
        let rows = i64::try_from(lists.len()).unwrap();
        let load: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists));
        let hour: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("load", load), ("hour", hour)]).unwrap()
    }

    fn whole(numbers: &[f64]) -> Vec<Option<f64>> {
        numbers.iter().copied().map(Some).collect()
    }

    fn names(batch: &RecordBatch) -> Vec<String> {
        batch.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    #[test]
    fn a_list_becomes_a_column_of_each_place() {
        let mut lists =
            vec![Some(whole(&[9.0, 9.0])), Some(whole(&[1.0, 2.0])), Some(whole(&[3.0, 4.0]))];
        lists.push(Some(vec![None, Some(6.0)]));
        // Rows that were cut off a larger batch start in the middle of the numbers.
        let batch = batch(lists).slice(1, 3);
        let lists = found(&batch, "y", &FeatureOptions::default()).unwrap();
        assert_eq!(lists, [ListColumn { name: "load".to_owned(), length: 2 }]);
        let spread = spread(&batch, &lists, 0).unwrap();
        assert_eq!(names(&spread), ["load[0]", "load[1]", "hour"]);
        let of = |column: usize| -> Vec<Option<f64>> {
            spread.column(column).as_primitive::<Float64Type>().iter().collect()
        };
        assert_eq!(of(0), [Some(1.0), Some(3.0), None]);
        assert_eq!(of(1), [Some(2.0), Some(4.0), Some(6.0)]);
    }

    #[test]
    fn lists_of_a_fixed_size_are_the_same() {
        let rows = [Some(vec![Some(1), Some(2)]), Some(vec![Some(3), Some(4)])];
        let made = FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(rows, 2);
        let batch = RecordBatch::try_from_iter([("a", Arc::new(made) as ArrayRef)]).unwrap();
        let lists = found(&batch, "y", &FeatureOptions::default()).unwrap();
        let spread = spread(&batch.slice(1, 1), &lists, 1).unwrap();
        assert_eq!(spread.column(1).as_primitive::<Int64Type>().values(), &[4]);
    }

    #[test]
    fn lists_of_other_lengths_are_refused_with_their_row() {
        let good = batch(vec![Some(whole(&[1.0, 2.0]))]);
        let lists = found(&good, "y", &FeatureOptions::default()).unwrap();
        let refused = |lists_of: Vec<Option<Vec<Option<f64>>>>| {
            spread(&batch(lists_of), &lists, 100).unwrap_err().to_string()
        };
        let told = refused(vec![Some(whole(&[1.0, 2.0])), Some(whole(&[1.0]))]);
        assert!(told.starts_with("column \"load\": row 101 has a list of 1 numbers"), "{told}");
        assert!(refused(vec![None]).contains("row 100 has no list"));
        let none = batch(vec![Some(Vec::new())]);
        let told = found(&none, "y", &FeatureOptions::default()).unwrap_err().to_string();
        assert!(told.contains("row 0 has a list of 0 numbers"), "{told}");
    }

    #[test]
    fn names_stand_for_all_places_and_what_is_left_out_stays() {
        let batch = batch(vec![Some(whole(&[1.0, 2.0]))]);
        let exclude = |name: &str| FeatureOptions {
            excluded: vec![name.to_owned()],
            ..FeatureOptions::default()
        };
        assert_eq!(found(&batch, "y", &exclude("load")).unwrap(), []);
        let only =
            FeatureOptions { features: Some(vec!["hour".to_owned()]), ..FeatureOptions::default() };
        assert_eq!(found(&batch, "y", &only).unwrap(), []);
        let lists = found(&batch, "y", &exclude("hour")).unwrap();
        let asked = FeatureOptions {
            features: Some(vec!["hour".to_owned(), "load".to_owned()]),
            ..FeatureOptions::default()
        };
        let each = options(&asked, &lists).features.unwrap();
        assert_eq!(each, ["hour", "load[0]", "load[1]"]);
    }

    #[test]
    fn a_request_has_the_list_under_its_name() {
        let lists = [ListColumn { name: "load".to_owned(), length: 2 }];
        let row = |json: &str| -> Map<String, Value> { serde_json::from_str(json).unwrap() };
        let spread = |json: &str| {
            spread_rows(&[row("{}"), row(json)], &lists)
                .map(|mut rows| Value::Object(rows.remove(1)))
                .map_err(|error| error.to_string())
        };
        let want: Value = serde_json::from_str(r#"{"load[0]": 1.5, "load[1]": null}"#).unwrap();
        assert_eq!(spread(r#"{"load": [1.5, null]}"#).unwrap(), want);
        let told = spread(r#"{"load": [1]}"#).unwrap_err();
        assert_eq!(told, "row 1: field \"load\" is a list of 1; write one of 2 numbers");
        assert!(spread(r#"{"load": 1}"#).unwrap_err().contains("is no list"));
    }
}
