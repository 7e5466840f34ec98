//! Configurations as people have them, and what they become.

use super::*;
use serde_json::json;

/// With everything given that no configuration says.
fn given() -> ConvertArgs {
    ConvertArgs {
        name: Some("spam".into()),
        model: Some("pvc://models/minilm".into()),
        train: Some("pvc://data/train.jsonl".into()),
        eval: Some("pvc://data/eval.jsonl".into()),
        output: Some("pvc://models/spam".into()),
        ..ConvertArgs::default()
    }
}

fn converted(input: &Value, args: &ConvertArgs) -> Converted {
    let input = input.as_object().unwrap();
    let names: Vec<&str> = input.keys().map(String::as_str).collect();
    let origin = Origin::guess(&names);
    job(input, None, origin, args)
}

/// The spec of the result, and what was refused of it.
fn spec(input: &Value) -> (Value, Vec<String>) {
    let converted = converted(input, &given());
    let job: Value = serde_yaml_ng::from_str(&converted.yaml).unwrap();
    (job["spec"].clone(), said(&converted, NoteKind::Refused))
}

fn said(converted: &Converted, kind: NoteKind) -> Vec<String> {
    let notes = converted.notes.iter().filter(|note| note.kind == kind);
    notes.map(|note| note.text.clone()).collect()
}

#[test]
fn fields_become_what_they_mean() {
    for (input, place, want) in [
        (json!({"learning_rate": 3e-5}), "/training/learningRate", json!(3e-5)),
        (json!({"learning_rate": "3e-5"}), "/training/learningRate", json!(3e-5)),
        (json!({"num_train_epochs": 1}), "/training/numTrainEpochs", json!(1.0)),
        (json!({"max_steps": 20.0}), "/training/maxSteps", json!(20)),
        (json!({"warmup_ratio": 0.1}), "/training/warmupSteps", json!(0.1)),
        (json!({"warmup_ratio": 0.1, "warmup_steps": 30}), "/training/warmupSteps", json!(30.0)),
        (json!({"evaluation_strategy": "steps"}), "/training/evalStrategy", json!("Steps")),
        (json!({"eval_strategy": "epoch"}), "/training/evalStrategy", json!("Epoch")),
        (json!({"save_strategy": false}), "/training/saveStrategy", json!("No")),
        (json!({"eval_steps": 0.1, "max_steps": 205}), "/training/evalSteps", json!(21)),
        (
            json!({"lr_scheduler_type": "SchedulerType.COSINE"}),
            "/training/lrSchedulerType",
            json!("Cosine"),
        ),
        (json!({"optim": "sgd", "optim_args": "momentum=0.9"}), "/training/momentum", json!(0.9)),
        (json!({"adafactor": true}), "/training/optim", json!("Adafactor")),
        (json!({"no_cuda": true}), "/workers/accelerator", json!("CPU")),
        (json!({"use_cpu": true}), "/workers/accelerator", json!("CPU")),
        (json!({"save_total_limit": 2}), "/output/keepCheckpoints", json!(2)),
        (
            json!({"group_by_length": true}),
            "/training/trainSamplingStrategy",
            json!("GroupByLength"),
        ),
        (json!({"activation_checkpointing": true}), "/training/gradientCheckpointing", json!(true)),
        (json!({"fsdp": "full_shard auto_wrap"}), "/parallelism/sharding", json!("Full")),
        (json!({"fsdp": ["shard_grad_op"]}), "/parallelism/sharding", json!("Gradients")),
        (
            json!({"deepspeed": {"zero_optimization": {"stage": 1}}}),
            "/parallelism/sharding",
            json!("Optimizer"),
        ),
        (json!({"parallelism_config": "{\"tp_size\": 2}"}), "/parallelism/tensor", json!(2)),
        (json!({"packing": true}), "/objective/packing", json!(true)),
        (json!({"packing": false}), "/objective/type", json!("SFT")),
        (json!({"max_seq_length": 99}), "/training/maxLength", json!(99)),
        (json!({"dataset_text_field": "body"}), "/data/train/text", json!("body")),
        (json!({"beta": 0.2}), "/objective/beta", json!(0.2)),
        (json!({"beta": 0.1}), "/task", json!("CausalLM")),
        // What a class means by a field that is left out.
        (json!({"seed": 1}), "/training/loggingSteps", json!(500)),
        (json!({"packing": false}), "/training/learningRate", json!(2e-5)),
        (json!({"packing": false}), "/training/bf16", json!(true)),
        (json!({"beta": 0.2}), "/training/learningRate", json!(1e-6)),
    ] {
        let needs_more = input.get("parallelism_config").is_some();
        let (spec, refused) = spec(&input);
        assert_eq!(spec.pointer(place), Some(&want), "{input}: {spec}");
        // Two ranks are the user's to add.
        assert_eq!(refused.is_empty(), !needs_more, "{input}: {refused:?}");
    }
}

#[test]
fn what_changes_the_result_and_cannot_be_had_is_refused_with_the_way_out() {
    for (input, field, fix) in [
        (json!({"fp16": true}), "fp16", "use `bf16`"),
        (json!({"neftune_noise_alpha": 5}), "neftune_noise_alpha", "remove it"),
        (json!({"optim": "lion_32bit"}), "optim", "use adamw_torch"),
        (json!({"optim": "sgd", "optim_args": "nesterov=true"}), "optim_args", "momentum with sgd"),
        (json!({"lr_scheduler_type": "polynomial"}), "lr_scheduler_type", "use linear"),
        (
            json!({"train_sampling_strategy": "batch_rebalance"}),
            "train_sampling_strategy",
            "use random",
        ),
        (json!({"eval_steps": 0.1}), "eval_steps", "write whole steps"),
        (
            json!({"load_best_model_at_end": true, "eval_strategy": "epoch", "save_strategy": "epoch",
                   "metric_for_best_model": "bleu"}),
            "metric_for_best_model",
            "use loss",
        ),
        (
            json!({"load_best_model_at_end": true, "eval_strategy": "epoch", "save_strategy": "epoch",
                   "greater_is_better": true}),
            "greater_is_better",
            "lower",
        ),
        (json!({"accelerator_config": {"split_batches": true}}), "accelerator_config", "divide it"),
        (json!({"accelerator_config": "accelerator.json"}), "accelerator_config", "another file"),
        (json!({"deepspeed": "ds.json"}), "deepspeed", "another file"),
        (json!({"deepspeed": {"optimizer": {"type": "Lamb"}}}), "deepspeed", "TrainingArguments"),
        (json!({"resume_from_checkpoint": "/ckpt"}), "resume_from_checkpoint", "--model"),
        (json!({"loss_type": "dft", "packing": true}), "loss_type", "nll"),
        (json!({"loss_type": ["ipo"], "beta": 0.1}), "loss_type", "sigmoid"),
        (
            json!({"max_length": 64, "model_init_kwargs": {"quantization_config": {"load_in_4bit": true}}}),
            "model_init_kwargs",
            "peft.baseQuantization",
        ),
        (json!({"learning_rat": 1}), "learning_rat", "correct its name"),
        (json!({"learning_rate": "fast"}), "learning_rate", "no number"),
        (json!({"seed": 1.5}), "seed", "no whole number"),
        (json!({"bf16": "maybe"}), "bf16", "neither true nor false"),
        // By the API server's own rules.
        (json!({"per_device_train_batch_size": 0}), "spec.training.perDeviceTrainBatchSize", "1"),
        (json!({"load_best_model_at_end": true}), "spec", "needs an evaluation"),
    ] {
        let (_, refused) = spec(&input);
        assert_eq!(refused.len(), 1, "{input}: {refused:?}");
        assert!(refused[0].starts_with(&format!("{field}: ")), "{input}: {refused:?}");
        assert!(refused[0].contains(fix), "{input}: {refused:?}");
    }
}

#[test]
fn what_asks_for_nothing_is_passed_over() {
    let dump = json!({
        "fp16": false, "fp16_opt_level": "O1", "push_to_hub": false, "hub_token": "<HUB_TOKEN>",
        "report_to": [], "logging_nan_inf_filter": true, "accelerator_config": {"split_batches": false},
        "fsdp": "", "deepspeed": null, "label_names": null, "logging_steps": 10, "ddp_timeout": 1800,
        "optim": "adamw_torch_fused", "neftune_noise_alpha": null, "warmup_steps": 0, "past_index": -1,
    });
    let (spec, refused) = spec(&dump);
    assert_eq!(spec.get("training"), None, "{spec}");
    assert_eq!(refused, Vec::<String>::new());
}

#[test]
fn fields_that_would_do_nothing_are_taken_away_with_a_note() {
    for (input, place) in [
        (json!({"lr_scheduler_type": "constant", "warmup_steps": 5}), "training.warmupSteps"),
        (json!({"optim": "adafactor", "adam_beta2": 0.95}), "training.adamBeta2"),
        (json!({"early_stopping_patience": 3}), "training.earlyStoppingPatience"),
        (json!({"eval_delay": 3}), "training.evalDelay"),
    ] {
        let converted = converted(&input, &given());
        assert_eq!(said(&converted, NoteKind::Refused), Vec::<String>::new(), "{input}");
        let notes = said(&converted, NoteKind::Changed);
        assert!(
            notes.iter().any(|note| note.starts_with(&format!("{place}: left out"))),
            "{notes:?}"
        );
        assert!(!converted.yaml.contains(&place[9..]), "{}", converted.yaml);
    }
}

#[test]
fn the_best_model_of_save_strategy_best_is_saved_when_it_is_found() {
    let (spec, refused) = spec(&json!({
        "eval_strategy": "steps", "eval_steps": 25, "save_strategy": "best",
        "load_best_model_at_end": true, "metric_for_best_model": "eval_f1",
    }));
    assert_eq!(refused, Vec::<String>::new());
    assert_eq!(spec["training"]["saveSteps"], 25);
    assert_eq!(spec["training"]["metricForBestModel"], "f1");
}

#[test]
fn adapters_come_from_their_own_file() {
    let adapters = json!({
        "peft_type": "LORA", "task_type": "SEQ_CLS", "r": 16, "lora_alpha": 32, "lora_dropout": 0.05,
        "target_modules": ["v_proj", "q_proj"], "use_rslora": true, "use_dora": false,
        "bias": "none", "modules_to_save": ["classifier"], "inference_mode": true,
        "base_model_name_or_path": "org/name", "loftq_config": {}, "rank_pattern": {},
    });
    let input = json!({});
    let arguments = input.as_object().unwrap();
    let converted = job(arguments, adapters.as_object(), Origin::TrainingArguments, &given());
    assert_eq!(said(&converted, NoteKind::Refused), Vec::<String>::new());
    let job: Value = serde_yaml_ng::from_str(&converted.yaml).unwrap();
    assert_eq!(job["spec"]["task"], "SequenceClassification");
    assert_eq!(
        job["spec"]["peft"],
        json!({"type": "LoRA", "r": 16, "targetModules": ["q_proj", "v_proj"], "loraAlpha": 32,
               "loraDropout": 0.05, "useRslora": true})
    );
    for (field, value, fix) in [
        ("peft_type", json!("IA3"), "LORA"),
        ("target_modules", json!(".*q_proj"), "list"),
        ("target_modules", Value::Null, "name the layers"),
        ("init_lora_weights", json!("pissa"), "use true"),
        ("modules_to_save", json!(["lm_head"]), "head"),
    ] {
        let mut other = adapters.clone();
        other[field] = value;
        let converted =
            super::job(arguments, other.as_object(), Origin::TrainingArguments, &given());
        let refused = said(&converted, NoteKind::Refused);
        assert!(refused.len() == 1 && refused[0].starts_with(field), "{field}: {refused:?}");
        assert!(refused[0].contains(fix), "{field}: {refused:?}");
    }
}

#[test]
fn a_configuration_alone_gives_a_job_with_blanks_to_fill_in() {
    let input = json!({
        "output_dir": "/tmp/out", "learning_rate": 2e-5, "eval_strategy": "epoch",
        "report_to": "wandb", "dataset_text_field": "body",
    });
    let converted = converted(&input, &ConvertArgs::default());
    insta::assert_snapshot!(converted.yaml, @r"
    apiVersion: hearth.dev/v1alpha1
    kind: TrainingJob
    metadata:
      # name: NAME # give it with --name
    spec:
      task: CausalLM
      # model: # give it with --model
      #   source: pvc://CLAIM/PATH
      objective:
        type: SFT
      # data: # give it with --train
      #   train:
      #     text: body
      #     source: pvc://CLAIM/FILE.jsonl
      #   eval: {source: pvc://CLAIM/FILE.jsonl} # give it with --eval, or write evalSplit: 0.1
      training:
        learningRate: 0.00002
        evalStrategy: Epoch
        bf16: true
        gradientCheckpointing: true
        maxLength: 1024
      # output: # give it with --output
      #   destination: pvc://CLAIM/PATH
    ");
    let notes: Vec<_> = converted.notes.iter().map(line).collect();
    for (place, want) in [
        (0, "renamed: output_dir: output.destination: a path of one machine; give `--output`"),
        (1, "renamed: dataset_text_field: to data.train.text: of the evaluation data, too"),
        (
            2,
            "left out: report_to: figures go to `metrics.jsonl` beside the output and to Prometheus",
        ),
        (3, "note: training.bf16: true, the default of SFTConfig"),
    ] {
        assert!(notes[place].starts_with(want), "{notes:?}");
    }
}

#[test]
fn what_this_version_does_not_run_is_told() {
    let input = json!({"optim": "adafactor", "fsdp": "full_shard", "dataset_text_field": "body"});
    let converted = converted(&input, &ConvertArgs::default());
    let notes: Vec<_> = converted.notes.iter().map(line).collect();
    let told = "note: not yet run: spec.parallelism: Adafactor needs whole parameters on each rank";
    assert!(notes.iter().any(|note| note.starts_with(told)), "{notes:?}");
}

#[test]
fn files_are_read_and_what_is_none_is_told() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("args.yaml");
    let mut args = ConvertArgs { file: Some(path.clone()), ..given() };
    assert_eq!(run(&args), NO_INPUT);
    for (text, lenient, code) in [
        ("- 1\n", false, USAGE),
        ("a: [\n", false, USAGE),
        ("fp16: true\n", false, USAGE),
        ("fp16: true\n", true, exit::DONE),
        ("learning_rate: 2e-5\neval_strategy: no\n", false, exit::DONE),
        ("{\"learning_rate\": 2e-5}", false, exit::DONE),
    ] {
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        args.lenient = lenient;
        assert_eq!(run(&args), code, "{text}");
    }
}
