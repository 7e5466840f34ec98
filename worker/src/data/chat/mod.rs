//! Chat templates: messages → the text that a model was trained on.
//!
//! A template is Jinja, as transformers renders it: blocks trimmed, `raise_exception`,
//! `strftime_now`, `tojson` as Python's, loop controls, Python's methods of strings and
//! dictionaries, and `{% generation %}` around what the assistant says.

mod json;
mod spans;

use std::ops::Range;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use serde::Deserialize;

use super::DataError;
use super::source::read_file;

/// Names under which a message's reasoning is passed, the one that templates read first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Special tokens that a template sees.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// What marks the beginning and end of a generation block in the rendered text: two of Unicode's
/// noncharacters, which no text that is exchanged holds.
const BLOCK: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    special_tokens: SpecialTokens,
    has_blocks: bool,
    has_tool_template: bool,
    /// Of the templates and special tokens.
    pub(super) fingerprint: blake3::Hash,
}

/// What is rendered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chat<'a> {
    /// Messages, each `{role, content}` at least.
    pub messages: &'a [Value],
    /// Tools that may be called, as JSON schemas.
    pub tools: Option<&'a Value>,
    /// Whether the beginning of an answer follows.
    pub add_generation_prompt: bool,
    /// More variables of the template, a map.
    pub variables: Option<&'a Value>,
}

/// Special tokens of a tokenizer by their names in `tokenizer_config.json`.
#[derive(Clone, Debug, Default)]
pub struct SpecialTokens(Vec<(&'static str, String)>);

impl SpecialTokens {
    /// Reads `tokenizer_config.json` and, for what that leaves open, `special_tokens_map.json`
    /// in `model`; a missing file names none.
    pub fn read(model: &Path) -> Result<Self, DataError> {
        let mut found = Self::default();
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let Some(file) = read_json::<serde_json::Value>(&model.join(name))? else { continue };
            for token in SPECIAL_TOKENS {
                if let Some(text) = file.get(token).and_then(token_text)
                    && found.get(token).is_none()
                {
                    found.0.push((token, text.to_owned()));
                }
            }
        }
        found.0.sort_unstable();
        Ok(found)
    }

    /// A token's text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_str())
    }
}

/// A token is a string, or an object with its content.
fn token_text(token: &serde_json::Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The part of `tokenizer_config.json` that this reads.
#[derive(Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl ChatTemplate {
    /// Reads the template of the model in `model`: `chat_template.jinja`, or `chat_template` in
    /// `tokenizer_config.json`. `None` where it has none. `now` is what `strftime_now` tells.
    pub fn load(
        model: &Path,
        now: impl Fn() -> DateTime + Send + Sync + 'static,
    ) -> Result<Option<Self>, DataError> {
        let file = model.join("chat_template.jinja");
        let config_path = model.join("tokenizer_config.json");
        let (path, templates) = if file.exists() {
            let text = String::from_utf8(read_file(&file)?)
                .map_err(|_| DataError::Chat { path: file.clone(), detail: "not UTF-8".into() })?;
            let mut templates = vec![("default".to_owned(), text)];
            let tool_use = model.join("additional_chat_templates/tool_use.jinja");
            if tool_use.exists() {
                let text = String::from_utf8_lossy(&read_file(&tool_use)?).into_owned();
                templates.push(("tool_use".to_owned(), text));
            }
            (file, templates)
        } else {
            let config = read_json::<TokenizerConfig>(&config_path)?;
            let templates = match config.and_then(|config| config.chat_template) {
                None => return Ok(None),
                Some(Templates::One(text)) => vec![("default".to_owned(), text)],
                Some(Templates::Named(named)) => {
                    named.into_iter().map(|one| (one.name, one.template)).collect()
                }
            };
            (config_path, templates)
        };
        Self::new(path, &templates, SpecialTokens::read(model)?, now).map(Some)
    }

    fn new(
        path: PathBuf,
        templates: &[(String, String)],
        special_tokens: SpecialTokens,
        now: impl Fn() -> DateTime + Send + Sync + 'static,
    ) -> Result<Self, DataError> {
        if !templates.iter().any(|(name, _)| name == "default") {
            let names: Vec<&str> = templates.iter().map(|(name, _)| name.as_str()).collect();
            return Err(DataError::Chat {
                path,
                detail: format!(
                    "of its chat templates ({}) none is named default; name the one to use so",
                    names.join(", ")
                ),
            });
        }
        let mut environment = environment(now);
        let mut hasher = blake3::Hasher::new();
        let mut has_blocks = false;
        for (name, text) in templates {
            hasher.update(format!("{name:?} {text:?}").as_bytes());
            let (text, blocks) = spans::blocks_as_calls(text);
            has_blocks |= blocks && name == "default";
            environment.add_template_owned(name.clone(), text).map_err(|error| {
                DataError::Chat { path: path.clone(), detail: sentence(&error) }
            })?;
        }
        hasher.update(format!("{special_tokens:?}").as_bytes());
        Ok(Self {
            environment,
            path,
            special_tokens,
            has_blocks,
            has_tool_template: templates.iter().any(|(name, _)| name == "tool_use"),
            fingerprint: hasher.finalize(),
        })
    }

    /// Where the template was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the template marks what the assistant says by `{% generation %}`.
    pub fn has_generation_blocks(&self) -> bool {
        self.has_blocks
    }

    /// The text of a chat. The error is a sentence for the row that holds it.
    pub fn render(&self, chat: Chat<'_>) -> Result<String, String> {
        let text = self.render_marked(chat)?;
        Ok(if self.has_blocks { text.replace(BLOCK, "") } else { text })
    }

    /// The text of a chat, and where in it (in bytes) the assistant speaks: in the template's
    /// generation blocks, or, where it has none, from where an answer is asked for to where the
    /// assistant's message ends, with what closes it.
    pub fn render_with_spans(&self, chat: Chat<'_>) -> Result<(String, Vec<Range<usize>>), String> {
        if self.has_blocks {
            return Ok(spans::take_marks(&self.render_marked(chat)?));
        }
        let text = self.render_marked(chat)?;
        let spans = spans::by_prefixes(&text, chat.messages, |messages, add_generation_prompt| {
            self.render_marked(Chat { messages, add_generation_prompt, ..chat })
        })?;
        Ok((text, spans))
    }

    /// With marks around generation blocks.
    fn render_marked(&self, chat: Chat<'_>) -> Result<String, String> {
        let messages = chat.messages.iter().map(plain_message).collect::<Result<Value, _>>();
        let messages = messages.map_err(|error| sentence(&error))?;
        if self.has_blocks && messages.to_string().contains(BLOCK) {
            return Err("it holds a noncharacter of Unicode (U+FDD0 or U+FDD1)".into());
        }
        let name =
            if chat.tools.is_some() && self.has_tool_template { "tool_use" } else { "default" };
        let tokens = Value::from_pairs(self.special_tokens.0.iter().map(|(k, v)| (*k, v.as_str())));
        let own = context! {
            messages,
            tools => chat.tools.cloned().unwrap_or(Value::from(())),
            documents => Value::from(()),
            add_generation_prompt => chat.add_generation_prompt,
        };
        let variables = chat.variables.cloned().unwrap_or_else(|| context! {});
        let context = context! { ..own, ..variables, ..tokens };
        self.environment
            .get_template(name)
            .and_then(|template| template.render(context))
            .map_err(|error| sentence(&error))
    }
}

/// A message without its nulls, which templates print or stumble over, and with its reasoning
/// under the names that templates read.
fn plain_message(message: &Value) -> Result<Value, Error> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    for key in message.try_iter()? {
        let value = message.get_item(&key)?;
        if !value.is_none() {
            pairs.push((key, value));
        }
    }
    let of = |name: &str| {
        pairs.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value.clone())
    };
    if let Some(reasoning) = REASONING.iter().find_map(|name| of(name)) {
        if of("thinking").is_none() {
            pairs.insert(0, ("thinking".into(), reasoning.clone()));
        }
        pairs.retain(|(key, _)| key.as_str() != Some(REASONING[0]));
        pairs.push((REASONING[0].into(), reasoning));
    }
    Ok(Value::from_pairs(pairs))
}

/// Methods of Python's values. pycompat's `title` begins words at white space alone.
fn python_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if method == "title"
        && args.is_empty()
        && let Some(text) = value.as_str()
    {
        return Ok(title(text).into());
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Python's `str.title`: letters after a letter in lower case, all others in upper case.
fn title(text: &str) -> String {
    let mut after_letter = false;
    let mut titled = String::with_capacity(text.len());
    for letter in text.chars() {
        if after_letter {
            titled.extend(letter.to_lowercase());
        } else {
            titled.extend(letter.to_uppercase());
        }
        after_letter = letter.is_alphabetic();
    }
    titled
}

fn environment(now: impl Fn() -> DateTime + Send + Sync + 'static) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    if let Ok(syntax) = syntax {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(python_method);
    environment.set_formatter(|out, state, value| {
        if value.is_number() && !value.is_integer() {
            let number = f64::try_from(value.clone())?;
            if number.is_finite() {
                out.write_str(&json::float(number))?;
                return Ok(());
            }
        }
        minijinja::escape_formatter(out, state, value)
    });
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: String| {
        jiff::fmt::strtime::format(&format, now()).map_err(|error| {
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}"))
        })
    });
    environment.add_function(spans::CALL, generation_block);
    environment
}

/// What a generation block becomes: its content between marks.
#[expect(clippy::needless_pass_by_value, reason = "functions take their arguments so")]
fn generation_block(state: &mut State, kwargs: Kwargs) -> Result<String, Error> {
    let content = kwargs.get::<Value>("caller")?.call(state, &[])?;
    kwargs.assert_all_used()?;
    Ok(format!("{}{content}{}", BLOCK[0], BLOCK[1]))
}

/// What a template's error says, for people.
fn sentence(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) if error.name() != Some("<string>") => {
            format!("the chat template stops at its line {line}: {what}")
        }
        _ => format!("the chat template stops: {what}"),
    }
}

/// A JSON file; `None` where there is none.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
) -> Result<Option<T>, DataError> {
    let bytes = match read_file(path) {
        Ok(bytes) => bytes,
        Err(DataError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| DataError::Read {
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
    })
}

/// Whether a message is the assistant's.
fn is_assistant(message: &Value) -> bool {
    message.kind() == ValueKind::Map
        && message.get_attr("role").is_ok_and(|role| role.as_str() == Some("assistant"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> ChatTemplate {
        let templates = [("default".to_owned(), text.to_owned())];
        let tokens = SpecialTokens(vec![("eos_token", "</s>".into())]);
        let now = jiff::civil::date(2026, 7, 4).at(9, 5, 0, 0);
        let path = PathBuf::from("model/chat_template.jinja");
        ChatTemplate::new(path, &templates, tokens, move || now).unwrap()
    }

    fn messages(json: &str) -> Vec<Value> {
        serde_json::from_str(json).unwrap()
    }

    fn render(text: &str, json: &str) -> Result<String, String> {
        let messages = messages(json);
        template(text).render(Chat { messages: &messages, ..Chat::default() })
    }

    #[test]
    fn a_template_sees_what_transformers_shows_it() {
        for (text, want) in [
            ("{{ eos_token }}|{{ bos_token }}|{{ tools is none }}", "</s>||True"),
            ("{{ strftime_now('%d %b %Y') }}", "04 Jul 2026"),
            ("{{ messages[0] | tojson }}", r#"{"role": "user", "content": "<é>"}"#),
            (
                "{% for m in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}\ny\n",
                "x\ny",
            ),
            ("{{ messages[0].content.strip('<>').upper() }}", "É"),
            (
                "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                "01",
            ),
            ("{{ messages[0].name is defined }}", "False"),
        ] {
            let row = r#"[{"role": "user", "content": "<é>", "name": null}]"#;
            assert_eq!(render(text, row).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_a_template_raises_is_said() {
        let text = "{% if messages[0].role != 'user' %}\n{{ raise_exception('a user begins') }}{% endif %}";
        let said = render(text, r#"[{"role": "assistant", "content": "a"}]"#).unwrap_err();
        assert_eq!(said, "the chat template stops at its line 2: a user begins");
    }

    #[test]
    fn reasoning_is_found_under_each_of_its_names() {
        let text = "{{ messages[0].reasoning_content }}/{{ messages[0].thinking }}";
        for name in REASONING {
            let row = format!(r#"[{{"role": "assistant", "content": "a", "{name}": "why"}}]"#);
            assert_eq!(render(text, &row).as_deref(), Ok("why/why"), "{name}");
        }
    }

    #[test]
    fn generation_blocks_are_spans_wherever_they_are() {
        let chat = template(concat!(
            "{% for m in messages %}<{{ m.role }}>",
            "{% if m.role == 'assistant' %}{%- generation -%} {{ m.content }}{{ eos_token }} ",
            "{%- endgeneration -%}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
        ));
        assert!(chat.has_generation_blocks());
        let messages = messages(
            r#"[{"role": "user", "content": "ä"}, {"role": "assistant", "content": "one"},
                {"role": "user", "content": "b"}, {"role": "assistant", "content": "two"}]"#,
        );
        let (text, spans) =
            chat.render_with_spans(Chat { messages: &messages, ..Chat::default() }).unwrap();
        assert_eq!(text, "<user>ä<assistant>one</s><user>b<assistant>two</s>");
        let said: Vec<&str> = spans.into_iter().map(|span| &text[span]).collect();
        assert_eq!(said, ["one</s>", "two</s>"]);
        assert_eq!(chat.render(Chat { messages: &messages, ..Chat::default() }).unwrap(), text);
    }

    #[test]
    fn turns_are_found_by_prefixes_where_there_are_no_blocks() {
        let chat = template(concat!(
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}",
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        ));
        let messages = messages(
            r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "one"},
                {"role": "user", "content": "b"}, {"role": "assistant", "content": "two"}]"#,
        );
        let (text, spans) =
            chat.render_with_spans(Chat { messages: &messages, ..Chat::default() }).unwrap();
        let said: Vec<&str> = spans.into_iter().map(|span| &text[span]).collect();
        assert_eq!(said, ["one</s>\n", "two</s>\n"]);
    }

    #[test]
    fn a_template_that_changes_earlier_turns_has_no_turns_to_learn_from() {
        // As Qwen3's: only the last answer keeps its thoughts.
        let chat = template(
            "{% for m in messages %}<{{ m.role }}>{% if loop.last %}thought {% endif %}{{ m.content }}{% endfor %}",
        );
        let messages = messages(
            r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "one"},
                {"role": "user", "content": "b"}, {"role": "assistant", "content": "two"}]"#,
        );
        let said =
            chat.render_with_spans(Chat { messages: &messages, ..Chat::default() }).unwrap_err();
        assert!(said.contains("{% generation %}"), "{said}");
        assert!(said.contains("message 2"), "{said}");
    }

    #[test]
    fn templates_are_read_from_either_file() {
        let home = tempfile::tempdir().unwrap();
        let now = jiff::civil::date(2026, 1, 1).at(0, 0, 0, 0);
        let put = |name: &str, text: &str| {
            crate::files::write_atomically(&home.path().join(name), |out| {
                std::io::Write::write_all(out, text.as_bytes())
            })
            .unwrap();
        };
        let load = || ChatTemplate::load(home.path(), move || now);
        let messages = messages(r#"[{"role": "user", "content": "a"}]"#);
        let say = || {
            let chat = Chat { messages: &messages, ..Chat::default() };
            load().unwrap().unwrap().render(chat).unwrap()
        };
        assert!(load().unwrap().is_none());
        put("tokenizer_config.json", r#"{"bos_token": {"content": "<s>"}, "eos_token": null}"#);
        assert!(load().unwrap().is_none());
        put(
            "tokenizer_config.json",
            r#"{"bos_token": {"content": "<s>"}, "chat_template": [{"name": "default", "template": "list {{ bos_token }}"}]}"#,
        );
        assert_eq!(say(), "list <s>");
        put("chat_template.jinja", "file {{ bos_token }}");
        assert_eq!(say(), "file <s>");
        put("chat_template.jinja", "{% if %}");
        assert!(matches!(load(), Err(DataError::Chat { .. })));
    }
}
