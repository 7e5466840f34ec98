//! Numbers of cards, accounts, persons and organisations.

use std::ops::Range;

use super::{all_digits, check, is_part_of_decimal, word_end};

/// Numbers of payment cards (ISO/IEC 7812-1): 13 to 19 digits, together or in the groups that
/// cards print, all apart by a space or all by a hyphen.
pub(super) fn card(text: &[u8], word: &Range<usize>) -> Option<Range<usize>> {
    if !matches!(word.len(), 4 | 6 | 13..=19) || !all_digits(&text[word.clone()]) {
        return None;
    }
    let groups = card_groups(text, word);
    let longest_first = (1..=groups.len()).rev();
    longest_first.map(|count| &groups[..count]).find_map(|groups| {
        let lengths: Vec<usize> = groups.iter().map(ExactSizeIterator::len).collect();
        let place = word.start..groups.last()?.end;
        let digits = text[place.clone()].iter().copied().filter(u8::is_ascii_digit);
        (is_printed(&lengths) && check::luhn(digits) && !is_part_of_decimal(text, &place))
            .then_some(place)
    })
}

/// The word and up to four more groups of digits.
fn card_groups(text: &[u8], word: &Range<usize>) -> Vec<Range<usize>> {
    let mut groups = vec![word.clone()];
    let separator = match text.get(word.end) {
        Some(separator @ (b' ' | b'-')) if word.len() <= 6 => *separator,
        _ => return groups,
    };
    let mut end = word.end;
    while groups.len() < 5 && text.get(end) == Some(&separator) {
        let group = end + 1..word_end(text, end + 1);
        if !all_digits(&text[group.clone()]) {
            break;
        }
        end = group.end;
        groups.push(group);
    }
    groups
}

fn is_printed(lengths: &[usize]) -> bool {
    matches!(lengths, [13..=19] | [4, 4, 4, 1..=4] | [4, 4, 4, 4, 1..=3] | [4, 6, 4 | 5] | [6, 13])
}

/// IBANs (ISO 13616) of the length that their country has, together or in groups of four.
pub(super) fn iban(text: &[u8], word: &Range<usize>) -> Option<Range<usize>> {
    let [one, two, three, four, ..] = text[word.clone()] else { return None };
    if !(three.is_ascii_digit() && four.is_ascii_digit()) {
        return None;
    }
    let length = iban_length([one, two])?;
    let mut characters = Vec::with_capacity(length);
    let mut at = word.start;
    while characters.len() < length {
        match text.get(at)? {
            b' ' if characters.len() % 4 == 0 => {}
            character if character.is_ascii_digit() || character.is_ascii_uppercase() => {
                characters.push(*character);
            }
            _ => return None,
        }
        at += 1;
    }
    (word_end(text, at) == at && check::iban(&characters)).then_some(word.start..at)
}

/// Characters of a country's IBANs (SWIFT's registry, release 99).
#[rustfmt::skip]
fn iban_length(country: [u8; 2]) -> Option<usize> {
    Some(match &country {
        b"NO" => 15,
        b"BE" => 16,
        b"DK" | b"FK" | b"FI" | b"FO" | b"GL" | b"NL" | b"SD" => 18,
        b"MK" | b"SI" => 19,
        b"AT" | b"BA" | b"EE" | b"KZ" | b"LT" | b"LU" | b"MN" | b"XK" => 20,
        b"CH" | b"HR" | b"LI" | b"LV" => 21,
        b"BG" | b"BH" | b"CR" | b"DE" | b"GB" | b"GE" | b"IE" | b"ME" | b"RS" | b"VA" => 22,
        b"AE" | b"GI" | b"IL" | b"IQ" | b"OM" | b"SO" | b"TL" => 23,
        b"AD" | b"CZ" | b"ES" | b"MD" | b"PK" | b"RO" | b"SA" | b"SE" | b"SK" | b"TN" | b"VG" => 24,
        b"LY" | b"PT" | b"ST" => 25,
        b"IS" | b"TR" => 26,
        b"BI" | b"DJ" | b"FR" | b"GR" | b"IT" | b"MC" | b"MR" | b"SM" => 27,
        b"AL" | b"AZ" | b"BY" | b"CY" | b"DO" | b"EG" | b"GT" | b"HN" | b"HU" | b"LB" | b"NI" | b"PL" => 28,
        b"BR" | b"PS" | b"QA" | b"UA" => 29,
        b"JO" | b"KW" | b"MU" | b"YE" => 30,
        b"MT" | b"SC" => 31,
        b"LC" => 32,
        b"RU" => 33,
        _ => return None,
    })
}

/// GB 11643: six digits of a place, a date of birth, three digits and the check character.
pub(super) fn resident_id(text: &[u8], word: &Range<usize>) -> Option<Range<usize>> {
    let characters: &[u8; 18] = text[word.clone()].try_into().ok()?;
    let (digits, last) = characters.split_at(17);
    let number = |place: Range<usize>| {
        digits[place].iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'))
    };
    let right = all_digits(digits)
        && (last[0].is_ascii_digit() || last[0].eq_ignore_ascii_case(&b'X'))
        && (1800..2100).contains(&number(6..10))
        && (1..=12).contains(&number(10..12))
        && (1..=31).contains(&number(12..14))
        && check::resident_id(characters);
    right.then(|| word.clone())
}

/// GB 32100: two characters of an authority and a category, six digits of a place, nine
/// characters of the organisation, and the check character.
pub(super) fn social_credit_code(text: &[u8], word: &Range<usize>) -> Option<Range<usize>> {
    let characters: &[u8; 18] = text[word.clone()].try_into().ok()?;
    let right = all_digits(&characters[2..8]) && check::social_credit_code(characters);
    (right && !is_part_of_decimal(text, word)).then(|| word.clone())
}

/// Social security numbers of the USA, `AAA-GG-SSSS`, without the areas, groups and serial numbers
/// that are never given out (000, 666 and 900 to 999; 00; 0000).
pub(super) fn social_security_number(text: &[u8], word: &Range<usize>) -> Option<Range<usize>> {
    const LENGTH: usize = "AAA-GG-SSSS".len();
    let place = word.start..word.start + LENGTH;
    let number: &[u8; LENGTH] = text.get(place.clone())?.try_into().ok()?;
    let [area @ .., b'-', _, _, b'-', _, _, _, _] = number else { return None };
    let (group, serial) = (&number[4..6], &number[7..]);
    let right = [area, group, serial].into_iter().all(all_digits)
        && !(area == b"000" || area == b"666" || area[0] == b'9')
        && group != b"00"
        && serial != b"0000";
    (right && stands_alone(text, &place)).then_some(place)
}

/// Whether no word and no hyphen with one is around the place.
fn stands_alone(text: &[u8], place: &Range<usize>) -> bool {
    let after = text.get(place.end) == Some(&b'-') && word_end(text, place.end + 1) > place.end + 1;
    let before = place.start >= 2
        && text[place.start - 1] == b'-'
        && text[place.start - 2].is_ascii_alphanumeric();
    word_end(text, place.end) == place.end && !before && !after
}
