//! Looks at requests as they come in, before hyper makes sense of them.
//!
//! Whoever stands before this gateway must agree with it on where a request
//! ends, or one client's bytes become the beginning of another's request
//! (request smuggling, RFC 9112 section 11.2). hyper resolves doubtful framing
//! in silence (`Transfer-Encoding` beside `Content-Length`: the latter is
//! dropped), so the scanner here walks the same bytes and says where framing
//! can be read in more than one way. Such a connection gets 400 and is closed.
//!
//! Pure: bytes in, a verdict out. It holds one request head at most.

/// Most bytes of a request's head: hyper's limit, so that both give up together.
pub(crate) const MAX_HEAD_BYTES: usize = 64 << 10;
/// Most header fields that hyper parses. [`crate::headers`] refuses fewer, with a sentence.
pub(crate) const MAX_HEAD_FIELDS: usize = 256;

/// Framing that others may read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ambiguity {
    #[error("the request has both Content-Length and Transfer-Encoding; send one of them")]
    TwoLengths,
    #[error("Transfer-Encoding must be exactly \"chunked\", once")]
    Coding,
    #[error("Content-Length must be one whole number")]
    Length,
    #[error("a line of the request's head ends in LF without CR")]
    BareLineFeed,
    #[error("the chunks of the request's body are malformed")]
    Chunks,
}

/// Where in a connection's stream of requests the next byte belongs.
#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    Sized(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkExtension {
        size: u64,
    },
    ChunkSizeLf {
        size: u64,
    },
    ChunkData(u64),
    ChunkEnd {
        seen: u8,
    },
    Trailers {
        line: u64,
        cr: bool,
    },
    /// Nothing more to say: a verdict was given, or hyper refuses by itself.
    Done,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { state: State::Head(Vec::new()) }
    }
}

impl Scanner {
    /// Takes the next bytes of the connection. A verdict is given once.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Option<Ambiguity> {
        while !bytes.is_empty() {
            match self.step(&mut bytes) {
                Ok(()) => {}
                Err(ambiguity) => {
                    self.state = State::Done;
                    return Some(ambiguity);
                }
            }
        }
        None
    }

    fn step(&mut self, bytes: &mut &[u8]) -> Result<(), Ambiguity> {
        match &mut self.state {
            State::Done => *bytes = &[],
            State::Head(head) => {
                if let Some(next) = read_head(head, bytes)? {
                    self.state = next;
                }
            }
            State::Sized(left) => {
                if skip(left, bytes) {
                    self.state = State::Head(Vec::new());
                }
            }
            State::ChunkData(left) => {
                if skip(left, bytes) {
                    self.state = State::ChunkEnd { seen: 0 };
                }
            }
            _ => {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                self.framing_byte(byte)?;
            }
        }
        Ok(())
    }

    /// A byte of a body's framing.
    fn framing_byte(&mut self, byte: u8) -> Result<(), Ambiguity> {
        self.state = match (&self.state, byte) {
            (State::ChunkSize { size, digits }, _) if byte.is_ascii_hexdigit() => {
                let digit = u64::from((byte as char).to_digit(16).unwrap_or_default());
                if *digits == 15 {
                    return Err(Ambiguity::Chunks);
                }
                State::ChunkSize { size: size * 16 + digit, digits: digits + 1 }
            }
            (State::ChunkSize { digits: 0, .. }, _) => return Err(Ambiguity::Chunks),
            (State::ChunkSize { size, .. }, b';' | b' ' | b'\t') => {
                State::ChunkExtension { size: *size }
            }
            (State::ChunkSize { size, .. } | State::ChunkExtension { size }, b'\r') => {
                State::ChunkSizeLf { size: *size }
            }
            (State::ChunkExtension { size }, other) if other != b'\n' => {
                State::ChunkExtension { size: *size }
            }
            (State::ChunkSizeLf { size: 0 }, b'\n') => State::Trailers { line: 0, cr: false },
            (State::ChunkSizeLf { size }, b'\n') => State::ChunkData(*size),
            (State::ChunkEnd { seen: 0 }, b'\r') => State::ChunkEnd { seen: 1 },
            (State::ChunkEnd { seen: 1 }, b'\n') => State::ChunkSize { size: 0, digits: 0 },
            (State::Trailers { line, cr: false }, b'\r') => {
                State::Trailers { line: *line, cr: true }
            }
            (State::Trailers { line: 0, cr: true }, b'\n') => State::Head(Vec::new()),
            (State::Trailers { cr: true, .. }, b'\n') => State::Trailers { line: 0, cr: false },
            (State::Trailers { line, cr: false }, other) if other != b'\n' => {
                State::Trailers { line: line + 1, cr: false }
            }
            _ => return Err(Ambiguity::Chunks),
        };
        Ok(())
    }
}

/// Moves past up to `left` bytes; true once none is left.
fn skip(left: &mut u64, bytes: &mut &[u8]) -> bool {
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *bytes = &bytes[here..];
    *left -= here as u64;
    *left == 0
}

/// Moves bytes into `head` up to its empty line, then says what follows.
fn read_head(head: &mut Vec<u8>, bytes: &mut &[u8]) -> Result<Option<State>, Ambiguity> {
    while let Some((&byte, rest)) = bytes.split_first() {
        *bytes = rest;
        // Empty lines before a request line are skipped (RFC 9112 section 2.2).
        if head.is_empty() && (byte == b'\r' || byte == b'\n') {
            continue;
        }
        if byte == b'\n' && head.last() != Some(&b'\r') {
            return Err(Ambiguity::BareLineFeed);
        }
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            return body_after(head).map(Some);
        }
        if head.len() > MAX_HEAD_BYTES {
            return Ok(Some(State::Done));
        }
    }
    Ok(None)
}

/// The state after a whole head.
fn body_after(head: &[u8]) -> Result<State, Ambiguity> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEAD_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    if request.parse(head).is_err() {
        // hyper uses the same parser and refuses it too.
        return Ok(State::Done);
    }
    let named = |name: &'static str| {
        request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name))
    };
    let lengths: Vec<&[u8]> = named("content-length").map(|field| field.value).collect();
    let codings: Vec<&[u8]> = named("transfer-encoding").map(|field| field.value).collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(State::Head(Vec::new())),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(State::ChunkSize { size: 0, digits: 0 })
        }
        ([], _) => Err(Ambiguity::Coding),
        ([first, rest @ ..], []) => {
            let digits = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(first).ok().and_then(|text| text.parse().ok());
            match length {
                Some(0) if digits && rest.is_empty() => Ok(State::Head(Vec::new())),
                Some(length) if digits && rest.is_empty() => Ok(State::Sized(length)),
                _ => Err(Ambiguity::Length),
            }
        }
        _ => Err(Ambiguity::TwoLengths),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "\r\nPOST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
        GET /b HTTP/1.1\r\nHost: x\r\n\r\n\
        POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
        a;name=\"v\"\r\n0123456789\r\n1\r\n\n\r\n0\r\nTrailer: 1\r\n\r\n\
        PUT /d HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
    const SMUGGLED: &str =
        "POST /e HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

    fn verdict(text: &str) -> Option<Ambiguity> {
        Scanner::default().feed(text.as_bytes())
    }

    #[test]
    fn doubtful_framing_is_seen() {
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (text, want) in [
            (SMUGGLED.to_owned(), Ambiguity::TwoLengths),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n".into(),
                Ambiguity::TwoLengths,
            ),
            (chunked.replace("chunked", "gzip, chunked"), Ambiguity::Coding),
            (chunked.replace("chunked", "chunked\r\nTransfer-Encoding: x"), Ambiguity::Coding),
            (chunked.replace("chunked", "chunked\u{0}"), Ambiguity::Coding),
            ("POST / HTTP/1.1\r\nContent-Length: +4\r\n\r\n".into(), Ambiguity::Length),
            ("POST / HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\n".into(), Ambiguity::Length),
            (
                "POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n".into(),
                Ambiguity::Length,
            ),
            ("GET / HTTP/1.1\nHost: x\r\n\r\n".into(), Ambiguity::BareLineFeed),
            (format!("{chunked}5\nhello\r\n0\r\n\r\n"), Ambiguity::Chunks),
            (format!("{chunked}5\r\nhello0\r\n\r\n"), Ambiguity::Chunks),
            (format!("{chunked}fffffffffffffffff\r\n"), Ambiguity::Chunks),
            (format!("{chunked}0\r\nTrailer: 1\n\r\n"), Ambiguity::Chunks),
        ] {
            // NUL in a value is refused by the parser itself, as by hyper's.
            let want = (!text.contains('\0')).then_some(want);
            assert_eq!(verdict(&text), want, "{text:?}");
        }
    }

    #[test]
    fn plain_requests_pass() {
        assert_eq!(verdict(GOOD), None);
    }

    proptest! {
        /// A smuggled request is found behind good ones, however the bytes arrive;
        /// so the scanner never loses its place.
        #[test]
        fn arrival_makes_no_difference(cuts in proptest::collection::vec(0_usize..400, 0..12)) {
            let text = format!("{GOOD}{SMUGGLED}");
            let mut edges: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            edges.extend([0, text.len()]);
            edges.sort_unstable();
            let mut scanner = Scanner::default();
            let mut verdicts = Vec::new();
            for pair in edges.windows(2) {
                verdicts.extend(scanner.feed(&text.as_bytes()[pair[0]..pair[1]]));
            }
            prop_assert_eq!(verdicts, vec![Ambiguity::TwoLengths]);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Scanner::default().feed(&bytes);
        }
    }
}
