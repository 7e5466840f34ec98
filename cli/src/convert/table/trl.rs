//! `trl.SFTConfig` and `trl.DPOConfig` 1.16: what they add to `TrainingArguments`.

use crate::convert::entry::{Entry, checked, left_out, refused, renamed, same_but};
use crate::convert::take;

/// Fields of both.
pub(in crate::convert) const TRL: &[Entry] = &[
    same_but("max_length", take::whole, "TRL's default of 1024 is written out; null is refused"),
    checked(
        "model_init_kwargs",
        "[{}, \"\"]",
        take::model_init_kwargs,
        "how the model is read is decided by its directory; for quantized weights set `peft.baseQuantization`",
    ),
    left_out("trust_remote_code", "[false]", "no code of a model's directory is ever run"),
    refused("router_aux_loss_coef", "[]", "the model's config.json says it; set it there"),
    left_out("dataset_num_proc", "[]", "rows are prepared by all cores"),
    refused(
        "truncation_mode",
        "[\"keep_start\"]",
        "the end of a row is cut; shorten rows beforehand to keep it",
    ),
    left_out("padding_free", "[false]", "for speed alone"),
    left_out("pad_to_multiple_of", "[\"auto\"]", "padding counts in no loss"),
    left_out(
        "activation_offloading",
        "[false]",
        "only memory and speed differ; use `gradientCheckpointing`",
    ),
    left_out("pad_token", "[]", "padding counts in no loss"),
];

/// Fields of `SFTConfig`, older names included.
pub(in crate::convert) const SFT: &[Entry] = &[
    refused(
        "chat_template_path",
        "[]",
        "put the template into the model's directory, in `chat_template.jinja` or tokenizer_config.json",
    ),
    renamed(
        "dataset_text_field",
        "[\"text\"]",
        "data.train.text",
        take::text_field,
        "of the evaluation data, too",
    ),
    refused("dataset_kwargs", "[{}, \"\"]", "rows are prepared as TRL prepares them by default"),
    refused("eos_token", "[]", "set it in the model's tokenizer_config.json"),
    left_out("shuffle_dataset", "[false]", "`trainSamplingStrategy` says the order"),
    renamed("packing", "[false]", "objective.packing", take::flag, "no row attends to another"),
    refused(
        "packing_strategy",
        "[\"bfd\"]",
        "rows are packed as `bfd` packs them, so that none attends to another",
    ),
    left_out("eval_packing", "[]", "the loss of an evaluation is the same packed or not"),
    refused(
        "completion_only_loss",
        "[true]",
        "with `prompt` and `completion` the loss is on the completion; write both as `text` to learn both",
    ),
    renamed(
        "assistant_only_loss",
        "[false]",
        "objective.assistantOnlyLoss",
        take::flag,
        "rows need `messages`",
    ),
    refused("loss_type", "[\"nll\", \"chunked_nll\"]", "use `nll`"),
    renamed(
        "max_seq_length",
        "[]",
        "training.maxLength",
        take::whole,
        "the older name of `max_length`",
    ),
    left_out("dataset_batch_size", "[1000]", "rows are prepared by all cores"),
    left_out("num_of_sequences", "[1024]", "rows are packed as they come"),
    left_out("chars_per_token", "[3.6]", "tokens are counted"),
    left_out("use_liger", "[false]", "kernels for speed and memory alone"),
];

/// Fields of `DPOConfig`, older names included.
pub(in crate::convert) const DPO: &[Entry] = &[
    refused("disable_dropout", "[true]", "DPO trains without dropout; remove it"),
    left_out("precompute_ref_log_probs", "[false]", "only memory and speed differ"),
    left_out("precompute_ref_batch_size", "[]", "only memory and speed differ"),
    refused("loss_type", "[\"sigmoid\", [\"sigmoid\"]]", "use `sigmoid`"),
    refused("loss_weights", "[[1]]", "there is one loss, `sigmoid`"),
    refused("ld_alpha", "[1]", "each token of an answer counts the same; remove it"),
    refused("f_divergence_type", "[\"reverse_kl\"]", "use `reverse_kl`"),
    left_out("f_alpha_divergence_coef", "[0.5, 1]", "of another `f_divergence_type`"),
    refused("label_smoothing", "[0]", "chosen answers are taken to be the better ones; use 0"),
    renamed("beta", "[0.1]", "objective.beta", take::number, ""),
    refused("use_weighting", "[false]", "each pair counts the same; use false"),
    left_out("discopop_tau", "[0.05]", "of another `loss_type`"),
    refused(
        "sync_ref_model",
        "[false]",
        "the reference stays the model that training started from",
    ),
    left_out("ref_model_mixup_alpha", "[0.6, 0.9]", "of `sync_ref_model`, which is refused"),
    left_out("ref_model_sync_steps", "[512, 64]", "of `sync_ref_model`, which is refused"),
    refused(
        "max_prompt_length",
        "[512]",
        "`maxLength` cuts prompt and answer together; shorten prompts beforehand",
    ),
    refused(
        "max_completion_length",
        "[]",
        "`maxLength` cuts prompt and answer together; shorten answers beforehand",
    ),
    refused("reference_free", "[false]", "use false"),
    refused("rpo_alpha", "[]", "there is one loss, `sigmoid`"),
    left_out("generate_during_eval", "[false]", "evaluation counts losses"),
    left_out("label_pad_token_id", "[-100]", "padding counts in no loss"),
    left_out("padding_value", "[]", "padding counts in no loss"),
    left_out("use_logits_to_keep", "[false]", "only memory and speed differ"),
    left_out("use_num_logits_to_keep", "[false]", "only memory and speed differ"),
    refused(
        "ref_model_init_kwargs",
        "[{}, \"\"]",
        "the reference is the model that training started from",
    ),
    left_out("model_adapter_name", "[]", "adapters have no names"),
    left_out("ref_adapter_name", "[]", "adapters have no names"),
    left_out(
        "force_use_ref_model",
        "[false]",
        "the reference is the model that training started from",
    ),
    left_out("base_model_attribute_name", "[\"model\"]", "of Python classes"),
    refused("is_encoder_decoder", "[false]", "CausalLM alone is trained"),
    left_out("tools", "[[]]", "tools stand in the rows"),
];
