//! What rows hold: by objective, which column is what.

use minijinja::Value;
use minijinja::value::ValueKind;

use super::Fields;

/// Which columns of a file are what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Labelled texts.
    Labelled {
        /// Column of the text.
        text: String,
        /// Column of the label.
        label: String,
    },
    /// Labelled pictures.
    Picture {
        /// Column of the picture: a path, or its bytes as Hugging Face `datasets` keeps them.
        image: String,
        /// Column of the label.
        label: String,
    },
    /// Texts.
    Text {
        /// Column of the text.
        text: String,
    },
    /// Conversations.
    Messages {
        /// Column of the messages, each `{role, content}`.
        messages: String,
    },
    /// Prompts with what should follow.
    Completion {
        /// Column of the prompt: text, or messages.
        prompt: String,
        /// Column of the completion: as the prompt.
        completion: String,
    },
    /// A better and a worse answer to each prompt.
    Preference {
        /// Column of the prompt. Without one, the messages with which both answers begin.
        prompt: Option<String>,
        /// Column of the better answer: text, or messages.
        chosen: String,
        /// Column of the worse answer.
        rejected: String,
    },
}

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picture {
    /// Here, as a PNG or a JPEG.
    Bytes(Vec<u8>),
    /// In a file, relative to the file of rows.
    Path(String),
}

/// What somebody said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// Text as it is.
    Text(String),
    /// Messages for the model's chat template.
    Messages(Vec<Value>),
}

/// What a well-formed row holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Parts {
    /// A labelled text.
    Labelled {
        /// Text, not cleaned.
        text: String,
        /// Label; whole numbers in decimal.
        label: String,
    },
    /// A labelled picture.
    Picture {
        /// The picture.
        picture: Picture,
        /// Label; whole numbers in decimal.
        label: String,
    },
    /// A text.
    Text(String),
    /// A conversation.
    Messages(Vec<Value>),
    /// A prompt with what should follow; both texts or both messages.
    Completion {
        /// Before.
        prompt: Said,
        /// After.
        completion: Said,
    },
    /// Two answers to a prompt; all texts or all messages.
    Preference {
        /// Before.
        prompt: Said,
        /// The better answer.
        chosen: Said,
        /// The worse answer.
        rejected: Said,
    },
}

impl Columns {
    /// The columns' names.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Labelled { text, label } => vec![text, label],
            Self::Picture { image, label } => vec![image, label],
            Self::Text { text } => vec![text],
            Self::Messages { messages } => vec![messages],
            Self::Completion { prompt, completion } => vec![prompt, completion],
            Self::Preference { prompt, chosen, rejected } => {
                prompt.iter().map(String::as_str).chain([chosen.as_str(), rejected]).collect()
            }
        }
    }

    /// What a row holds, or what is wrong with it.
    pub(super) fn parts(&self, mut fields: Fields) -> Result<Parts, String> {
        match self {
            Self::Labelled { text, label } => {
                let text = take_text(&mut fields, text)?;
                let label = take_label(&mut fields, label)?;
                Ok(Parts::Labelled { text, label })
            }
            Self::Picture { image, label } => {
                let picture = take_picture(&mut fields, image)?;
                let label = take_label(&mut fields, label)?;
                Ok(Parts::Picture { picture, label })
            }
            Self::Text { text } => Ok(Parts::Text(take_text(&mut fields, text)?)),
            Self::Messages { messages } => match take_said(&mut fields, messages)? {
                Said::Messages(messages) => Ok(Parts::Messages(messages)),
                Said::Text(_) => Err(format!("field {messages:?} is a string, not an array")),
            },
            Self::Completion { prompt: before, completion: after } => {
                let prompt = take_said(&mut fields, before)?;
                let completion = take_said(&mut fields, after)?;
                same_kind(before, &prompt, after, &completion)?;
                Ok(Parts::Completion { prompt, completion })
            }
            Self::Preference { prompt: before, chosen: better, rejected: worse } => {
                let chosen = take_said(&mut fields, better)?;
                let rejected = take_said(&mut fields, worse)?;
                same_kind(better, &chosen, worse, &rejected)?;
                if chosen == rejected {
                    return Err(format!("fields {better:?} and {worse:?} hold the same"));
                }
                let Some(before) = before else { return shared_prompt(chosen, rejected) };
                let prompt = take_said(&mut fields, before)?;
                same_kind(before, &prompt, better, &chosen)?;
                Ok(Parts::Preference { prompt, chosen, rejected })
            }
        }
    }
}

fn take_text(fields: &mut Fields, name: &str) -> Result<String, String> {
    let value = fields.remove(name).ok_or_else(|| format!("field {name:?} is missing"))?;
    match value.as_str() {
        Some(text) if text.trim().is_empty() => Err(format!("field {name:?} is empty")),
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("field {name:?} is {}, not a string", kind(&value))),
    }
}

/// A path; bytes; or a struct of both, of which bytes count where there are any.
fn take_picture(fields: &mut Fields, name: &str) -> Result<Picture, String> {
    let value = fields.remove(name).ok_or_else(|| format!("field {name:?} is missing"))?;
    let of = |part| match value.kind() {
        ValueKind::Map => value.get_attr(part).unwrap_or(Value::UNDEFINED),
        _ => value.clone(),
    };
    let (bytes, path) = (of("bytes"), of("path"));
    match (bytes.kind(), bytes.as_bytes(), path.as_str()) {
        (ValueKind::Bytes, Some(bytes), _) if !bytes.is_empty() => {
            Ok(Picture::Bytes(bytes.to_vec()))
        }
        (_, _, Some(path)) if !path.trim().is_empty() => Ok(Picture::Path(path.to_owned())),
        _ => Err(format!(
            "field {name:?} is {}, neither a path nor a picture {{bytes, path}}",
            kind(&value)
        )),
    }
}

fn take_label(fields: &mut Fields, name: &str) -> Result<String, String> {
    let value = fields.remove(name).ok_or_else(|| format!("field {name:?} is missing"))?;
    match value.as_str() {
        Some("") => Err(format!("field {name:?} is empty")),
        Some(label) => Ok(label.to_owned()),
        None if value.is_integer() => Ok(value.to_string()),
        None => {
            Err(format!("field {name:?} is {}, neither a string nor a whole number", kind(&value)))
        }
    }
}

/// A text, or messages.
fn take_said(fields: &mut Fields, name: &str) -> Result<Said, String> {
    let value = fields.get(name).ok_or_else(|| format!("field {name:?} is missing"))?;
    if value.kind() != ValueKind::Seq {
        return take_text(fields, name).map(Said::Text).map_err(|reason| {
            reason.replace("not a string", "neither a string nor an array of messages")
        });
    }
    let messages: Vec<Value> = value.try_iter().map_err(|error| error.to_string())?.collect();
    if messages.is_empty() {
        return Err(format!("field {name:?} is empty"));
    }
    for (index, message) in messages.iter().enumerate() {
        check_message(message).map_err(|what| format!("field {name:?}[{index}] {what}"))?;
    }
    Ok(Said::Messages(messages))
}

/// A message has a role, and content or calls of tools.
fn check_message(message: &Value) -> Result<(), String> {
    if message.kind() != ValueKind::Map {
        return Err(format!("is {}, not a message {{role, content}}", kind(message)));
    }
    let of = |name| message.get_attr(name).unwrap_or(Value::UNDEFINED);
    match of("role") {
        role if role.as_str().is_some_and(|role| !role.is_empty()) => {}
        role if role.is_undefined() => return Err("has no role".into()),
        role => return Err(format!("has a role that is {}, not a string", kind(&role))),
    }
    let content = of("content");
    match content.kind() {
        ValueKind::String | ValueKind::Seq => Ok(()),
        ValueKind::None | ValueKind::Undefined if of("tool_calls").is_true() => Ok(()),
        ValueKind::Undefined => Err("has no content".into()),
        _ => Err(format!("has content that is {}, not a string", kind(&content))),
    }
}

fn same_kind(name: &str, said: &Said, other_name: &str, other: &Said) -> Result<(), String> {
    match (said, other) {
        (Said::Text(_), Said::Text(_)) | (Said::Messages(_), Said::Messages(_)) => Ok(()),
        _ => Err(format!(
            "one of the fields {name:?} and {other_name:?} is a string and the other messages"
        )),
    }
}

/// The prompt as the messages with which both conversations begin.
fn shared_prompt(chosen: Said, rejected: Said) -> Result<Parts, String> {
    let (Said::Messages(mut chosen), Said::Messages(mut rejected)) = (chosen, rejected) else {
        return Err("texts need a field of their own for the prompt".into());
    };
    let shared = chosen.iter().zip(&rejected).take_while(|(one, other)| one == other).count();
    // Each keeps an answer, also where one conversation begins the other.
    let shared = shared.min(chosen.len() - 1).min(rejected.len() - 1);
    if shared == 0 {
        return Err("the two answers do not begin with the same messages".into());
    }
    let prompt: Vec<Value> = chosen.drain(..shared).collect();
    rejected.drain(..shared);
    Ok(Parts::Preference {
        prompt: Said::Messages(prompt),
        chosen: Said::Messages(chosen),
        rejected: Said::Messages(rejected),
    })
}

/// A value's kind under JSON's names.
fn kind(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => "null",
        ValueKind::Bool => "a boolean",
        ValueKind::Number => "a number",
        ValueKind::String => "a string",
        ValueKind::Seq | ValueKind::Iterable => "an array",
        ValueKind::Map => "an object",
        ValueKind::Bytes => "bytes that are not UTF-8",
        _ => "of an unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(columns: &Columns, row: &str) -> Result<Parts, String> {
        columns.parts(serde_json::from_str(row).unwrap())
    }

    #[test]
    fn malformed_conversations_are_named() {
        let columns = Columns::Messages { messages: "m".into() };
        for (row, want) in [
            (r"{}", r#"field "m" is missing"#),
            (r#"{"m": []}"#, r#"field "m" is empty"#),
            (r#"{"m": "hello"}"#, r#"field "m" is a string, not an array"#),
            (r#"{"m": 3}"#, r#"field "m" is a number, neither a string nor an array of messages"#),
            (r#"{"m": ["a"]}"#, r#"field "m"[0] is a string, not a message {role, content}"#),
            (r#"{"m": [{"content": "a"}]}"#, r#"field "m"[0] has no role"#),
            (
                r#"{"m": [{"role": "user", "content": "a"}, {"role": "assistant"}]}"#,
                r#"field "m"[1] has no content"#,
            ),
            (
                r#"{"m": [{"role": "user", "content": {}}]}"#,
                r#"field "m"[0] has content that is an object, not a string"#,
            ),
        ] {
            assert_eq!(parts(&columns, row), Err(want.to_owned()), "{row}");
        }
        let call = r#"{"m": [{"role": "assistant", "content": null, "tool_calls": [{"n": 1}]}]}"#;
        assert!(
            matches!(parts(&columns, call), Ok(Parts::Messages(messages)) if messages.len() == 1)
        );
    }

    #[test]
    fn a_picture_is_a_path_or_a_struct_of_bytes_and_path() {
        let columns = Columns::Picture { image: "image".into(), label: "label".into() };
        let of = |image: Value| {
            let fields = [("image".to_owned(), image), ("label".to_owned(), Value::from(3))];
            columns.parts(fields.into()).map(|parts| match parts {
                Parts::Picture { picture, label } => (picture, label),
                other => panic!("{other:?}"),
            })
        };
        let path = |path: &str| Ok((Picture::Path(path.to_owned()), "3".to_owned()));
        assert_eq!(of(Value::from("a/b.png")), path("a/b.png"));
        let given = |bytes: Value| Value::from_pairs([("bytes", bytes), ("path", "b".into())]);
        let bytes = Picture::Bytes(vec![0x89, 0x50]);
        assert_eq!(of(given(Value::from_bytes(vec![0x89, 0x50]))), Ok((bytes, "3".to_owned())));
        assert_eq!(of(given(Value::from(()))), path("b"));
        for wrong in [Value::from(7), Value::from(""), Value::from(()), given(Value::from(1))] {
            let told = of(wrong.clone());
            assert_eq!(told.is_err(), wrong.kind() != ValueKind::Map, "{wrong:?}: {told:?}");
        }
    }

    #[test]
    fn answers_that_begin_alike_share_their_prompt() {
        let columns = Columns::Preference {
            prompt: None,
            chosen: "chosen".into(),
            rejected: "rejected".into(),
        };
        let row = r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                      "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}"#;
        let Ok(Parts::Preference {
            prompt: Said::Messages(prompt),
            chosen: Said::Messages(chosen),
            rejected: Said::Messages(rejected),
        }) = parts(&columns, row)
        else {
            panic!("{:?}", parts(&columns, row))
        };
        let content = |messages: &[Value]| messages[0].get_attr("content").unwrap().to_string();
        assert_eq!(
            (content(&prompt), content(&chosen), content(&rejected)),
            ("q".into(), "a".into(), "b".into())
        );
        for (row, want) in [
            (row.replace(r#""b""#, r#""a""#), "hold the same"),
            (row.replacen(r#""q""#, r#""p""#, 1), "do not begin with the same messages"),
            (r#"{"chosen": "a", "rejected": "b"}"#.into(), "a field of their own for the prompt"),
        ] {
            assert!(parts(&columns, &row).unwrap_err().contains(want), "{row}");
        }
    }

    #[test]
    fn a_prompt_and_its_completion_are_of_one_kind() {
        let columns = Columns::Completion { prompt: "p".into(), completion: "c".into() };
        assert_eq!(
            parts(&columns, r#"{"p": "1+1=", "c": "2"}"#),
            Ok(Parts::Completion {
                prompt: Said::Text("1+1=".into()),
                completion: Said::Text("2".into())
            })
        );
        let mixed = r#"{"p": "1+1=", "c": [{"role": "assistant", "content": "2"}]}"#;
        assert!(parts(&columns, mixed).unwrap_err().contains("a string and the other messages"));
    }
}
