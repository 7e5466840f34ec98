//! What texts are compared by.

/// Words between white space. Chinese, Japanese, Thai, Lao, Burmese and Khmer are written without
/// spaces: there, each character is a unit of its own, and what is between such characters another.
pub(super) fn units(text: &str) -> Units<'_> {
    Units { rest: text }
}

/// The units of a text, in order.
pub(super) struct Units<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Units<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let is_space = |byte: u8| matches!(byte, b'\t'..=b'\r' | b' ');
        let bytes = self.rest.as_bytes();
        let start = bytes.iter().position(|byte| !is_space(*byte))?;
        let after = |byte: &u8| is_space(*byte) || !byte.is_ascii();
        let length = bytes[start..].iter().position(after).unwrap_or(bytes.len() - start);
        if bytes.get(start + length).is_none_or(u8::is_ascii) {
            let unit = &self.rest[start..start + length];
            self.rest = &self.rest[start + length..];
            return Some(unit);
        }
        let rest = self.rest.trim_start();
        let (unit, rest) = rest.split_at(first_unit(rest));
        self.rest = rest;
        (!unit.is_empty()).then_some(unit)
    }
}

/// Bytes of the first unit of a text that begins with no white space.
fn first_unit(text: &str) -> usize {
    let mut chars = text.char_indices();
    match chars.next() {
        Some((_, c)) if is_unspaced(c) => c.len_utf8(),
        _ => chars
            .find(|(_, c)| is_unspaced(*c) || c.is_whitespace())
            .map_or(text.len(), |(at, _)| at),
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
        fn units_are_all_of_the_text(text in "[a-zé你好，\\s\u{a0}\u{3000}]{0,40}|\\PC{0,40}") {
            let all: String = units(&text).collect();
            let want: String = text.split_whitespace().collect();
            prop_assert_eq!(all, want);
            let spaced = text.replace(is_unspaced, "x");
            let words: Vec<&str> = spaced.split_whitespace().collect();
            prop_assert_eq!(units(&spaced).collect::<Vec<_>>(), words);
        }
    }
}
