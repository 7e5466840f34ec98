//! Bodies of requests, as OpenAI's API reference has them. What this server would not do is
//! refused by name; what says nothing about the answer (`user`, `metadata`, `store`, …) is taken
//! and not kept.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::generate::grammar::Shape;
use crate::generate::sampling::Sampling;

/// Most choices of one request.
const MOST_CHOICES: usize = 64;
/// Most stop strings.
const MOST_STOPS: usize = 16;
/// Bytes of the longest stop string.
const LONGEST_STOP: usize = 1024;
/// Most tokens with a bias.
const MOST_BIASES: usize = 1024;

/// What both kinds of texts are made with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Common {
    /// The model's name.
    pub(super) model: String,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    n: Option<usize>,
    /// Whether the answer comes piece by piece.
    #[serde(default)]
    pub(super) stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<OneOrMany<String>>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    seed: Option<i64>,
    response_format: Option<ResponseFormat>,
    /// Not OpenAI's: those of vLLM.
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    /// Whether a text goes on behind tokens that end it.
    pub(super) ignore_eos: bool,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// One or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: JsonSchema },
}

#[derive(Clone, Debug, Deserialize)]
struct JsonSchema {
    schema: Option<Value>,
}

/// `POST /v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct Chat {
    /// What was said.
    pub(super) messages: Vec<Value>,
    max_completion_tokens: Option<usize>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    /// More variables of the chat template.
    #[serde(rename = "chat_template_kwargs")]
    pub(super) template_variables: Option<Value>,
    /// The rest.
    #[serde(flatten)]
    pub(super) common: Common,
}

/// `POST /v1/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct Completion {
    /// What is continued.
    pub(super) prompt: Prompt,
    logprobs: Option<usize>,
    echo: Option<bool>,
    best_of: Option<usize>,
    /// The rest.
    #[serde(flatten)]
    pub(super) common: Common,
}

/// Texts or tokens, one or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "prompt or input must be a text, a list of texts, a list of tokens or a list of such lists"
)]
pub(super) enum Prompt {
    /// One text.
    Text(String),
    /// Several.
    Texts(Vec<String>),
    /// One, as tokens.
    Tokens(Vec<u32>),
    /// Several.
    ManyTokens(Vec<Vec<u32>>),
}

/// How the texts of a request are made.
#[derive(Clone, Debug)]
pub(super) struct How {
    /// How tokens are chosen.
    pub(super) sampling: Sampling,
    /// Strings that end a text.
    pub(super) stops: Vec<String>,
    /// Most tokens; `None` is as many as there is room for.
    pub(super) max_tokens: Option<usize>,
    /// Texts of each prompt.
    pub(super) choices: usize,
    /// Whether texts go on behind tokens that end them.
    pub(super) ignores_end: bool,
    /// What each has to be.
    pub(super) shape: Option<Shape>,
    /// Whether the last piece of a stream tells of tokens.
    pub(super) tells_usage: bool,
}

/// What says nothing about the answer.
const NOT_KEPT: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "prompt_cache_retention",
];

/// Permitted where it asks for nothing.
fn asks_for_nothing(name: &str, value: &Value) -> bool {
    match name {
        "tools" | "functions" => value.as_array().is_some_and(Vec::is_empty),
        "tool_choice" | "function_call" => value == "none" || value == "auto",
        "modalities" => value == &serde_json::json!(["text"]),
        "suffix" => value == "",
        _ => false,
    }
}

impl Common {
    fn how(self, defaults: &Sampling, max_tokens: Option<usize>) -> Result<How, String> {
        for (name, value) in &self.others {
            let known = NOT_KEPT.contains(&name.as_str()) || value.is_null();
            if !known && !asks_for_nothing(name, value) {
                return Err(format!("{name} is not supported by this server; leave it out"));
            }
        }
        let sampling = Sampling {
            temperature: within("temperature", self.temperature, 0.0, 2.0, defaults.temperature)?,
            top_p: within("top_p", self.top_p, 0.0, 1.0, defaults.top_p)?,
            top_k: match self.top_k {
                None => defaults.top_k,
                Some(count) => usize::try_from(count).unwrap_or(0),
            },
            min_p: within("min_p", self.min_p, 0.0, 1.0, defaults.min_p)?,
            presence_penalty: within("presence_penalty", self.presence_penalty, -2.0, 2.0, 0.0)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, -2.0, 2.0, 0.0)?,
            repetition_penalty: within(
                "repetition_penalty",
                self.repetition_penalty,
                0.01,
                100.0,
                defaults.repetition_penalty,
            )?,
            logit_bias: biases(self.logit_bias.unwrap_or_default())?,
            // Any seed is as good as another, but two requests without one shall differ.
            seed: self.seed.map_or_else(rand::random, i64::cast_unsigned),
            logprobs: None,
        };
        let stops = self.stop.map_or_else(Vec::new, OneOrMany::into_vec);
        let is_stop = |stop: &String| (1..=LONGEST_STOP).contains(&stop.len());
        if stops.len() > MOST_STOPS || !stops.iter().all(is_stop) {
            return Err(format!(
                "stop takes up to {MOST_STOPS} strings of 1 to {LONGEST_STOP} bytes"
            ));
        }
        let choices = self.n.unwrap_or(1);
        if !(1..=MOST_CHOICES).contains(&choices) {
            return Err(format!("n is {choices}; it must be 1 to {MOST_CHOICES}"));
        }
        let max_tokens = max_tokens.or(self.max_tokens);
        if max_tokens == Some(0) {
            return Err("max_tokens is 0; ask for at least one token".into());
        }
        let shape = match self.response_format {
            None | Some(ResponseFormat::Text) => None,
            Some(ResponseFormat::JsonObject) => Some(Shape::Object),
            Some(ResponseFormat::JsonSchema {
                json_schema: JsonSchema { schema: Some(schema) },
            }) => Some(Shape::Schema(schema)),
            Some(ResponseFormat::JsonSchema { .. }) => {
                return Err("response_format.json_schema.schema is missing".into());
            }
        };
        Ok(How {
            sampling,
            stops,
            max_tokens,
            choices,
            ignores_end: self.ignore_eos,
            shape,
            tells_usage: self.stream_options.and_then(|options| options.include_usage)
                == Some(true),
        })
    }
}

impl Chat {
    /// How its texts are made; `defaults` are the model's. Refuses with a sentence.
    pub(super) fn how(&mut self, defaults: &Sampling) -> Result<How, String> {
        let mut how = std::mem::take(&mut self.common).how(defaults, self.max_completion_tokens)?;
        let top = self.top_logprobs.unwrap_or(0);
        if top > 20 || (top > 0 && self.logprobs != Some(true)) {
            return Err("top_logprobs must be 0 to 20, and needs logprobs: true".into());
        }
        how.sampling.logprobs = (self.logprobs == Some(true)).then_some(top);
        Ok(how)
    }
}

impl Completion {
    /// How its texts are made; `defaults` are the model's. Refuses with a sentence.
    pub(super) fn how(&mut self, defaults: &Sampling) -> Result<How, String> {
        if self.echo == Some(true) {
            return Err("echo is not supported by this server; leave it out".into());
        }
        // OpenAI's: without max_tokens, a completion has 16.
        let default = self.common.max_tokens.or(Some(16));
        let choices = self.common.n.unwrap_or(1);
        if self.best_of.is_some_and(|best_of| best_of != choices) {
            return Err("best_of other than n is not supported by this server".into());
        }
        let mut how = std::mem::take(&mut self.common).how(defaults, default)?;
        if self.logprobs.is_some_and(|count| count > 20) {
            return Err("logprobs must be 0 to 20".into());
        }
        how.sampling.logprobs = self.logprobs;
        Ok(how)
    }
}

fn within(name: &str, asked: Option<f32>, least: f32, most: f32, or: f32) -> Result<f32, String> {
    match asked {
        None => Ok(or),
        Some(value) if (least..=most).contains(&value) => Ok(value),
        Some(value) => Err(format!("{name} is {value}; it must be {least} to {most}")),
    }
}

fn biases(asked: BTreeMap<String, f32>) -> Result<BTreeMap<u32, f32>, String> {
    if asked.len() > MOST_BIASES {
        return Err(format!("logit_bias has {} tokens, of {MOST_BIASES} that it may", asked.len()));
    }
    asked
        .into_iter()
        .map(|(token, bias)| {
            let id = token.parse().map_err(|_| {
                format!("logit_bias has the key {token:?}; keys are ids of tokens, such as \"11\"")
            })?;
            Ok((id, within("logit_bias", Some(bias), -100.0, 100.0, 0.0)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(more: &Value) -> Result<How, String> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut request: Chat = serde_json::from_value(body).map_err(|error| error.to_string())?;
        request.how(&Sampling { temperature: 0.6, ..Sampling::default() })
    }

    #[test]
    fn what_is_not_said_is_the_model_s() {
        let how = chat(&json!({"seed": 7, "user": "u", "temperature": null})).unwrap();
        assert_eq!((how.sampling.temperature, how.sampling.seed), (0.6, 7));
        assert_eq!((how.max_tokens, how.choices, how.stops.len()), (None, 1, 0));
        let how = chat(&json!({"max_completion_tokens": 5, "max_tokens": 9, "stop": "x"})).unwrap();
        assert_eq!((how.max_tokens, how.stops), (Some(5), vec!["x".to_owned()]));
    }

    #[test]
    fn what_would_do_nothing_is_refused_by_name() {
        for (more, named) in [
            (json!({"tools": [{"type": "function"}]}), "tools"),
            (json!({"audio": {"voice": "x"}}), "audio"),
            (json!({"temperature": 3}), "temperature"),
            (json!({"n": 0}), "n is 0"),
            (json!({"stop": ["a", ""]}), "stop"),
            (json!({"top_logprobs": 3}), "logprobs: true"),
            (json!({"logit_bias": {"a": 1}}), "logit_bias"),
            (json!({"logit_bias": {"1": 101}}), "logit_bias"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
                "schema",
            ),
            (json!({"response_format": {"type": "xml"}}), "xml"),
        ] {
            let refused = chat(&more).unwrap_err();
            assert!(refused.contains(named), "{more}: {refused}");
        }
        for more in [json!({"tools": []}), json!({"tool_choice": "none"}), json!({"store": true})] {
            chat(&more).unwrap();
        }
    }

    #[test]
    fn prompts_are_texts_or_tokens() {
        let prompt = |value: Value| serde_json::from_value::<Prompt>(value);
        assert!(matches!(prompt(json!("a")), Ok(Prompt::Text(_))));
        assert!(matches!(prompt(json!(["a", "b"])), Ok(Prompt::Texts(texts)) if texts.len() == 2));
        assert!(matches!(prompt(json!([1, 2])), Ok(Prompt::Tokens(_))));
        assert!(matches!(prompt(json!([[1], [2]])), Ok(Prompt::ManyTokens(_))));
        assert!(prompt(json!({"a": 1})).unwrap_err().to_string().contains("must be a text"));
    }
}
