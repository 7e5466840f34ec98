//! Texts made of texts, a batch at a time.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use arrow_array::builder::StringBuilder;
use arrow_array::{Array as _, BooleanArray, RecordBatch, StringArray};
use arrow_select::filter::filter_record_batch;
use hearth_crds::preparation::{PrepareConfig, TextAugmentation};

use super::{Learning, short, show};
use crate::augment::answers::{Answers, Known};
use crate::augment::synonyms::{Synonyms, SynonymsError, files};
use crate::augment::text::TextAugmenter;
use crate::augment::translate::{ChatTranslator, TranslateError, back_translate};
use crate::error::PrepareError;
use crate::rows::{Pieces, Touched, contents};
use crate::stage::{Fate, Sample, ShapeReport};

/// Name in the card of texts that were translated there and back.
const BACK: &str = "backTranslation";
/// Why a text was not made.
const NOTHING_NEW: &str = "nothing new";
const IN_EVAL: &str = "also in eval";

/// Makes texts of texts.
pub(super) struct Texts {
    /// Rows made of each by changing words.
    copies: u64,
    augmenter: TextAugmenter,
    /// What is done to words, which is the name in the card.
    kind: String,
    back: Option<Back>,
    /// What rows for evaluation hold: nothing that is made may say the same.
    eval: HashSet<u128>,
}

/// Translates there and back, or remembers what came of it.
struct Back {
    translator: ChatTranslator,
    language: String,
    answers: Answers,
    path: PathBuf,
}

impl Texts {
    pub(super) fn new(
        learning: &Learning<'_>,
        spec: &TextAugmentation,
    ) -> Result<Self, PrepareError> {
        if learning.recipe.touched.texts().is_empty() {
            return Err(PrepareError::Setting {
                setting: "data.preparation.augment.text".to_owned(),
                detail: "rows have no field of texts to change; leave it out".to_owned(),
            });
        }
        refuse_shares(spec)?;
        let seed = learning.config.preparation.seed.cast_unsigned();
        let synonyms = match synonym_path(learning.config) {
            Some(path) => Synonyms::load(&path).map_err(refused)?,
            None => Synonyms::default(),
        };
        let done = [
            ("synonyms", spec.synonyms.is_some()),
            ("insert", spec.insert.is_some()),
            ("swap", spec.swap.is_some()),
            ("delete", spec.delete.is_some()),
        ];
        let done: Vec<&str> =
            done.into_iter().filter(|(_, done)| *done).map(|(name, _)| name).collect();
        let back = spec.back_translation.as_ref().map(|back| {
            let path = learning.work.join("answers");
            let answers =
                Answers::open(&path).map_err(|error| PrepareError::writing(&path, error))?;
            let (translator, language) = (ChatTranslator::new(back, seed), back.language.clone());
            Ok(Back { translator, language, answers, path })
        });
        Ok(Self {
            copies: if done.is_empty() { 0 } else { u64::from(spec.copies.unsigned_abs()) },
            augmenter: TextAugmenter::new(spec, synonyms, seed),
            kind: done.join("+"),
            back: back.transpose()?,
            eval: learning.eval()?,
        })
    }

    /// Rows that come of one besides it.
    pub(super) fn growth(&self) -> u64 {
        self.copies + u64::from(self.back.is_some())
    }

    /// What is made of a batch, whose rows' contents these are.
    pub(super) fn copies(
        &self,
        batch: &RecordBatch,
        known: &[u128],
        touched: &Touched,
        report: &mut ShapeReport,
    ) -> Result<Vec<RecordBatch>, PrepareError> {
        let mut said: HashSet<(u128, u128)> =
            known.iter().map(|content| (*content, *content)).collect();
        let mut made = Vec::new();
        for copy in 0..self.growth() {
            let copied = if copy < self.copies {
                varied(batch, touched, &mut |row, text| {
                    Ok(Some(self.augmenter.copy(text, &known[row].to_be_bytes(), copy)))
                })?
            } else if let Some(back) = &self.back {
                varied(batch, touched, &mut |_, text| back.say(text))?
            } else {
                continue;
            };
            let kind = if copy < self.copies { &self.kind } else { BACK };
            let new: Vec<bool> = contents(&copied, touched)
                .into_iter()
                .zip(known)
                .enumerate()
                .map(|(row, (content, of))| {
                    let refusal = if self.eval.contains(&content) {
                        IN_EVAL
                    } else if content == *of || !said.insert((*of, content)) {
                        NOTHING_NEW
                    } else {
                        let show_row = |batch: &RecordBatch| short(&joined(batch, touched, row));
                        let sample =
                            || Sample { before: show_row(batch), after: show_row(&copied) };
                        show(report, kind, sample);
                        return true;
                    };
                    *report.not_made.entry(refusal.to_owned()).or_default() += 1;
                    false
                })
                .collect();
            let new = BooleanArray::from(new);
            made.push(filter_record_batch(&copied, &new).map_err(PrepareError::internal)?);
        }
        Ok(made)
    }
}

impl Back {
    fn say(&self, text: &str) -> Result<Option<String>, PrepareError> {
        let hash = blake3::hash(text.as_bytes());
        let asked = u128::from_le_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 16]));
        let writing = |error| PrepareError::writing(&self.path, error);
        match self.answers.get(asked).map_err(writing)? {
            Known::Text(text) => return Ok(Some(text)),
            Known::Nothing => return Ok(None),
            Known::Unasked => {}
        }
        let said = back_translate(&self.translator, text, &self.language).map_err(untold)?;
        self.answers.put(asked, said.as_deref()).map_err(writing)
    }
}

/// Refuses shares that are none, and words that are to be put in from nowhere.
fn refuse_shares(spec: &TextAugmentation) -> Result<(), PrepareError> {
    let refuse = |field: &str, detail: &str| {
        let setting = format!("data.preparation.augment.text.{field}");
        Err(PrepareError::Setting { setting, detail: detail.to_owned() })
    };
    let synonyms = spec.synonyms.as_ref().map(|synonyms| synonyms.share);
    let shares = [
        ("synonyms.share", synonyms),
        ("insert", spec.insert),
        ("swap", spec.swap),
        ("delete", spec.delete),
    ];
    for (field, share) in shares {
        if share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return refuse(field, "it is a share of words; write 0.01 to 0.5");
        }
    }
    if spec.insert.is_some() && spec.synonyms.is_none() {
        return refuse("insert", "it puts in synonyms; write synonyms, too");
    }
    Ok(())
}

fn untold(source: TranslateError) -> PrepareError {
    PrepareError::Translation { source: Box::new(source) }
}

impl Learning<'_> {
    /// Contents of the rows for evaluation, 16 bytes each.
    fn eval(&self) -> Result<HashSet<u128>, PrepareError> {
        let mut eval = HashSet::new();
        for key in self.reading.rows.keys() {
            let (row, key) = key.map_err(|error| PrepareError::writing(self.work, error))?;
            if self.reading.fates.rows[row as usize] == Fate::Eval {
                eval.insert(key.content);
            }
        }
        Ok(eval)
    }
}

/// Says a row's text in other words; `None`: it stays.
type Vary<'a> = dyn FnMut(usize, &str) -> Result<Option<String>, PrepareError> + 'a;

/// The batch with other texts; `vary` is given a row and a text, and says what comes in its place.
fn varied(
    batch: &RecordBatch,
    touched: &Touched,
    vary: &mut Vary<'_>,
) -> Result<RecordBatch, PrepareError> {
    let mut columns = batch.columns().to_vec();
    for name in touched.texts() {
        let index = batch.schema_ref().index_of(name).map_err(PrepareError::internal)?;
        let pieces = Pieces::of(batch.column(index));
        let pieces = pieces.ok_or_else(|| PrepareError::internal("a text that is none"))?;
        let strings = pieces.strings();
        let mut out = StringBuilder::with_capacity(strings.len(), strings.value_data().len());
        // Values of a slice begin and end anywhere; those of no row are kept.
        let mut next = 0;
        for row in 0..batch.num_rows() {
            let range = pieces.range(row);
            (next..range.start).for_each(|piece| out.append_option(at(strings, piece)));
            for piece in range.clone() {
                match at(strings, piece) {
                    Some(text) if pieces.may_vary(piece) && !text.trim().is_empty() => {
                        let said = vary(row, text)?;
                        out.append_value(said.as_deref().unwrap_or(text));
                    }
                    text => out.append_option(text),
                }
            }
            next = range.end;
        }
        (next..strings.len()).for_each(|piece| out.append_option(at(strings, piece)));
        columns[index] = pieces.replaced(out.finish()).map_err(PrepareError::internal)?;
    }
    RecordBatch::try_new(batch.schema(), columns).map_err(PrepareError::internal)
}

fn at(strings: &StringArray, place: usize) -> Option<&str> {
    (!strings.is_null(place)).then(|| strings.value(place))
}

/// A row's texts, with newlines between them.
fn joined(batch: &RecordBatch, touched: &Touched, row: usize) -> String {
    let columns = touched.texts().iter().filter_map(|name| batch.column_by_name(name));
    let texts = columns.filter_map(Pieces::of).flat_map(|pieces| pieces.iter(row));
    texts.collect::<Vec<_>>().join("\n")
}

/// Where synonyms are, where they are asked for.
fn synonym_path(config: &PrepareConfig) -> Option<PathBuf> {
    let text = config.preparation.augment.as_ref()?.text.as_ref()?;
    let source = &text.synonyms.as_ref()?.source;
    Some(config.synonyms.clone().unwrap_or_else(|| Path::new(source).to_owned()))
}

/// The files of synonyms whose content decides on the result.
pub(crate) fn synonym_files(config: &PrepareConfig) -> Vec<PathBuf> {
    synonym_path(config).map_or_else(Vec::new, |path| files(&path))
}

fn refused(error: SynonymsError) -> PrepareError {
    match error {
        SynonymsError::Read { path, source } => PrepareError::reading(&path, source),
        other => PrepareError::Setting {
            setting: "data.preparation.augment.text.synonyms.source".to_owned(),
            detail: format!("{other}; write sets of words, one a line, with tabs between them"),
        },
    }
}
