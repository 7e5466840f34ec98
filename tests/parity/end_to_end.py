"""The sample job in Hearth and in transformers' Trainer: same data, same settings.

    python end_to_end.py --data DATA --worker BINARY --out FOLDER

Checks, and prints, that
- F1 on held-out mail is at least 0.97 and differs by at most 0.01 from the Trainer's;
- the export loads in transformers, which finds Hearth's loss, accuracy and F1 in it;
- the int8 export loads in transformers by compressed-tensors, which finds the
  F1 that Hearth's gate found, and answers as the float model does.
"""

import argparse
import json
import pathlib
import shutil
import sys

import hearth
import reference
import torch
import yaml

SAMPLE = hearth.REPOSITORY / "manifests/samples/spam.yaml"
LEAST_F1 = 0.97
F1_TOLERANCE = 0.01
LOSS_TOLERANCE = 1e-4
# transformers computes on dequantized weights, Hearth on int8 ones.
INT8_F1_TOLERANCE = 0.005
INT8_AGREEMENT = 0.99


class Report:
    """Figures side by side, and which of them are not as they should be."""

    def __init__(self):
        self.failed = []

    def check(self, what, ok, detail):
        print(f"{'ok    ' if ok else 'FAILED'}  {what}: {detail}", flush=True)
        if not ok:
            self.failed.append(what)


def sample_spec():
    """The TrainingJob spec of the sample, and its number of ranks."""
    spec = yaml.safe_load(SAMPLE.read_text())["spec"]
    workers = spec["workers"]
    return spec, workers.get("replicas", 1) * workers.get("processesPerWorker", 1)


def train_with_hearth(worker, spec, data, out, ranks, threads):
    config = hearth.train_config(
        spec, data / "minilm", data / "spam-train.jsonl", data / "spam-eval.jsonl", out / "job", ranks
    )
    result = worker.run("agent", config, out, threads=threads)
    return result["progress"]


def train_with_trainer(spec, data, out, batch):
    train, held_out = (reference.read_rows(data / f"spam-{name}.jsonl") for name in ("train", "eval"))
    trainer = reference.trainer(data / "minilm", spec, train, held_out, batch, out / "trainer")
    trainer.train()
    found = trainer.evaluate()
    return {"f1": found["eval_f1"], "accuracy": found["eval_accuracy"], "loss": found["eval_loss"]}


def figures_of(directory, spec, rows):
    """What transformers finds in an exported directory: figures and answers."""
    logits, id2label = reference.logits_of(
        directory, rows, spec["data"].get("clean", []), spec["training"]["maxLength"]
    )
    assert [id2label[i] for i in range(len(id2label))] == reference.LABELS, id2label
    truths = torch.tensor([reference.LABELS.index(row["label"]) for row in rows])
    loss = float(torch.nn.functional.cross_entropy(logits, truths))
    answers = logits.argmax(-1)
    return reference.figures(truths.tolist(), answers.tolist()) | {"loss": loss, "answers": answers}


def quantize(worker, spec, data, out):
    config = {
        "version": hearth.VERSION,
        "job": {"namespace": "local", "name": "parity", "uid": ""},
        "model": str(out / "job/model"),
        "quantization": "INT8",
        "output": str(out / "int8"),
        "outputUri": f"file://{out / 'int8'}",
        "gate": {"data": hearth.data_file(data / "spam-eval.jsonl"), "metric": "f1", "maxDrop": 0.005},
    }
    return worker.run("quantize", config, out, threads=2)["compression"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=pathlib.Path, required=True)
    arguments.add_argument("--worker", type=pathlib.Path, required=True)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    given = arguments.parse_args()
    torch.set_num_threads(2)
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)

    (spec, ranks), worker, report = sample_spec(), hearth.Worker(given.worker), Report()
    batch = spec["training"]["perDeviceTrainBatchSize"] * ranks
    rows = reference.read_rows(given.data / "spam-eval.jsonl")

    ours = train_with_hearth(worker, spec, given.data, given.out, ranks, threads=1)
    report.check("F1 of Hearth", ours["f1"] >= LEAST_F1, f"{ours['f1']:.4f}, at least {LEAST_F1}")
    found = figures_of(given.out / "job/model", spec, rows)
    for name, key in (("loss", "evalLoss"), ("accuracy", "accuracy"), ("f1", "f1")):
        near = abs(found[name] - ours[key]) <= LOSS_TOLERANCE
        report.check(f"{name} of the export in transformers", near, f"{found[name]:.6f}, Hearth {ours[key]:.6f}")

    small = quantize(worker, spec, given.data, given.out)
    int8 = figures_of(given.out / "int8", spec, rows)
    near = abs(int8["f1"] - small["metricAfter"]) <= INT8_F1_TOLERANCE
    report.check("F1 of the int8 export in transformers", near, f"{int8['f1']:.4f}, Hearth {small['metricAfter']:.4f}")
    agreement = float((int8["answers"] == found["answers"]).float().mean())
    report.check("int8 and float answers agree", agreement >= INT8_AGREEMENT, f"{agreement:.4f} of {len(rows)} mails")

    theirs = train_with_trainer(spec, given.data, given.out, batch)
    near = abs(theirs["f1"] - ours["f1"]) <= F1_TOLERANCE
    report.check("F1 of the Trainer", near, f"{theirs['f1']:.4f}, Hearth {ours['f1']:.4f}")

    del found["answers"], int8["answers"]
    record = {"hearth": ours, "trainer": theirs, "export": found, "int8": int8, "compression": small}
    (given.out / "report.json").write_text(json.dumps(record, indent=2) + "\n")
    if report.failed:
        sys.exit(f"parity: not as the reference: {'; '.join(report.failed)}")


if __name__ == "__main__":
    main()
