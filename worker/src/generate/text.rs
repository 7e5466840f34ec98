//! Tokens → text as it grows, up to a stop string.

use tokenizers::Tokenizer;

/// Bytes of a character that is not whole yet are decoded to this.
const BROKEN: char = '\u{fffd}';
/// Tokens that the text of a token may depend on.
const CONTEXT: usize = 5;

/// The text of tokens that come one by one.
#[derive(Debug, Default)]
pub struct TextStream {
    stops: Vec<String>,
    /// Tokens whose text is not out yet, and before them those that it depends on.
    ids: Vec<u32>,
    /// How many of the tokens are out.
    out: usize,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

/// What became known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grown {
    /// More text.
    pub text: String,
    /// A stop string came, which is no part of the text.
    pub stopped: bool,
}

impl TextStream {
    /// After `prompt`, on which its first characters may depend. Ends before the first of `stops`,
    /// none of which is empty.
    pub fn new(prompt: &[u32], stops: Vec<String>) -> Self {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Self { stops, out: ids.len(), ids, ..Self::default() }
    }

    /// One more token. Special tokens have no text.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> tokenizers::Result<Grown> {
        self.ids.push(id);
        let before = tokenizer.decode(&self.ids[..self.out], true)?;
        let all = tokenizer.decode(&self.ids, true)?;
        // A character has at most four tokens: more of them make none.
        let is_partial = all.ends_with(BROKEN) && self.ids.len() - self.out < CONTEXT;
        if is_partial {
            return Ok(Grown::default());
        }
        // Decoders may treat the first token otherwise: it is kept before the next one.
        self.ids.drain(..self.out);
        self.out = self.ids.len();
        Ok(self.grow(all.get(before.len()..).unwrap_or_default()))
    }

    /// No more tokens come: what was held back, and bytes that make no character.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> tokenizers::Result<String> {
        if self.stopped {
            return Ok(String::new());
        }
        let before = tokenizer.decode(&self.ids[..self.out], true)?;
        let all = tokenizer.decode(&self.ids, true)?;
        let grown = self.grow(all.get(before.len()..).unwrap_or_default());
        Ok(if grown.stopped { grown.text } else { grown.text + &std::mem::take(&mut self.held) })
    }

    fn grow(&mut self, more: &str) -> Grown {
        self.held.push_str(more);
        let stop = self.stops.iter().filter_map(|stop| self.held.find(stop)).min();
        if let Some(at) = stop {
            self.held.truncate(at);
            self.stopped = true;
            return Grown { text: std::mem::take(&mut self.held), stopped: true };
        }
        let kept = self.held.len() - self.beginning_of_a_stop();
        let rest = self.held.split_off(kept);
        Grown { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// Bytes at the end of what is held that could go on as a stop string.
    fn beginning_of_a_stop(&self) -> usize {
        let longest = |stop: &String| {
            let begins =
                |end: &usize| stop.is_char_boundary(*end) && self.held.ends_with(&stop[..*end]);
            (1..stop.len().min(self.held.len() + 1)).rev().find(begins).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of single bytes, as GPT-2's tokenizer writes them, and a special token of id 256.
    fn tokenizer() -> Tokenizer {
        let mut vocabulary = serde_json::Map::new();
        let mut beyond = 0x100;
        for byte in 0..=255u8 {
            let printed = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let letter = if printed {
                char::from(byte)
            } else {
                beyond += 1;
                char::from_u32(beyond - 1).unwrap()
            };
            vocabulary.insert(letter.to_string(), byte.into());
        }
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{"id": 256, "content": "<end>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false,
                "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": vocabulary, "merges": []},
        });
        json.to_string().parse().unwrap()
    }

    fn pieces(text: &[u8], stops: &[&str]) -> (Vec<String>, bool) {
        let tokenizer = tokenizer();
        let mut stream =
            TextStream::new(&[], stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut pieces = Vec::new();
        for byte in text {
            let grown = stream.push(&tokenizer, u32::from(*byte)).unwrap();
            pieces.push(grown.text);
            if grown.stopped {
                return (pieces, true);
            }
        }
        pieces.push(stream.finish(&tokenizer).unwrap());
        (pieces, false)
    }

    #[test]
    fn characters_come_whole() {
        let (got, _) = pieces("aé漢!".as_bytes(), &[]);
        assert_eq!(got, ["a", "", "é", "", "", "漢", "!", ""]);
        let (got, _) = pieces(&"é".as_bytes()[..1], &[]);
        assert_eq!(got, ["", "\u{fffd}"], "at the end, what is broken is told");
    }

    #[test]
    fn bytes_that_never_make_a_character_do_not_wait_for_ever() {
        let (got, _) = pieces(&[0xf0; 12], &[]);
        assert!(got.concat().chars().all(|c| c == BROKEN), "{got:?}");
        assert!(!got[..6].concat().is_empty(), "{got:?}");
    }

    #[test]
    fn a_special_token_has_no_text() {
        let tokenizer = tokenizer();
        let mut stream = TextStream::new(&[], Vec::new());
        let texts = [104, 256, 105].map(|id| stream.push(&tokenizer, id).unwrap().text);
        assert_eq!(texts, ["h", "", "i"]);
    }

    #[test]
    fn nothing_of_a_stop_string_is_told() {
        let (got, stopped) = pieces(b"one STOP two", &["STOP", "two"]);
        assert_eq!((got.concat().as_str(), stopped), ("one ", true));
        let (got, stopped) = pieces(b"one STO two", &["STOP"]);
        assert_eq!((got.concat().as_str(), stopped), ("one STO two", false));
        let (got, stopped) = pieces(b"one STO", &["STOP"]);
        assert_eq!((got.concat().as_str(), stopped), ("one STO", false), "held back to the end");
        assert_eq!(pieces(b"aab", &["ab"]).0.concat(), "a");
    }
}
