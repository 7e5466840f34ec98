"""Serving by Hearth's worker and by the peers that its users come from, in turn.

    python3 serve.py --worker BINARY --data DATA --smollm2 GGUF --llama NODE_MODULES --reference PYTHON
                     --clients FOLDER --onnxruntime LIBRARY --out FILE
                     [--scratch FOLDER] [--runs N] [--threads N,…] [--parts language,large,classifier]
    python3 serve.py --smoke --worker BINARY --out FILE

- language: SmolLM2-135M out of the Q8_0 file that Hearth's compressor wrote, and out of the directory of
  INT8WeightOnly: llama.cpp with that file.
- large: a Llama of 1.07 B random weights, more than caches hold, in the same formats: llama.cpp, and how
  fast the cores can read memory at all.
- classifier: MiniLM with two classes in float32, computed by libtorch and by ONNX Runtime: ONNX Runtime
  with the file that Hearth exported, and transformers.

Hearth is asked over HTTP on loopback, as users ask it, with its client on the same cores; the peers are
libraries in a process of their own, without a server, which favours them. Every run is a process that is
started and ended: one run of each engine, then one of each again, and so on. Both sides get the same
tokens or texts and the same number of threads, and make the same number of tokens, greedily.

`--smoke` runs Hearth alone, once, on tiny models: it shows that the benchmark works, and its figures
mean nothing. Standard library only; `--reference` is the interpreter that has transformers, `--scratch` has
room for 6 GB.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile

import classify
import language
import tiny
from report import print_table, row, save
from served import HERE, hearth

# Of the large model's weights, read for each token, to what memory gives.
WEIGHTS = 0.8
TEXTS = 256
BATCHES = [1, 1, 1, 8, 32]
LARGE_BATCHES = [1, 1]
FORMATS = ("Q8_0", "INT8WeightOnly")


class Bench:
    """What all parts need, and what they found."""

    def __init__(self, given, scratch):
        self.given, self.scratch = given, scratch
        self.worker = hearth.Worker(given.worker)
        self.rows, self.more = [], {}
        self.small = None

    def in_turn(self, subjects, asked, threads):
        """Runs of all subjects, by their names: one of each, then one of each again, and so on."""
        runs = {subject.name: [] for subject in subjects}
        for _ in range(self.given.runs):
            for subject in subjects:
                folder = pathlib.Path(tempfile.mkdtemp(dir=self.scratch))
                runs[subject.name].append(subject.run(asked, threads, folder))
                shutil.rmtree(folder)
        return runs

    def prepare(self, *arguments):
        """Runs inputs.py."""
        command = [self.given.reference, HERE / "inputs.py", *arguments]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"bench-serve: inputs.py failed:\n{done.stderr[-3000:]}")

    def compress(self, model, quantization, name):
        folder = self.scratch / f"{name}-{quantization}"
        self.worker.run("quantize", {
            "version": hearth.VERSION, "job": {"namespace": "local", "name": name, "uid": ""}, "model": str(model),
            "quantization": quantization, "groupSize": 128, "output": str(folder / "model"),
            "outputUri": f"file://{folder / 'model'}", "calibration": None, "gate": None,
        }, folder, threads=os.cpu_count())
        return folder / "model"

    def language_models(self, model, name, formats):
        """Hearth with each format, and llama.cpp with the Q8_0 file where there is one."""
        made = {kind: self.compress(model, kind, name) for kind in formats}
        subjects = [language.Hearth(self.worker, folder, f"Hearth {kind}") for kind, folder in made.items()]
        if "Q8_0" in made:
            subjects.append(language.Llama(self.given.llama, made["Q8_0"] / "model.gguf"))
        return subjects

    def smollm2(self):
        """SmolLM2's directory, and mails as its tokens."""
        if not self.small:
            output = self.scratch / "smollm2"
            command = [self.worker.binary, "import", "--gguf", self.given.smollm2 / "model.gguf", "--output", output]
            environment = self.worker.environment(1)
            subprocess.run([*command, "--dtype", "bf16"], check=True, env=environment, stderr=subprocess.DEVNULL)
            tokens = self.scratch / "tokens.json"
            self.prepare("prompts", output, self.given.data / "spam-eval.jsonl", tokens)
            self.small = output, json.loads(tokens.read_text())["ids"]
        return self.small

    def measure_language(self, name, subjects, plan):
        """Rows of all language models of a name; gives the runs, by threads."""
        all_runs = {}
        for threads in self.given.threads:
            runs = all_runs[threads] = self.in_turn(subjects, plan, threads)
            peer = runs.get(language.PEER, [])
            for subject in subjects:
                for run in runs[subject.name]:
                    language.check(plan, subject, run)
                if subject.name == language.PEER:
                    continue
                title = f"{name} {subject.name.split()[1]}, {count(threads)}"
                self.rows += language.rows(title, plan, runs[subject.name], peer)
                if peer:
                    same = language.agreement(runs[subject.name][0], peer[0])
                    self.more.setdefault("agreed", {})[title] = {"of": plan.tokens, "tokens": same}
        return all_runs

    def language(self):
        model, ids = self.smollm2()
        plan = language.plan(ids, read=512, prompt=16, batches=BATCHES, tokens=64)
        self.measure_language("SmolLM2", self.language_models(model, "smollm2", FORMATS), plan)

    def large(self):
        small, ids = self.smollm2()
        base = self.scratch / "large"
        self.prepare("large", small, base)
        subjects = self.language_models(base, "large", FORMATS)
        sizes = {"Hearth INT8WeightOnly": stored_bytes(subjects[1].directory), "Hearth Q8_0": blocks_bytes(base)}
        shutil.rmtree(base)
        plan = language.plan(ids, read=0, prompt=16, batches=LARGE_BATCHES, tokens=24)
        before = {threads: self.memory(threads) for threads in self.given.threads}
        runs = self.measure_language("1.07 B", subjects, plan)
        for threads in self.given.threads:
            memory = [max(before[threads], self.memory(threads))]
            for name, size in sizes.items():
                read = [language.decode(run, 1) * size / 1e9 for run in runs[threads][name]]
                title = f"weights read, 1.07 B {name.split()[1]}, {count(threads)}"
                self.rows.append(row(title, "GB/s", "higher", WEIGHTS, read, memory, "memory"))
            theirs = [language.decode(run, 1) * sizes["Hearth Q8_0"] / 1e9 for run in runs[threads][language.PEER]]
            self.more.setdefault("llama.cpp reads, GB/s", {})[count(threads)] = theirs

    def memory(self, threads):
        """GB/s that memory gives: the best of a few."""
        program = self.scratch / "bandwidth"
        if not program.exists():
            compiler = ["cc", "-O3", "-march=native", "-pthread", "-o", program, HERE / "bandwidth.c"]
            subprocess.run(compiler, check=True)
        return float(subprocess.run([program, str(threads)], check=True, capture_output=True).stdout)

    def classifier(self):
        model, onnx = self.scratch / "classifier", self.scratch / "classifier.onnx"
        self.prepare("classifier", self.given.data / "minilm", model)
        command = [self.worker.binary, "export", "--model", model, "--onnx", onnx]
        subprocess.run(command, check=True, env=self.worker.environment(1), stderr=subprocess.DEVNULL)
        os.environ["ORT_DYLIB_PATH"] = str(self.given.onnxruntime)
        own = [classify.Hearth(self.worker, model, runtime) for runtime in ("Libtorch", "OnnxRuntime")]
        peers = [
            classify.Peer("onnxruntime", self.given.clients / "venv/bin/python", model, onnx),
            classify.Peer("transformers", self.given.reference, model, onnx),
        ]
        texts = classify.read_texts(self.given.data / "spam-eval.jsonl", TEXTS)
        self.measure_classifier("MiniLM", own, peers, texts)

    def measure_classifier(self, name, own, peers, texts):
        for threads in self.given.threads:
            runs = self.in_turn([*own, *peers], texts, threads)
            self.more.setdefault("scores differ by", {})[count(threads)] = classify.check(runs)
            for subject in own:
                ours = runs[subject.name]
                # ONNX Runtime's maths is not compared with libtorch's twice.
                for peer in (peers if subject.runtime == "Libtorch" else peers[:1]) or [None]:
                    goal = classify.SPEED if peer and peer.name == "onnxruntime" else None
                    title = f"{name} {subject.runtime}, {count(threads)}"
                    theirs, peer_name = (runs[peer.name], peer.name) if peer else ([], None)
                    if peer:
                        title += f", to {peer_name}"
                    self.rows += classify.rows(title, texts, ours, theirs, peer_name, goal)

    def smoke(self):
        bert = HERE.parent / "parity/fixtures/tiny-bert"
        dice = random.Random(7)
        ids = [dice.randrange(5, 21) for _ in range(4000)]
        plan = language.plan(ids, read=24, prompt=8, batches=[1, 2], tokens=8)
        subjects = self.language_models(tiny.language_model(bert, self.scratch / "llama"), "tiny", FORMATS[1:])
        self.measure_language("tiny", subjects, plan)
        texts = classify.read_texts(bert / "train.jsonl", 16)
        self.measure_classifier("tiny", [classify.Hearth(self.worker, bert, "Libtorch")], [], texts)


def count(threads):
    return f"{threads} thread{'s' if threads > 1 else ''}"


def headers(directory):
    """Of all tensors of a directory: type, shape and place."""
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(length))
        yield from (about for name, about in found.items() if name != "__metadata__")


def stored_bytes(directory):
    """Of weights that are all read for each token: embeddings are the head, too."""
    return sum(about["data_offsets"][1] - about["data_offsets"][0] for about in headers(directory))


def blocks_bytes(directory):
    """Of the same as Q8_0: 34 bytes for 32 numbers of a matrix, and 32 bits for each of a norm."""
    sizes = 0
    for about in headers(directory):
        numbers = 1
        for size in about["shape"]:
            numbers *= size
        sizes += numbers * 34 / 32 if len(about["shape"]) > 1 else numbers * 4
    return sizes


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "smollm2", "llama", "clients", "onnxruntime", "scratch"):
        parser.add_argument(f"--{name}", type=pathlib.Path)
    parser.add_argument("--worker", type=pathlib.Path, required=True)
    parser.add_argument("--reference", help="Python with the peers")
    parser.add_argument("--runs", type=int, default=3)
    every = sorted({1, os.cpu_count()})
    parser.add_argument("--threads", type=lambda text: [int(part) for part in text.split(",")], default=every)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["language", "large", "classifier"])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    if given.smoke:
        given.runs, given.threads, given.parts = 1, [1], ["smoke"]
    return given


def main():
    given = arguments()
    # Servers and files go on the way out of the block.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix=".work-bench-serve.", dir=given.scratch) as scratch:
        bench = Bench(given, pathlib.Path(scratch))
        parts = {"language": bench.language, "large": bench.large, "classifier": bench.classifier, "smoke": bench.smoke}
        for part in given.parts:
            parts[part]()
            # Each part takes minutes: what is known is kept, should a later one fail.
            save(given.out, bench.rows, bench.more)
    print_table(bench.rows)
    for title, same in bench.more.get("agreed", {}).items():
        print(f"{title}: of {same['of']} tokens, as many are llama.cpp's before the first that is not: {same['tokens']}")


if __name__ == "__main__":
    main()
