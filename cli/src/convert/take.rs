//! Values of a configuration as values of a spec.
//!
//! Each function puts a value at its place in the draft, or says why it cannot be
//! had: a clause that ends in what to write instead.

use serde_json::Value;

use super::draft::Draft;

type Taken = Result<(), String>;

pub(super) fn number(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    draft.set(place, as_number(value)?);
    Ok(())
}

pub(super) fn whole(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    draft.set(place, as_whole(as_number(value)?)?);
    Ok(())
}

pub(super) fn flag(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    draft.set(place, as_flag(value)?);
    Ok(())
}

/// Whole steps; below 1 a fraction of all, as `Trainer` rounds it.
pub(super) fn steps(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    let steps = as_number(value)?;
    if steps <= 0.0 || steps >= 1.0 {
        return whole(value, place, draft);
    }
    let all = draft.asked("max_steps").and_then(|steps| as_number(steps).ok()).unwrap_or(-1.0);
    if all <= 0.0 {
        return Err(format!("{steps} of all steps, which are not known here: write whole steps"));
    }
    draft.set(place, as_whole((all * steps).ceil())?);
    Ok(())
}

pub(super) fn text_field(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    draft.set(place, as_text(value)?);
    draft.set("data.eval.text", as_text(value)?);
    Ok(())
}

pub(super) fn scheduler(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    choose(
        value,
        place,
        draft,
        &[
            ("linear", "Linear"),
            ("cosine", "Cosine"),
            ("constant", "Constant"),
            ("constant_with_warmup", "ConstantWithWarmup"),
        ],
    )
}

pub(super) fn optimizer(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    choose(
        value,
        place,
        draft,
        &[
            ("adamw_torch", "AdamW"),
            ("adamw_torch_fused", "AdamW"),
            ("adamw_hf", "AdamW"),
            ("sgd", "SGD"),
            ("adafactor", "Adafactor"),
        ],
    )
}

/// `momentum=0.9` of `sgd`.
pub(super) fn optim_args(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    let text = as_text(value)?;
    for part in text.split(',') {
        match part.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
            Some(("momentum", figure)) if draft.asked("optim") == Some(&"sgd".into()) => {
                number(&figure.into(), place, draft)?;
            }
            _ => return Err(format!("{part:?}: momentum with sgd is all that is offered")),
        }
    }
    Ok(())
}

pub(super) fn strategy(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    // YAML 1.1 reads `no` as false.
    let value = if *value == Value::Bool(false) { &"no".into() } else { value };
    choose(value, place, draft, &[("no", "No"), ("steps", "Steps"), ("epoch", "Epoch")])
}

/// `best` saves at each evaluation; [`super::settle`] makes the intervals equal.
pub(super) fn save_strategy(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    if *value == "best" { Ok(()) } else { strategy(value, place, draft) }
}

pub(super) fn evaluate_during_training(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    if as_flag(value)? {
        draft.set(place, "Steps");
    }
    Ok(())
}

pub(super) fn sampling(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    choose(
        value,
        place,
        draft,
        &[("random", "Random"), ("group_by_length", "GroupByLength"), ("sequential", "Sequential")],
    )
}

pub(super) fn group_by_length(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    if as_flag(value)? {
        draft.set(place, "GroupByLength");
    }
    Ok(())
}

pub(super) fn adafactor(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    if as_flag(value)? {
        draft.set(place, "Adafactor");
    }
    Ok(())
}

pub(super) fn cpu(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    if as_flag(value)? {
        draft.set(place, "CPU");
    }
    Ok(())
}

/// Steps win over a ratio, as they do in transformers 4.
pub(super) fn warmup_ratio(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    let ratio = as_number(value)?;
    if !(0.0..1.0).contains(&ratio) {
        return Err(format!("{ratio} is no ratio from 0 to below 1: write warmup_steps"));
    }
    if !draft.is_above_0(place) {
        draft.set(place, ratio);
    }
    Ok(())
}

pub(super) fn metric(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    let name = as_text(value)?;
    let known = match name.strip_prefix("eval_").unwrap_or(&name) {
        "loss" => "loss",
        "accuracy" => "accuracy",
        "f1" => "f1",
        "f1_macro" | "macro_f1" | "f1Macro" => "f1Macro",
        _ if !needs_best(draft) => return Ok(()),
        _ => return Err(format!("{name:?} is not computed: use loss, accuracy, f1 or f1Macro")),
    };
    draft.set(place, known);
    Ok(())
}

pub(super) fn greater_is_better(value: &Value, _place: &str, draft: &mut Draft<'_>) -> Taken {
    let metric = draft.asked("metric_for_best_model").and_then(Value::as_str).unwrap_or("loss");
    if needs_best(draft) && as_flag(value)? == metric.ends_with("loss") {
        return Err(format!(
            "{metric} is better when {}: remove it",
            if metric.ends_with("loss") { "lower" } else { "higher" }
        ));
    }
    Ok(())
}

/// Whether it matters which checkpoint is best.
fn needs_best(draft: &Draft<'_>) -> bool {
    draft.is_on("load_best_model_at_end") || draft.asked("early_stopping_patience").is_some()
}

pub(super) fn accelerator_config(value: &Value, _place: &str, _draft: &mut Draft<'_>) -> Taken {
    let config = as_object(value)?;
    if config.get("split_batches") == Some(&Value::Bool(true)) {
        return Err("split_batches divides perDeviceTrainBatchSize by the ranks: divide it".into());
    }
    Ok(())
}

/// How the model is read; what it computes with is the spec's.
pub(super) fn model_init_kwargs(value: &Value, _place: &str, _draft: &mut Draft<'_>) -> Taken {
    const HARMLESS: [&str; 8] = [
        "attn_implementation",
        "device_map",
        "dtype",
        "low_cpu_mem_usage",
        "torch_dtype",
        "trust_remote_code",
        "use_cache",
        "use_kernels",
    ];
    for (name, value) in &as_object(value)? {
        if name == "quantization_config" && !value.is_null() {
            return Err("quantization_config: set peft.baseQuantization to INT8 or INT4".into());
        }
        if !HARMLESS.contains(&name.as_str()) && !value.is_null() {
            return Err(format!("{name}: set it in the model's config.json"));
        }
    }
    Ok(())
}

pub(super) fn parallelism(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    let config = as_object(value)?;
    let ways = |name: &str| config.get(name).and_then(Value::as_i64).unwrap_or(1);
    if ways("tp_size") > 1 {
        draft.set(&format!("{place}.tensor"), ways("tp_size"));
    }
    if ways("dp_shard_size") > 1 {
        draft.set(&format!("{place}.sharding"), "Full");
    }
    Ok(())
}

pub(super) fn fsdp(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    let words: Vec<String> = match value {
        Value::Bool(true) => vec!["full_shard".into()],
        Value::Array(words) => words.iter().map(as_text).collect::<Result<_, _>>()?,
        _ => as_text(value)?.split_whitespace().map(str::to_owned).collect(),
    };
    for word in &words {
        match word.as_str() {
            "full_shard" | "hybrid_shard" => draft.set(place, "Full"),
            "shard_grad_op" | "hybrid_shard_zero2" => draft.set(place, "Gradients"),
            // Where they are held changes no result.
            "no_shard" | "auto_wrap" | "offload" => {}
            _ => return Err(format!("{word:?} is no way of FSDP: use full_shard")),
        }
    }
    Ok(())
}

pub(super) fn fsdp_config(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    if as_object(value)?.get("activation_checkpointing") == Some(&Value::Bool(true)) {
        draft.set(place, true);
    }
    Ok(())
}

pub(super) fn deepspeed(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    let config = as_object(value)?;
    for own in ["optimizer", "scheduler"] {
        if config.contains_key(own) {
            return Err(format!("{own}: set it in TrainingArguments"));
        }
    }
    if config.get("fp16").is_some_and(|fp16| fp16["enabled"] == true) {
        return Err("fp16: use bf16".into());
    }
    let stage = config.get("zero_optimization").and_then(|zero| zero["stage"].as_i64());
    match stage {
        None | Some(0) => {}
        Some(1) => draft.set(place, "Optimizer"),
        Some(2) => draft.set(place, "Gradients"),
        Some(3) => draft.set(place, "Full"),
        Some(stage) => return Err(format!("there is no stage {stage}: use 0 to 3")),
    }
    Ok(())
}

pub(super) fn peft_type(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    choose(value, place, draft, &[("LORA", "LoRA")])
}

pub(super) fn target_modules(value: &Value, place: &str, draft: &mut Draft<'_>) -> Taken {
    match value {
        Value::Array(names) => {
            let mut names: Vec<String> = names.iter().map(as_text).collect::<Result<_, _>>()?;
            // PEFT writes a set, in any order.
            names.sort();
            draft.set(place, names);
            Ok(())
        }
        _ if *value == "all-linear" => Ok(()),
        _ => Err(format!("{value} is a pattern: name the layers in a list")),
    }
}

fn choose(value: &Value, place: &str, draft: &mut Draft<'_>, known: &[(&str, &str)]) -> Taken {
    let text = as_text(value)?;
    // Python prints an enum's member as `SchedulerType.LINEAR`.
    let plain = match text.split_once('.') {
        Some((_, member)) => member.to_lowercase(),
        None => text.clone(),
    };
    if let Some((_, name)) = known.iter().find(|(name, _)| *name == plain) {
        draft.set(place, *name);
        return Ok(());
    }
    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    Err(format!("{text:?} is not offered: use {}", names.join(", ")))
}

/// A number; as text, too: YAML 1.1 reads `2e-5` as text.
fn as_number(value: &Value) -> Result<f64, String> {
    let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    number.filter(|number| number.is_finite()).ok_or_else(|| format!("{value} is no number"))
}

#[expect(clippy::cast_possible_truncation, reason = "within what f64 holds exactly")]
fn as_whole(number: f64) -> Result<i64, String> {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        Ok(number as i64)
    } else {
        Err(format!("{number} is no whole number"))
    }
}

fn as_flag(value: &Value) -> Result<bool, String> {
    let flag = value.as_bool().or_else(|| match value.as_str() {
        Some("true" | "True") => Some(true),
        Some("false" | "False") => Some(false),
        _ => None,
    });
    flag.ok_or_else(|| format!("{value} is neither true nor false"))
}

fn as_text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("{value} is no text"))
}

/// An object, as such or as JSON in a text. A path to another file is refused.
fn as_object(value: &Value) -> Result<serde_json::Map<String, Value>, String> {
    let parsed = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    match parsed.as_ref().unwrap_or(value) {
        Value::Object(fields) => Ok(fields.clone()),
        other => Err(format!("{other} is another file: write what it holds here")),
    }
}
