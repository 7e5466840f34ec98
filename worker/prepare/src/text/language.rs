//! Languages that can be told from a text.

use whatlang::Lang;

/// Bytes of a text from which its language is told.
const LOOKED_AT: usize = 4096;

/// A language by its code of ISO 639-1.
pub(super) fn by_code(code: &str) -> Option<Lang> {
    Lang::all().iter().copied().find(|language| code_of(*language) == code)
}

/// All codes, in the order of the alphabet.
pub(super) fn codes() -> Vec<&'static str> {
    let mut codes: Vec<_> = Lang::all().iter().map(|language| code_of(*language)).collect();
    codes.sort_unstable();
    codes
}

/// The language of the first 4096 bytes, where whatlang calls it reliable.
pub(crate) fn of(text: &str) -> Option<Lang> {
    let start = &text[..text.floor_char_boundary(LOOKED_AT)];
    whatlang::detect(start).filter(whatlang::Info::is_reliable).map(|info| info.lang())
}

/// ISO 639-1's code of a language. Macrolanguages stand for the one that is told (`zh`: Mandarin,
/// `fa`: Iranian Persian, `no` is not used: Bokmål is `nb`).
#[rustfmt::skip]
fn code_of(language: Lang) -> &'static str {
    match language {
        Lang::Afr => "af", Lang::Aka => "ak", Lang::Amh => "am", Lang::Ara => "ar", Lang::Aze => "az",
        Lang::Bel => "be", Lang::Ben => "bn", Lang::Bul => "bg", Lang::Cat => "ca", Lang::Ces => "cs",
        Lang::Cmn => "zh", Lang::Cym => "cy", Lang::Dan => "da", Lang::Deu => "de", Lang::Ell => "el",
        Lang::Eng => "en", Lang::Epo => "eo", Lang::Est => "et", Lang::Fin => "fi", Lang::Fra => "fr",
        Lang::Guj => "gu", Lang::Heb => "he", Lang::Hin => "hi", Lang::Hrv => "hr", Lang::Hun => "hu",
        Lang::Hye => "hy", Lang::Ind => "id", Lang::Ita => "it", Lang::Jav => "jv", Lang::Jpn => "ja",
        Lang::Kan => "kn", Lang::Kat => "ka", Lang::Khm => "km", Lang::Kor => "ko", Lang::Lat => "la",
        Lang::Lav => "lv", Lang::Lit => "lt", Lang::Mal => "ml", Lang::Mar => "mr", Lang::Mkd => "mk",
        Lang::Mya => "my", Lang::Nep => "ne", Lang::Nld => "nl", Lang::Nob => "nb", Lang::Ori => "or",
        Lang::Pan => "pa", Lang::Pes => "fa", Lang::Pol => "pl", Lang::Por => "pt", Lang::Ron => "ro",
        Lang::Rus => "ru", Lang::Sin => "si", Lang::Slk => "sk", Lang::Slv => "sl", Lang::Sna => "sn",
        Lang::Spa => "es", Lang::Srp => "sr", Lang::Swe => "sv", Lang::Tam => "ta", Lang::Tel => "te",
        Lang::Tgl => "tl", Lang::Tha => "th", Lang::Tuk => "tk", Lang::Tur => "tr", Lang::Ukr => "uk",
        Lang::Urd => "ur", Lang::Uzb => "uz", Lang::Vie => "vi", Lang::Yid => "yi", Lang::Zul => "zu",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_language_has_a_code_of_its_own() {
        let codes = codes();
        assert_eq!(codes.len(), 70);
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]));
        for language in Lang::all() {
            assert_eq!(by_code(code_of(*language)), Some(*language));
        }
    }

    #[test]
    fn languages_are_told() {
        for (text, want) in [
            (
                "The quick brown fox jumps over the lazy dog while the children are watching it.",
                Some("en"),
            ),
            (
                "Der schnelle braune Fuchs springt über den faulen Hund, während die Kinder zusehen.",
                Some("de"),
            ),
            ("敏捷的棕色狐狸跳过了懒狗，孩子们都在看。", Some("zh")),
            ("素早い茶色の狐がのろまな犬を飛び越える。", Some("ja")),
            ("12345 !!!", None),
            ("", None),
        ] {
            assert_eq!(of(text).map(code_of), want, "{text}");
        }
    }
}
