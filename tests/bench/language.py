"""Language models, for serve.py: what is asked of each engine, and rows of what they showed."""

import dataclasses
import json
import os
import shutil
import statistics
import time

import streams
from report import row
from served import HERE, NAME, run_peer, serving
from streams import Text, percentile, rate

# Goals: ratios of Hearth to llama.cpp.
READS, MAKES = 1.0, {1: 1.1, 8: 2.0}
PEER = "llama.cpp Q8_0"


@dataclasses.dataclass
class Plan:
    """Lists of tokens: the first one, those that are read, and those that are continued at once."""

    first: list
    reads: list
    rounds: list
    # How many tokens each is continued by.
    tokens: int

    @property
    def batches(self):
        return sorted({len(prompts) for prompts in self.rounds})


@dataclasses.dataclass
class Run:
    """What a process showed."""

    start: float
    reads: list
    rounds: list
    peak: float

    def at(self, batch):
        return [texts for texts in self.rounds if len(texts) == batch]


def plan(ids, read, prompt, batches, tokens):
    """A plan out of one list of tokens, no two pieces of which begin alike. `read` and `prompt` are
    lengths, `batches` the sizes of the rounds, in order; the first text read warms up."""
    rest = iter(range(len(ids)))
    seen = set()

    def piece(length):
        while True:
            start = next(rest)
            found = tuple(ids[start : start + length])
            if found[:8] not in seen and len(found) == length:
                seen.add(found[:8])
                for _ in range(length - 1):
                    next(rest)
                return list(found)

    reads = [piece(read) for _ in range(4)] if read else []
    rounds = [[piece(prompt) for _ in range(batch)] for batch in batches]
    return Plan(piece(prompt), reads, rounds, tokens)


class Hearth:
    """`hearth-worker serve`, by OpenAI's completions."""

    def __init__(self, worker, directory, name):
        self.worker, self.directory, self.name = worker, directory, name

    def run(self, plan, threads, folder):
        with serving(self.worker, self.directory, threads, folder) as server:
            ask = lambda prompts, tokens: streams.together(server.port, NAME, prompts, tokens)
            (first,) = ask([plan.first], 1)
            reads = [ask([prompt], 1)[0] for prompt in plan.reads]
            rounds = [ask(prompts, plan.tokens) for prompts in plan.rounds]
            made = [first, *reads, *(text for texts in rounds for text in texts)]
            if any(text.cached for text in made):
                raise SystemExit("bench-serve: a prompt was remembered, so it was not read")
            return Run(first.times[0] - server.began, reads, rounds, server.process.peak_mib())


class Llama:
    """llama.cpp as a library of Node: llama.mjs."""

    name = PEER

    def __init__(self, home, file):
        self.home, self.file = home, file

    def run(self, plan, threads, folder):
        # Modules are looked for beside the file.
        (folder / "node_modules").symlink_to(self.home / "node_modules")
        shutil.copy(HERE / "llama.mjs", folder)
        settings, out = folder / "settings.json", folder / "out.json"
        asked = dataclasses.asdict(plan) | {"model": str(self.file), "threads": threads, "out": str(out)}
        settings.write_text(json.dumps(asked))
        began = time.time()
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "LD_LIBRARY_PATH": ""}
        run_peer(self.name, ["node", folder / "llama.mjs", settings], folder, environment)
        found = json.loads(out.read_text())
        text = lambda said: Text(**said, text=said["grown"][-1])
        reads = list(map(text, found["reads"]))
        rounds = [list(map(text, texts)) for texts in found["rounds"]]
        return Run(found["first"] - began, reads, rounds, found["peak"])


def check(plan, subject, run):
    for prompts, texts in zip(plan.rounds, run.rounds, strict=True):
        counts = [text.tokens for text in texts]
        if counts != [plan.tokens] * len(prompts):
            raise SystemExit(f"bench-serve: {subject.name} made {counts} tokens, not {plan.tokens} each")


def agreed(own, peer):
    """How many tokens the peer made before its text is none of ours."""
    same = [own.text.startswith(said) for said in peer.grown]
    return same.index(False) if False in same else len(same)


def agreement(own, peer):
    """Of each text made alone: leading tokens that are the same."""
    return [agreed(ours[0], theirs[0]) for ours, theirs in zip(own.at(1), peer.at(1))]


def rows(name, plan, own, peer):
    """Rows of a subject, from lists of runs; `peer` may be empty."""

    def add(what, unit, better, goal, pick):
        ours, theirs = [pick(run) for run in own], [pick(run) for run in peer]
        found.append(row(f"{what}, {name}", unit, better, goal, ours, theirs, PEER))

    found = []
    if plan.reads:
        length = len(plan.reads[0])
        add(f"prompt of {length}", "tokens/s", "higher", READS, lambda run: prefill(run, length))
    for batch in plan.batches:
        add(f"{batch} at once", "tokens/s", "higher", MAKES.get(batch), lambda run: decode(run, batch))
    for batch in plan.batches:
        for what, pick in (("between tokens", gaps), ("to first token", waits)):
            for share in (0.5, 0.99):
                title = f"{what}, {batch} at once, p{share * 100:.0f}"
                add(title, "ms", "lower", None, lambda run: 1e3 * percentile(pick(run, batch), share))
    add("start to first token", "s", "lower", None, lambda run: run.start)
    add("peak memory", "MiB", "lower", None, lambda run: run.peak)
    return found


def prefill(run, length):
    return length / statistics.median(text.wait for text in run.reads[1:])


def decode(run, batch):
    return statistics.median(map(rate, run.at(batch)))


def gaps(run, batch):
    return [gap for texts in run.at(batch) for text in texts for gap in text.gaps]


def waits(run, batch):
    return [text.wait for texts in run.at(batch) for text in texts]
