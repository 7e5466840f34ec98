use std::sync::LazyLock;

use proptest::prelude::*;
use regex::Regex;

use super::*;

fn masked(kinds: &[PersonalData], text: &str) -> String {
    Mask::new(kinds).apply(text, &mut Masked::new()).into_owned()
}

#[test]
fn each_kind_is_found_and_nothing_else() {
    for (text, want) in [
        ("write to ann.o-hara+x@mail.example.co.uk.", "write to [EMAIL]."),
        ("<a@b.cn>,c_d@e-f.org;联系foo@bar.com吧", "<[EMAIL]>,[EMAIL];联系[EMAIL]吧"),
        ("13812345678@qq.com", "[EMAIL]"),
        ("@user, a@b, a@b.1, .@c.de, x@-y.de, @@", "@user, a@b, a@b.1, .@c.de, x@-y.de, @@"),
        ("+1 (415) 555-2671, +49 30 901820; +44 20 7946 0958.", "[PHONE], [PHONE]; [PHONE]."),
        ("电话13812345678，或138-1234-5678、+86 138 1234 5678", "电话[PHONE]，或[PHONE]、[PHONE]"),
        ("008613812345679 86-13812345678 86-10-65529988", "[PHONE] [PHONE] [PHONE]"),
        (
            "(010) 65529988 010-65529988-123 0755-26013388转8 01065529988",
            "[PHONE] [PHONE] [PHONE] [PHONE]",
        ),
        (
            "3+12345678 12345678 23812345678 138123456789 1381234567",
            "3+12345678 12345678 23812345678 138123456789 1381234567",
        ),
        ("4111111111111111 or 4111 1111 1111 1111, 3782-822463-10005", "[CARD] or [CARD], [CARD]"),
        ("1,4111111111111111,2 and 4111-1111-1111-1111 12/27", "1,[CARD],2 and [CARD] 12/27"),
        (
            "4111111111111112 41111111111111111111 0.4111111111111111",
            "4111111111111112 41111111111111111111 0.4111111111111111",
        ),
        ("x4111111111111111 4111111111111111_1", "x4111111111111111 4111111111111111_1"),
        ("DE89 3704 0044 0532 0130 00 EUR, GB29NWBK60161331926819", "[IBAN] EUR, [IBAN]"),
        (
            "DE88370400440532013000 XX8937040044 DE89370400440532013000A",
            "DE88370400440532013000 XX8937040044 DE89370400440532013000A",
        ),
        ("身份证11010519491231002X，11010519491231002x", "身份证[ID]，[ID]"),
        ("110105194912310021 110105194913310029", "110105194912310021 110105194913310029"),
        ("91330100799655058B 91330100799655058C", "[CREDITCODE] 91330100799655058C"),
        (
            "123-45-6789 000-12-3456 666-12-3456 900-12-3456",
            "[SSN] 000-12-3456 666-12-3456 900-12-3456",
        ),
        (
            "123-00-6789 123-45-0000 1-123-45-6789 123-45-67890",
            "123-00-6789 123-45-0000 1-123-45-6789 123-45-67890",
        ),
        ("10.0.0.1, 255.255.255.255:80 and 192.168.1.1/24.", "[IP], [IP]:80 and [IP]/24."),
        (
            "256.1.1.1 1.2.3 1.2.3.4.5 v1.2.3.4 01.2.3.4",
            "256.1.1.1 1.2.3 1.2.3.4.5 v1.2.3.4 01.2.3.4",
        ),
        (
            "at fe80::1. IP:2001:db8::8a2e:370:7334, ::1, ::ffff:10.0.0.1",
            "at [IP]. IP:[IP], [IP], [IP]",
        ),
        ("12:30:45 std::vec a::b 1::b:x ::", "12:30:45 std::vec a::b 1::b:x ::"),
    ] {
        assert_eq!(masked(&KINDS, text), want, "{text}");
    }
}

#[test]
fn only_what_is_asked_for_is_masked() {
    let text = "a@b.de 13812345678 10.0.0.1 123-45-6789";
    assert_eq!(masked(&[], text), text);
    assert_eq!(masked(&[PersonalData::IPAddress], text), "a@b.de 13812345678 [IP] 123-45-6789");
    assert_eq!(masked(&[PersonalData::PhoneNumber], text), "a@b.de [PHONE] 10.0.0.1 123-45-6789");
}

#[test]
fn what_was_masked_is_counted_by_kind() {
    let mut counts = Masked::new();
    let mask = Mask::new(&KINDS);
    mask.apply("a@b.de, c@d.fr, 10.0.0.1", &mut counts);
    mask.apply("a@b.de", &mut counts);
    let want = [(PersonalData::EmailAddress, 3), (PersonalData::IPAddress, 1)];
    assert_eq!(counts, Masked::from(want));
}

#[test]
fn a_text_without_personal_data_is_not_copied() {
    for text in ["", "no numbers", "in 2024, 12.5 % of 1,000 @ 3", "你好 42"] {
        assert!(matches!(Mask::new(&KINDS).apply(text, &mut Masked::new()), Cow::Borrowed(_)));
    }
}

static CARDS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"[0-9]{13,19}|[0-9]{4}([ -])[0-9]{4}[ -][0-9]{4}[ -][0-9]{4}").unwrap()
});

/// Parts of which personal data is made, and what stands around it.
fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[0-9]{1,4}",
        "[0-9]{13,19}",
        "[0-9]{17}[0-9X]",
        "[ .:@+()_,-]",
        "[a-fA-F]{1,4}",
        "[a-z]{1,4}",
        "[你转é]",
        Just("4111 1111 1111 1111".to_owned()),
        Just("DE89370400440532013000".to_owned()),
        Just("fe80::1".to_owned()),
        Just("a@b.de".to_owned()),
        Just("+86 138".to_owned()),
    ];
    prop::collection::vec(part, 0..16).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_card_number_is_left(text in texts()) {
        let left = masked(&KINDS, &text);
        for found in CARDS.find_iter(&left) {
            let around = |byte: Option<&u8>| byte.is_none_or(|byte| !is_word_byte(*byte));
            let whole = around(left.as_bytes()[..found.start()].last())
                && around(left.as_bytes().get(found.end()))
                && !is_part_of_decimal(left.as_bytes(), &found.range());
            let one_separator = !(found.as_str().contains(' ') && found.as_str().contains('-'));
            let digits = found.as_str().bytes().filter(u8::is_ascii_digit);
            prop_assert!(!(whole && one_separator && check::luhn(digits)), "{text} → {left}");
        }
    }

    #[test]
    fn places_are_in_order_and_apart(text in texts()) {
        let mut done = 0;
        for (place, _) in Mask::new(&KINDS).find(text.as_bytes()) {
            prop_assert!(done <= place.start && place.start < place.end, "{}", text);
            prop_assert!(text.get(place.clone()).is_some(), "{}", text);
            done = place.end;
        }
    }

    #[test]
    fn any_text_can_be_masked(text in any::<String>()) {
        masked(&KINDS, &text);
    }
}
