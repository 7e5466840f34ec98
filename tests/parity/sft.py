"""Supervised fine-tuning of SmolLM2-135M with LoRA: Hearth and TRL's SFTTrainer, one learns what
the other does.

    python sft.py --smollm2 GGUF_FOLDER --chats FOLDER --worker BINARY --out FOLDER

Both start from the same weights (the 4-bit file, dequantized) and the same adapters, see the same
conversations (tests/setup/chats.sh: real ones, MIT licence) in the same order, and take the same
steps. Checks, and prints, that

- both see the same tokens in each step;
- losses of the steps differ by at most LOSS_TOLERANCE;
- held-out loss falls by the same amount, within FALL_TOLERANCE of it;
- transformers finds Hearth's held-out loss in Hearth's export.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import hearth
import order
import peft
import torch
import transformers
import trl

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()

TRAIN_ROWS, EVAL_ROWS = 120, 32
BATCH, MAX_LENGTH = 4, 128
FALL_TOLERANCE = 0.02
LOSS_TOLERANCE = 0.01
EXPORT_TOLERANCE = 1e-3

SPEC = {
    "task": "CausalLM",
    "objective": {"type": "SFT"},
    "peft": {"r": 8, "loraAlpha": 16, "loraDropout": 0.0},
    "training": {
        "perDeviceTrainBatchSize": BATCH, "perDeviceEvalBatchSize": 8, "learningRate": 1e-3,
        "numTrainEpochs": 1, "maxLength": MAX_LENGTH, "loggingSteps": 1, "seed": 7,
        "evalStrategy": "Epoch", "saveStrategy": "No",
    },
    "data": {},
}

# Layers that get an adapter, in Hearth's order of drawing.
ADAPTED = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]


def read_rows(path, count):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]


def base(directory):
    """The model in f32, and its tokenizer."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model, transformers.AutoTokenizer.from_pretrained(directory)


def draw_adapters(model, seed):
    """Gives adapters the values that Hearth draws from this seed, with the same libtorch."""
    torch.manual_seed(seed)
    found = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    layers = model.config.num_hidden_layers
    assert len(found) == layers * len(ADAPTED), sorted(found)
    for index in range(layers):
        for part in ADAPTED:
            (layer,) = (found[name] for name in found if name.endswith(f"layers.{index}.{part}"))
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            with torch.no_grad():
                a.uniform_(-(a.shape[1] ** -0.5), a.shape[1] ** -0.5)
                b.zero_()


def in_order(rows, seed):
    """Rows of the first epoch as Hearth sees them."""
    return [rows[index] for index in order.permutation(seed, 0, len(rows))]


def trainer(directory, spec, rows, output, callbacks=(), **more):
    """TRL's SFTTrainer with the settings of a TrainingJob's spec, ready to train."""
    training, adapters = spec["training"], spec["peft"]
    model, tokenizer = base(directory)
    settings = {
        "output_dir": str(output),
        "per_device_train_batch_size": training["perDeviceTrainBatchSize"],
        "learning_rate": training["learningRate"],
        "max_length": training["maxLength"],
        "max_steps": training.get("maxSteps", -1),
        "num_train_epochs": training.get("numTrainEpochs", 1),
        "lr_scheduler_type": "linear", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused", "train_sampling_strategy": "sequential",
        "bf16": False, "gradient_checkpointing": False, "use_cpu": True, "dataloader_num_workers": 0,
        "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "seed": training["seed"],
    }
    made = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**(settings | more)),
        train_dataset=datasets.Dataset.from_list(in_order(rows, training["seed"])),
        processing_class=tokenizer,
        peft_config=peft.LoraConfig(
            r=adapters["r"], lora_alpha=adapters["loraAlpha"], lora_dropout=adapters["loraDropout"],
            target_modules="all-linear", task_type="CAUSAL_LM",
        ),
        callbacks=list(callbacks),
    )
    draw_adapters(made.model, training["seed"])
    return made


class Losses(transformers.TrainerCallback):
    """Losses of the steps, as they are logged."""

    def __init__(self):
        self.losses = []

    def on_log(self, args, state, control, logs=None, **more):
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])


def tokens_of(tokenizer, row, max_length):
    ids = tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=True)["input_ids"]
    return ids[:max_length]


def held_out_loss(model, tokenizer, rows, max_length):
    """Mean loss over all tokens but the first of each row."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([tokens_of(tokenizer, row, max_length)])
            logits = model(input_ids=ids).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    return total / count


def run_hearth(worker, directory, train, held_out, out):
    """Trains with one rank; its events."""
    config = hearth.train_config(SPEC, directory, train, held_out, out / "job", 1)
    path = out / "sft.json"
    path.write_text(json.dumps(config, indent=1))
    with (out / "sft.log").open("wb") as log:
        done = subprocess.run(
            [worker.binary, "train", "--config", path], stdout=subprocess.PIPE, stderr=log,
            env=worker.environment(torch.get_num_threads()), text=True,
        )
    if done.returncode:
        sys.exit(f"sft: hearth-worker ended with {done.returncode}: {(out / 'sft.log').read_text()[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("smollm2", "chats", "worker", "out"):
        arguments.add_argument(f"--{name}", type=pathlib.Path, required=True)
    given = arguments.parse_args()
    torch.set_num_threads(2)
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    worker = hearth.Worker(given.worker)
    directory = worker.import_gguf(given.smollm2 / "model.gguf", given.out / "smollm2")
    files = {}
    for name, count in (("train", TRAIN_ROWS), ("eval", EVAL_ROWS)):
        files[name] = given.out / f"{name}.jsonl"
        rows = read_rows(given.chats / f"chats-{name}.jsonl", count)
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held_out = (read_rows(files[name], None) for name in ("train", "eval"))
    failed = []

    def check(what, ok, detail):
        print(f"{'ok    ' if ok else 'FAILED'}  {what}: {detail}", flush=True)
        if not ok:
            failed.append(what)

    events = run_hearth(worker, directory, files["train"], files["eval"], given.out)
    steps = [event for event in events if event["event"] == "step"]
    own = [event["metrics"]["loss"] for event in events if event["event"] == "evaluation"][-1]

    losses = Losses()
    peer = trainer(directory, SPEC, train, given.out / "trl", [losses])
    tokenizer = peer.processing_class
    before = held_out_loss(peer.model, tokenizer, held_out, MAX_LENGTH)
    peer.train()
    theirs = held_out_loss(peer.model, tokenizer, held_out, MAX_LENGTH)

    lengths = [len(tokens_of(tokenizer, row, MAX_LENGTH)) for row in in_order(train, SPEC["training"]["seed"])]
    want = [sum(lengths[start : start + BATCH]) for start in range(0, len(lengths), BATCH)]
    check("tokens of each step", [step["tokens"] for step in steps] == want, f"{sum(want)} in {len(want)} steps")
    pairs = list(zip((step["loss"] for step in steps), losses.losses, strict=True))
    worst = max(abs(one - other) for one, other in pairs)
    check("losses of the steps", worst <= LOSS_TOLERANCE, f"differ by at most {worst:.2e}")
    fall, peer_fall = before - own, before - theirs
    ratio = fall / peer_fall
    check(
        "fall of held-out loss", peer_fall > 0.05 and abs(ratio - 1) <= FALL_TOLERANCE,
        f"Hearth {before:.4f} to {own:.4f}, TRL to {theirs:.4f}: ratio {ratio:.4f}",
    )
    exported = held_out_loss(*base(given.out / "job/model"), held_out, MAX_LENGTH)
    check("held-out loss of the export", abs(exported - own) <= EXPORT_TOLERANCE, f"{exported:.5f}, Hearth {own:.5f}")
    record = {"before": before, "hearth": own, "trl": theirs, "export": exported, "losses": pairs}
    (given.out / "report.json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(directory)
    if failed:
        sys.exit(f"sft: not as the reference: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
