//! Chat templates as transformers renders them. What it makes of them is in
//! tests/parity/fixtures/templates.json; tests/parity/templates.py made it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hearth_worker::data::ChatTemplate;
use hearth_worker::data::chat::Chat;
use minijinja::Value;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    configs: BTreeMap<String, serde_json::Value>,
    chats: BTreeMap<String, Vec<Value>>,
    tools: Value,
    renderings: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    chat: String,
    tools: bool,
    prompt: bool,
    rendering: Option<Rendering>,
}

#[derive(Deserialize)]
struct Rendering {
    text: String,
    spans: Vec<(usize, usize)>,
}

fn fixture() -> Fixture {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/fixtures/templates.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn template(config: &serde_json::Value) -> Option<ChatTemplate> {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let now = jiff::civil::date(2026, 7, 4).at(0, 0, 0, 0);
    ChatTemplate::load(home.path(), move || now).unwrap()
}

#[test]
fn chats_are_rendered_as_by_transformers() {
    let Fixture { configs, chats, tools, renderings } = fixture();
    let templates: BTreeMap<_, _> =
        configs.iter().map(|(name, config)| (name.as_str(), template(config))).collect();
    // DeepSeek V4's tokenizer comes without one.
    let without: Vec<_> = templates.iter().filter(|(_, found)| found.is_none()).collect();
    assert_eq!(without.iter().map(|(name, _)| **name).collect::<Vec<_>>(), ["deepseek_v4"]);
    assert!(renderings.len() >= 80);
    for case in renderings {
        let template = templates[case.template.as_str()].as_ref().unwrap();
        let chat = Chat {
            messages: &chats[&case.chat],
            tools: case.tools.then_some(&tools),
            add_generation_prompt: case.prompt,
            variables: None,
        };
        let what = format!("{} of {} tools {}", case.template, case.chat, case.tools);
        let Some(want) = case.rendering else {
            assert!(template.render(chat).is_err(), "{what}: transformers refuses it");
            continue;
        };
        assert_eq!(template.render(chat).as_ref(), Ok(&want.text), "{what}");
        if template.has_generation_blocks() {
            let (text, spans) = template.render_with_spans(chat).unwrap();
            let characters = |at: usize| text[..at].chars().count();
            let spans: Vec<(usize, usize)> =
                spans.iter().map(|span| (characters(span.start), characters(span.end))).collect();
            assert_eq!((&text, &spans), (&want.text, &want.spans), "{what}");
        }
    }
}

#[test]
fn the_assistant_is_found_by_prefixes_or_an_error_says_why_not() {
    let Fixture { configs, chats, .. } = fixture();
    let spans = |name: &str, chat: &str| {
        let chat = Chat { messages: &chats[chat], ..Chat::default() };
        let found = template(&configs[name]).unwrap().render_with_spans(chat);
        found.map(|(text, spans)| {
            spans.into_iter().map(|span| text[span].to_owned()).collect::<Vec<_>>()
        })
    };
    assert_eq!(
        spans("smollm2", "system").unwrap(),
        ["\nIt is 4.  <|im_end|>\n", "6 \u{1f600}<|im_end|>\n"]
    );
    assert_eq!(
        spans("deepseek_v3", "system").unwrap(),
        ["\nIt is 4.  <｜end▁of▁sentence｜>", "6 \u{1f600}<｜end▁of▁sentence｜>"]
    );
    assert_eq!(
        spans("qwen3", "answered").unwrap(),
        ["<think>\n\n</think>\n\nIt is 4.  <|im_end|>\n"]
    );
    // Thoughts of an answer go once another follows: its turn has no fixed end.
    let said = spans("qwen3", "system").unwrap_err();
    assert!(said.contains("message 3") && said.contains("{% generation %}"), "{said}");
}
