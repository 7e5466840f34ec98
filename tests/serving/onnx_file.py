"""A classifier that `hearth-worker export` wrote as ONNX: ONNX's checker takes it, and ONNX Runtime's
Python gives with it what a server of the same model answers.

    onnx_file.py FILE HOST:PORT DIRECTORY"""

import json
import sys

import numpy
import onnx
import onnxruntime
import tokenizers
import tritonclient.http as triton

path, address, directory = sys.argv[1:]
TEXTS = ["win free money", "meet lunch report agenda code", "", "win"]
tokenizer = tokenizers.Tokenizer.from_file(f"{directory}/tokenizer.json")
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def the_checker_takes_the_file():
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert json.loads({p.key: p.value for p in model.metadata_props}["labels"]) == ["ham", "spam"]


def inputs_and_outputs_are_named():
    shapes = {value.name: (value.type, value.shape) for value in session.get_inputs() + session.get_outputs()}
    assert shapes == {
        "input_ids": ("tensor(int64)", ["batch", "tokens"]),
        "attention_mask": ("tensor(int64)", ["batch", "tokens"]),
        "logits": ("tensor(float)", ["batch", 2]),
    }, shapes


def scores(texts):
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(texts)
    feed = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
    (logits,) = session.run(None, {name: numpy.array(value, dtype=numpy.int64) for name, value in feed.items()})
    shares = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def scores_are_the_server_s():
    given = triton.InferInput("text", [len(TEXTS)], "BYTES")
    given.set_data_from_numpy(numpy.array(TEXTS, dtype=object))
    want = triton.InferenceServerClient(address).infer("tiny", [given]).as_numpy("scores")
    assert numpy.abs(scores(TEXTS) - want).max() < 1e-4
    assert numpy.abs(numpy.concatenate([scores([text]) for text in TEXTS]) - want).max() < 1e-4


TESTS = [the_checker_takes_the_file, inputs_and_outputs_are_named, scores_are_the_server_s]

if __name__ == "__main__":
    for test in TESTS:
        test()
        print(f"test onnx {test.__name__} ... ok", flush=True)
