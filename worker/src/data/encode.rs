//! Rows → token ids and the tokens to predict, for each objective of a language model.

use std::ops::Range;
use std::path::{Path, PathBuf};

use hearth_crds::preparation::Cleaning;
use hearth_prepare::text::clean::{Cleaner, Masked};
use jiff::civil::DateTime;
use minijinja::Value;
use tokenizers::Tokenizer;

use super::DataError;
use super::chat::{Chat, ChatTemplate, SpecialTokens};
use super::ingest::{Encode, Encoded, Refusal};
use super::sequence::{Kind, Mask, Tokens};
use super::source::{Columns, Parts, Said, SourceFile};

/// What is learned from sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Every token of texts. A text longer than a sequence is cut into several.
    Pretraining,
    /// Tokens of texts, completions or conversations. A longer one is cut on the right.
    FineTuning(LossOn),
    /// The better of two answers.
    Preference,
}

/// Tokens that are learned in fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossOn {
    /// All.
    All,
    /// Those after the prompt.
    Completion,
    /// Those that the assistant says.
    Assistant,
}

/// How sequences are made.
#[derive(Clone, Debug)]
pub struct EncoderOptions {
    /// What is learned.
    pub objective: Objective,
    /// Of texts and of the contents of messages.
    pub cleaning: Cleaning,
    /// Most tokens of a sequence.
    pub max_length: usize,
    /// What a chat template's `strftime_now` tells.
    pub now: DateTime,
}

/// Makes sequences of rows. Shared by threads.
#[derive(Debug)]
pub struct SequenceEncoder {
    tokenizer: Tokenizer,
    path: PathBuf,
    fingerprint: blake3::Hash,
    template: Option<ChatTemplate>,
    /// Text and id of what ends a text.
    end: Option<(String, u32)>,
    pad: u32,
    cleaner: Cleaner,
    options: EncoderOptions,
}

/// Which tokens of a text are learned.
#[derive(Clone, Copy)]
enum Learn<'a> {
    All,
    /// Those that overlap one of these ranges of bytes, which ascend.
    In(&'a [Range<usize>]),
}

impl SequenceEncoder {
    /// Reads the tokenizer and, where there is one, the chat template of the model in `model`.
    pub fn load(model: &Path, options: EncoderOptions) -> Result<Self, DataError> {
        let path = model.join("tokenizer.json");
        let bytes = super::source::read_file(&path)?;
        let failed = |error: tokenizers::Error| DataError::Tokenizer {
            path: path.clone(),
            detail: error.to_string(),
        };
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(failed)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(failed)?;
        let special = SpecialTokens::read(model)?;
        let id = |name| {
            let text = special.get(name)?;
            Some((text.to_owned(), tokenizer.token_to_id(text)?))
        };
        let end = id("eos_token");
        let pad = id("pad_token").or_else(|| end.clone()).map_or(0, |(_, id)| id);
        let template = ChatTemplate::load(model, move || options.now)?;
        let fingerprint = blake3::hash(&bytes);
        let cleaner = Cleaner::new(&options.cleaning)?;
        Ok(Self { tokenizer, path, fingerprint, template, end, pad, cleaner, options })
    }

    /// Id that fills sequences up. It is never learned and never seen by what is.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Most tokens of a sequence.
    pub fn max_length(&self) -> usize {
        self.options.max_length
    }

    /// The chat template.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Tokens of the tokenizer's vocabulary, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Refuses a file whose rows do not serve the objective.
    pub fn check(&self, file: &SourceFile) -> Result<(), DataError> {
        let refuse = |detail: String| Err(DataError::Setting { path: file.path.clone(), detail });
        let objective = self.options.objective;
        let fits = match &file.columns {
            Columns::Labelled { .. } | Columns::Picture { .. } => false,
            Columns::Text { .. } => {
                matches!(objective, Objective::Pretraining | Objective::FineTuning(LossOn::All))
            }
            Columns::Messages { .. } => {
                matches!(objective, Objective::FineTuning(LossOn::All | LossOn::Assistant))
            }
            Columns::Completion { .. } => {
                matches!(objective, Objective::FineTuning(LossOn::All | LossOn::Completion))
            }
            Columns::Preference { .. } => objective == Objective::Preference,
        };
        if !fits {
            return refuse(format!(
                "rows with {} do not serve {}",
                file.columns.names().join(" and "),
                match objective {
                    Objective::Pretraining => "pretraining, which reads a text",
                    Objective::FineTuning(LossOn::All) => {
                        "fine-tuning, which reads a text, messages, or a prompt and its completion"
                    }
                    Objective::FineTuning(LossOn::Completion) => {
                        "a loss on completions, which needs a prompt and its completion"
                    }
                    Objective::FineTuning(LossOn::Assistant) => {
                        "a loss on what the assistant says, which needs messages"
                    }
                    Objective::Preference => {
                        "preferences, which need a chosen and a rejected answer"
                    }
                }
            ));
        }
        if matches!(file.columns, Columns::Text { .. }) && self.end.is_none() {
            return Err(DataError::Tokenizer {
                path: self.path.clone(),
                detail: "no eos_token of its vocabulary is named in tokenizer_config.json; texts need one to end with".into(),
            });
        }
        if matches!(file.columns, Columns::Messages { .. }) && self.template.is_none() {
            return refuse(self.no_template());
        }
        Ok(())
    }

    fn no_template(&self) -> String {
        let model = self.path.parent().unwrap_or(Path::new("."));
        format!(
            "its messages need a chat template, and {} has neither chat_template.jinja nor chat_template in tokenizer_config.json; add one, or give the data as text",
            model.display()
        )
    }

    fn clean(&self, text: &str) -> String {
        self.cleaner.clean(text, &mut Masked::default()).into_owned()
    }

    /// Messages with cleaned contents.
    fn clean_messages(&self, messages: Vec<Value>) -> Vec<Value> {
        if self.options.cleaning.steps.is_empty() {
            return messages;
        }
        let cleaned = |message: &Value| {
            let keys = message.try_iter().ok()?;
            Some(Value::from_pairs(keys.map(|key| {
                let value = message.get_item(&key).unwrap_or(Value::UNDEFINED);
                match value.as_str().filter(|_| key.as_str() == Some("content")) {
                    Some(text) => (key, Value::from(self.clean(text))),
                    None => (key, value),
                }
            })))
        };
        messages.iter().map(|message| cleaned(message).unwrap_or_else(|| message.clone())).collect()
    }

    /// Every part of a text, each with no more tokens than a sequence holds.
    fn documents(&self, text: &str) -> Result<Vec<Tokens>, Refusal> {
        let ids = self.ids_of_text(&self.clean(text))?;
        // A token with nothing before it teaches nothing.
        let parts = ids.chunks(self.options.max_length).filter(|part| part.len() > 1);
        let sequences: Vec<Tokens> =
            parts.map(|part| Tokens { ids: part.to_vec(), targets: None }).collect();
        if sequences.is_empty() {
            return Err(Refusal::Malformed("the text has no token".into()));
        }
        Ok(sequences)
    }

    /// Ids with what the tokenizer adds, and the end of text.
    fn ids_of_text(&self, text: &str) -> Result<Vec<u32>, Refusal> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|e| self.failed(&e))?;
        let mut ids = encoding.get_ids().to_vec();
        if let Some((_, end)) = &self.end
            && ids.last() != Some(end)
        {
            ids.push(*end);
        }
        Ok(ids)
    }

    /// Tokens of `text`, in which special tokens are written out, cut on the right.
    fn tokens(&self, text: &str, add_special: bool, learn: Learn<'_>) -> Result<Tokens, Refusal> {
        let max = self.options.max_length;
        let (ids, mask) = match learn {
            Learn::All => {
                let encoding =
                    self.tokenizer.encode_fast(text, add_special).map_err(|e| self.failed(&e))?;
                let ids: Vec<u32> = encoding.get_ids().iter().take(max).copied().collect();
                let mask = Mask::all(ids.len());
                (ids, mask)
            }
            Learn::In(spans) => {
                let encoding =
                    self.tokenizer.encode(text, add_special).map_err(|e| self.failed(&e))?;
                let ids: Vec<u32> = encoding.get_ids().iter().take(max).copied().collect();
                let mut mask = Mask::none(ids.len());
                let mut spans = spans.iter().peekable();
                for (position, (start, end)) in encoding.get_offsets().iter().take(max).enumerate()
                {
                    while spans.next_if(|span| span.end <= *start).is_some() {}
                    let learned = spans.peek().is_some_and(|span| *end > span.start);
                    if learned && position > 0 {
                        mask.insert(position);
                    }
                }
                (ids, mask)
            }
        };
        if mask.count() == 0 {
            return Err(Refusal::Malformed(format!(
                "none of its first {max} tokens (training.maxLength) is to be learned"
            )));
        }
        Ok(Tokens { ids, targets: Some(mask) })
    }

    /// A text followed by the end of text, if it does not end so already.
    fn ended(&self, text: String) -> String {
        match &self.end {
            Some((end, _)) if !text.ends_with(end.as_str()) => text + end,
            _ => text,
        }
    }

    /// Tokens of a conversation.
    fn conversation(&self, messages: Vec<Value>, loss: LossOn) -> Result<Tokens, Refusal> {
        let template = self.needed_template()?;
        let messages = self.clean_messages(messages);
        let chat = Chat { messages: &messages, ..Chat::default() };
        if loss == LossOn::Assistant {
            let (text, spans) = template.render_with_spans(chat).map_err(Refusal::Malformed)?;
            if spans.is_empty() {
                return Err(Refusal::Malformed("the assistant says nothing".into()));
            }
            return self.tokens(&text, false, Learn::In(&spans));
        }
        let text = template.render(chat).map_err(Refusal::Malformed)?;
        self.tokens(&text, false, Learn::All)
    }

    /// Tokens of a prompt and its completion; of the completion alone, or of both, are learned.
    fn completion(&self, prompt: &Said, answer: &Said, loss: LossOn) -> Result<Tokens, Refusal> {
        let (text, start, add_special) = match (prompt, answer) {
            (Said::Text(prompt), Said::Text(answer)) => {
                let prompt = self.clean(prompt);
                let start = prompt.len();
                (self.ended(prompt + &self.clean(answer)), start, true)
            }
            (Said::Messages(prompt), Said::Messages(answer)) => {
                let (text, start) = self.conversation_of(prompt.clone(), answer.clone())?;
                (text, start, false)
            }
            _ => return Err(Refusal::Malformed("text and messages are mixed".into())),
        };
        let span = start..text.len();
        let learn = match loss {
            LossOn::All => Learn::All,
            LossOn::Completion | LossOn::Assistant => Learn::In(std::slice::from_ref(&span)),
        };
        self.tokens(&text, add_special, learn)
    }

    /// The text of messages, and where in it the answer to the prompt begins.
    fn conversation_of(
        &self,
        prompt: Vec<Value>,
        answer: Vec<Value>,
    ) -> Result<(String, usize), Refusal> {
        let template = self.needed_template()?;
        let asked = prompt.len();
        let messages = self.clean_messages([prompt, answer].concat());
        let chat = Chat { messages: &messages, ..Chat::default() };
        let before = Chat { messages: &messages[..asked], add_generation_prompt: true, ..chat };
        let text = template.render(chat).map_err(Refusal::Malformed)?;
        let before = template.render(before).map_err(Refusal::Malformed)?;
        if !text.starts_with(&before) {
            return Err(Refusal::Malformed(
                "the chat template renders the prompt otherwise when an answer follows, so that the answer cannot be told from it".into(),
            ));
        }
        Ok((text, before.len()))
    }

    fn needed_template(&self) -> Result<&ChatTemplate, Refusal> {
        self.template.as_ref().ok_or_else(|| Refusal::Malformed(self.no_template()))
    }

    fn failed(&self, error: &tokenizers::Error) -> Refusal {
        Refusal::Failed(DataError::Tokenizer { path: self.path.clone(), detail: error.to_string() })
    }
}

impl Encode for SequenceEncoder {
    fn kind(&self) -> Kind {
        match self.options.objective {
            Objective::Pretraining => Kind::Documents,
            Objective::FineTuning(_) | Objective::Preference => Kind::Masked,
        }
    }

    fn per_sample(&self) -> u32 {
        if self.options.objective == Objective::Preference { 2 } else { 1 }
    }

    /// The date that a template may show is left out: a run that goes on tomorrow learns from the
    /// same tokens.
    fn recipe(&self, columns: &Columns) -> String {
        let EncoderOptions { objective, cleaning, max_length, now: _ } = &self.options;
        let template = self.template.as_ref().map(|template| template.fingerprint);
        let how = (columns, objective, cleaning, max_length, &self.end, template);
        format!("sequences {} {how:?}", self.fingerprint)
    }

    fn encode(&self, parts: Parts) -> Result<Encoded, Refusal> {
        let sequences = match (self.options.objective, parts) {
            (Objective::Pretraining, Parts::Text(text)) => self.documents(&text)?,
            (Objective::FineTuning(_), Parts::Text(text)) => {
                vec![self.tokens(&self.ended(self.clean(&text)), true, Learn::All)?]
            }
            (Objective::FineTuning(loss), Parts::Messages(messages)) => {
                vec![self.conversation(messages, loss)?]
            }
            (Objective::FineTuning(loss), Parts::Completion { prompt, completion }) => {
                vec![self.completion(&prompt, &completion, loss)?]
            }
            (Objective::Preference, Parts::Preference { prompt, chosen, rejected }) => {
                let answer = |answer| self.completion(&prompt, answer, LossOn::Completion);
                vec![answer(&chosen)?, answer(&rejected)?]
            }
            (objective, _) => {
                return Err(Refusal::Malformed(format!("the row does not serve {objective:?}")));
            }
        };
        Ok(Encoded { label: None, sequences, pixels: None, facts: Vec::new() })
    }
}
