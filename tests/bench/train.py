"""Fine-tuning in Hearth's worker and in the peers that its users come from, in turn.

    python3 train.py --data DATA --smollm2 GGUF --chats CHATS --worker BINARY --out FILE
                     [--reference PYTHON] [--runs N]
    python3 train.py --smoke --worker BINARY --out FILE

- MiniLM learns to tell spam from mail: transformers' Trainer.
- SmolLM2-135M learns from conversations with LoRA (r = 8 on all linear layers): TRL's SFTTrainer.

Both sides start from the same directory and see the same rows in the same order, cut after the
same tokens, with the same optimizer, dropout, clipping and threads, all in float32; neither
evaluates or saves. Each shape is run once on one side, once on the other, and so on. A run gives

- samples or tokens a second, over the steps after the first;
- seconds from the start of the process to the end of its first step;
- the sum of its processes' peak resident memory.

In runs of their own, MiniLM is saved every other step: how long training stands still for that.

`--smoke` runs Hearth alone, once, on tiny models: it shows that the benchmark works, and its figures
mean nothing. Standard library only; `--reference` is the interpreter that has the peers.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "parity"))
import hearth  # noqa: E402
import tiny  # noqa: E402
from report import row, write  # noqa: E402

# Goals: ratios of Hearth to its peer.
SPEED, START, MEMORY = 1.2, 0.2, 0.7
# Processes, and threads of each.
ALONE, PAIR = (1, 2), (2, 1)


@dataclasses.dataclass
class Work:
    """Something to learn. `model` and `rows` are paths."""

    name: str
    peer: str
    unit: str
    task: str
    batch: int
    steps: int
    warm_up: int
    training: dict
    more: dict
    model: pathlib.Path = None
    rows: pathlib.Path = None

    def job(self, processes, steps, save_steps=None):
        """The part of a TrainingJob's spec that both sides read."""
        training = self.training | {
            "perDeviceTrainBatchSize": self.batch // processes, "maxSteps": steps, "loggingSteps": steps,
            "seed": 7, "evalStrategy": "No", "saveStrategy": "Steps" if save_steps else "No",
        }
        if save_steps:
            training["saveSteps"] = save_steps
        return {"task": self.task, "training": training, "data": {}} | self.more


MINILM = Work(
    name="MiniLM, spam", peer="transformers Trainer", unit="samples", task="SequenceClassification",
    batch=16, steps=20, warm_up=4, more={},
    training={"learningRate": 1e-4, "weightDecay": 0.01, "warmupSteps": 0.1, "maxLength": 64},
)
SMOLLM2 = Work(
    name="SmolLM2-135M, LoRA", peer="TRL SFTTrainer", unit="tokens", task="CausalLM",
    batch=4, steps=6, warm_up=1, training={"learningRate": 1e-3, "maxLength": 128},
    more={"objective": {"type": "SFT"}, "peft": {"r": 8, "loraAlpha": 16, "loraDropout": 0.0}},
)
# Steps of a run that saves, and steps between two saves.
SAVING = (8, 2)
SFT_ROWS = 64


@dataclasses.dataclass
class Run:
    """What a run showed."""

    ends: list
    peak: float
    stalls: list
    tokens: list


def run_processes(commands, environments, take, log):
    """Runs one process a rank. `take` makes `step`, `(saved, seconds)` or nothing of a line that the
    first one prints."""
    started, run = time.monotonic(), Run([], 0.0, [], [])
    with log.open("wb") as errors:
        ranks = [
            subprocess.Popen(
                command, stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                stderr=errors, env=environment, text=True,
            )
            for rank, (command, environment) in enumerate(zip(commands, environments))
        ]
        watches = [hearth.Memory(process.pid) for process in ranks]
        for line in ranks[0].stdout:
            take(line, time.monotonic() - started, run)
        codes = [process.wait() for process in ranks]
    run.peak = sum(watch.stop() for watch in watches) / 2**20
    if any(codes):
        raise SystemExit(f"bench-train: {commands[0][0]} ended with {codes}:\n{log.read_text(errors='replace')[-3000:]}")
    return run


def take_event(line, now, run):
    """A line of Hearth's worker."""
    event = json.loads(line) if line.startswith("{") else {}
    if event.get("event") == "step":
        run.ends.append(now)
        run.tokens.append(event["tokens"])
    elif event.get("event") == "checkpoint":
        run.stalls.append(event["stallSeconds"])


def take_mark(line, now, run):
    """A line of peer.py."""
    if line == "step\n":
        run.ends.append(now)
    elif line.startswith("saved "):
        run.stalls.append(float(line.split()[1]))


def rank_environments(processes, base):
    port = str(hearth.free_port())
    return [
        base | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }
        for rank in range(processes)
    ]


def run_hearth(worker, work, job, shape, folder):
    processes, threads = shape
    config = hearth.train_config(job, work.model, work.rows, None, folder / "job", processes)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    command = [str(worker.binary), "train", "--config", str(path)]
    environments = rank_environments(processes, worker.environment(threads))
    return run_processes([command] * processes, environments, take_event, folder / "log")


def run_peer(python, work, job, shape, folder):
    processes, threads = shape
    settings = folder / "settings.json"
    settings.write_text(json.dumps({
        "model": str(work.model), "rows": str(work.rows), "output": str(folder / "peer"),
        "job": job, "threads": threads, "ranks": processes,
    }))
    command = [python, str(HERE / "peer.py"), str(settings)]
    base = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    base["OMP_NUM_THREADS"] = str(threads)
    environments = rank_environments(processes, base) if processes > 1 else [base]
    return run_processes([command] * processes, environments, take_mark, folder / "log")


def in_folder(run, *arguments):
    """Calls run(…, folder) with a folder of its own that is gone afterwards."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hearth-bench-"))
    try:
        return run(*arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def both(worker, reference, work, job, shape, runs):
    """Runs of Hearth and of the peer, taken in turn."""
    ours, theirs = [], []
    steps = job["training"]["maxSteps"]
    for _ in range(runs):
        ours.append(in_folder(run_hearth, worker, work, job, shape))
        if reference:
            theirs.append(in_folder(run_peer, reference, work, job, shape))
    for run in ours + theirs:
        if len(run.ends) != steps:
            raise SystemExit(f"bench-train: {len(run.ends)} steps were reported, not {steps}")
    return ours, theirs


def speed_rows(work, shape, ours, theirs):
    processes = shape[0]
    name = f"{work.name}, {processes} rank{'s' if processes > 1 else ''}"
    # The peer sees the same rows in the same steps.
    tokens = sum(ours[0].tokens[work.warm_up :])
    measured = len(ours[0].ends) - work.warm_up
    units = tokens if work.unit == "tokens" else work.batch * measured

    def figures(pick):
        return [pick(run) for run in ours], [pick(run) for run in theirs], work.peer

    speed = figures(lambda run: units / (run.ends[-1] - run.ends[work.warm_up - 1]))
    return [
        row(f"{work.unit} a second, {name}", "1/s", "higher", SPEED, *speed),
        row(f"start to first step, {name}", "s", "lower", START, *figures(lambda run: run.ends[0])),
        row(f"peak memory, {name}", "MiB", "lower", MEMORY, *figures(lambda run: run.peak)),
    ]


def stall_row(work, ours, theirs):
    def stalls(runs):
        return [1e3 * statistics.median(run.stalls) for run in runs]

    return row(f"stall of a checkpoint, {work.name}, 1 rank", "ms", "lower", None, stalls(ours), stalls(theirs), work.peer)


def inputs(given, worker, scratch):
    """What is learned, with its files."""
    if given.smoke:
        bert = HERE.parent / "parity/fixtures/tiny-bert"
        llama = tiny.language_model(bert, scratch / "llama")
        return [
            dataclasses.replace(MINILM, model=bert, rows=bert / "train.jsonl", steps=MINILM.warm_up + 2),
            dataclasses.replace(SMOLLM2, model=llama, rows=tiny.conversations(scratch / "chats.jsonl"), steps=3),
        ]
    smollm2 = worker.import_gguf(given.smollm2 / "model.gguf", scratch / "smollm2")
    chats = scratch / "chats.jsonl"
    lines = (given.chats / "chats-train.jsonl").read_text().splitlines(keepends=True)
    chats.write_text("".join(lines[:SFT_ROWS]))
    minilm = dataclasses.replace(MINILM, model=given.data / "minilm", rows=given.data / "spam-train.jsonl")
    return [minilm, dataclasses.replace(SMOLLM2, model=smollm2, rows=chats)]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "smollm2", "chats"):
        arguments.add_argument(f"--{name}", type=pathlib.Path)
    arguments.add_argument("--worker", type=pathlib.Path, required=True)
    arguments.add_argument("--reference", help="Python with the peers")
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    arguments.add_argument("--smoke", action="store_true")
    given = arguments.parse_args()
    worker, report = hearth.Worker(given.worker), []
    runs, reference = (1, None) if given.smoke else (given.runs, given.reference)

    def measure(scratch):
        for work in inputs(given, worker, scratch):
            for shape in (ALONE, PAIR):
                job = work.job(shape[0], work.steps)
                report.extend(speed_rows(work, shape, *both(worker, reference, work, job, shape, runs)))
            if work.unit == "samples":
                job = work.job(1, *SAVING)
                report.append(stall_row(work, *both(worker, reference, work, job, ALONE, runs)))

    in_folder(measure)
    write(given.out, report)


if __name__ == "__main__":
    main()
