"""Classification, for serve.py: each engine gets the same texts, one at a time and 32 at once."""

import dataclasses
import http.client
import json
import os
import pathlib
import statistics
import time

from report import row
from served import HERE, run_peer, serving
from streams import percentile

BATCH = 32
# The goal against ONNX Runtime.
SPEED = 1.1
# Most by which a score may differ.
SAME = 1e-3


@dataclasses.dataclass
class Run:
    """Seconds of each answer, by its number of texts; scores of the second class."""

    start: float
    alone: list
    together: list
    scores: list
    peak: float


class Hearth:
    """`hearth-worker serve`, by one client that keeps its connection."""

    def __init__(self, worker, directory, runtime):
        self.worker, self.directory, self.runtime = worker, directory, runtime
        self.name = f"Hearth, {runtime}"

    def run(self, texts, threads, folder):
        with serving(self.worker, self.directory, threads, folder, runtime=self.runtime, batch=BATCH) as server:
            client = Client(server.port)
            client.scores(texts[:1])
            start = time.time() - server.began
            alone, together, scores = measure(client.scores, texts)
            return Run(start, alone, together, scores, server.process.peak_mib())


class Client:
    """Of `/v1/classify`."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def scores(self, texts):
        body = json.dumps({"inputs": texts}).encode()
        self.connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"bench-serve: the server answered {answer.status} {content[:2000]!r}")
        outputs = json.loads(content)["outputs"]
        return [next(found["score"] for found in classes if found["label"] == "spam") for classes in outputs]


class Peer:
    """A library in a process of its own, without a server: classifier_peer.py."""

    def __init__(self, name, python, directory, onnx):
        self.name, self.python, self.directory, self.onnx = name, python, directory, onnx

    def run(self, texts, threads, folder):
        settings, out = folder / "settings.json", folder / "out.json"
        settings.write_text(json.dumps({
            "engine": self.name, "model": str(self.directory), "onnx": str(self.onnx), "texts": texts,
            "threads": threads, "out": str(out),
        }))
        began = time.time()
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "LD_LIBRARY_PATH": ""}
        run_peer(self.name, [self.python, HERE / "classifier_peer.py", settings], folder, environment)
        found = json.loads(out.read_text())
        return Run(found.pop("first") - began, **found)


def measure(scores, texts):
    """Seconds of each text alone and of each 32 together, and the scores of those. `scores` computes;
    a few answers before warm up."""

    def timed(given):
        began = time.perf_counter()
        found = scores(given)
        return time.perf_counter() - began, found

    for text in texts[:4]:
        scores([text])
    # The second half is seen together alone.
    alone = [timed([text])[0] for text in texts[: max(1, len(texts) // 2)]]
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    scores(batches[0])
    together = [timed(batch) for batch in batches]
    return alone, [seconds for seconds, _ in together], [score for _, found in together for score in found]


def check(runs_by_name):
    """All engines give the same scores; the most by which two differ."""
    first, *others = [runs[0].scores for runs in runs_by_name.values()]
    apart = [abs(one - other) for scores in others for one, other in zip(first, scores, strict=True)]
    if max(apart, default=0.0) > SAME:
        raise SystemExit(f"bench-serve: scores differ by {max(apart)} between {', '.join(runs_by_name)}")
    return max(apart, default=0.0)


def rows(name, texts, own, peer, peer_name, goal):
    """Rows of a subject, from lists of runs; `peer` may be empty."""

    def add(what, unit, better, goal, pick):
        ours, theirs = [pick(run) for run in own], [pick(run) for run in peer]
        found.append(row(f"{what}, {name}", unit, better, goal, ours, theirs, peer_name))

    found = []
    add("1 text at a time", "texts/s", "higher", goal, lambda run: len(run.alone) / sum(run.alone))
    add(f"{BATCH} at a time", "texts/s", "higher", goal, lambda run: len(texts) / sum(run.together))
    add("1 text, p50", "ms", "lower", None, lambda run: 1e3 * statistics.median(run.alone))
    add("1 text, p99", "ms", "lower", None, lambda run: 1e3 * percentile(run.alone, 0.99))
    add("start to first answer", "s", "lower", None, lambda run: run.start)
    add("peak memory", "MiB", "lower", None, lambda run: run.peak)
    return found


def read_texts(path: pathlib.Path, count):
    return [json.loads(line)["text"] for line in path.read_text().splitlines()[:count]]
