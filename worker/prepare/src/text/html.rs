//! What an HTML page shows, as plain text.

use std::borrow::Cow;
use std::convert::Infallible;

use html5gum::{Emitter, Error, State, Tokenizer};

/// Longest name of an element that means something here (`blockquote`, `figcaption`); of longer
/// ones, one byte more is kept, so that they equal none.
const LONGEST_NAME: usize = 10;

/// The text without markup, with character references as the characters that they stand for.
///
/// Tokens are those of the HTML standard (section 13.2.5), so that markup with mistakes is read as
/// browsers read it: `a < b` is text, and what follows `<b` up to the end is a tag that was never
/// closed. Comments, and what is in `script`, `style`, `iframe`, `noembed` and `noframes`, go. Where
/// a block element or `br` stands, a line ends; where a table's cell ends, a tab is put in. White
/// space stays otherwise as it is written.
///
/// A text without `<` and `&` is given back as it is.
pub fn strip_html(text: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memchr2(b'<', b'&', text.as_bytes()) else {
        return Cow::Borrowed(text);
    };
    let mut shown = Vec::with_capacity(text.len());
    shown.extend_from_slice(&text.as_bytes()[..first]);
    let tokenizer = Tokenizer::new_with_emitter(&text[first..], Shown::new(&mut shown));
    let Ok(()) = tokenizer.finish();
    if shown == text.as_bytes() {
        return Cow::Borrowed(text);
    }
    // What checks bytes by vectors gives back no `String` of them; to copy them takes a tenth of
    // what checking them one by one does.
    match simdutf8::basic::from_utf8(&shown) {
        Ok(text) => Cow::Owned(text.to_owned()),
        Err(_) => Cow::Owned(String::from_utf8_lossy(&shown).into_owned()),
    }
}

/// Collects what is shown.
struct Shown<'a> {
    text: &'a mut Vec<u8>,
    name: Name,
    last_start: Name,
    is_end: bool,
    hidden: bool,
}

/// Name of an element, or the beginning of a long one.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Name {
    bytes: [u8; LONGEST_NAME + 1],
    length: usize,
}

impl Name {
    fn push(&mut self, more: &[u8]) {
        let fits = more.len().min(self.bytes.len() - self.length);
        self.bytes[self.length..self.length + fits].copy_from_slice(&more[..fits]);
        self.length += fits;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<'a> Shown<'a> {
    fn new(text: &'a mut Vec<u8>) -> Self {
        Self {
            text,
            name: Name::default(),
            last_start: Name::default(),
            is_end: false,
            hidden: false,
        }
    }

    /// Ends the line, unless nothing is on it.
    fn end_line(&mut self) {
        if self.text.last().is_some_and(|last| *last != b'\n') {
            self.text.push(b'\n');
        }
    }

    fn end_cell(&mut self) {
        if self.text.last().is_some_and(|last| !matches!(last, b'\n' | b'\t')) {
            self.text.push(b'\t');
        }
    }
}

/// How the tokenizer reads what stands in an element, as browsers without scripts do.
fn state_within(name: &[u8]) -> Option<State> {
    match name {
        b"script" => Some(State::ScriptData),
        b"style" | b"iframe" | b"noembed" | b"noframes" | b"xmp" => Some(State::RawText),
        b"textarea" | b"title" => Some(State::RcData),
        b"plaintext" => Some(State::PlainText),
        _ => None,
    }
}

fn is_hidden(name: &[u8]) -> bool {
    matches!(name, b"script" | b"style" | b"iframe" | b"noembed" | b"noframes")
}

/// Elements that browsers show as blocks (HTML standard, section 15.3), and those whose content
/// stands by itself.
#[rustfmt::skip]
fn is_block(name: &[u8]) -> bool {
    matches!(
        name,
        b"address" | b"article" | b"aside" | b"blockquote" | b"body" | b"br" | b"caption" | b"center"
            | b"dd" | b"details" | b"dialog" | b"dir" | b"div" | b"dl" | b"dt" | b"fieldset"
            | b"figcaption" | b"figure" | b"footer" | b"form" | b"h1" | b"h2" | b"h3" | b"h4" | b"h5"
            | b"h6" | b"header" | b"hgroup" | b"hr" | b"html" | b"legend" | b"li" | b"listing"
            | b"main" | b"menu" | b"nav" | b"ol" | b"optgroup" | b"option" | b"p" | b"plaintext"
            | b"pre" | b"search" | b"section" | b"summary" | b"table" | b"tbody" | b"textarea"
            | b"tfoot" | b"thead" | b"title" | b"tr" | b"ul" | b"xmp"
    )
}

impl Emitter for Shown<'_> {
    type Token = Infallible;

    fn emit_string(&mut self, text: &[u8]) {
        if !self.hidden {
            self.text.extend_from_slice(text);
        }
    }

    fn init_start_tag(&mut self) {
        self.name = Name::default();
        self.is_end = false;
    }

    fn init_end_tag(&mut self) {
        self.name = Name::default();
        self.is_end = true;
    }

    fn push_tag_name(&mut self, name: &[u8]) {
        self.name.push(name);
    }

    fn emit_current_tag(&mut self) -> Option<State> {
        let name = self.name;
        let name = name.as_bytes();
        if is_block(name) {
            self.end_line();
        }
        if self.is_end {
            if matches!(name, b"td" | b"th") {
                self.end_cell();
            }
            self.hidden = false;
            return None;
        }
        self.last_start = self.name;
        self.hidden = is_hidden(name);
        state_within(name)
    }

    fn current_is_appropriate_end_tag_token(&mut self) -> bool {
        self.is_end && self.name == self.last_start
    }

    fn should_emit_errors(&mut self) -> bool {
        false
    }

    fn pop_token(&mut self) -> Option<Infallible> {
        None
    }

    fn set_last_start_tag(&mut self, name: Option<&[u8]>) {
        self.last_start = Name::default();
        self.last_start.push(name.unwrap_or_default());
    }

    fn emit_eof(&mut self) {}
    fn emit_error(&mut self, _: Error) {}
    fn init_comment(&mut self) {}
    fn emit_current_comment(&mut self) {}
    fn emit_current_doctype(&mut self) {}
    fn set_self_closing(&mut self) {}
    fn set_force_quirks(&mut self) {}
    fn push_comment(&mut self, _: &[u8]) {}
    fn push_doctype_name(&mut self, _: &[u8]) {}
    fn init_doctype(&mut self) {}
    fn init_attribute(&mut self) {}
    fn push_attribute_name(&mut self, _: &[u8]) {}
    fn push_attribute_value(&mut self, _: &[u8]) {}
    fn set_doctype_public_identifier(&mut self, _: &[u8]) {}
    fn set_doctype_system_identifier(&mut self, _: &[u8]) {}
    fn push_doctype_public_identifier(&mut self, _: &[u8]) {}
    fn push_doctype_system_identifier(&mut self, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shows_what_a_page_shows() {
        for (page, want) in [
            ("plain", "plain"),
            ("a &lt; b &amp;amp; c&nbsp;&#x4f60;&#22909;", "a < b &amp; c\u{a0}你好"),
            ("AT&T, a < b, 1 <2", "AT&T, a < b, 1 <2"),
            ("<p>one<p>two<br>three</p><div>four</div>", "one\ntwo\nthree\nfour\n"),
            ("<b>bo</b>ld <a href='x>y'>link</a>", "bold link"),
            ("x<script>if (a<b) '</b>'</script>y<style>p{}</style>z", "xyz"),
            ("x<!-- <p>no</p> -->y<!doctype html>z", "xyz"),
            ("<SCRIPT>a</SCRIPT ><P>b", "b"),
            ("<title>T &amp; U</title><h1>H</h1>", "T & U\nH\n"),
            ("<tr><td>1</td><td>2</td></tr><tr><td>3</td></tr>", "1\t2\t\n3\t\n"),
            ("left <b never closed", "left "),
            ("<blockquotes>a</blockquotes>b", "ab"),
            ("你<br/>好", "你\n好"),
            ("<script>unclosed", ""),
        ] {
            assert_eq!(strip_html(page), want, "{page}");
        }
    }

    #[test]
    fn copies_nothing_where_nothing_changes() {
        for text in ["", "a > b", "AT&T", "a < b"] {
            assert!(matches!(strip_html(text), Cow::Borrowed(_)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in "(<|>|&|/|!|-|script|style|p|#|;|lt|\\PC|\\s){0,40}") {
            let _ = strip_html(&text);
        }
    }
}
