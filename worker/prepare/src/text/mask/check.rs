//! Check digits.

/// Luhn's formula (ISO/IEC 7812-1, annex B) over decimal digits, the last of which checks.
pub(super) fn luhn(digits: impl DoubleEndedIterator<Item = u8>) -> bool {
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(place, digit)| match u32::from(digit - b'0') {
            value if place % 2 == 0 => value,
            value if value < 5 => value * 2,
            value => value * 2 - 9,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// ISO 13616: the number, its first four characters last and letters as 10 to 35, is 1 modulo 97.
pub(super) fn iban(characters: &[u8]) -> bool {
    let (head, body) = characters.split_at(4);
    let remainder = body.iter().chain(head).fold(0_u32, |remainder, character| {
        let value = char::from(*character).to_digit(36).unwrap_or(0);
        (remainder * if value < 10 { 10 } else { 100 } + value) % 97
    });
    remainder == 1
}

/// GB 11643: ISO 7064 MOD 11-2 over 17 digits and one that may be X.
pub(super) fn resident_id(characters: &[u8; 18]) -> bool {
    let sum = characters.iter().fold(0_u32, |sum, character| {
        let value =
            if character.eq_ignore_ascii_case(&b'X') { 10 } else { u32::from(character - b'0') };
        (sum * 2 + value) % 11
    });
    sum == 1
}

/// GB 32100: the sum of the characters' values times powers of 3, modulo 31, with the check
/// character is 0.
pub(super) fn social_credit_code(characters: &[u8; 18]) -> bool {
    let weights = std::iter::successors(Some(1_u32), |weight| Some(weight * 3 % 31));
    let weighted =
        characters[..17].iter().zip(weights).map(|(c, weight)| Some(value(*c)? * weight));
    let Some(sum) = weighted.sum::<Option<u32>>() else { return false };
    value(characters[17]).is_some_and(|check| (sum + check).is_multiple_of(31))
}

/// Value of a character of a social credit code: digits and upper-case letters without I, O, S, V
/// and Z.
fn value(character: u8) -> Option<u32> {
    let place = b"0123456789ABCDEFGHJKLMNPQRTUWXY".iter().position(|known| *known == character)?;
    u32::try_from(place).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers_are_right_and_no_other_last_digit_is() {
        for number in ["4111111111111111", "378282246310005", "6011000990139424", "4222222222222"] {
            assert_one_last(number, b"0123456789", |number| luhn(number.bytes()));
        }
        for number in ["11010519491231002X", "440524188001010014"] {
            assert_one_last(number, b"0123456789X", |number| {
                resident_id(number.as_bytes().try_into().unwrap())
            });
        }
        // Alibaba's and Tencent's.
        for number in ["91330100799655058B", "9144030071526726XG"] {
            assert_one_last(number, b"0123456789ABCDEFGHJKLMNPQRTUWXY", |number| {
                social_credit_code(number.as_bytes().try_into().unwrap())
            });
        }
        for number in
            ["DE89370400440532013000", "GB29NWBK60161331926819", "MT84MALT011000012345MTLCAST001S"]
        {
            assert_one_last(number, b"0123456789", |number| iban(number.as_bytes()));
        }
    }

    /// `number` is right, and not with another last character of `alphabet`.
    fn assert_one_last(number: &str, alphabet: &[u8], right: impl Fn(&str) -> bool) {
        assert!(right(number), "{number}");
        let (head, last) = number.split_at(number.len() - 1);
        for other in alphabet.iter().filter(|other| **other != last.as_bytes()[0]) {
            let wrong = format!("{head}{}", char::from(*other));
            assert!(!right(&wrong), "{wrong}");
        }
    }
}
