"""Adapters that Hearth trains and exports by themselves, loaded by PEFT.

    python adapters.py --worker BINARY --out FOLDER

Trains a tiny language model and a tiny classifier, and checks that
PEFT's model gives what the model gives that `hearth-worker merge` makes of the same adapters.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys

import families
import hearth
import learned
import peft
import torch
import transformers

FIXTURES = hearth.REPOSITORY / "tests/parity/fixtures"
TOLERANCE = 1e-4


def language_model(folder):
    """A tiny Llama's directory and its texts."""
    learned.filled("llama").save_pretrained(folder)
    learned.tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    rows = folder.parent / "texts.jsonl"
    texts = (learned.words(3 * row, 6 + row % 5) for row in range(24))
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return rows


def train(worker, task, base, rows, adapters, out):
    training = {"maxSteps": 5, "learningRate": 1e-2, "perDeviceTrainBatchSize": 4, "maxLength": 16}
    config = hearth.train_config({"task": task, "data": {}, "training": training}, base, rows, None, out / "job", 1)
    config["peft"] = {"r": 4, "loraAlpha": 8, "mergeOnExport": False} | adapters
    worker.run("agent", config, out)
    return out / "job/model"


def merge(worker, base, adapters, output):
    command = [worker.binary, "merge", "--base", base, "--adapters", adapters, "--output", output]
    subprocess.run(command, check=True, env=worker.environment(1), capture_output=True)


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--worker", type=pathlib.Path, required=True)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    given = arguments.parse_args()
    out = given.out / "adapters"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    worker, failed = hearth.Worker(given.worker), []

    llama = out / "llama"
    texts = language_model(llama)
    ids = {"input_ids": families.ids()}
    tiny = FIXTURES / "tiny-bert"
    causal, classifier = transformers.AutoModelForCausalLM, transformers.AutoModelForSequenceClassification
    for name, task, base, rows, adapters, kind, inputs in [
        ("LoRA", "CausalLM", llama, texts, {}, causal, ids),
        ("DoRA with a head", "CausalLM", llama, texts,
         {"useDora": True, "targetModules": ["lm_head", "q_proj"]}, causal, ids),
        ("rsLoRA of a classifier", "SequenceClassification", tiny, tiny / "train.jsonl",
         {"useRslora": True}, classifier, {"input_ids": families.ids() % 20}),
    ]:
        folder = out / name.replace(" ", "-")
        trained = train(worker, task, base, rows, adapters, folder)
        merge(worker, base, trained, folder / "merged")
        start = logits(kind.from_pretrained(base), inputs)
        beside = logits(peft.PeftModel.from_pretrained(kind.from_pretrained(base), trained), inputs)
        merged = logits(kind.from_pretrained(folder / "merged"), inputs)
        apart, moved = float((beside - merged).abs().max()), float((beside - start).abs().max())
        fine = apart <= TOLERANCE < moved
        print(f"{'ok    ' if fine else 'FAILED'}  {name} in PEFT: {apart:.1e} from the merged model, {moved:.1e} from the start")
        failed += [] if fine else [name]
    if failed:
        sys.exit(f"parity: not as the reference: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
