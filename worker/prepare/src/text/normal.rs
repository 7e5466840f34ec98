//! Steps that change characters one by one, or nearly: NFKC, control characters, special
//! characters, white space. Each copies only where something changes, and finds in blocks of bytes,
//! which the compiler vectorises, where that is.

use std::borrow::Cow;
use std::iter::once;

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};

use super::scan::find;

/// Unicode's normalization form KC (Unicode Standard Annex #15).
///
/// Only what must change is normalized: from the last character before it that composes with
/// nothing before, to the next such one. Between them are the boundaries at which the annex allows
/// texts to be taken apart (section 9.1).
pub fn nfkc(text: &str) -> Cow<'_, str> {
    let Some(mut part) = changed_part(text, 0) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    loop {
        out.push_str(&text[done..part.start]);
        normalize(&text[part.start..part.end], &mut out);
        done = part.end;
        match changed_part(text, done) {
            Some(next) => part = next,
            None => break,
        }
    }
    out.push_str(&text[done..]);
    if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
}

/// The next part at or after `from`, itself a boundary, that may have to change.
fn changed_part(text: &str, from: usize) -> Option<std::ops::Range<usize>> {
    let mut start = from;
    let mut at = from;
    loop {
        if text.as_bytes().get(at)?.is_ascii() {
            at = skip_ascii(text.as_bytes(), at);
            start = at - 1;
        }
        if let Some(last) = last_of_han(text.as_bytes(), at) {
            start = last;
            at = last + 3;
            continue;
        }
        let c = text[at..].chars().next()?;
        if let Some(plain) = plain_width(c) {
            // The only character of its part, as it is nearly always: no need to look back.
            let end = at + c.len_utf8();
            if text[end..].chars().next().is_none_or(is_boundary) {
                debug_assert!(plain.is_ascii());
                return Some(at..end);
            }
        }
        if !is_boundary(c) {
            break;
        }
        start = at;
        at += c.len_utf8();
    }
    let end = text[at..].char_indices().find(|(_, c)| is_boundary(*c));
    Some(start..end.map_or(text.len(), |(length, _)| at + length))
}

fn normalize(part: &str, out: &mut String) {
    let mut chars = part.chars();
    match (chars.next().and_then(plain_width), chars.next()) {
        (Some(plain), None) => out.push(plain),
        _ => out.extend(part.nfkc()),
    }
}

/// The ASCII character of which this one is the full-width form.
fn plain_width(c: char) -> Option<char> {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0),
        '\u{3000}' => Some(' '),
        _ => None,
    }
}

/// Whether the character is normalized and composes with none before it. The ranges that are
/// written out are those of most texts; a test compares them with Unicode's tables.
fn is_boundary(c: char) -> bool {
    matches!(c, '\0'..='\u{9f}' | '\u{4e00}'..='\u{9fff}' | '\u{3041}'..='\u{3096}'
        | '\u{30a1}'..='\u{30fa}' | '\u{3001}'..='\u{3029}' | '\u{ac00}'..='\u{d7a3}')
        || is_boundary_in_tables(c)
}

fn is_boundary_in_tables(c: char) -> bool {
    canonical_combining_class(c) == 0 && is_nfkc_quick(once(c)) == IsNormalized::Yes
}

fn skip_ascii(bytes: &[u8], from: usize) -> usize {
    find(bytes, from, |bytes| bytes[0] >= 0x80).unwrap_or(bytes.len())
}

/// Where the last of the characters from U+5000 to U+8FFF begins that stand at `at`, one after
/// another: most of what Chinese texts are written in, three bytes each, and all of them boundaries.
fn last_of_han(bytes: &[u8], at: usize) -> Option<usize> {
    let characters = bytes[at..].as_chunks::<3>().0.iter();
    let count = characters.take_while(|bytes| matches!(bytes[0], 0xe5..=0xe8)).count();
    count.checked_sub(1).map(|others| at + 3 * others)
}

/// Drops control characters (Unicode's category Cc) other than tab and newline.
#[expect(clippy::needless_bitwise_bool, reason = "a branch for each byte is no vector")]
pub fn strip_control(text: &str) -> Cow<'_, str> {
    // U+0080 to U+009F are 0xC2 followed by a byte that is less than 0xA0.
    let suspicious = |bytes: &[u8; 3]| {
        (bytes[0] < 0x20) & (bytes[0] != b'\t') & (bytes[0] != b'\n')
            | (bytes[0] == 0x7f)
            | (bytes[0] == 0xc2) & (bytes[1] < 0xa0)
    };
    let Some(mut at) = find(text.as_bytes(), 0, suspicious) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    let mut kept = 0;
    loop {
        out.push_str(&text[kept..at]);
        kept = at + if text.as_bytes()[at] == 0xc2 { 2 } else { 1 };
        match find(text.as_bytes(), kept, suspicious) {
            Some(next) => at = next,
            None => break,
        }
    }
    out.push_str(&text[kept..]);
    Cow::Owned(out)
}

/// Drops everything but letters, digits, `_` and white space.
pub fn strip_special(text: &str) -> Cow<'_, str> {
    let special = |c: char| !(c.is_alphanumeric() || c == '_' || c.is_whitespace());
    if !text.contains(special) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    text.split(special).for_each(|part| out.push_str(part));
    Cow::Owned(out)
}

/// Replaces each run of white space by one space, and trims.
pub fn collapse_whitespace(text: &str) -> Cow<'_, str> {
    let trimmed = text.trim();
    let Some(mut at) = next_irregular_space(trimmed, 0) else { return Cow::Borrowed(trimmed) };
    let mut out = String::with_capacity(trimmed.len());
    let mut kept = 0;
    loop {
        out.push_str(&trimmed[kept..at]);
        let rest = trimmed[at..].trim_start();
        kept = trimmed.len() - rest.len();
        if !out.ends_with(' ') {
            out.push(' ');
        }
        match next_irregular_space(trimmed, kept) {
            Some(next) => at = next,
            None => break,
        }
    }
    out.push_str(&trimmed[kept..]);
    Cow::Owned(out)
}

/// White space at or after `from` other than a single space; of more than one, the second.
#[expect(clippy::needless_bitwise_bool, reason = "a branch for each byte is no vector")]
fn next_irregular_space(text: &str, mut from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    // White space beyond ASCII begins with C2, E1, E2 80, E2 81 or E3 80 80.
    let suspicious = |bytes: &[u8; 3]| {
        let [one, two, three] = *bytes;
        (one.wrapping_sub(b'\t') < 5)
            | (one == b' ') & (two == b' ')
            | (one == 0xc2) & ((two == 0x85) | (two == 0xa0))
            | (one == 0xe1) & (two == 0x9a)
            | (one == 0xe2) & (two & 0xfe == 0x80)
            | (one == 0xe3) & (two == 0x80) & (three == 0x80)
    };
    loop {
        let at = find(bytes, from, suspicious)?;
        if bytes[at] == b' ' {
            return Some(at + 1);
        }
        let c = text[at..].chars().next()?;
        if c.is_whitespace() {
            return Some(at);
        }
        from = at + c.len_utf8();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_that_are_written_out_are_boundaries() {
        for c in '\0'..=char::MAX {
            assert_eq!(is_boundary(c), is_boundary_in_tables(c), "{:x}", u32::from(c));
            if let Some(plain) = plain_width(c) {
                assert_eq!(plain.to_string(), c.to_string().nfkc().collect::<String>());
            }
        }
    }

    #[test]
    fn han_that_is_passed_over_ends_where_a_part_must_begin() {
        for (text, want) in [
            ("语语ﬁ", "语语fi"),
            ("语语\u{301}", "语语\u{301}"),
            ("语か\u{3099}", "语が"),
            ("语，语", "语,语"),
            ("a语é\u{338}", "a语é\u{338}"),
        ] {
            assert_eq!(nfkc(text), want, "{text}");
        }
    }

    #[test]
    fn nothing_is_copied_where_nothing_changes() {
        for text in ["", "plain text", "你好 世界", "é naïve ß 한국어"] {
            assert!(matches!(nfkc(text), Cow::Borrowed(_)), "{text}");
            assert!(matches!(strip_control(text), Cow::Borrowed(_)), "{text}");
            assert!(matches!(strip_special(text), Cow::Borrowed(_)), "{text}");
            assert!(matches!(collapse_whitespace(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn nfkc_composes_and_maps() {
        for (text, want) in [
            ("ｈｅａｒｔｈ，１２３。", "hearth,123。"),
            ("e\u{301}le\u{300}ve ﬁn", "élève fin"),
            ("＜\u{338}", "≮"),
            ("かﾞ", "か\u{3099}".nfkc().collect::<String>().as_str()),
            ("x\u{3000}y", "x y"),
            ("\u{1112}\u{1161}\u{11ab}", "한"),
        ] {
            assert_eq!(nfkc(text), want, "{text}");
        }
    }

    /// Texts in which what these steps look for is frequent.
    fn texts() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            any::<String>(),
            "[ \t\n\u{85}\u{a0}\u{1680}\u{2003}\u{2028}\u{205f}\u{3000}。]{0,5}",
            "[\\x00-\\x20\u{7f}-\u{a1}]{0,8}",
            "[a-zé，！１ｱﾞ\u{301}\u{338}\u{3099}かﬁ你好\u{1112}\u{1161}\u{11ab}=<]{0,8}",
            "[a-z ]{0,80}",
        ];
        prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn steps_equal_their_plain_definitions(text in texts()) {
            let normal: String = text.nfkc().collect();
            prop_assert_eq!(nfkc(&text), normal.as_str());
            prop_assert!(matches!(nfkc(&normal), Cow::Borrowed(_)));
            let no_control: String =
                text.chars().filter(|c| !c.is_control() || matches!(c, '\t' | '\n')).collect();
            prop_assert_eq!(strip_control(&text), no_control);
            let no_special: String = text
                .chars()
                .filter(|c| c.is_alphanumeric() || *c == '_' || c.is_whitespace())
                .collect();
            prop_assert_eq!(strip_special(&text), no_special);
            let collapsed = text.split_whitespace().collect::<Vec<_>>().join(" ");
            prop_assert_eq!(collapse_whitespace(&text), collapsed);
        }
    }
}
