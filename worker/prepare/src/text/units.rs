//! What texts are compared by.

use std::str::SplitWhitespace;

/// Words between white space. Chinese, Japanese, Thai, Lao, Burmese and Khmer are written without
/// spaces: there, each character is a unit of its own, and what is between such characters another.
pub(super) fn units(text: &str) -> Units<'_> {
    Units { words: text.split_whitespace(), rest: "" }
}

/// The units of a text, in order.
pub(super) struct Units<'a> {
    words: SplitWhitespace<'a>,
    /// What is left of a word.
    rest: &'a str,
}

impl<'a> Iterator for Units<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            self.rest = self.words.next()?;
        }
        let length = if self.rest.is_ascii() { self.rest.len() } else { first_unit(self.rest) };
        let (unit, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(unit)
    }
}

/// Bytes of the first unit.
fn first_unit(text: &str) -> usize {
    let mut chars = text.char_indices();
    match chars.next() {
        Some((_, c)) if is_unspaced(c) => c.len_utf8(),
        _ => chars.find(|(_, c)| is_unspaced(*c)).map_or(text.len(), |(at, _)| at),
    }
}

/// Whether a character is of a script that is written without spaces: Thai and Lao, Burmese,
/// Khmer, Kana, Han.
pub(crate) fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{2e80}'..='\u{2fdf}' | '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}'
        | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_words_or_characters() {
        for (text, want) in [
            ("", vec![]),
            (" two  words\n", vec!["two", "words"]),
            ("naïve déjà-vu", vec!["naïve", "déjà-vu"]),
            ("用GPT-4写，好", vec!["用", "GPT-4", "写", "，", "好"]),
            ("ไทย 한국어", vec!["ไ", "ท", "ย", "한국어"]),
        ] {
            assert_eq!(units(text).collect::<Vec<_>>(), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn units_are_all_of_the_text(text in "[a-zé你好，\\s]{0,40}|\\PC{0,40}") {
            let all: String = units(&text).collect();
            let want: String = text.split_whitespace().collect();
            prop_assert_eq!(all, want);
        }
    }
}
