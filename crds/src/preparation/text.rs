//! Texts: what they are cleaned of, which are no use, and what is made of them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::one_copy;

/// One cleaning step. A model's steps are kept with it, and requests are cleaned by them too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CleanStep {
    /// Markup is taken away and character references become characters: what an HTML page shows.
    StripHTML,
    /// Unicode's compatibility composition (NFKC): full-width letters, ligatures, joined accents.
    NFKC,
    /// Drop control characters other than tab and newline.
    StripControl,
    /// Replace everything but letters, digits, `_` and white space (`[^\w\s]`) by nothing.
    StripSpecial,
    /// Replace each run of white space by one space, and trim.
    CollapseWhitespace,
    /// Do what `replace` says, in its order.
    Replace,
    /// Put the kind's name, such as `[EMAIL]`, in the place of what `mask` names.
    Mask,
}

/// All that a text is cleaned of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cleaning {
    /// Steps, in order.
    #[serde(rename = "clean")]
    pub steps: Vec<CleanStep>,
    /// What the step `Replace` does, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replace: Vec<Replacement>,
    /// What the step `Mask` looks for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mask: Vec<PersonalData>,
}

/// What matches a pattern, and what comes in its place.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replacement {
    /// Regular expression in the syntax of Rust's `regex` (no look-around, no back-references;
    /// matched in linear time).
    #[schemars(length(min = 1, max = 1024))]
    pub pattern: String,
    /// What comes in its place; `$1` or `${name}` is what a group matched.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub with: String,
}

/// Kinds of personal data that are found by their form.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum PersonalData {
    /// Mail addresses; `[EMAIL]`.
    EmailAddress,
    /// Phone numbers, international or Chinese mobile and landline; `[PHONE]`.
    PhoneNumber,
    /// Numbers of payment cards, 13 to 19 digits with a right Luhn digit; `[CARD]`.
    PaymentCard,
    /// IBANs with right check digits; `[IBAN]`.
    IBAN,
    /// Numbers of Chinese resident identity cards (GB 11643) with a right check digit; `[ID]`.
    ChineseResidentID,
    /// Unified social credit codes of Chinese organisations (GB 32100) with a right check
    /// character; `[CREDITCODE]`.
    ChineseSocialCreditCode,
    /// Social security numbers of the USA, written with hyphens; `[SSN]`.
    SocialSecurityNumber,
    /// IPv4 and IPv6 addresses; `[IP]`.
    IPAddress,
}

impl PersonalData {
    /// What comes in its place.
    pub fn mark(self) -> &'static str {
        match self {
            Self::EmailAddress => "[EMAIL]",
            Self::PhoneNumber => "[PHONE]",
            Self::PaymentCard => "[CARD]",
            Self::IBAN => "[IBAN]",
            Self::ChineseResidentID => "[ID]",
            Self::ChineseSocialCreditCode => "[CREDITCODE]",
            Self::SocialSecurityNumber => "[SSN]",
            Self::IPAddress => "[IP]",
        }
    }
}

/// Texts that stay: those for which all that is written here holds.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.minCharacters) || !has(self.maxCharacters) || self.minCharacters <= self.maxCharacters").message("filter.minCharacters is at most maxCharacters"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TextFilter {
    /// Fewest Unicode characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_characters: Option<i64>,
    /// Most Unicode characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_characters: Option<i64>,
    /// Languages, as ISO 639-1 has them (`en`, `zh`); a text whose language cannot be told goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(equal = 2)))]
    pub languages: Vec<String>,
    /// Most characters that are no letter, digit or white space, as a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_symbols: Option<f64>,
    /// Most characters in lines that stood before in the same text, as a share (Gopher,
    /// arXiv:2112.11446, table A1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_repeated_lines: Option<f64>,
    /// Most characters in sequences of ten words that stood before in the same text, as a share
    /// (Gopher, table A1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_repeated_words: Option<f64>,
}

/// Texts made of a text. Shares are of its words; each of the four is drawn by itself (EDA,
/// arXiv:1901.11196).
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.synonyms) || has(self.insert) || has(self.swap) || has(self.delete) || has(self.backTranslation)").message("augment.text makes nothing: write synonyms, insert, swap, delete or backTranslation"),
    validation = Rule::new("!has(self.insert) || has(self.synonyms)").message("augment.text.insert inserts synonyms, so it needs augment.text.synonyms"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TextAugmentation {
    /// New texts of each.
    #[serde(default = "one_copy")]
    #[schemars(range(min = 1, max = 16))]
    pub copies: i32,
    /// Words are replaced by synonyms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synonyms: Option<Synonyms>,
    /// Share of words whose synonym is put in anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.5))]
    pub insert: Option<f64>,
    /// Share of words that change places with another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.5))]
    pub swap: Option<f64>,
    /// Probability with which a word goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.5))]
    pub delete: Option<f64>,
    /// One more text of each: what a model says in another language, said back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_translation: Option<BackTranslation>,
}

/// Words that mean the same.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Synonyms {
    /// File of words that mean the same: a set a line, its words separated by tabs; or the
    /// directory of WordNet's files (`index.noun`, `data.noun`, ...).
    #[schemars(length(min = 1, max = 1024))]
    pub source: String,
    /// Share of words that are replaced.
    #[serde(default = "tenth")]
    #[schemars(range(min = 0.01, max = 0.5))]
    pub share: f64,
}

/// A model that translates, behind OpenAI's `/v1/chat/completions`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackTranslation {
    /// Base address, such as `http://translator/v1`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^https?://"))]
    pub url: String,
    /// Name of the model.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// The language between, as the model is told of it (`German`).
    #[schemars(length(min = 1, max = 64))]
    pub language: String,
}

impl BackTranslation {
    /// The port of `url`: what it says, else that of its scheme.
    pub fn port(&self) -> u16 {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("http", &self.url));
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let told = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        told.unwrap_or(if scheme == "https" { 443 } else { 80 })
    }
}

fn tenth() -> f64 {
    0.1
}
