"""Texts prepared by Hearth and by Hugging Face's datasets, one after the other, a thread each.

    python3 data.py --worker PROGRAM [--peer PYTHON] [--megabytes N] [--runs N] --out FILE

The corpus is made up from a seed: JSONL of pages and mails, one in ten twice. Both strip markup,
normalize (NFKC), drop control characters, collapse white space, mask mail addresses and card
numbers, drop short texts and equal ones, and write Parquet. The peer is `datasets.map` with regular
expressions compiled once and `num_proc` 1 (data_peer.py), without a cache of earlier runs. Both read
the file first: what is timed is from the process's start to its end.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import tempfile
import time

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


def timed(command, env=None):
    """Seconds and peak MiB of a command."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=dict(os.environ, **(env or {})), stderr=subprocess.PIPE, text=True)
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{command[0]} failed:\n{told[-3000:]}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def hearth(options, source, folder):
    """Prepares the corpus once; seconds, MiB, rows that are left."""
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
    seconds, mib = timed(command, {"HEARTH_TERMINATION_LOG": str(told), "HEARTH_CPUS": "1"})
    return seconds, mib, json.loads(told.read_text())["data"]["trainRows"]


def peer(options, source, folder):
    """The same by datasets."""
    script = pathlib.Path(__file__).with_name("data_peer.py")
    told = folder / "told.json"
    command = [options.peer, str(script), str(source), str(folder / "out.parquet"), str(told)]
    one = {name: "1" for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "ARROW_NUM_THREADS")}
    seconds, mib = timed(command, one | {"HF_HOME": str(folder), "HF_DATASETS_OFFLINE": "1"})
    return seconds, mib, json.loads(told.read_text())["rows"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", required=True)
    parser.add_argument("--peer")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    options = parser.parse_args()
    sides = {"Hearth": hearth} | ({"datasets.map": peer} if options.peer else {})
    found = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as work:
        source = pathlib.Path(work) / "corpus.jsonl"
        rows = corpus(source, options.megabytes)
        megabytes = source.stat().st_size / 1e6
        for run in range(options.runs):
            for name, side in sides.items():
                folder = pathlib.Path(work) / f"{run}-{name}"
                folder.mkdir()
                found[name].append(side(options, source, folder))
    left = {name: runs[0][2] for name, runs in found.items()}
    if len(set(left.values())) != 1:
        raise SystemExit(f"the two do not do the same: {left} rows are left of {rows}")
    medians = {
        name: {"megabytesPerSecond": megabytes / statistics.median(run[0] for run in runs),
               "peakMiB": max(run[1] for run in runs), "rows": runs[0][2]}
        for name, runs in found.items()
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"megabytes": megabytes, "rows": rows, "medians": medians}, indent=2))
    print(f"| {megabytes:.0f} MB, {rows} rows, one thread | MB/s | peak MiB | rows left |\n| --- | --- | --- | --- |")
    for name, told in medians.items():
        print(f"| {name} | {told['megabytesPerSecond']:.1f} | {told['peakMiB']:.0f} | {told['rows']} |")
    if options.peer:
        ratio = medians["Hearth"]["megabytesPerSecond"] / medians["datasets.map"]["megabytesPerSecond"]
        print(f"\nHearth prepares {ratio:.1f} times as much as datasets.map (goal 5)")


if __name__ == "__main__":
    main()
