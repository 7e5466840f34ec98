//! Phone numbers: international ones (E.164, with `+`), and Chinese ones as they are dialled there.

use std::ops::Range;

use super::{all_digits, is_part_of_decimal, is_word_byte, word_end};

/// Most groups of digits of a number.
const MOST_GROUPS: usize = 8;
/// Most digits of an extension.
const LONGEST_EXTENSION: usize = 6;

/// A phone number whose first group of digits is `word`.
pub(super) fn phone(text: &[u8], word: &Range<usize>, floor: usize) -> Option<Range<usize>> {
    if word.len() > 17 || !all_digits(&text[word.clone()]) {
        return None;
    }
    let before = &text[floor..word.start];
    let groups = Groups::read(text, word);
    if before.ends_with(b"+") {
        let plus = word.start - 1;
        let stands_alone = plus == floor || !is_word_byte(text[plus - 1]);
        let end = stands_alone.then(|| international(&groups)).flatten()?;
        return Some(plus..end);
    }
    let place = word.start..chinese(text, &groups)?;
    if is_part_of_decimal(text, &place) {
        return None;
    }
    let opened = before.ends_with(b"(") && text[place.clone()].contains(&b')');
    Some(place.start - usize::from(opened)..place.end)
}

/// Groups of digits that are apart by a space, hyphen or point, or by parentheses.
struct Groups {
    digits: Vec<u8>,
    /// How many digits there are up to a group's end, and where that is in the text.
    ends: Vec<(usize, usize)>,
}

impl Groups {
    fn read(text: &[u8], word: &Range<usize>) -> Self {
        let mut groups = Self { digits: Vec::with_capacity(24), ends: Vec::with_capacity(4) };
        let mut group = word.clone();
        loop {
            groups.digits.extend_from_slice(&text[group.clone()]);
            groups.ends.push((groups.digits.len(), group.end));
            let start = group.end + separator(&text[group.end..]);
            group = start..word_end(text, start);
            let more = all_digits(&text[group.clone()]) && groups.ends.len() < MOST_GROUPS;
            if start == groups.ends.last().map_or(0, |(_, end)| *end) || !more {
                return groups;
            }
        }
    }

    /// Lengths of the first groups, with their digits and their end: the longest number first.
    fn prefixes(&self) -> impl Iterator<Item = (Vec<usize>, &[u8], usize)> {
        (1..=self.ends.len()).rev().map(|count| {
            let mut before = 0;
            let lengths = self.ends[..count].iter().map(|(digits, _)| {
                let length = digits - before;
                before = *digits;
                length
            });
            let lengths = lengths.collect();
            let (digits, end) = self.ends[count - 1];
            (lengths, &self.digits[..digits], end)
        })
    }
}

fn separator(text: &[u8]) -> usize {
    match text {
        [b')', b' ' | b'-', ..] | [b' ', b'(', ..] => 2,
        [b' ' | b'-' | b'.' | b'(' | b')', ..] => 1,
        _ => 0,
    }
}

/// The end of a number with a country's code: 8 to 15 digits (ITU-T E.164); 11 with North
/// America's and Russia's, at most 13 with China's.
fn international(groups: &Groups) -> Option<usize> {
    let fits = |digits: &[u8]| match digits {
        [b'0', ..] => false,
        [b'1' | b'7', ..] => digits.len() == 11,
        [b'8', b'6', ..] => (11..=13).contains(&digits.len()),
        _ => (8..=15).contains(&digits.len()),
    };
    groups.prefixes().find(|(_, digits, _)| fits(digits)).map(|(_, _, end)| end)
}

/// The end of a Chinese number, its extension with it.
fn chinese(text: &[u8], groups: &Groups) -> Option<usize> {
    groups.prefixes().find_map(|(lengths, digits, end)| {
        let (lengths, digits) = without_country(&lengths, digits);
        if is_mobile(&lengths, &digits) {
            return Some(end);
        }
        is_landline(&lengths, &digits).then(|| end + extension(&text[end..]))
    })
}

/// Without `86` or `0086`; a landline's area code then has no 0, which is put back.
fn without_country(lengths: &[usize], digits: &[u8]) -> (Vec<usize>, Vec<u8>) {
    let code = [&b"0086"[..], b"86"].into_iter().find(|code| digits.starts_with(code));
    let Some(code) = code.filter(|_| digits.len() > 10) else {
        return (lengths.to_vec(), digits.to_vec());
    };
    let mut lengths = lengths.to_vec();
    let mut digits = digits[code.len()..].to_vec();
    if lengths[0] <= code.len() {
        lengths.remove(0);
    } else {
        lengths[0] -= code.len();
    }
    if !is_mobile(&lengths, &digits) && digits[0] != b'0' && !lengths.is_empty() {
        digits.insert(0, b'0');
        lengths[0] += 1;
    }
    (lengths, digits)
}

fn is_mobile(lengths: &[usize], digits: &[u8]) -> bool {
    matches!(lengths, [11] | [3, 8] | [3, 4, 4] | [7, 4])
        && matches!(digits, [b'1', b'3'..=b'9', ..])
}

/// An area code of three digits (010, 02x) or four (03xx to 09xx), and seven or eight of which the
/// first is 2 to 8.
fn is_landline(lengths: &[usize], digits: &[u8]) -> bool {
    let area = match digits {
        [b'0', b'1', b'0', ..] | [b'0', b'2', ..] => 3,
        [b'0', b'3'..=b'9', ..] => 4,
        _ => return false,
    };
    let local = match lengths {
        [whole] => whole.checked_sub(area),
        [code, 7 | 8] if *code == area => Some(lengths[1]),
        [code, start @ (3 | 4), 4] if *code == area => Some(start + 4),
        _ => None,
    };
    let right_length = local == Some(8) || (area == 4 && local == Some(7));
    right_length && matches!(digits[area], b'2'..=b'8')
}

/// Bytes of an extension: `-123` or `转123`.
fn extension(text: &[u8]) -> usize {
    let mark = if text.starts_with(b"-") { 1 } else { "转".len() };
    if mark > 1 && !text.starts_with("转".as_bytes()) {
        return 0;
    }
    let end = word_end(text, mark);
    let right = (1..=LONGEST_EXTENSION).contains(&(end - mark)) && all_digits(&text[mark..end]);
    if right { end } else { 0 }
}
