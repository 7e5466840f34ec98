"""One process of ONNX Runtime or of transformers that classifies texts, for classify.py: from the texts
to their scores, tokenizer included.

    python classifier_peer.py SETTINGS.json
"""

import json
import pathlib
import sys
import time

import numpy
import tokenizers

import classify


def tokenizer(model):
    made = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    made.enable_truncation(json.loads((model / "hearth.json").read_text())["maxLength"])
    made.enable_padding()
    return made


def arrays(rows):
    """Padded to the longest of them."""
    ids = numpy.array([row.ids for row in rows], dtype=numpy.int64)
    return ids, numpy.array([row.attention_mask for row in rows], dtype=numpy.int64)


def onnxruntime_logits(given):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = given["threads"]
    session = onnxruntime.InferenceSession(given["onnx"], options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def transformers_logits(given):
    import torch
    import transformers

    torch.set_num_threads(given["threads"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(given["model"], dtype=torch.float32).eval()

    def logits(ids, mask):
        with torch.inference_mode():
            return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()

    return logits


def main():
    given = json.loads(pathlib.Path(sys.argv[1]).read_text())
    texts, words = given["texts"], tokenizer(pathlib.Path(given["model"]))
    logits = {"onnxruntime": onnxruntime_logits, "transformers": transformers_logits}[given["engine"]](given)

    def scores(some):
        found = logits(*arrays(words.encode_batch(some)))
        shares = numpy.exp(found - found.max(axis=1, keepdims=True))
        return (shares[:, 1] / shares.sum(axis=1)).tolist()

    scores(texts[:1])
    first = time.time()
    alone, together, answers = classify.measure(scores, texts)
    status = pathlib.Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    found = {"first": first, "alone": alone, "together": together, "scores": answers, "peak": peak}
    pathlib.Path(given["out"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
