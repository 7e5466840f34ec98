//! A column of texts: strings, or lists of messages whose `content` are.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef, ListArray, StringArray, StructArray};
use arrow_schema::{ArrowError, DataType, Field};

use super::value::index;

/// A column's texts; a row has one, or one a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces<'a> {
    column: &'a ArrayRef,
    strings: &'a StringArray,
    list: Option<&'a ListArray>,
}

impl<'a> Pieces<'a> {
    /// Of a column; `None` where it holds no texts.
    pub(crate) fn of(column: &'a ArrayRef) -> Option<Self> {
        if let Some(strings) = column.as_string_opt::<i32>() {
            return Some(Self { column, strings, list: None });
        }
        let list = column.as_list_opt::<i32>()?;
        let content = list.values().as_struct_opt()?.column_by_name("content")?;
        Some(Self { column, strings: content.as_string_opt::<i32>()?, list: Some(list) })
    }

    /// What is wrong with a field that should hold texts.
    pub(crate) fn refusal(field: &Field) -> Option<String> {
        let is_text = |data_type: &DataType| data_type == &DataType::Utf8;
        let messages = |data_type: &DataType| match data_type {
            DataType::List(item) => match item.data_type() {
                DataType::Struct(fields) => ["role", "content"].iter().all(|part| {
                    fields.find(part).is_some_and(|(_, field)| is_text(field.data_type()))
                }),
                _ => false,
            },
            _ => false,
        };
        let (name, found) = (field.name(), field.data_type());
        (!is_text(found) && !messages(found)).then(|| {
            format!("field {name:?} holds {found}, neither strings nor lists of messages {{role, content}}; name another field in the job's data")
        })
    }

    /// Whether rows are lists of messages.
    pub(crate) fn are_messages(&self) -> bool {
        self.list.is_some()
    }

    /// Whether a text, by its place, may be said in other words: texts, and what users say. What
    /// a model should answer, and what it is told to be, stay.
    pub(crate) fn may_vary(&self, piece: usize) -> bool {
        let Some(list) = self.list else { return true };
        let roles = list.values().as_struct_opt().and_then(|of| of.column_by_name("role"));
        let roles = roles.and_then(|roles| roles.as_string_opt::<i32>());
        roles.is_some_and(|roles| roles.is_valid(piece) && roles.value(piece) == "user")
    }

    /// Whether the row has a value.
    pub(crate) fn is_missing(&self, row: usize) -> bool {
        self.column.is_null(row)
    }

    /// Places of the row's texts among [`Self::strings`].
    pub(crate) fn range(&self, row: usize) -> Range<usize> {
        match self.list {
            None => row..row + 1,
            Some(list) => {
                let offsets = list.value_offsets();
                index(offsets[row])..index(offsets[row + 1])
            }
        }
    }

    /// All texts, of one row after another.
    pub(crate) fn strings(&self) -> &'a StringArray {
        self.strings
    }

    /// The row's texts; messages without one are passed over.
    pub(crate) fn iter(&self, row: usize) -> impl Iterator<Item = &'a str> + use<'a> {
        let strings = self.strings;
        self.range(row).filter(|piece| !strings.is_null(*piece)).map(|piece| strings.value(piece))
    }

    /// The column with other texts in their places.
    pub(crate) fn replaced(&self, strings: StringArray) -> Result<ArrayRef, ArrowError> {
        let strings: ArrayRef = Arc::new(strings);
        let Some(list) = self.list else { return Ok(strings) };
        let messages = list.values().as_struct();
        let columns =
            messages.column_names().into_iter().zip(messages.columns()).map(|(name, column)| {
                Arc::clone(if name == "content" { &strings } else { column })
            });
        let values = StructArray::try_new(
            messages.fields().clone(),
            columns.collect(),
            messages.nulls().cloned(),
        )?;
        let DataType::List(item) = list.data_type() else {
            return Err(ArrowError::InvalidArgumentError("a list that is none".to_owned()));
        };
        let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
        Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets, Arc::new(values), nulls)?))
    }
}
