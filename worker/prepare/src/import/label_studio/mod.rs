//! Exports of Label Studio → rows: classification of texts and pictures.
//!
//! `JSON` has a task an element, with its data and what each annotator said of it; `JSON-MIN` has a
//! row an annotation, those of a task one after another with the same `id` (label-studio-sdk 2,
//! `converter.py`: `convert_to_json_min`, `prettify_result`). Of a task, one row is made: its data,
//! and the choice that most annotators made. What models predicted is not looked at, nor are
//! drafts, and nothing of annotators is kept.

mod reference;
mod task;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::array::{Element, Elements, ElementsError};
use super::{ImportError, Imported, NoRow, Row};
use reference::References;
use task::{Parsed, Task, Verdict};

/// Most bytes of a task: parsed, it takes some ten times as many.
const LONGEST_TASK: usize = 8 << 20;

/// What is made of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelStudioOptions {
    /// The name of the `Choices` control (`from_name`), which is the label's field, too.
    pub label: String,
    /// The field of the picture's address, where tasks have one: it becomes a path below the
    /// export's directory.
    pub image: Option<String>,
}

/// The rows of an export.
pub struct LabelStudio<R> {
    origin: PathBuf,
    options: LabelStudioOptions,
    references: References,
    elements: Elements<R>,
    /// Elements so far.
    index: u64,
    /// Annotations of the task that may go on, for JSON-MIN.
    open: Option<Task>,
    /// What is dealt before more is read.
    ready: VecDeque<Imported>,
}

impl LabelStudio<BufReader<File>> {
    /// Opens an export. Pictures are looked for below its directory.
    pub fn open(path: &Path, options: LabelStudioOptions) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let directory = path.canonicalize().map_err(failed)?;
        let directory = directory.parent().unwrap_or(&directory).to_owned();
        Ok(Self::new(BufReader::new(file), path, directory, options))
    }
}

impl<R: BufRead> LabelStudio<R> {
    /// Reads an export of the name `origin`, whose pictures are below `directory`, which is
    /// canonical.
    pub fn new(source: R, origin: &Path, directory: PathBuf, options: LabelStudioOptions) -> Self {
        Self {
            origin: origin.to_owned(),
            options,
            references: References::new(directory),
            elements: Elements::new(source, LONGEST_TASK),
            index: 0,
            open: None,
            ready: VecDeque::new(),
        }
    }

    /// Reads an element; false at the end.
    fn read(&mut self) -> Result<bool, ImportError> {
        let element = match self.elements.next() {
            None => {
                self.close();
                return Ok(false);
            }
            Some(Err(error)) => return Err(self.damaged(error)),
            Some(Ok(element)) => element,
        };
        self.index += 1;
        let parsed = match element {
            Element::Value(bytes) => task::parse(&bytes, &self.options.label, self.index),
            Element::TooLong => {
                Err(format!("the task has more than {LONGEST_TASK} bytes; leave it out"))
            }
        };
        match parsed {
            Ok(Parsed::Whole(task)) => {
                self.close();
                self.deal(task);
            }
            Ok(Parsed::Annotation(task)) => match &mut self.open {
                Some(open) if open.is_same(&task) => open.join(task),
                _ => {
                    self.close();
                    self.open = Some(task);
                }
            },
            Err(reason) => {
                self.close();
                let no_row = self.no_row(self.index, reason);
                self.ready.push_back(Imported::Malformed(no_row));
            }
        }
        Ok(true)
    }

    /// Deals the task that might have gone on.
    fn close(&mut self) {
        if let Some(task) = self.open.take() {
            self.deal(task);
        }
    }

    fn deal(&mut self, task: Task) {
        let index = task.index;
        let dealt = match task.verdict() {
            Verdict::Label(label) => match self.fields(task, label) {
                Ok(fields) => Imported::Row(Row { origin: self.origin.clone(), index, fields }),
                Err(reason) => Imported::Malformed(self.no_row(index, reason)),
            },
            Verdict::Unlabelled(reason) => Imported::Unlabelled(self.no_row(index, reason)),
            Verdict::Malformed(reason) => Imported::Malformed(self.no_row(index, reason)),
        };
        self.ready.push_back(dealt);
    }

    fn fields(&self, task: Task, label: String) -> Result<Map<String, Value>, String> {
        let mut fields = task.data;
        if let Some(image) = &self.options.image {
            let address = fields.get(image).and_then(Value::as_str);
            let address = address.ok_or("the picture's field holds no address")?;
            let path = self.references.path(address)?;
            fields.insert(image.clone(), Value::String(path));
        }
        fields.insert(self.options.label.clone(), Value::String(label));
        Ok(fields)
    }

    fn no_row(&self, index: u64, reason: String) -> NoRow {
        NoRow { origin: self.origin.clone(), index, reason }
    }

    fn damaged(&self, error: ElementsError) -> ImportError {
        let path = self.origin.clone();
        match error {
            ElementsError::Read(source) => ImportError::Read { path, source },
            ElementsError::Syntax(what) => {
                let detail = format!("{what}; export as JSON or JSON-MIN again");
                ImportError::Damaged { path, index: self.index + 1, detail }
            }
        }
    }
}

impl<R: BufRead> Iterator for LabelStudio<R> {
    type Item = Result<Imported, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(Ok(ready));
            }
            match self.read() {
                Ok(true) => {}
                Ok(false) => return self.ready.pop_front().map(Ok),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
