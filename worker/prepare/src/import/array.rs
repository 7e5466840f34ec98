//! The elements of a JSON array, one at a time: an export is one array of any length.

use std::io::{self, BufRead};

/// Elements of a JSON array as they are written down; of a document that is one object, that object.
///
/// Brackets and strings are followed, nothing else is checked: what an element holds is its
/// parser's matter. At most `longest` bytes are held.
pub(crate) struct Elements<R> {
    source: R,
    longest: usize,
    state: State,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The array, or an object.
    Start,
    /// The first element, or the array's end.
    First,
    /// A comma, or the array's end.
    Comma,
    End,
}

/// What an array holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// The bytes of a value.
    Value(Vec<u8>),
    /// A value that is too long to be held.
    TooLong,
}

/// Why there is no further element.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ElementsError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("{0}")]
    Syntax(&'static str),
}

impl<R: BufRead> Elements<R> {
    pub(crate) fn new(source: R, longest: usize) -> Self {
        Self { source, longest, state: State::Start }
    }

    fn advance(&mut self) -> Result<Option<Element>, ElementsError> {
        if self.state == State::End {
            return Ok(None);
        }
        if self.state == State::Start {
            match self.next_visible()? {
                Some(b'[') => self.take(State::First),
                Some(b'{') => {
                    self.state = State::End;
                    return self.value().map(Some);
                }
                _ => return Err(ElementsError::Syntax("it is no JSON array")),
            }
        }
        match (self.next_visible()?, self.state) {
            (Some(b']'), _) => {
                self.take(State::End);
                return Ok(None);
            }
            (Some(b','), State::Comma) => self.take(State::First),
            (None, _) => return Err(ElementsError::Syntax("it ends before its array does")),
            (Some(_), State::Comma) => return Err(ElementsError::Syntax("a comma is missing")),
            (Some(_), _) => {}
        }
        self.next_visible()?;
        self.state = State::Comma;
        self.value().map(Some)
    }

    fn take(&mut self, state: State) {
        self.source.consume(1);
        self.state = state;
    }

    /// The next byte that is no white space, which stays to be read. A byte order mark is white.
    fn next_visible(&mut self) -> Result<Option<u8>, io::Error> {
        loop {
            let bytes = self.source.fill_buf()?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let white =
                |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0xEF | 0xBB | 0xBF);
            if let Some(at) = bytes.iter().position(|byte| !white(byte)) {
                let visible = bytes[at];
                self.source.consume(at);
                return Ok(Some(visible));
            }
            let count = bytes.len();
            self.source.consume(count);
        }
    }

    /// The value that begins here: up to a comma or bracket that is not its own.
    fn value(&mut self) -> Result<Element, ElementsError> {
        let mut scan = Scan::default();
        let mut value = Vec::new();
        let mut fits = true;
        loop {
            let bytes = self.source.fill_buf()?;
            if bytes.is_empty() {
                return Err(ElementsError::Syntax("it ends before its last element does"));
            }
            let end = scan.end(bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            fits = fits && value.len() + part.len() <= self.longest;
            if fits {
                value.extend_from_slice(part);
            } else {
                value = Vec::new();
            }
            let count = part.len();
            self.source.consume(count);
            if end.is_some() {
                return Ok(if fits { Element::Value(value) } else { Element::TooLong });
            }
        }
    }
}

impl<R: BufRead> Iterator for Elements<R> {
    type Item = Result<Element, ElementsError>;

    /// The next element; nothing after an error.
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.state = State::End;
        }
        next.transpose()
    }
}

/// Where in a value its reader is.
#[derive(Debug, Default)]
struct Scan {
    depth: u64,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// How many of these bytes belong to the value, where it ends among them.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b']' | b'}' | b',' if self.depth == 0 => return Some(at),
                b'"' => self.in_string = true,
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    fn all(text: &[u8], buffer: usize, longest: usize) -> Result<Vec<Element>, String> {
        Elements::new(BufReader::with_capacity(buffer, text), longest)
            .map(|element| element.map_err(|error| error.to_string()))
            .collect()
    }

    fn value(text: &str) -> Element {
        Element::Value(text.as_bytes().to_vec())
    }

    #[test]
    fn elements_are_cut_at_their_ends() {
        let text = br#" [ {"a": "]},[\"{"} , [1,[2]],"x" ,3] "#;
        let want =
            vec![value(r#"{"a": "]},[\"{"}"#), value("[1,[2]]"), value("\"x\" "), value("3")];
        for buffer in [1, 2, 7, 8192] {
            assert_eq!(all(text, buffer, 100).as_ref(), Ok(&want), "{buffer}");
        }
        assert_eq!(all(b"\xEF\xBB\xBF[]", 8, 100), Ok(vec![]));
        assert_eq!(all(br#"{"id": 1} rest"#, 3, 100), Ok(vec![value(r#"{"id": 1}"#)]));
    }

    #[test]
    fn long_elements_are_passed_over() {
        let text = format!("[1, \"{}\", 2]", "a".repeat(1000));
        let want = vec![value("1"), Element::TooLong, value("2")];
        assert_eq!(all(text.as_bytes(), 64, 100), Ok(want));
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for (text, want) in [
            ("", "no JSON array"),
            ("3", "no JSON array"),
            ("[1", "last element"),
            ("[1,", "last element"),
            ("[[1]", "before its array"),
            ("[{\"a\": [1}", "last element"),
            ("[[1] 2]", "comma"),
        ] {
            let told = all(text.as_bytes(), 8, 100).unwrap_err();
            assert!(told.contains(want), "{text}: {told}");
        }
    }

    proptest! {
        #[test]
        fn any_array_comes_back(
            texts in prop::collection::vec("[\\[\\]{}\",:a\\\\ é]{0,12}", 0..8),
            buffer in 1_usize..40,
        ) {
            let document = serde_json::to_vec(&texts).unwrap();
            let seen: Vec<String> = all(&document, buffer, 1000)
                .unwrap()
                .into_iter()
                .map(|element| match element {
                    Element::Value(bytes) => serde_json::from_slice(&bytes).unwrap(),
                    Element::TooLong => unreachable!("all are short"),
                })
                .collect();
            prop_assert_eq!(seen, texts);
        }
    }
}
