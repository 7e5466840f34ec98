//! Columns of tables: values read as the types that the spec names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use hearth_crds::preparation::{Column, ColumnType, Missing};
use jiff::Timestamp;

use super::value::{Scalar, scalar};
use crate::error::PrepareError;
use crate::table::rule::flaw;

/// Whole numbers up to which doubles tell all of them apart.
const WHOLE: f64 = 9_007_199_254_740_992.0;

/// The columns that the spec says something of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Columns {
    specs: BTreeMap<String, Column>,
}

/// What is wrong with a value, or what it is.
pub(super) type Read<T> = Result<Option<T>, &'static str>;

impl Columns {
    pub(crate) fn new(specs: &BTreeMap<String, Column>) -> Self {
        Self { specs: specs.clone() }
    }

    /// The schema of rows once they are read, of a source at `path`.
    pub(crate) fn schema(
        &self,
        schema: &SchemaRef,
        path: &Path,
    ) -> Result<SchemaRef, PrepareError> {
        let mut fields: Vec<Field> =
            schema.fields().iter().map(|field| Field::clone(field)).collect();
        for (name, spec) in &self.specs {
            let Some(field) = fields.iter_mut().find(|field| field.name() == name) else {
                let detail = format!("no row of {} has it; name another", path.display());
                return Err(setting(name, detail));
            };
            let type_ = type_of(name, spec, field.data_type())?;
            if (spec.min.is_some() || spec.max.is_some()) && !is_number(type_) {
                return Err(setting(name, "only numbers have min and max; leave them out".into()));
            }
            *field = Field::new(name, arrow_type(type_), true);
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// What each column is read as, its type filled in, of rows that are read.
    pub(crate) fn resolved(
        &self,
        schema: &Schema,
    ) -> Result<BTreeMap<String, Column>, PrepareError> {
        let mut specs = self.specs.clone();
        for (name, spec) in &mut specs {
            let field = schema.field_with_name(name).map_err(PrepareError::internal)?;
            spec.type_ = Some(type_of(name, spec, field.data_type())?);
        }
        Ok(specs)
    }

    /// Reads a batch's values as their types; and what is wrong with each row.
    pub(crate) fn read(
        &self,
        batch: &RecordBatch,
    ) -> Result<(RecordBatch, Vec<Option<String>>), PrepareError> {
        let mut flaws = vec![None; batch.num_rows()];
        if self.specs.is_empty() {
            return Ok((batch.clone(), flaws));
        }
        let mut fields: Vec<_> = batch.schema_ref().fields().iter().cloned().collect();
        let mut columns = batch.columns().to_vec();
        for (name, spec) in &self.specs {
            let index = batch.schema_ref().index_of(name).map_err(PrepareError::internal)?;
            let type_ = type_of(name, spec, columns[index].data_type())?;
            let spec = Column { type_: Some(type_), ..spec.clone() };
            columns[index] = column(&columns[index], &spec, &mut |row, what| {
                let flaw: &mut Option<String> = &mut flaws[row];
                flaw.get_or_insert_with(|| format!("field {name:?} {what}"));
            });
            fields[index] = Arc::new(Field::new(name, arrow_type(type_), true));
        }
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(schema, columns).map_err(PrepareError::internal)?;
        Ok((batch, flaws))
    }

    /// Columns whose rows without a value go.
    pub(crate) fn needed(&self) -> impl Iterator<Item = &str> {
        let needed = self.specs.iter().filter(|(_, spec)| spec.missing == Missing::Drop);
        needed.map(|(name, _)| name.as_str())
    }
}

fn setting(name: &str, detail: String) -> PrepareError {
    PrepareError::Setting { setting: format!("data.preparation.table.columns.{name}"), detail }
}

fn is_number(type_: ColumnType) -> bool {
    matches!(type_, ColumnType::Number | ColumnType::Integer)
}

fn arrow_type(type_: ColumnType) -> DataType {
    match type_ {
        ColumnType::Number => DataType::Float64,
        ColumnType::Integer => DataType::Int64,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Category | ColumnType::Text | ColumnType::Timestamp => DataType::Utf8,
    }
}

/// The type as which a column is read.
fn type_of(name: &str, spec: &Column, found: &DataType) -> Result<ColumnType, PrepareError> {
    let of_values = match found {
        DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => {
            ColumnType::Number
        }
        DataType::Boolean => ColumnType::Boolean,
        DataType::Utf8 => ColumnType::Text,
        DataType::Timestamp(..) | DataType::Date32 => ColumnType::Timestamp,
        whole if whole.is_integer() => ColumnType::Integer,
        other => {
            let detail = format!("it holds {other}, of which no column is made; leave it out");
            return Err(setting(name, detail));
        }
    };
    match spec.type_ {
        Some(type_) if of_values == ColumnType::Timestamp && type_ != of_values => {
            Err(setting(name, format!("it holds {found}; write the type Timestamp")))
        }
        Some(type_) => Ok(type_),
        None => Ok(of_values),
    }
}

/// A column read as its type; `refuse` is told of values that are none.
fn column(array: &ArrayRef, spec: &Column, refuse: &mut dyn FnMut(usize, &str)) -> ArrayRef {
    let unit = match array.data_type() {
        DataType::Decimal128(_, scale) => Some(10_f64.powi(-i32::from(*scale))),
        _ => None,
    };
    let mut told = |row: usize, what: &'static str| refuse(row, what);
    let rows = 0..array.len();
    let at = |row| scalar(array, row);
    match spec.type_ {
        Some(ColumnType::Number) => {
            let read = |row| known(row, number(at(row), unit, spec), &mut told);
            Arc::new(rows.map(read).collect::<Float64Array>())
        }
        Some(ColumnType::Integer) => {
            let read = |row| known(row, whole(at(row), unit, spec), &mut told);
            Arc::new(rows.map(read).collect::<Int64Array>())
        }
        Some(ColumnType::Boolean) => {
            let read = |row| known(row, boolean(at(row)), &mut told);
            Arc::new(rows.map(read).collect::<BooleanArray>())
        }
        Some(ColumnType::Timestamp) => {
            let read = |row| known(row, time(array.data_type(), at(row)), &mut told);
            Arc::new(rows.map(read).collect::<StringArray>())
        }
        Some(ColumnType::Category | ColumnType::Text) | None => {
            let read = |row| known(row, text(at(row), unit), &mut told);
            Arc::new(rows.map(read).collect::<StringArray>())
        }
    }
}

fn known<T>(row: usize, read: Read<T>, refuse: &mut dyn FnMut(usize, &'static str)) -> Option<T> {
    read.unwrap_or_else(|what| {
        refuse(row, what);
        None
    })
}

fn number(value: Scalar<'_>, unit: Option<f64>, spec: &Column) -> Read<f64> {
    let found = match value {
        Scalar::Null => return Ok(None),
        Scalar::Float(number) if number.is_nan() => return Ok(None),
        Scalar::Text(text) if text.trim().is_empty() => return Ok(None),
        Scalar::Int(number) => number as f64 * unit.unwrap_or(1.0),
        Scalar::Float(number) => number,
        Scalar::Text(text) => text.trim().parse().map_err(|_| "is not a number")?,
        Scalar::Bool(_) | Scalar::Bytes(_) | Scalar::Parts => return Err("is not a number"),
    };
    if !found.is_finite() {
        return Err("is not a finite number");
    }
    flaw(spec, found).map_or(Ok(Some(found)), Err)
}

#[expect(clippy::cast_possible_truncation, reason = "a whole number within 2^53")]
fn whole(value: Scalar<'_>, unit: Option<f64>, spec: &Column) -> Read<i64> {
    match number(value, unit, spec)? {
        Some(found) if found.abs() > WHOLE => {
            Err("is beyond 2^53, where numbers lose digits; make the column a Category")
        }
        found => Ok(found.map(|found| found as i64)),
    }
}

fn boolean(value: Scalar<'_>) -> Read<bool> {
    match value {
        Scalar::Null => Ok(None),
        Scalar::Bool(flag) => Ok(Some(flag)),
        Scalar::Int(0) => Ok(Some(false)),
        Scalar::Int(1) => Ok(Some(true)),
        Scalar::Text(text) => match text.trim() {
            "" => Ok(None),
            "0" => Ok(Some(false)),
            "1" => Ok(Some(true)),
            text if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            text if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            _ => Err("is neither true nor false"),
        },
        _ => Err("is neither true nor false"),
    }
}

/// A value as it is written.
pub(super) fn text(value: Scalar<'_>, unit: Option<f64>) -> Read<String> {
    match (value, unit) {
        (Scalar::Null, _) => Ok(None),
        (Scalar::Float(number), _) if number.is_nan() => Ok(None),
        (Scalar::Int(number), Some(unit)) => Ok(Some((number as f64 * unit).to_string())),
        (Scalar::Int(number), None) => Ok(Some(number.to_string())),
        (Scalar::Float(number), _) => Ok(Some(number.to_string())),
        (Scalar::Bool(flag), _) => Ok(Some(flag.to_string())),
        (Scalar::Text(text), _) => Ok(Some(text.to_owned())),
        (Scalar::Bytes(_) | Scalar::Parts, _) => Err("is not a text"),
    }
}

/// RFC 3339.
fn time(data_type: &DataType, value: Scalar<'_>) -> Read<String> {
    const NONE: &str = "is not a time as RFC 3339 has it";
    let of = |number: i128, each: i128| {
        let nanoseconds = number.checked_mul(each)?;
        Timestamp::from_nanosecond(nanoseconds).ok().map(|time| time.to_string())
    };
    let each = match data_type {
        DataType::Date32 => 86_400_000_000_000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => 1,
        _ => 0,
    };
    match value {
        Scalar::Null => Ok(None),
        Scalar::Text(text) if text.trim().is_empty() => Ok(None),
        Scalar::Text(text) if text.trim().parse::<Timestamp>().is_ok() => {
            Ok(Some(text.trim().to_owned()))
        }
        Scalar::Int(number) if each > 0 => of(number, each).map(Some).ok_or(NONE),
        _ => Err(NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(array: ArrayRef, spec: &Column) -> (ArrayRef, Vec<Option<String>>) {
        let columns = Columns { specs: [("c".to_owned(), spec.clone())].into() };
        let batch = RecordBatch::try_from_iter_with_nullable([("c", array, true)]).unwrap();
        let schema = columns.schema(&batch.schema(), Path::new("rows")).unwrap();
        let (batch, flaws) = columns.read(&batch).unwrap();
        assert_eq!(batch.schema(), schema);
        (Arc::clone(batch.column(0)), flaws)
    }

    fn spec(type_: ColumnType) -> Column {
        Column { type_: Some(type_), ..Column::default() }
    }

    #[test]
    fn values_are_read_as_their_type_or_named() {
        let texts: ArrayRef =
            Arc::new(StringArray::from(vec![Some("1.5"), Some(" 2 "), Some(""), Some("x"), None]));
        let (numbers, flaws) = read(Arc::clone(&texts), &spec(ColumnType::Number));
        let want = Float64Array::from(vec![Some(1.5), Some(2.0), None, None, None]);
        assert_eq!(numbers.as_ref(), &want);
        let told = |what: &str| Some(format!("field \"c\" {what}"));
        assert_eq!(flaws, [None, None, None, told("is not a number"), None]);

        let (whole, flaws) = read(texts, &spec(ColumnType::Integer));
        assert_eq!(whole.as_ref(), &Int64Array::from(vec![None, Some(2), None, None, None]));
        assert_eq!(flaws[0], told("is not a whole number"));

        let answers: ArrayRef = Arc::new(StringArray::from(vec!["True", "0", "no"]));
        let (answers, flaws) = read(answers, &spec(ColumnType::Boolean));
        assert_eq!(answers.as_ref(), &BooleanArray::from(vec![Some(true), Some(false), None]));
        assert_eq!(flaws[2], told("is neither true nor false"));

        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7, 1 << 60]));
        let (texts, flaws) = read(Arc::clone(&numbers), &spec(ColumnType::Category));
        assert_eq!(texts.as_ref(), &StringArray::from(vec!["7", "1152921504606846976"]));
        assert_eq!(flaws, [None, None]);
        let (_, flaws) = read(numbers, &Column::default());
        assert!(flaws[1].as_ref().unwrap().contains("beyond 2^53"), "{flaws:?}");

        let times: ArrayRef = Arc::new(StringArray::from(vec!["2024-02-29T12:00:00Z", "noon"]));
        let (_, flaws) = read(times, &spec(ColumnType::Timestamp));
        assert_eq!(flaws, [None, told("is not a time as RFC 3339 has it")]);
        let days: ArrayRef = Arc::new(arrow_array::Date32Array::from(vec![19_782]));
        let (times, _) = read(days, &spec(ColumnType::Timestamp));
        assert_eq!(times.as_ref(), &StringArray::from(vec!["2024-02-29T00:00:00Z"]));
    }

    #[test]
    fn columns_that_are_not_there_or_hold_something_else_are_refused() {
        let columns = |spec: Column| Columns { specs: [("c".to_owned(), spec)].into() };
        let schema = |name: &str, data_type| {
            Arc::new(Schema::new(vec![Field::new(name, data_type, true)])) as SchemaRef
        };
        let error = |spec: Column, schema: &SchemaRef| {
            columns(spec).schema(schema, Path::new("rows.csv")).unwrap_err().to_string()
        };
        let told = error(Column::default(), &schema("b", DataType::Utf8));
        assert!(told.ends_with("columns.c: no row of rows.csv has it; name another"), "{told}");
        let told = error(Column::default(), &schema("c", DataType::new_list(DataType::Utf8, true)));
        assert!(told.contains("of which no column is made"), "{told}");
        let bounded = Column { min: Some(0.0), ..Column::default() };
        let told = error(bounded, &schema("c", DataType::Utf8));
        assert!(told.contains("only numbers have min and max"), "{told}");
    }
}
