"""Many training jobs at once: Hearth, Kubeflow Trainer with JobSet, and the floor, in turn.

    python3 scale.py --operator BINARY --load BINARY --kube BINARY --peers FOLDER --out FILE
                     [--jobs 100,1000] [--alone 5000] [--runs 3] [--workers 2]
    python3 scale.py --smoke --operator BINARY --load BINARY --kube BINARY --out FILE

Each run has a control plane of its own (plane.py): no nodes, so that pods stay Pending. A client
creates the jobs, 16 requests at once. A run gives

- jobs a second: from the first creation until the last child Job (suspended) or pod was seen;
- the time from each creation to its child Job, median and 99th percentile;
- peak memory and CPU seconds of the measured programs, until nothing was written for 5 s;
- their requests, from the API server's audit log.

In runs of their own, 30 suspended jobs a second are created. The floor is the same client, which
sends after each creation what Hearth was seen to send for one job, with no operator running.
"""

import argparse
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import tempfile

from plane import Audit, Plane
from report import row, write
from subjects import Floor, Hearth, Trainer, script

PEER, FLOOR = "Trainer 2.3.0 and JobSet 0.12.0", "a client with the same writes"
RATE, PACED_JOBS, WARM_UP = 30, 600, 5
# Goals.
SPEED = {"suspended": 3, "pods": 2}
OF_FLOOR, MEMORY, MEMORY_MIB, WAIT, WRITES, FLAT = 0.5, 0.5, 100, 1.0, 1.0, 1.2


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a run creates."""

    jobs: int
    mode: str
    workers: int
    rate: int = None

    @property
    def suspend(self):
        return self.mode == "suspended"


@dataclasses.dataclass
class Figures:
    """What came of a run; milliseconds of CPU and requests are those of one job."""

    speed: float
    p50: float
    p99: float
    memory: float = 0.0
    cpu: float = 0.0
    writes: float = 0.0
    calls: float = 0.0


class Bench:
    def __init__(self, given, scratch):
        self.given, self.scratch, self.scripts, self.count = given, scratch, {}, 0

    def plane(self, audited="Metadata"):
        self.count += 1
        return Plane(self.given.kube, self.scratch / str(self.count), audited)

    def load(self, plane, subject, shape, replay=None, prefix="job"):
        template = plane.folder / "template.json"
        template.write_text(json.dumps(subject.template(plane, shape.workers, shape.suspend)))
        command = [
            self.given.load, "--path", subject.path, "--template", template, "--prefix", prefix,
            "--jobs", shape.jobs, "--pods", 0 if shape.suspend else shape.workers,
        ]
        command += ["--rate", shape.rate] if shape.rate else []
        command += ["--replay", replay] if replay else []
        environment = {"KUBECONFIG": str(plane.kubeconfig("load")), "PATH": "/usr/bin:/bin"}
        done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{subject.name}, {shape}: {done.stderr}")
        return json.loads(done.stdout)

    def measure(self, subject, shape):
        replay = self.script(shape) if isinstance(subject, Floor) else None
        with self.plane() as plane:
            processes = subject.start(plane)
            # The API server's first request of a kind takes up to seconds.
            self.load(plane, subject, dataclasses.replace(shape, jobs=WARM_UP, rate=None), replay, "warm")
            Audit(plane).settle(quiet=2)
            audit, before = Audit(plane), sum(process.cpu_seconds() for process in processes)
            seen = self.load(plane, subject, shape, replay)
            figures = Figures(shape.jobs / seen["seconds"], seen["p50"], seen["p99"])
            if processes:
                audit.settle()
                spent = sum(process.cpu_seconds() for process in processes) - before
                figures.cpu = 1000 * spent / shape.jobs
                figures.memory = sum(process.peak_mib() for process in processes)
                figures.writes, figures.calls = len(audit.writes) / shape.jobs, audit.calls / shape.jobs
        say(subject, shape, figures)
        return figures

    def script(self, shape):
        """A file of what Hearth writes for one job of this shape."""
        key = shape.mode, shape.workers
        if key not in self.scripts:
            hearth = Hearth(self.given.operator)
            with self.plane("Request") as plane:
                hearth.start(plane)
                audit = Audit(plane)
                self.load(plane, hearth, dataclasses.replace(shape, jobs=3, rate=None))
                audit.settle()
            self.scripts[key] = self.scratch / f"{shape.mode}.json"
            self.scripts[key].write_text(json.dumps(script(audit.writes, "job-00001")))
        return self.scripts[key]


def say(subject, shape, figures):
    found = ", ".join(f"{name} {value:.4g}" for name, value in dataclasses.asdict(figures).items())
    print(f"{subject.name}, {shape.jobs} {shape.mode}{' paced' if shape.rate else ''}: {found}", file=sys.stderr)


def in_turn(bench, subjects, shape, runs):
    """Figures of all runs, by the subject's name."""
    found = {subject.name: [] for subject in subjects}
    for _ in range(runs):
        for subject in subjects:
            found[subject.name].append(bench.measure(subject, shape))
    return found


def rows_of(shape, found):
    what = f"{shape.jobs} {'suspended jobs' if shape.suspend else 'jobs with pods'}"

    def against(name, peer, title, unit, better, goal, field):
        ours, theirs = ([getattr(run, field) for run in found.get(side, [])] for side in ("hearth", name))
        return row(f"{title}, {what}", unit, better, goal, ours, theirs, peer)

    peer = ("trainer", PEER)
    return [
        against(*peer, "jobs a second", "1/s", "higher", SPEED[shape.mode], "speed"),
        against("floor", FLOOR, "against the floor: jobs a second", "1/s", "higher", OF_FLOOR, "speed"),
        against(*peer, "creation to Job, median", "s", "lower", None, "p50"),
        against(*peer, "creation to Job, p99", "s", "lower", None, "p99"),
        against(*peer, "peak memory", "MiB", "lower", MEMORY, "memory"),
        against(*peer, "CPU of a job", "ms", "lower", None, "cpu"),
        against(*peer, "writes of a job", "1", "lower", WRITES, "writes"),
        against(*peer, "requests of a job", "1", "lower", None, "calls"),
    ]


def absolute(title, unit, goal, figures):
    return dict(row(title, unit, "lower", None, figures, [], None), goal=goal)


def flat_row(few, many, by_jobs):
    """Cost of a job among many, against that of a job among few."""
    ours, theirs = ([run.cpu for run in by_jobs[jobs]] for jobs in (many, few))
    title = f"CPU of a job with pods: among {many}, among {few}"
    return row(title, "ms", "lower", FLAT, ours, theirs, f"Hearth, {few} jobs")


def measure_all(given, bench):
    hearth, floor = Hearth(given.operator), Floor(given.operator)
    pair = [hearth] if given.smoke else [hearth, Trainer(given.peers)]
    rows, cost, peaks = [], {}, []
    for jobs in (*given.jobs, *given.alone):
        subjects, runs = ([hearth], 1) if jobs in given.alone else ([*pair, floor], given.runs)
        for mode in SPEED:
            shape = Shape(jobs, mode, given.workers)
            found = in_turn(bench, subjects, shape, runs)
            rows += rows_of(shape, found)
            peaks += [run.memory for run in found["hearth"]]
            if mode == "pods":
                cost[jobs] = found["hearth"]
    if len(cost) > 1:
        rows.append(flat_row(min(cost), max(cost), cost))
    rows.append(absolute("peak memory, all of the above", "MiB", MEMORY_MIB, [max(peaks)]))
    if not given.smoke:
        rows += paced_rows(given, bench, pair)
    return rows


def paced_rows(given, bench, subjects):
    shape = Shape(PACED_JOBS, "suspended", given.workers, RATE)
    found = in_turn(bench, subjects, shape, given.runs)
    ours, theirs = ([run.p99 for run in found[name]] for name in ("hearth", "trainer"))
    title = f"creation to Job, p99, {RATE} jobs a second"
    return [dict(row(title, "s", "lower", None, ours, theirs, PEER), goal=WAIT)]


def sizes(text):
    return [int(part) for part in text.split(",") if part]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("operator", "load", "kube", "out"):
        arguments.add_argument(f"--{name}", type=pathlib.Path, required=True)
    arguments.add_argument("--peers", type=pathlib.Path)
    arguments.add_argument("--jobs", type=sizes, default=[100, 1000])
    arguments.add_argument("--alone", type=sizes, default=[], help="sizes at which Hearth alone runs, once")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--smoke", action="store_true")
    given = arguments.parse_args()
    if given.smoke:
        given.jobs, given.runs = [5], 1
    # So that what was started ends with this program.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to stop"))
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as scratch:
        write(given.out, measure_all(given, Bench(given, pathlib.Path(scratch))))


if __name__ == "__main__":
    main()
