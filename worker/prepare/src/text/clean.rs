//! Cleaning steps, the same in preparation, in training, in the gate and in serving.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hearth_crds::preparation::{CleanStep, Cleaning, PersonalData, Replacement};
use regex::{Regex, RegexBuilder};

use super::html::strip_html;
use super::mask::Mask;
use super::normal::{collapse_whitespace, nfkc, strip_control, strip_special};

/// Most bytes of a compiled pattern, and of the tables that are made of it while it searches. A
/// pattern of 1024 characters that stays below it is found at once to be too large otherwise.
const PATTERN_BYTES: usize = 1 << 20;

/// Personal data that was replaced, by kind.
pub type Masked = BTreeMap<PersonalData, u64>;

/// Why texts cannot be cleaned so.
#[derive(Debug, thiserror::Error)]
pub enum CleaningError {
    /// A pattern that is no regular expression, or whose automaton is too large.
    #[error("data.replace[{index}].pattern: {detail}")]
    Pattern {
        /// Which of the replacements.
        index: usize,
        /// What is wrong with it.
        detail: String,
    },
}

/// Cleans texts. Threads may share one.
#[derive(Clone, Debug)]
pub struct Cleaner {
    steps: Vec<CleanStep>,
    replace: Vec<(Regex, String)>,
    mask: Mask,
}

impl Cleaner {
    /// Compiles what `cleaning` says.
    ///
    /// # Errors
    ///
    /// A pattern that cannot be compiled, or only to more than 1 MiB.
    pub fn new(cleaning: &Cleaning) -> Result<Self, CleaningError> {
        let replace = cleaning.replace.iter().enumerate();
        Ok(Self {
            steps: cleaning.steps.clone(),
            replace: replace.map(|(index, one)| compile(index, one)).collect::<Result<_, _>>()?,
            mask: Mask::new(&cleaning.mask),
        })
    }

    /// The cleaned text; `masked` counts what was replaced. Nothing is copied by steps that change
    /// nothing.
    pub fn clean<'a>(&self, text: &'a str, masked: &mut Masked) -> Cow<'a, str> {
        self.steps.iter().fold(Cow::Borrowed(text), |text, step| match step {
            CleanStep::StripHTML => then(text, strip_html),
            CleanStep::NFKC => then(text, nfkc),
            CleanStep::StripControl => then(text, strip_control),
            CleanStep::StripSpecial => then(text, strip_special),
            CleanStep::CollapseWhitespace => then(text, collapse_whitespace),
            CleanStep::Replace => self.replace.iter().fold(text, |text, (pattern, with)| {
                then(text, |text| pattern.replace_all(text, with.as_str()))
            }),
            CleanStep::Mask => then(text, |text| self.mask.apply(text, masked)),
        })
    }
}

/// Applies one step, which gives back a part of its text or a new one.
fn then(text: Cow<'_, str>, step: impl FnOnce(&str) -> Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => step(text),
        Cow::Owned(text) => match step(&text) {
            Cow::Borrowed(part) if part.len() == text.len() => Cow::Owned(text),
            part => Cow::Owned(part.into_owned()),
        },
    }
}

fn compile(index: usize, replacement: &Replacement) -> Result<(Regex, String), CleaningError> {
    RegexBuilder::new(&replacement.pattern)
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES)
        .build()
        .map(|pattern| (pattern, replacement.with.clone()))
        .map_err(|error| CleaningError::Pattern { index, detail: error.to_string() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cleaner(steps: &[CleanStep], replace: &[(&str, &str)], mask: &[PersonalData]) -> Cleaner {
        let replace = replace.iter().map(|(pattern, with)| Replacement {
            pattern: (*pattern).to_owned(),
            with: (*with).to_owned(),
        });
        let cleaning =
            Cleaning { steps: steps.to_vec(), replace: replace.collect(), mask: mask.to_vec() };
        Cleaner::new(&cleaning).unwrap()
    }

    fn clean(steps: &[CleanStep], replace: &[(&str, &str)], text: &str) -> String {
        cleaner(steps, replace, &[]).clean(text, &mut Masked::new()).into_owned()
    }

    #[test]
    fn each_step_does_what_its_documentation_says() {
        use CleanStep::{CollapseWhitespace, NFKC, Replace, StripControl, StripHTML, StripSpecial};
        for (steps, text, want) in [
            (vec![StripHTML], "<p>a &amp; b</p>", "a & b\n"),
            (vec![NFKC], "ＡＢＣ ﬁ", "ABC fi"),
            (vec![StripControl], "a\u{0}b\tc\r\nd\u{7f}", "ab\tc\nd"),
            (vec![StripSpecial], "Win $$$, now_ü 1!", "Win  now_ü 1"),
            (vec![CollapseWhitespace], "  a \n\t b ", "a b"),
            (vec![StripSpecial, CollapseWhitespace], "Win $$$ now!", "Win now"),
            (vec![CollapseWhitespace, StripSpecial], "Win $$$ now!", "Win  now"),
            (vec![Replace], "2024-05 one", "05/2024 uno"),
            (vec![StripHTML, CollapseWhitespace, Replace], " <i>one</i> ", "uno"),
            (vec![], " as it is ", " as it is "),
        ] {
            let replace = [(r"(?<y>\d{4})-(\d\d)", "$2/${y}"), ("one", "two"), ("two", "uno")];
            assert_eq!(clean(&steps, &replace, text), want, "{steps:?}");
        }
    }

    #[test]
    fn a_bad_pattern_is_named() {
        for (pattern, want) in [
            ("(", "data.replace[1].pattern: regex parse error"),
            (r"(?=a)", "data.replace[1].pattern: regex parse error"),
            (r"\pL{1000}{1000}", "data.replace[1].pattern: Compiled regex exceeds size limit"),
        ] {
            let replace = ["fine", pattern]
                .map(|pattern| Replacement { pattern: pattern.to_owned(), with: String::new() });
            let cleaning = Cleaning { replace: replace.to_vec(), ..Cleaning::default() };
            let error = Cleaner::new(&cleaning).unwrap_err().to_string();
            assert!(error.starts_with(want), "{error}");
        }
    }

    #[test]
    fn a_clean_text_is_not_copied() {
        use CleanStep::{CollapseWhitespace, Mask, NFKC, Replace, StripControl, StripHTML};
        let steps = [StripHTML, NFKC, StripControl, CollapseWhitespace, Replace, Mask];
        let cleaner = cleaner(&steps, &[("x{9}", "")], &[PersonalData::EmailAddress]);
        let text = " It costs 12 dollars: 你好. ";
        let clean = cleaner.clean(text, &mut Masked::new());
        assert!(matches!(clean, Cow::Borrowed("It costs 12 dollars: 你好.")), "{clean:?}");
    }

    proptest! {
        #[test]
        fn cleaning_never_panics(text in "(<|>|&|@|\\.|:|\\+|-|[0-9a-fA-F]{1,6}|\\PC|\\s|p|;){0,60}") {
            use CleanStep::{CollapseWhitespace, Mask, NFKC, StripControl, StripHTML, StripSpecial};
            let steps = [StripHTML, NFKC, StripControl, Mask, CollapseWhitespace, StripSpecial];
            let kinds = crate::text::mask::KINDS;
            let _ = cleaner(&steps, &[], &kinds).clean(&text, &mut Masked::new());
        }
    }
}
