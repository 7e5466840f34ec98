use hearth_crds::preparation::Synonyms as SynonymsSpec;
use proptest::prelude::*;

use super::*;

const TEXT: &str = "The quick fox, being fast, jumps over 2 lazy dogs. Quick thinking!";

fn synonyms() -> Synonyms {
    let file = tempfile::NamedTempFile::new().unwrap();
    let sets = "quick\tfast\trapid\nlazy\tidle\njumps\tleaps\n高兴\t开心\n公园\t花园\n";
    std::io::Write::write_all(&mut file.as_file(), sets.as_bytes()).unwrap();
    Synonyms::load(file.path()).unwrap()
}

fn spec(replace: f64, insert: f64, swap: f64, delete: f64) -> TextAugmentation {
    let some = |share: f64| (share > 0.0).then_some(share);
    let source = SynonymsSpec { source: String::new(), share: replace };
    TextAugmentation {
        copies: 1,
        synonyms: some(replace).map(|_| source),
        insert: some(insert),
        swap: some(swap),
        delete: some(delete),
        back_translation: None,
    }
}

fn augmenter(spec: &TextAugmentation) -> TextAugmenter {
    TextAugmenter::new(spec, synonyms(), 11)
}

/// Words of a text, sorted.
fn sorted(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.unicode_words().collect();
    words.sort_unstable();
    words
}

#[test]
fn synonyms_take_the_places_of_words() {
    let all = augmenter(&spec(0.99, 0.0, 0.0, 0.0)).copy(TEXT, b"row", 0);
    for gone in ["quick", "fast", "lazy", "jumps"] {
        let kept = gone == "quick" && all.contains("being quick")
            || gone == "fast" && all.contains("The fast");
        assert!(kept || !sorted(&all).contains(&gone), "{gone} in {all}");
    }
    assert!(all.starts_with("The ") && all.contains(", being ") && all.ends_with(" thinking!"));
    assert!(all.contains(". Rapid ") || all.contains(". Fast "), "{all}");
    let one = augmenter(&spec(0.01, 0.0, 0.0, 0.0)).copy(TEXT, b"row", 0);
    let changed = one.unicode_words().zip(TEXT.unicode_words()).filter(|(new, old)| new != old);
    assert_eq!(changed.count(), 1, "{one}");
}

#[test]
fn chinese_words_are_the_longest_that_have_synonyms() {
    let text = "我很高兴，去公园玩";
    assert_eq!(augmenter(&spec(0.99, 0.0, 0.0, 0.0)).copy(text, b"", 0), "我很开心，去花园玩");
    let inserted = augmenter(&spec(0.1, 0.1, 0.0, 0.0)).copy(text, b"", 0);
    assert!(!inserted.contains(' ') && inserted.chars().count() == text.chars().count() + 2);
}

#[test]
fn insertion_adds_words_swap_keeps_them_and_deletion_takes_them() {
    let count = TEXT.unicode_words().count();
    let mut more = augmenter(&spec(0.1, 0.3, 0.0, 0.0));
    more.replace = None;
    assert_eq!(more.copy(TEXT, b"", 0).unicode_words().count(), count + 3);
    let swapped = augmenter(&spec(0.0, 0.0, 0.3, 0.0)).copy(TEXT, b"", 0);
    assert_ne!(swapped, TEXT);
    assert_eq!(sorted(&swapped), sorted(TEXT));
    let deleted = augmenter(&spec(0.0, 0.0, 0.0, 0.5)).copy(TEXT, b"", 0);
    assert!(sorted(&deleted).len() < count);
    assert!(!deleted.contains("  ") && !deleted.contains(" ,"), "{deleted}");
    assert!(sorted(&deleted).iter().all(|word| TEXT.contains(word)));
}

#[test]
fn a_share_of_words_goes() {
    let text = "word ".repeat(1000);
    let left = augmenter(&spec(0.0, 0.0, 0.0, 0.2)).copy(&text, b"", 0);
    // 200 of 1000 go, with a standard deviation of 13.
    let gone = 1000 - left.unicode_words().count();
    assert!((140..260).contains(&gone), "{gone}");
}

#[test]
fn copies_rows_and_seeds_differ() {
    let spec = spec(0.2, 0.2, 0.2, 0.2);
    let copy =
        |seed, row: &[u8], copy| TextAugmenter::new(&spec, synonyms(), seed).copy(TEXT, row, copy);
    assert_eq!(copy(1, b"a", 0), copy(1, b"a", 0));
    for (seed, row, number) in [(2, &b"a"[..], 0), (1, b"b", 0), (1, b"a", 1)] {
        assert_ne!(copy(1, b"a", 0), copy(seed, row, number));
    }
}

proptest! {
    #[test]
    fn any_text_has_the_same_copy_for_the_same_seed(text in "[a-z ,.高兴公园quick]{0,30}|\\PC{0,30}") {
        let augmenter = augmenter(&spec(0.3, 0.3, 0.3, 0.3));
        let copy = augmenter.copy(&text, b"row", 3);
        prop_assert_eq!(&copy, &augmenter.copy(&text, b"row", 3));
        if text.unicode_words().next().is_some() {
            prop_assert!(!copy.trim().is_empty());
        }
    }
}
