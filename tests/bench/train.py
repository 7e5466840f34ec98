"""Fine-tuning MiniLM: Hearth's worker and transformers' Trainer, in turn.

    python3 train.py --data DATA --worker BINARY --out FILE [--reference PYTHON] [--runs N]
    python3 train.py --smoke --worker BINARY --out FILE

Both sides see the same mails, cut after the same tokens, in batches of 16 over
all processes, with the same optimizer, dropout and clipping; neither evaluates
or saves. A run makes STEPS optimizer steps and gives three figures:

- samples/s over the steps after the first WARM_UP;
- seconds from the start of the process to the end of its first step;
- the sum of its processes' peak resident memory.

`--smoke` runs Hearth alone, once, on the tiny model of the parity fixtures: it
shows that the benchmark works, and its figures mean nothing. Standard library
only; `--reference` is the interpreter that has transformers.
"""

import argparse
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

GLOBAL_BATCH = 16
MAX_LENGTH = 64
STEPS = 20
WARM_UP = 4
# (name, processes, threads of each)
SHAPES = [("1 process, 2 threads", 1, 2), ("2 ranks, 1 thread each", 2, 1)]
FIGURES = [
    ("samples per second", "1/s", "higher"),
    ("start to first step", "s", "lower"),
    ("peak memory", "MiB", "lower"),
]


def training(processes, steps):
    return {
        "perDeviceTrainBatchSize": GLOBAL_BATCH // processes,
        "learningRate": 1e-4,
        "weightDecay": 0.01,
        "warmupSteps": 0.1,
        "maxSteps": steps,
        "maxLength": MAX_LENGTH,
        "loggingSteps": steps,
        "evalStrategy": "No",
        "saveStrategy": "No",
        "seed": 7,
    }


class Marks:
    """When the optimizer steps of a run ended, in seconds from its start."""

    def __init__(self):
        self.started = time.monotonic()
        self.ends = []

    def step(self):
        self.ends.append(time.monotonic() - self.started)

    def figures(self, steps, peak):
        if len(self.ends) != steps:
            raise SystemExit(f"bench-train: {len(self.ends)} steps were reported, not {steps}")
        measured = self.ends[WARM_UP:]
        per_second = GLOBAL_BATCH * len(measured) / (self.ends[-1] - self.ends[WARM_UP - 1])
        return [per_second, self.ends[0], peak / 2**20]


def run_processes(commands, environments, is_step, log):
    """Runs one process a rank; marks the steps that the first one prints. Returns marks and memory."""
    marks = Marks()
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
            if is_step(line):
                marks.step()
        codes = [process.wait() for process in ranks]
    peak = sum(watch.stop() for watch in watches)
    if any(codes):
        raise SystemExit(f"bench-train: {commands[0][0]} ended with {codes}:\n{log.read_text(errors='replace')[-3000:]}")
    return marks, peak


def rank_environments(processes, base):
    port = str(hearth.free_port())
    return [
        base | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }
        for rank in range(processes)
    ]


def run_hearth(worker, model, rows, processes, threads, steps, folder):
    spec = {"task": "SequenceClassification", "training": training(processes, steps), "data": {}}
    config = hearth.train_config(spec, model, rows, None, folder / "job", processes)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    command = [str(worker.binary), "train", "--config", str(path)]
    is_step = lambda line: line.startswith("{") and json.loads(line).get("event") == "step"  # noqa: E731
    environments = rank_environments(processes, worker.environment(threads))
    marks, peak = run_processes([command] * processes, environments, is_step, folder / "log")
    return marks.figures(steps, peak)


def run_trainer(python, model, rows, processes, threads, steps, folder):
    settings = folder / "settings.json"
    settings.write_text(json.dumps({
        "model": str(model), "rows": str(rows), "output": str(folder / "trainer"),
        "training": training(processes, steps), "threads": threads, "ranks": processes,
    }))
    command = [python, str(HERE / "trainer.py"), str(settings)]
    base = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    base["OMP_NUM_THREADS"] = str(threads)
    environments = rank_environments(processes, base) if processes > 1 else [base]
    marks, peak = run_processes([command] * processes, environments, lambda line: line == "step\n", folder / "log")
    return marks.figures(steps, peak)


def machine():
    models = [line for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].split(":", 1)[1].strip() if models else "unknown processor"
    return f"{name}, {os.cpu_count()} cores"


def rows_of(shape, ours, theirs):
    """The report's rows of one shape, from lists of figures, one a run."""
    rows = []
    for index, (figure, unit, better) in enumerate(FIGURES):
        mine = [run[index] for run in ours]
        peer = [run[index] for run in theirs]
        hearth_median = statistics.median(mine)
        peer_median = statistics.median(peer) if peer else None
        rows.append({
            "name": f"{figure}, {shape}", "unit": unit, "better": better, "goal": None,
            "hearth": hearth_median, "hearth_min": min(mine), "hearth_max": max(mine),
            "peer": peer_median, "peer_name": "transformers Trainer" if peer else None,
            "peer_min": min(peer) if peer else None, "peer_max": max(peer) if peer else None,
            "ratio": hearth_median / peer_median if peer else hearth_median,
        })
    return rows


def print_table(rows):
    print(f"{'':52} {'Hearth':>10} {'min - max':>19} {'Trainer':>10} {'min - max':>19} {'ratio':>6}")
    for row in rows:
        peer, spread, ratio = "-", "-", "-"
        if row["peer"] is not None:
            peer, ratio = f"{row['peer']:.1f}", f"{row['ratio']:.2f}"
            spread = f"{row['peer_min']:.1f} - {row['peer_max']:.1f}"
        own = f"{row['hearth_min']:.1f} - {row['hearth_max']:.1f}"
        name = f"{row['name']} ({row['unit']}, {row['better']} is better)"
        print(f"{name:52.52} {row['hearth']:10.1f} {own:>19} {peer:>10} {spread:>19} {ratio:>6}")


def in_folder(run, *arguments):
    """Calls run(…, folder) with a folder of its own that is gone afterwards."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hearth-bench-"))
    try:
        return run(*arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=pathlib.Path)
    arguments.add_argument("--worker", type=pathlib.Path, required=True)
    arguments.add_argument("--reference", help="Python with transformers")
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    arguments.add_argument("--smoke", action="store_true")
    given = arguments.parse_args()
    worker, runs, steps = hearth.Worker(given.worker), given.runs, STEPS
    if given.smoke:
        model = HERE.parent / "parity/fixtures/tiny-bert"
        rows, runs, steps, reference = model / "train.jsonl", 1, WARM_UP + 2, None
    else:
        model, rows, reference = given.data / "minilm", given.data / "spam-train.jsonl", given.reference

    report = []
    for shape, processes, threads in SHAPES:
        ours, theirs = [], []
        for _ in range(runs):
            ours.append(in_folder(run_hearth, worker, model, rows, processes, threads, steps))
            if reference:
                theirs.append(in_folder(run_trainer, reference, model, rows, processes, threads, steps))
        report += rows_of(shape, ours, theirs)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"machine": machine(), "rows": report}, indent=2) + "\n")
    print_table(report)


if __name__ == "__main__":
    main()
