//! Addresses of mail and of machines.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::{is_part_of_decimal, is_word_byte};

/// Most bytes of a mail address's local part (RFC 5321, section 4.5.3.1.1).
const LONGEST_LOCAL_PART: usize = 64;
/// Most bytes of an IPv6 address as text.
const LONGEST_IP: usize = 45;

/// All mail addresses, in order.
pub(super) fn mails(text: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for at in memchr::memchr_iter(b'@', text) {
        let floor = found.last().map_or(0, |mail| mail.end);
        if at >= floor
            && let Some(start) = local_part(text, floor, at)
            && let Some(end) = domain(text, at + 1)
        {
            found.push(start..end);
        }
    }
    found
}

/// Where the local part that ends at `at` begins. Of what RFC 5322 allows, marks that also stand
/// around addresses (`=`, `/`, quotes) are left out.
fn local_part(text: &[u8], floor: usize, at: usize) -> Option<usize> {
    let is_local = |byte: &&u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(byte);
    let length =
        text[floor..at].iter().rev().take(LONGEST_LOCAL_PART + 1).take_while(is_local).count();
    let part = &text[at - length..at];
    let dots = part.iter().take_while(|byte| **byte == b'.').count();
    let length = length - dots;
    (1..=LONGEST_LOCAL_PART).contains(&length).then_some(at - length)
}

/// Where the domain that begins at `start` ends: two labels or more, the last of letters.
fn domain(text: &[u8], start: usize) -> Option<usize> {
    let mut end = None;
    let mut labels = 0;
    let mut at = start;
    loop {
        let is_label = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-';
        let written = text[at..].iter().take_while(is_label).count();
        let hyphens = text[at..at + written].iter().rev().take_while(|byte| **byte == b'-').count();
        let label = &text[at..at + written - hyphens];
        if label.is_empty() || label[0] == b'-' {
            return end;
        }
        labels += 1;
        at += label.len();
        let is_top = label.len() >= 2
            && (label.iter().all(u8::is_ascii_alphabetic) || label.starts_with(b"xn--"));
        if labels >= 2 && is_top {
            end = Some(at);
        }
        if hyphens > 0 || text.get(at) != Some(&b'.') {
            return end;
        }
        at += 1;
    }
}

/// An IPv4 address, or an IPv6 address with a digit in it (`a::b` is a path in many languages).
pub(super) fn ip(text: &[u8], word: &Range<usize>, floor: usize) -> Option<Range<usize>> {
    if word.len() > 4 {
        return None;
    }
    let after = text.get(word.end);
    let before = text[floor..word.start].last();
    if after == Some(&b':') || before == Some(&b':') {
        return ipv6(text, word, floor).or_else(|| ipv4(text, word));
    }
    if after == Some(&b'.') { ipv4(text, word) } else { None }
}

fn ipv4(text: &[u8], word: &Range<usize>) -> Option<Range<usize>> {
    let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let place = word.start..run_end(text, word.start, is_part)?;
    (!is_part_of_decimal(text, &place)).then(|| trimmed::<Ipv4Addr>(text, place)).flatten()
}

fn ipv6(text: &[u8], word: &Range<usize>, floor: usize) -> Option<Range<usize>> {
    let is_part = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b':' || *byte == b'.';
    let before = text[floor..word.start]
        .iter()
        .rev()
        .take(LONGEST_IP + 1)
        .take_while(|byte| is_part(byte))
        .count();
    let mut start = word.start - before;
    if text[start..].starts_with(b":") && !text[start..].starts_with(b"::") {
        start += 1;
    }
    let starts_word = start == floor || !is_word_byte(text[start - 1]);
    let place = start..run_end(text, start, is_part)?;
    starts_word.then(|| trimmed::<Ipv6Addr>(text, place)).flatten()
}

/// The end of the run of such bytes, where it is no longer than an address and ends a word.
fn run_end(text: &[u8], start: usize, is_part: impl Fn(&u8) -> bool) -> Option<usize> {
    let length = text[start..].iter().take(LONGEST_IP + 3).take_while(|byte| is_part(byte)).count();
    let end = start + length;
    text.get(end).is_none_or(|next| !is_word_byte(*next)).then_some(end)
}

/// The place without the point or colon that ends a sentence, where an address stands there.
fn trimmed<Address: std::str::FromStr>(text: &[u8], place: Range<usize>) -> Option<Range<usize>> {
    let mut address = std::str::from_utf8(&text[place.clone()]).ok()?;
    address = address.strip_suffix('.').unwrap_or(address);
    if !address.ends_with("::") {
        address = address.strip_suffix(':').unwrap_or(address);
    }
    address.parse::<Address>().ok()?;
    Some(place.start..place.start + address.len())
}
