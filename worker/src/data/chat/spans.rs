//! Where in a rendered chat the assistant speaks.

use std::ops::Range;

use minijinja::Value;

use super::{BLOCK, is_assistant};

/// The function that stands for a generation block.
pub(super) const CALL: &str = "__hearth_generation";

/// The template with `{% generation %}` … `{% endgeneration %}` as blocks that call [`CALL`], and
/// whether it has any. What trims white space stays.
pub(super) fn blocks_as_calls(template: &str) -> (String, bool) {
    let mut out = String::with_capacity(template.len());
    let (mut rest, mut found) = (template, false);
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let (replaced, length) = match generation_tag(tag) {
            Some((name, length)) => {
                found = true;
                let call = if name == "generation" { &format!("call {CALL}()") } else { "endcall" };
                (tag[..length].replacen(name, call, 1), length)
            }
            None => ("{%".to_owned(), 2),
        };
        out.push_str(&replaced);
        rest = &tag[length..];
    }
    out.push_str(rest);
    (out, found)
}

/// Name and length of the tag that `text` begins with, if it is one of a generation block.
fn generation_tag(text: &str) -> Option<(&'static str, usize)> {
    let (content, _) = text[2..].split_once("%}")?;
    let bare = content.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
    let name = ["generation", "endgeneration"].into_iter().find(|name| *name == bare)?;
    Some((name, 2 + content.len() + 2))
}

/// Takes the marks out of a rendered text; between them were generation blocks.
pub(super) fn take_marks(marked: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(marked.len());
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut start = None;
    for (piece, mark) in marked.split_inclusive(BLOCK).map(|piece| {
        let mark = piece.chars().next_back().filter(|last| BLOCK.contains(last));
        (piece.trim_end_matches(BLOCK), mark)
    }) {
        text.push_str(piece);
        match mark {
            Some(mark) if mark == BLOCK[0] => start = Some(text.len()),
            Some(_) => spans.extend(start.take().map(|start| start..text.len())),
            None => {}
        }
    }
    (text, spans)
}

/// The spans of the assistant's messages in `text`, the rendering of all `messages`: from the end
/// of what `render` makes of the messages before with an answer asked for, to the end of what it
/// makes of the messages up to it. Both must be beginnings of `text`.
pub(super) fn by_prefixes(
    text: &str,
    messages: &[Value],
    render: impl Fn(&[Value], bool) -> Result<String, String>,
) -> Result<Vec<Range<usize>>, String> {
    let mut spans = Vec::new();
    for (index, _) in messages.iter().enumerate().filter(|(_, message)| is_assistant(message)) {
        if index == 0 {
            return Err("the assistant speaks first: nothing asks for its message".into());
        }
        let before = render(&messages[..index], true)?;
        let until = render(&messages[..=index], false)?;
        if !text.starts_with(&until) || !until.starts_with(&before) {
            return Err(format!(
                "what the assistant says in message {} cannot be told from the rest, since the chat template renders earlier messages otherwise when more follow; put {{% generation %}} blocks into the model's chat template, or learn from all tokens",
                index + 1
            ));
        }
        spans.push(before.len()..until.len());
    }
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_of_generation_blocks_are_replaced() {
        let (text, found) = blocks_as_calls(
            "{% if x %}{%- generation -%}a{% endgeneration +%}{{ generation }}{%generation%}b{%endgeneration%}{% set generation = 1 %}",
        );
        assert!(found);
        assert_eq!(
            text,
            "{% if x %}{%- call __hearth_generation() -%}a{% endcall +%}{{ generation }}{%call __hearth_generation()%}b{%endcall%}{% set generation = 1 %}"
        );
        let plain = "{% for a in b %}{{ a }}{% endfor %}{% open";
        assert_eq!(blocks_as_calls(plain), (plain.to_owned(), false));
    }

    #[test]
    fn marks_give_spans_in_bytes() {
        let marked = format!("ä{}b{}c{}{}", BLOCK[0], BLOCK[1], BLOCK[0], BLOCK[1]);
        assert_eq!(take_marks(&marked), ("äbc".to_owned(), vec![2..3, 4..4]));
    }
}
