//! Personal data that is told by its form.
//!
//! What is looked for contains an `@` or an ASCII digit, so that a text without them is passed at
//! the speed of memory. Around each such place whole words are tried, kind by kind; a part of a
//! longer run of letters, digits and underscores is never taken. Letters beyond ASCII are no part
//! of a word here, since Chinese text puts them next to numbers.
//!
//! Full-width digits are found once `NFKC` has made them plain.

mod address;
mod check;
mod number;
mod phone;

use std::borrow::Cow;
use std::ops::Range;

use hearth_crds::preparation::PersonalData;

use super::clean::Masked;
use super::scan::find_digit;

/// All kinds, those first that are taken where more than one would do.
pub const KINDS: [PersonalData; 8] = [
    PersonalData::EmailAddress,
    PersonalData::IPAddress,
    PersonalData::IBAN,
    PersonalData::ChineseResidentID,
    PersonalData::ChineseSocialCreditCode,
    PersonalData::PaymentCard,
    PersonalData::SocialSecurityNumber,
    PersonalData::PhoneNumber,
];

/// Replaces personal data by its kind's mark.
#[derive(Clone, Debug)]
pub struct Mask {
    mail: bool,
    /// Kinds that contain digits, in the order of [`KINDS`].
    numbers: Vec<PersonalData>,
}

/// Where something was found.
type Found = (Range<usize>, PersonalData);

impl Mask {
    /// Looks for `kinds`.
    pub fn new(kinds: &[PersonalData]) -> Self {
        let wanted = KINDS.into_iter().filter(|kind| kinds.contains(kind));
        let (mail, numbers): (Vec<_>, _) =
            wanted.partition(|kind| *kind == PersonalData::EmailAddress);
        Self { mail: !mail.is_empty(), numbers }
    }

    /// The text with marks in the places of personal data; `masked` counts them.
    pub fn apply<'a>(&self, text: &'a str, masked: &mut Masked) -> Cow<'a, str> {
        let found = self.find(text.as_bytes());
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for (place, kind) in found {
            out.push_str(&text[done..place.start]);
            out.push_str(kind.mark());
            done = place.end;
            *masked.entry(kind).or_default() += 1;
        }
        out.push_str(&text[done..]);
        Cow::Owned(out)
    }

    /// All places, in order and apart from one another.
    fn find(&self, text: &[u8]) -> Vec<Found> {
        let mails = if self.mail { address::mails(text) } else { Vec::new() };
        let mut found = Vec::new();
        let mut from = 0;
        for mail in mails {
            self.find_numbers(&text[..mail.start], from, &mut found);
            from = mail.end;
            found.push((mail, PersonalData::EmailAddress));
        }
        self.find_numbers(text, from, &mut found);
        found
    }

    fn find_numbers(&self, text: &[u8], mut from: usize, found: &mut Vec<Found>) {
        if self.numbers.is_empty() {
            return;
        }
        while let Some(digit) = find_digit(text, from) {
            let word = word_around(text, digit, from);
            let mut kinds = self.numbers.iter();
            let place = kinds.find_map(|kind| Some((place_of(*kind, text, &word, from)?, *kind)));
            from = place.as_ref().map_or(word.end, |(place, _)| place.end);
            found.extend(place);
        }
    }
}

/// What is of this kind and has `word` for its first word with a digit; it begins at `floor` or
/// later.
fn place_of(
    kind: PersonalData,
    text: &[u8],
    word: &Range<usize>,
    floor: usize,
) -> Option<Range<usize>> {
    match kind {
        PersonalData::IPAddress => address::ip(text, word, floor),
        PersonalData::IBAN => number::iban(text, word),
        PersonalData::ChineseResidentID => number::resident_id(text, word),
        PersonalData::ChineseSocialCreditCode => number::social_credit_code(text, word),
        PersonalData::PaymentCard => number::card(text, word),
        PersonalData::SocialSecurityNumber => number::social_security_number(text, word),
        PersonalData::PhoneNumber => phone::phone(text, word, floor),
        // Found by its `@`.
        PersonalData::EmailAddress => None,
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The word of which the byte at `at` is part.
fn word_around(text: &[u8], at: usize, floor: usize) -> Range<usize> {
    let before = text[floor..at].iter().rev().take_while(|byte| is_word_byte(**byte)).count();
    at - before..word_end(text, at)
}

/// The end of the word that begins at `start`, which is `start` where none does.
fn word_end(text: &[u8], start: usize) -> usize {
    start + text[start..].iter().take_while(|byte| is_word_byte(**byte)).count()
}

fn all_digits(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(u8::is_ascii_digit)
}

/// Whether the number at `place` is the fraction of one with a decimal point, or has one.
fn is_part_of_decimal(text: &[u8], place: &Range<usize>) -> bool {
    let digit = |at: usize| text.get(at).is_some_and(u8::is_ascii_digit);
    let before = place.start >= 2 && text[place.start - 1] == b'.' && digit(place.start - 2);
    before || (text.get(place.end) == Some(&b'.') && digit(place.end + 1))
}

#[cfg(test)]
mod tests;
