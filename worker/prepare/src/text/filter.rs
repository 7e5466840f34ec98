//! Texts that are no use.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use hearth_crds::preparation::TextFilter;
use whatlang::Lang;

use super::language;
use super::shingle::Shingles;
use super::units::units;

/// Words of a sequence (Gopher looks at two to ten; the spec at ten).
const SEQUENCE: usize = 10;

/// Why texts cannot be filtered so.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A language that cannot be told.
    #[error("data.filter.languages: {unknown} is not known; known are {}", known.join(", "))]
    Language {
        /// Its code.
        unknown: String,
        /// All codes that are known.
        known: Vec<&'static str>,
    },
}

/// Why a text goes. `Display` is its name in the data card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Fewer characters than `minCharacters`.
    TooShort,
    /// More characters than `maxCharacters`.
    TooLong,
    /// Not in one of `languages`, or in none that can be told.
    Language,
    /// A larger share of symbols than `maxSymbols`.
    Symbols,
    /// A larger share in repeated lines than `maxRepeatedLines`.
    RepeatedLines,
    /// A larger share in repeated sequences of words than `maxRepeatedWords`.
    RepeatedWords,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "fewer than minCharacters",
            Self::TooLong => "more than maxCharacters",
            Self::Language => "not in languages",
            Self::Symbols => "more than maxSymbols",
            Self::RepeatedLines => "more than maxRepeatedLines",
            Self::RepeatedWords => "more than maxRepeatedWords",
        })
    }
}

/// Tells which texts go.
#[derive(Clone, Debug)]
pub struct Filter {
    spec: TextFilter,
    languages: Vec<Lang>,
}

impl Filter {
    /// A filter as the spec has it.
    ///
    /// # Errors
    ///
    /// A language that cannot be told.
    pub fn new(filter: &TextFilter) -> Result<Self, FilterError> {
        let known = |code: &String| {
            language::by_code(code).ok_or_else(|| FilterError::Language {
                unknown: code.clone(),
                known: language::codes(),
            })
        };
        let languages = filter.languages.iter().map(known).collect::<Result<_, _>>()?;
        Ok(Self { spec: filter.clone(), languages })
    }

    /// Why the cleaned `text` goes, the first reason in the order of [`Refusal`]; `None`: it stays.
    pub fn refusal(&self, text: &str) -> Option<Refusal> {
        let spec = &self.spec;
        let characters = text.chars().count();
        let length = i64::try_from(characters).unwrap_or(i64::MAX);
        let more = |share: f64, most: Option<f64>| most.is_some_and(|most| share > most);
        if spec.min_characters.is_some_and(|fewest| length < fewest) {
            Some(Refusal::TooShort)
        } else if spec.max_characters.is_some_and(|most| length > most) {
            Some(Refusal::TooLong)
        } else if !self.languages.is_empty() && !self.is_in_languages(text) {
            Some(Refusal::Language)
        } else if spec.max_symbols.is_some() && more(symbols(text, characters), spec.max_symbols) {
            Some(Refusal::Symbols)
        } else if spec.max_repeated_lines.is_some()
            && more(repeated_lines(text), spec.max_repeated_lines)
        {
            Some(Refusal::RepeatedLines)
        } else if spec.max_repeated_words.is_some()
            && more(repeated_words(text), spec.max_repeated_words)
        {
            Some(Refusal::RepeatedWords)
        } else {
            None
        }
    }

    fn is_in_languages(&self, text: &str) -> bool {
        language::of(text).is_some_and(|language| self.languages.contains(&language))
    }
}

/// Share of characters that are no letter, digit or white space; 0 of an empty text.
fn symbols(text: &str, characters: usize) -> f64 {
    let symbols = text.chars().filter(|c| !(c.is_alphanumeric() || c.is_whitespace())).count();
    share(symbols, characters)
}

/// Share of the characters of all lines that are in lines that stood before (Gopher,
/// arXiv:2112.11446, table A1: "duplicate line character fraction"). Lines are compared without the
/// white space around them, and empty ones count for nothing.
fn repeated_lines(text: &str) -> f64 {
    let mut seen = HashSet::new();
    let (mut repeated, mut all) = (0, 0);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let characters = line.chars().count();
        all += characters;
        repeated += if seen.insert(line) { 0 } else { characters };
    }
    share(repeated, all)
}

/// Share of the characters of all words that are in sequences of ten words that stood before (the
/// same table: "duplicate 10-gram character fraction"). As the paper asks, a character in more than
/// one such sequence counts once.
fn repeated_words(text: &str) -> f64 {
    let lengths: Vec<usize> = units(text).map(|unit| unit.chars().count()).collect();
    if lengths.len() < SEQUENCE {
        return 0.0;
    }
    let mut seen = HashSet::<_, BuildHasherDefault<AsItIs>>::default();
    let (mut repeated, mut counted) = (0, 0);
    for (start, sequence) in Shingles::<SEQUENCE>::of(text).enumerate() {
        if !seen.insert(sequence) {
            let end = start + SEQUENCE;
            repeated += lengths[start.max(counted)..end].iter().sum::<usize>();
            counted = end;
        }
    }
    share(repeated, lengths.iter().sum())
}

/// For numbers that are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(filter: &TextFilter, text: &str) -> Option<Refusal> {
        Filter::new(filter).unwrap().refusal(text)
    }

    #[test]
    fn each_bound_is_kept() {
        let none = TextFilter::default;
        let ten = "a b c d e f g h i j ";
        for (filter, stays, goes, want) in [
            (TextFilter { min_characters: Some(2), ..none() }, "你好", "好", Refusal::TooShort),
            (TextFilter { max_characters: Some(2), ..none() }, "你好", "你好吗", Refusal::TooLong),
            (
                TextFilter { languages: vec!["zh".to_owned(), "de".to_owned()], ..none() },
                "今天的天气非常好，我们去公园吧。",
                "The weather is very nice today, and so we are all going to the park.",
                Refusal::Language,
            ),
            (TextFilter { max_symbols: Some(0.5), ..none() }, "ab--", "a--", Refusal::Symbols),
            (
                TextFilter { max_repeated_lines: Some(0.5), ..none() },
                "one\n\n two\none\ntwo",
                "one\none\none",
                Refusal::RepeatedLines,
            ),
            (
                TextFilter { max_repeated_words: Some(0.5), ..none() },
                &ten.repeat(2),
                &ten.repeat(3),
                Refusal::RepeatedWords,
            ),
        ] {
            assert_eq!(refusal(&filter, stays), None, "{stays}");
            assert_eq!(refusal(&filter, goes), Some(want), "{goes}");
        }
    }

    #[test]
    fn shares_are_those_of_their_definitions() {
        assert!((symbols("a,b 1!", 6) - 2.0 / 6.0).abs() < 1e-12);
        assert!((repeated_lines("abcd\nx\nabcd\ny") - 4.0 / 10.0).abs() < 1e-12);
        // Eleven words, then the first ten again, of which a window starts one later, too.
        let text = "a b c d e f g h i j k a b c d e f g h i j k";
        assert!((repeated_words(text) - 11.0 / 22.0).abs() < 1e-12);
        let chinese = "天地玄黄宇宙洪荒日月";
        assert!((repeated_words(&chinese.repeat(2)) - 0.5).abs() < 1e-12);
        assert!(repeated_words("one two").abs() < 1e-12);
    }

    #[test]
    fn a_text_whose_language_cannot_be_told_goes() {
        let filter = TextFilter { languages: vec!["en".to_owned()], ..TextFilter::default() };
        assert_eq!(refusal(&filter, "123"), Some(Refusal::Language));
    }

    #[test]
    fn an_unknown_language_is_refused() {
        let filter = TextFilter { languages: vec!["xx".to_owned()], ..TextFilter::default() };
        let error = Filter::new(&filter).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "data.filter.languages: xx is not known; known are af, ak, am, ar, az"
            )
        );
    }

    #[test]
    fn names_in_the_card_stay() {
        assert_eq!(Refusal::TooShort.to_string(), "fewer than minCharacters");
        assert_eq!(Refusal::RepeatedWords.to_string(), "more than maxRepeatedWords");
    }
}
