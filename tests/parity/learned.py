"""What TRL and PEFT make of a tiny Llama: the losses of a run of DPO, and the logits of adapters.

No weights are committed: tensors are filled by `families.values`, from their place in the sorted
list. The tests are worker/tests/it/parity_learned.rs.
"""

import json
import pathlib
import tempfile

import datasets
import peft
import safetensors.torch
import tokenizers
import torch
import transformers
import trl

import families

WORDS = [f"w{number}" for number in range(families.VOCABULARY - 3)]
# All rows are one batch: then their order does not matter.
TRAIN_ROWS, EVAL_ROWS, STEPS = 8, 6, 10
TRAINING = {"learningRate": 2e-3, "maxGradNorm": 1.0, "weightDecay": 0.0, "maxLength": 12}
BETA = 0.2


def tokenizer():
    """A token a word."""
    words = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>"] + WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return made


def words(start, count):
    return " ".join(WORDS[(start + 7 * step * (step + 1)) % len(WORDS)] for step in range(count))


def rows(first, count):
    """Prompts with answers of unequal lengths, some of them cut by maxLength."""
    return [
        {
            "prompt": words(5 * row, 2 + row % 4),
            "chosen": " " + words(11 * row + 3, 2 + row % 5),
            "rejected": " " + words(13 * row + 8, 1 + (row * 3) % 8),
        }
        for row in range(first, first + count)
    ]


def filled(name):
    """A case of families.py with its weights."""
    model = families.models()[name]()
    with tempfile.TemporaryDirectory() as folder:
        _, tensors = families.on_disk(model, pathlib.Path(folder))
    model.load_state_dict(tensors)
    return model.eval()


def preferences():
    """Losses and rewards of each step of TRL's DPOTrainer, and of an evaluation after the last."""
    made = tokenizer()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    train, held_out = rows(0, TRAIN_ROWS), rows(TRAIN_ROWS, EVAL_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.DPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, report_to=[], save_strategy="no",
            per_device_train_batch_size=TRAIN_ROWS, per_device_eval_batch_size=EVAL_ROWS,
            max_steps=STEPS, logging_steps=1, lr_scheduler_type="constant", optim="adamw_torch",
            learning_rate=TRAINING["learningRate"], max_grad_norm=TRAINING["maxGradNorm"],
            weight_decay=TRAINING["weightDecay"], max_length=TRAINING["maxLength"], beta=BETA,
            gradient_checkpointing=False, dataloader_pin_memory=False,
        )
        trainer = trl.DPOTrainer(
            model=filled("llama"), ref_model=filled("llama"), args=arguments, processing_class=fast,
            train_dataset=datasets.Dataset.from_list(train),
            eval_dataset=datasets.Dataset.from_list(held_out),
        )
        trainer.train()
        steps = [log for log in trainer.state.log_history if "loss" in log]
        found = trainer.evaluate()
    names = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"]
    return {
        "tokenizer": json.loads(made.to_str()),
        "train": train,
        "eval": held_out,
        "training": TRAINING,
        "beta": BETA,
        "steps": STEPS,
        "losses": [log["loss"] for log in steps],
        "gradNorms": [float(log["grad_norm"]) for log in steps],
        "evaluation": {"loss": found["eval_loss"]} | {n: found[f"eval_{n}"] for n in names},
    }


ADAPTERS = {
    "lora": ("llama", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
    "rslora-lm-head": (
        "llama", dict(r=4, lora_alpha=8, use_rslora=True, target_modules=["lm_head", "down_proj"]),
    ),
    "dora-all-linear": ("qwen2", dict(r=3, lora_alpha=6, use_dora=True, target_modules="all-linear")),
    "classifier": (
        "llama-classifier", dict(r=2, lora_alpha=4, target_modules=["o_proj"], modules_to_save=["score"]),
    ),
}


def adapter(base, settings):
    """What PEFT saves of adapters that are filled by `values`, and the logits with them."""
    task = "SEQ_CLS" if "classifier" in base else "CAUSAL_LM"
    model = peft.get_peft_model(filled(base), peft.LoraConfig(task_type=task, **settings)).eval()
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        model.save_pretrained(home)
        config = json.loads((home / "adapter_config.json").read_text())
        shapes = {
            name: list(tensor.shape)
            for name, tensor in sorted(safetensors.torch.load_file(home / "adapter_model.safetensors").items())
        }
    own = {}
    for index, (name, shape) in enumerate(shapes.items()):
        own[name] = families.values(index, shape, name)
        if name.endswith("magnitude_vector"):
            own[name] = own[name].abs() + 0.5
    peft.set_peft_model_state_dict(model, own)
    kept = ["peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias",
            "task_type", "fan_in_fan_out"]
    targets = config["target_modules"]
    targets = sorted(targets) if isinstance(targets, list) else targets
    with torch.no_grad():
        logits = model(input_ids=families.ids()).logits.reshape(-1, model.config.get_text_config().vocab_size
                                                                if task == "CAUSAL_LM" else 3)
    return {
        "base": base,
        "config": {name: config[name] for name in kept} | {"target_modules": targets},
        "tensors": shapes,
        "logits": logits[::5].tolist(),
    }


def adapters():
    return {name: adapter(*case) for name, case in ADAPTERS.items()}
