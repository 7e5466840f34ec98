"""Triton's Python client against a classifier of Hearth's: the Open Inference Protocol, version 2.

    inference.py HOST:PORT DIRECTORY

DIRECTORY is the model, committed with its two classes."""

import json
import sys

import numpy
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

MODEL = "tiny"
TEXTS = ["win free money", "meet lunch report", "café 中文", ""]
client = triton.InferenceServerClient(sys.argv[1])
labels = list(json.load(open(f"{sys.argv[2]}/config.json"))["id2label"].values())


def tensor(texts=TEXTS, binary=True, shape=None, name="text", datatype="BYTES"):
    data = numpy.array(texts, dtype=object).reshape(shape or [len(texts)])
    given = triton.InferInput(name, list(data.shape), datatype)
    if datatype == "BYTES":
        given.set_data_from_numpy(data, binary_data=binary)
    return given


def infer(*inputs, **more):
    return client.infer(MODEL, list(inputs) or [tensor()], **more)


def numbers(result):
    return {name: result.as_numpy(name).tolist() for name in ("label", "label_id", "scores")}


def the_server_and_the_model_are_ready():
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "r1")
    assert not client.is_model_ready("another") and not client.is_model_ready(MODEL, "r2")


def metadata_tells_what_goes_in_and_out():
    server = client.get_server_metadata()
    assert server["name"] == "hearth" and "binary_tensor_data" in server["extensions"], server
    about = client.get_model_metadata(MODEL)
    assert about == client.get_model_metadata(MODEL, "r1")
    assert about["name"] == MODEL and about["versions"] == ["r1"], about
    assert about["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}], about
    outputs = {out["name"]: (out["datatype"], out["shape"]) for out in about["outputs"]}
    assert outputs == {"label": ("BYTES", [-1]), "label_id": ("INT64", [-1]), "scores": ("FP32", [-1, 2])}


def bytes_and_json_say_the_same():
    wanted = lambda binary: [triton.InferRequestedOutput(n, binary_data=binary) for n in ("label", "label_id", "scores")]
    binary = infer()
    assert all("data" not in out for out in binary.get_response()["outputs"]), binary.get_response()
    want = numbers(binary)
    for given in (True, False):
        for asked in (True, False):
            got = numbers(infer(tensor(binary=given), outputs=wanted(asked)))
            decode = lambda label: label.decode() if isinstance(label, bytes) else label
            assert list(map(decode, got.pop("label"))) == [label.decode() for label in want["label"]]
            assert got == {name: want[name] for name in got}, (given, asked, got)


def answers_are_typed_and_add_up():
    result = infer(request_id="7", model_version="r1")
    response = result.get_response()
    assert response["id"] == "7" and response["model_name"] == MODEL and response["model_version"] == "r1"
    scores, ids = result.as_numpy("scores"), result.as_numpy("label_id")
    assert scores.dtype == numpy.float32 and scores.shape == (len(TEXTS), 2)
    assert ids.dtype == numpy.int64 and (ids == scores.argmax(axis=1)).all()
    assert numpy.allclose(scores.sum(axis=1), 1)
    assert [label.decode() for label in result.as_numpy("label")] == [labels[i] for i in ids]


def a_column_is_a_row():
    assert numbers(infer(tensor(shape=[len(TEXTS), 1]))) == numbers(infer())


def only_what_is_asked_for_comes():
    result = infer(outputs=[triton.InferRequestedOutput("scores")])
    assert [out["name"] for out in result.get_response()["outputs"]] == ["scores"]


def errors_say_what_is_wrong():
    shared = triton.InferRequestedOutput("scores")
    shared.set_shared_memory("region", 64)
    for ask, want in [
        (lambda: client.infer("another", [tensor()]), 'this server has "tiny"'),
        (lambda: infer(model_version="2"), 'there is no version "2"'),
        (lambda: infer(tensor(name="tokens")), 'the model\'s is "text"'),
        (lambda: infer(tensor(datatype="FP32")), "of type BYTES"),
        (lambda: infer(tensor(), tensor()), "2 inputs"),
        (lambda: infer(outputs=[triton.InferRequestedOutput("logits")]), 'no output "logits"'),
        (lambda: infer(outputs=[triton.InferRequestedOutput("scores", class_count=1)]), "classification"),
        (lambda: infer(outputs=[shared]), "shared_memory_region"),
        (lambda: infer(tensor([b"\xff"])), "not UTF-8"),
        (lambda: infer(tensor(["a"] * 65)), "at most 64 can be queued"),
        (lambda: infer(request_compression_algorithm="gzip"), "send it as it is"),
    ]:
        try:
            ask()
        except InferenceServerException as refused:
            assert want in refused.message(), (want, refused)
            assert refused.status() in ("400", "404", "415"), refused
        else:
            raise AssertionError(f"not refused: {want}")


TESTS = [
    the_server_and_the_model_are_ready,
    metadata_tells_what_goes_in_and_out,
    bytes_and_json_say_the_same,
    answers_are_typed_and_add_up,
    a_column_is_a_row,
    only_what_is_asked_for_comes,
    errors_say_what_is_wrong,
]

if __name__ == "__main__":
    for test in TESTS:
        test()
        print(f"test triton {test.__name__} ... ok", flush=True)
