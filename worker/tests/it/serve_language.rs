//! `hearth-worker serve` of a language model, asked over real connections.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hearth_worker::checkpoint::shard;
use hearth_worker::export::merge::merge;
use hearth_worker::model::{self, generate};
use hearth_worker::peft;
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
    let fixture = fixture();
    let path = fixture.path("model");
    Server::of(fixture, path, change)
}

fn fixture() -> Fixture {
    let fixture = Fixture::new(0.0);
    parity_families::put("qwen3", &fixture.path("model"));
    let settings = json!({"pad_token": "[PAD]", "chat_template": TEMPLATE});
    fixture.write("model/tokenizer_config.json", &settings.to_string());
    fixture.write("model/generation_config.json", &json!({"temperature": 0.0}).to_string());
    fixture
}

/// Adapters `name` for the fixture's model, as different from nothing as they can be, and the model
/// `name-merged`.
fn adapters(fixture: &Fixture, name: &str, seed: i64) {
    let (base, directory) = (fixture.path("model"), fixture.path(name));
    let mut adapted = model::load(&base, Device::Cpu).unwrap();
    let lora = peft::LoraConfig {
        rank: 2,
        alpha: 8.0,
        dropout: 0.0,
        target_modules: None,
        use_rslora: true,
        use_dora: false,
    };
    tch::manual_seed(seed);
    peft::adapt(&mut adapted, &lora).unwrap();
    tch::no_grad(|| {
        for mut part in adapted.trainable() {
            let _ = part.tensor.normal_(0.0, 0.3);
        }
    });
    let settings = peft::saved::config(&adapted, &lora, &base);
    fixture.write(&format!("{name}/{}", peft::saved::CONFIG), &settings.to_string());
    let tensors = peft::saved::tensors(&adapted);
    shard::write(&directory.join(peft::saved::WEIGHTS), &tensors, &[]).unwrap();
    merge(&base, &directory, &fixture.path(&format!("{name}-merged"))).unwrap();
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
    greedy_of(server.model(), prompt, count)
}

fn greedy_of(directory: &Path, prompt: &[i64], count: usize) -> Vec<i64> {
    let model = model::load(directory, Device::Cpu).unwrap();
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
fn adapters_are_models_of_their_own_that_share_a_pass() {
    let fixture = fixture();
    for (name, seed) in [("mails", 1), ("chats", 2)] {
        adapters(&fixture, name, seed);
    }
    let path = fixture.path("model");
    let beside: Vec<Value> =
        ["mails", "chats"].map(|name| json!({"name": name, "path": fixture.path(name)})).into();
    let merged = ["mails", "chats"].map(|name| fixture.path(&format!("{name}-merged")));
    let models =
        [("tiny", path.clone()), ("mails", merged[0].clone()), ("chats", merged[1].clone())];
    let server = Server::of(fixture, path, |config| {
        config["adapters"] = beside.into();
        // Texts that come soon after each other share passes.
        config["maxBatchDelayMilliseconds"] = 300.into();
    });
    let prompt: Vec<i64> = (0..40).map(|token| token % 37).collect();
    let wants =
        models.each_ref().map(|(_, directory)| names(&server, &greedy_of(directory, &prompt, 12)));
    assert!(wants[0] != wants[1] && wants[1] != wants[2], "the adapters change nothing");
    let ask = |name: &str| {
        complete(
            &server,
            &json!({"model": name, "prompt": prompt, "max_tokens": 12, "logprobs": 0}),
        )
    };
    let together = || {
        std::thread::scope(|scope| {
            let asked = models.each_ref().map(|(name, _)| scope.spawn(move || ask(name)));
            asked.map(|thread| thread.join().unwrap())
        })
    };
    // The second time, each remembers its own beginning.
    for cached in [0, 32] {
        for ((answer, want), (name, _)) in together().iter().zip(&wants).zip(&models) {
            assert_eq!(answer["model"], *name);
            assert_eq!(&ids(answer, 0), want, "{name}");
            assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], cached);
        }
    }
    let list = server.get("/v1/models").json();
    let listed: Vec<&Value> =
        list["data"].as_array().unwrap().iter().map(|card| &card["id"]).collect();
    assert_eq!(listed, ["tiny", "mails", "chats"]);
    assert_eq!(server.get("/v1/models/chats").json()["parent"], "tiny");
    let answer = chat(&server, &json!({"model": "other"}));
    assert!(
        answer.body.contains(r#"this server has \"tiny\", \"mails\", \"chats\""#),
        "{}",
        answer.body
    );
}

#[test]
fn adapters_that_do_not_fit_are_refused_with_a_sentence() {
    let fixture = fixture();
    adapters(&fixture, "mails", 1);
    let settings = fixture.path("mails").join(peft::saved::CONFIG);
    let mut known: Value = serde_json::from_slice(&std::fs::read(&settings).unwrap()).unwrap();
    let serve = |path: &Path| {
        let mut model = model::load(&fixture.path("model"), Device::Cpu).unwrap();
        peft::served::serve(&mut model, &[path], Device::Cpu).map(|_| ()).unwrap_err().to_string()
    };
    let missing = serve(&fixture.path("nowhere"));
    assert!(missing.contains("adapters are saved with their settings"), "{missing}");
    let weights = fixture.path("mails").join(peft::saved::WEIGHTS);
    let tensors = Tensor::read_safetensors(&weights).unwrap();
    let other = |name: &str, change: &dyn Fn(&str, &Tensor) -> (String, Tensor)| {
        let directory = fixture.path(name);
        fixture.write(&format!("{name}/{}", peft::saved::CONFIG), &known.to_string());
        let changed: Vec<_> = tensors.iter().map(|(name, tensor)| change(name, tensor)).collect();
        shard::write(&directory.join(peft::saved::WEIGHTS), &changed, &[]).unwrap();
        serve(&directory)
    };
    let wider = other("wider", &|name, tensor| {
        let more = if name.ends_with("lora_A.weight") { [0, 4] } else { [0, 0] };
        (name.to_owned(), tensor.constant_pad_nd(more))
    });
    assert!(wider.contains("are the adapters of this model?"), "{wider}");
    let deeper = other("deeper", &|name, tensor| {
        (name.replace("layers.0", "layers.17"), tensor.shallow_clone())
    });
    assert!(deeper.contains("no layer model.layers.17"), "{deeper}");
    let head = other("head", &|name, tensor| {
        (name.replace("model.layers.0.mlp.up_proj", "lm_head"), tensor.shallow_clone())
    });
    assert!(head.contains("Merge them"), "{head}");
    known["use_dora"] = true.into();
    fixture.write(&format!("mails/{}", peft::saved::CONFIG), &known.to_string());
    let dora = serve(&fixture.path("mails"));
    assert!(dora.contains("DoRA is not served"), "{dora}");
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
fn a_server_tells_how_many_tokens_are_in_flight() {
    let server = start(|config| config["maxBatchSize"] = 1.into());
    let load = || server.get("/load?window=60").json();
    let idle = load();
    assert_eq!(idle["revision"], complete(&server, &json!({}))["system_fingerprint"]);
    assert_eq!((&idle["recent"], &idle["peak"]), (&json!(0.0), &json!(0.0)));
    // One runs and two wait: all of their tokens count.
    let body = json!({"model": "tiny", "prompt": [5, 6, 7, 8], "n": 3, "max_tokens": 56,
                      "ignore_eos": true});
    let (body, begun) = (body.to_string(), Instant::now());
    let told = loop {
        assert_eq!(server.post("/v1/completions", &body).status, 200);
        let told = load();
        if told["recent"].as_f64().unwrap() > 4.0 {
            break told;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{told}");
    };
    assert!(told["peak"].as_f64() >= told["recent"].as_f64(), "{told}");
    assert!(told["watchedSeconds"].as_u64().unwrap() <= begun.elapsed().as_secs() + 60, "{told}");
    assert_eq!(server.get("/load").status, 400, "it does not say how far back");
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
