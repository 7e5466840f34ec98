//! Texts made of a text: words are replaced, put in, swapped and deleted (EDA, Wei and Zou,
//! arXiv:1901.11196).
//!
//! Words are those of Unicode's segmentation (Standard Annex #29), so that punctuation and the
//! spaces around it stay where they are. Chinese has no spaces: there, the longest run of characters
//! that has synonyms is a word, and else each character is one. Unlike in the paper, all four are
//! done to each copy, one after the other, and stop words are words.

use hearth_crds::preparation::TextAugmentation;
use rand::Rng;
use rand::seq::SliceRandom;
use unicode_segmentation::UnicodeSegmentation;

use super::random;
use super::synonyms::Synonyms;
use crate::text::units::is_unspaced;

/// Makes texts of texts. Threads may share one.
#[derive(Clone, Debug)]
pub struct TextAugmenter {
    seed: u64,
    synonyms: Synonyms,
    replace: Option<f64>,
    insert: Option<f64>,
    swap: Option<f64>,
    delete: Option<f64>,
}

/// A word, or what stands between words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    is_word: bool,
}

impl Token {
    fn is_space(&self) -> bool {
        self.text == " "
    }
}

impl TextAugmenter {
    /// As the spec has it; `synonyms` are those of its `synonyms.source`.
    pub fn new(spec: &TextAugmentation, synonyms: Synonyms, seed: u64) -> Self {
        let replace = spec.synonyms.as_ref().map(|synonyms| synonyms.share);
        let (insert, swap, delete) = (spec.insert, spec.swap, spec.delete);
        Self { seed, synonyms, replace, insert, swap, delete }
    }

    /// The copy of that number of a text. `row` is what tells the row from others, such as the hash
    /// of its content.
    pub fn copy(&self, text: &str, row: &[u8], copy: u64) -> String {
        let mut random = random(self.seed, text, row, copy);
        let mut tokens = self.tokens(text);
        if let Some(share) = self.replace {
            self.replace_words(&mut tokens, share, &mut random);
        }
        if let Some(share) = self.insert {
            self.insert_words(&mut tokens, share, &mut random);
        }
        if let Some(share) = self.swap {
            swap_words(&mut tokens, share, &mut random);
        }
        if let Some(probability) = self.delete {
            delete_words(&mut tokens, probability, &mut random);
        }
        tokens.into_iter().map(|token| token.text).collect()
    }

    fn tokens(&self, text: &str) -> Vec<Token> {
        let parts: Vec<(usize, &str)> = text.split_word_bound_indices().collect();
        let mut tokens = Vec::with_capacity(parts.len());
        let mut at = 0;
        while let Some((start, part)) = parts.get(at) {
            let count = self.parts_of_word(&text[*start..], &parts[at..]);
            let end = parts.get(at + count).map_or(text.len(), |(end, _)| *end);
            let is_word = part.contains(char::is_alphanumeric);
            tokens.push(Token { text: text[*start..end].to_owned(), is_word });
            at += count;
        }
        tokens
    }

    /// How many of the parts are one word: where there are no spaces, most that have synonyms.
    fn parts_of_word(&self, text: &str, parts: &[(usize, &str)]) -> usize {
        let start = parts[0].0;
        let unspaced = parts.iter().take_while(|(_, part)| part.starts_with(is_unspaced));
        let most = unspaced.take(self.synonyms.longest()).count();
        let end = |count: usize| parts.get(count).map_or(text.len(), |(end, _)| end - start);
        (2..=most)
            .rev()
            .find(|count| !self.synonyms.of(&text[..end(*count)]).is_empty())
            .unwrap_or(1)
    }

    fn replace_words(&self, tokens: &mut [Token], share: f64, random: &mut impl Rng) {
        let count = part_of(words(tokens).len(), share);
        let mut places = self.words_with_synonyms(tokens);
        places.shuffle(random);
        for place in places.into_iter().take(count) {
            if let Some(synonym) = self.synonym(&tokens[place].text, random) {
                tokens[place].text = synonym;
            }
        }
    }

    fn insert_words(&self, tokens: &mut Vec<Token>, share: f64, random: &mut impl Rng) {
        let places = words(tokens);
        let sources = self.words_with_synonyms(tokens);
        let mut inserted = Vec::new();
        for _ in 0..part_of(places.len(), share) {
            let Some(source) = pick(&sources, random) else { return };
            let Some(synonym) = self.synonym(&tokens[source].text, random) else { return };
            let Some(place) = pick(&places, random) else { return };
            inserted.push((place, synonym));
        }
        inserted.sort_by_key(|(place, _)| *place);
        let mut inserted = inserted.into_iter().peekable();
        let mut out = Vec::with_capacity(tokens.len() + 2 * inserted.len());
        for (place, token) in tokens.drain(..).enumerate() {
            while let Some((_, synonym)) = inserted.next_if(|(before, _)| *before == place) {
                let spaced = !synonym.starts_with(is_unspaced);
                out.push(Token { text: synonym, is_word: true });
                out.extend(spaced.then(|| Token { text: " ".to_owned(), is_word: false }));
            }
            out.push(token);
        }
        *tokens = out;
    }

    fn words_with_synonyms(&self, tokens: &[Token]) -> Vec<usize> {
        let known = |place: &usize| !self.synonyms.of(&tokens[*place].text).is_empty();
        words(tokens).into_iter().filter(known).collect()
    }

    /// A synonym, beginning with a capital letter where the word does.
    fn synonym(&self, word: &str, random: &mut impl Rng) -> Option<String> {
        let synonyms = self.synonyms.of(word);
        let synonym = &synonyms[pick_below(synonyms.len(), random)?];
        let mut chars = synonym.chars();
        match chars.next() {
            Some(first) if word.starts_with(char::is_uppercase) => {
                Some(first.to_uppercase().chain(chars).collect())
            }
            _ => Some(synonym.clone()),
        }
    }
}

/// Places of the words.
fn words(tokens: &[Token]) -> Vec<usize> {
    let words = tokens.iter().enumerate().filter(|(_, token)| token.is_word);
    words.map(|(place, _)| place).collect()
}

/// A share of so many, at least one, as in the paper.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
fn part_of(count: usize, share: f64) -> usize {
    ((count as f64 * share) as usize).max(1)
}

fn pick(places: &[usize], random: &mut impl Rng) -> Option<usize> {
    pick_below(places.len(), random).map(|place| places[place])
}

fn pick_below(bound: usize, random: &mut impl Rng) -> Option<usize> {
    (bound > 0).then(|| random.random_range(0..bound))
}

fn swap_words(tokens: &mut [Token], share: f64, random: &mut impl Rng) {
    let places = words(tokens);
    if places.len() < 2 {
        return;
    }
    for _ in 0..part_of(places.len(), share) {
        let one = random.random_range(0..places.len());
        let other = (one + random.random_range(1..places.len())) % places.len();
        tokens.swap(places[one], places[other]);
    }
}

/// Deletes each word with the probability, and a space beside it; one is left in any case.
fn delete_words(tokens: &mut Vec<Token>, probability: f64, random: &mut impl Rng) {
    let places = words(tokens);
    let mut goes: Vec<bool> = places.iter().map(|_| random.random_bool(probability)).collect();
    if goes.iter().all(|goes| *goes)
        && let Some(stays) = pick_below(goes.len(), random)
    {
        goes[stays] = false;
    }
    let mut goes = goes.into_iter();
    let mut out: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut old = tokens.drain(..).peekable();
    while let Some(token) = old.next() {
        if !token.is_word || goes.next() == Some(false) {
            out.push(token);
            continue;
        }
        let after_space = out.last().is_some_and(Token::is_space);
        let before_space = old.peek().is_some_and(Token::is_space);
        if before_space && (after_space || out.is_empty()) {
            old.next();
        } else if after_space {
            out.pop();
        }
    }
    drop(old);
    *tokens = out;
}

#[cfg(test)]
mod tests;
