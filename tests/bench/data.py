"""Texts prepared by Hearth and by Hugging Face's datasets, one after the other, on one core.

    python3 data.py --worker PROGRAM [--peer PYTHON] [--megabytes N] [--runs N] --out FILE

The corpus is made up from a seed: JSONL of pages and mails, one in ten twice. Both strip markup,
normalize (NFKC), drop control characters, collapse white space, mask mail addresses and card
numbers, drop short texts and equal ones, and write Parquet. The peer is `datasets.map` with regular
expressions compiled once and `num_proc` 1 (data_peer.py), without a cache of earlier runs. Before
anything is timed, the texts that both leave of a smaller corpus are compared, row by row
(data_compare.py). The file is in the memory of the system by then, and both processes are bound to
one core.

Three times are told: from a process's start to its end; its seconds of CPU, in which neighbours on
the machine have less part; and the seconds of CPU of cleaning alone, which is, of Hearth, the stage
that its log calls so (JSON is read, texts are cleaned, filtered and hashed, and what is left written
down) and, of the peer, `map` and the two `filter`s (Arrow's cache is read and written).
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import tempfile
import time

import report

WORDS = ("the of and to in is that for it as was with be by on not he his but at are this have from or had an "
         "they which one you were all her she there would their we him been has when who will no more if out so "
         "said what its about than into them can only other time new some could these two may first then invoice "
         "contract delivery customer payment account 支付 账户 客户 合同 发票 银行 系统 报告 数据 模型").split()
CLEAN = ["StripHTML", "NFKC", "StripControl", "CollapseWhitespace", "Mask"]


def row(draw):
    """A text of some hundred words, half of them dressed as a page."""
    words = draw.choices(WORDS, k=draw.randint(40, 400))
    for _ in range(draw.randint(0, 3)):
        words.insert(draw.randrange(len(words)), f"user{draw.randint(1, 99999)}@mail{draw.randint(1, 9)}.example.com")
    if draw.random() < 0.2:
        words.insert(0, "4111 1111 1111 1111")
    if draw.random() < 0.5:
        return " ".join(words) + "\u00a0\uff21\uff22\u0007  end"
    lines = [" ".join(words[at:at + 20]) for at in range(0, len(words), 20)]
    return "<html><body>" + "".join(f"<p class=\"x\">{line} &amp; more</p>\n" for line in lines) + "</body></html>"


def corpus(path, megabytes):
    """Writes so many megabytes; the rows."""
    draw, size, rows = random.Random(7), 0, 0
    with path.open("w", encoding="utf-8") as out:
        before = ""
        while size < megabytes * 1_000_000:
            text = before if before and draw.random() < 0.1 else row(draw)
            line = json.dumps({"text": text, "id": rows}, ensure_ascii=False) + "\n"
            size, rows, before = size + len(line.encode()), rows + 1, text
            out.write(line)
    return rows


def cpu_of(process):
    """Seconds of CPU that a process has had so far."""
    times = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def timed(command, env=None):
    """Seconds of clock and of CPU and peak MiB of a command on one core, and each line that it says,
    with its seconds of CPU until then."""
    core = max(os.sched_getaffinity(0))
    began = time.monotonic()
    process = subprocess.Popen(
        command, env=dict(os.environ, **(env or {})), stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    said = [(cpu_of(process), line) for line in process.stderr]
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{command[0]} failed:\n{''.join(line for _, line in said)[-3000:]}")
    return {"clock": time.monotonic() - began, "cpu": usage.ru_utime + usage.ru_stime,
            "mib": usage.ru_maxrss / 1024, "said": said}


def stage(said, name, after):
    """Seconds of CPU between two stages of Hearth's log."""
    def at(stage):
        return next(cpu for cpu, line in said if f": {stage} " in line)
    return at(after) - at(name)


def hearth(options, source, folder):
    """Prepares the corpus once."""
    data = {"path": str(source), "uri": "file:///corpus", "format": "JSONL", "text": "text", "label": "label"}
    config = {
        "version": "hearth.dev/worker/v1", "job": {"namespace": "local", "name": "bench", "uid": ""},
        "train": data, "textFields": ["text"],
        "cleaning": {"clean": CLEAN, "mask": ["EmailAddress", "PaymentCard"]},
        "preparation": {"filter": {"minCharacters": 20}, "deduplicate": {"exact": True}},
        "output": str(folder / "data"), "outputUri": "file:///data",
    }
    (folder / "config.json").write_text(json.dumps(config))
    told = folder / "told.json"
    command = [options.worker, "prepare", "--config", str(folder / "config.json")]
    env = {"HEARTH_TERMINATION_LOG": str(told), "HEARTH_CPUS": "1", "NO_COLOR": "1"}
    run = timed(command, env)
    run["clean"] = stage(run["said"], "cleaning", "comparing")
    run["rows"] = json.loads(told.read_text())["data"]["trainRows"]
    return run


def peer(options, source, folder):
    """The same by datasets."""
    script = pathlib.Path(__file__).with_name("data_peer.py")
    told = folder / "told.json"
    command = [options.peer, str(script), str(source), str(folder / "out.parquet"), str(told)]
    one = {name: "1" for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "ARROW_NUM_THREADS")}
    run = timed(command, one | {"HF_HOME": str(folder), "HF_DATASETS_OFFLINE": "1"})
    return run | json.loads(told.read_text())


def compared(options, work):
    """How many rows of a corpus of ten megabytes the two leave alike, and how many not."""
    source = work / "sample.jsonl"
    corpus(source, min(10, options.megabytes))
    folders = []
    for name, side in [("hearth", hearth), ("peer", peer)]:
        folder = work / f"sample-{name}"
        folder.mkdir()
        folders.append(folder)
        side(options, source, folder)
    ours = next((folders[0] / "data").glob("*/train"))
    script = pathlib.Path(__file__).with_name("data_compare.py")
    command = [options.peer, str(script), str(ours), str(folders[1] / "out.parquet")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{found['rows']} rows of a sample compared: {found['differ']} differ")
    for pair in found["examples"]:
        print(f"  Hearth: {pair[0]!r}\n  peer:   {pair[1]!r}")
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", required=True)
    parser.add_argument("--peer")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    options = parser.parse_args()
    sides = {"hearth": hearth} | ({"peer": peer} if options.peer else {})
    found = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as room:
        work = pathlib.Path(room)
        sample = compared(options, work) if options.peer else None
        source = work / "corpus.jsonl"
        rows = corpus(source, options.megabytes)
        megabytes = source.stat().st_size / 1e6
        for run in range(options.runs):
            for name, side in sides.items():
                folder = work / f"{run}-{name}"
                folder.mkdir()
                found[name].append(side(options, source, folder))
    left = {run["rows"] for runs in found.values() for run in runs}
    if len(left) != 1:
        raise SystemExit(f"the two do not do the same: {left} rows are left of {rows}")
    told = []
    for name, unit, better, goal, of in [
        ("from start to end", "MB/s", "higher", 5, lambda run: megabytes / run["clock"]),
        ("the same, of CPU time", "MB/s", "higher", 5, lambda run: megabytes / run["cpu"]),
        ("cleaning, of CPU time", "MB/s", "higher", 5, lambda run: megabytes / run["clean"]),
        ("peak memory", "MiB", "lower", None, lambda run: run["mib"]),
    ]:
        figures = [[of(run) for run in runs] for runs in found.values()]
        told.append(report.row(name, unit, better, goal, *figures, *[[]] * (2 - len(figures)), "datasets.map"))
    told.append(told[2] | {
        "name": "cleaning, by itself, of CPU time", "goal": 50, "ratio": told[2]["hearth"],
        "peer": None, "peer_name": None, "peer_min": None, "peer_max": None,
    })
    print(f"{megabytes:.0f} MB, {rows} rows, {left.pop()} left; one core")
    more = {"megabytes": megabytes, "corpusRows": rows, "cores": 1}
    report.save(options.out, told, more | ({"sample": sample} if sample else {}))
    report.print_table(told)


if __name__ == "__main__":
    main()
