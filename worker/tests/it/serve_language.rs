//! `hearth-worker serve` of a language model, asked over real connections.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hearth_worker::model::{self, generate};
use serde_json::{Value, json};
use tch::{Device, Tensor};
use tokenizers::Tokenizer;

use crate::fixture::Fixture;
use crate::parity_families;
use crate::serve_http::{Answer, Server};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}\
                        {% if add_generation_prompt %}we {% endif %}";

/// A tiny Qwen3 over the fixture's words, whose texts never end by themselves.
fn start(change: impl FnOnce(&mut Value)) -> Server {
    let fixture = Fixture::new(0.0);
    parity_families::put("qwen3", &fixture.path("model"));
    let settings = json!({"pad_token": "[PAD]", "chat_template": TEMPLATE});
    fixture.write("model/tokenizer_config.json", &settings.to_string());
    fixture.write("model/generation_config.json", &json!({"temperature": 0.0}).to_string());
    let path = fixture.path("model");
    Server::of(fixture, path, change)
}

fn complete(server: &Server, more: &Value) -> Value {
    let mut body = json!({"model": "tiny", "prompt": "win the cash", "max_tokens": 8});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = server.post("/v1/completions", &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// What the model itself continues with, token by token.
fn greedy(server: &Server, prompt: &[i64], count: usize) -> Vec<i64> {
    let model = model::load(server.model(), Device::Cpu).unwrap();
    let prompt = Tensor::from_slice(prompt).unsqueeze(0);
    let tokens = generate::greedy(&model, &prompt, count).unwrap();
    Vec::try_from(&tokens.squeeze_dim(0)).unwrap()
}

fn chat(server: &Server, more: &Value) -> Answer {
    let mut body =
        json!({"model": "tiny", "messages": [{"role": "you", "content": "win the cash"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.post("/v1/chat/completions", &body.to_string())
}

/// Names of tokens.
fn names(server: &Server, ids: &[i64]) -> Vec<Value> {
    let tokenizer = Tokenizer::from_file(server.model().join("tokenizer.json")).unwrap();
    let name = |id: &i64| tokenizer.id_to_token(u32::try_from(*id).unwrap()).unwrap_or_default();
    ids.iter().map(|id| name(id).into()).collect()
}

fn ids(answer: &Value, choice: usize) -> Vec<Value> {
    answer["choices"][choice]["logprobs"]["tokens"].as_array().unwrap().clone()
}

#[test]
fn texts_made_together_are_those_made_alone() {
    let server = start(|_| {});
    let prompts: Vec<Vec<i64>> =
        (1..9).map(|length| (0..length).map(|token| (token * 5 + length) % 40).collect()).collect();
    let together = complete(&server, &json!({"prompt": prompts, "max_tokens": 20, "logprobs": 0}));
    for (index, prompt) in prompts.iter().enumerate() {
        let alone = complete(&server, &json!({"prompt": prompt, "max_tokens": 20, "logprobs": 0}));
        assert_eq!(ids(&together, index), ids(&alone, 0), "{prompt:?}");
        let want = names(&server, &greedy(&server, prompt, 20));
        assert_eq!(ids(&alone, 0), want, "{prompt:?}");
    }
    let usage = &together["usage"];
    assert_eq!(
        (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64()),
        (Some(36), Some(160))
    );
}

#[test]
fn a_prompt_that_was_seen_is_remembered() {
    let server = start(|_| {});
    let prompt: Vec<i64> = (0..40).map(|token| token % 37).collect();
    let ask = || complete(&server, &json!({"prompt": prompt, "max_tokens": 4, "logprobs": 0}));
    let (first, second) = (ask(), ask());
    let cached =
        |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    assert_eq!((cached(&first), cached(&second)), (Some(0), Some(32)));
    assert_eq!(ids(&first, 0), ids(&second, 0));
    assert!((server.metric("hearth_inference_cached_tokens_total") - 32.0).abs() < 0.5);
}

#[test]
fn a_stream_is_the_same_text_piece_by_piece() {
    let server = start(|_| {});
    let whole =
        chat(&server, &json!({"max_tokens": 6, "logprobs": true, "top_logprobs": 2})).json();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    let told = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(told.len(), 6);
    assert_eq!(told[0]["top_logprobs"][0]["logprob"], told[0]["logprob"], "greedy takes the top");
    let asked = json!({"max_tokens": 6, "stream": true, "stream_options": {"include_usage": true}});
    let answer = chat(&server, &asked);
    let data: Vec<&str> =
        answer.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.last(), Some(&"[DONE]"), "{}", answer.body);
    let pieces: Vec<Value> =
        data[..data.len() - 1].iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = pieces
        .iter()
        .filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(Value::from(text), choice["message"]["content"]);
    let usage = &pieces.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], 6);
    assert_eq!(pieces[pieces.len() - 2]["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_text_ends_before_a_stop_string() {
    let server = start(|_| {});
    let whole = complete(&server, &json!({"max_tokens": 12}));
    let text = whole["choices"][0]["text"].as_str().unwrap().to_owned();
    let third = text.split_whitespace().nth(2).unwrap().to_owned();
    let cut = complete(&server, &json!({"max_tokens": 12, "stop": third}));
    let before = text.split(&third).next().unwrap();
    assert_eq!(cut["choices"][0]["text"], before);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
}

#[test]
fn a_seed_makes_the_same_texts_and_choices_differ() {
    let server = start(|_| {});
    let ask = |seed: i64| {
        let answer = complete(&server, &json!({"temperature": 2.0, "seed": seed, "n": 3}));
        let choices = answer["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = ask(1);
    assert_eq!(first, ask(1));
    assert_ne!(first, ask(2));
    assert!(first[0] != first[1] && first[1] != first[2], "{first:?}");
}

#[test]
fn what_cannot_be_answered_says_why() {
    let server = start(|config| config["maxQueueDepth"] = 4.into());
    for (more, status, named) in [
        (json!({"model": "other"}), 404, "this server has \\\"tiny\\\""),
        (json!({"tools": [{"type": "function"}]}), 400, "tools"),
        (json!({"messages": [{"role": "you"}]}), 400, "content"),
        (json!({"messages": [{"role": "you", "content": "win ".repeat(99)}]}), 400, "tokens"),
        (json!({"n": 5}), 400, "at most 4 can be queued"),
        (json!({"logit_bias": {"4800": 1}}), 400, "4800"),
    ] {
        let answer = chat(&server, &more);
        assert_eq!(answer.status, status, "{more}: {}", answer.body);
        assert!(answer.body.contains(named), "{more}: {}", answer.body);
        assert!(answer.json()["error"]["message"].is_string());
    }
    assert_eq!(server.post("/v1/classify", "{}").status, 404);
    assert_eq!(server.post("/v1/completions", "{").status, 400);
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "tiny");
    assert_eq!(server.get("/v1/models/other").status, 404);
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = start(|config| config["maxBatchSize"] = 1.into());
    let body = json!({
        "model": "tiny", "prompt": "win", "max_tokens": 50, "stream": true, "n": 3,
    })
    .to_string();
    for _ in 0..20 {
        let mut socket = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).unwrap();
        socket.write_all(body.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).unwrap();
        assert!(line.contains("200"), "{line}");
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let busy = || {
        server.metric("hearth_inference_running_texts")
            + server.metric("hearth_inference_queue_depth")
    };
    while busy() > 0.0 {
        assert!(Instant::now() < deadline, "texts nobody waits for are made");
        std::thread::sleep(Duration::from_millis(20));
    }
}
