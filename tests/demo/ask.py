"""Sends held-out mail through the gateway, prints the answers, and judges the demo.

Every mail of the evaluation file is classified by the deployed INT8 model; its F1
must be at least 0.97 less 0.005, as must the figures that the two resources report.
Standard library only.
"""

import argparse
import http.client
import json
import pathlib
import statistics
import sys
import time

PLEDGED_F1 = 0.97
PLEDGED_DROP = 0.005


class Gateway:
    """One kept-alive connection."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(address, timeout=60)

    def classify(self, inputs):
        body = json.dumps({"inputs": inputs})
        self.connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        text = response.read().decode()
        if response.status != 200:
            sys.exit(f"demo: the gateway answered {response.status}: {text}")
        return json.loads(text)


def best(answer):
    """(label, score) of one answer."""
    top = max(answer, key=lambda entry: entry["score"]) if isinstance(answer, list) else answer
    return top["label"], top["score"]


def answers(reply):
    """The list of answers, one an input."""
    return reply["outputs"] if isinstance(reply, dict) else reply


def f1(pairs, positive="spam"):
    true_positive = sum(1 for told, truth in pairs if told == truth == positive)
    false_positive = sum(1 for told, truth in pairs if told == positive != truth)
    false_negative = sum(1 for told, truth in pairs if truth == positive != told)
    return 2 * true_positive / max(1, 2 * true_positive + false_positive + false_negative)


def show_mails(gateway, directory):
    for path in sorted(pathlib.Path(directory).glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        label, score = best(answers(gateway.classify([text]))[0])
        first = " ".join(text.split())[:60]
        print(f"  {path.stem:<10} -> {label:<4} {score:.3f}   {first}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("address", "mails", "eval", "job", "deployment", "report"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("train-seconds", "seconds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    began = time.monotonic()
    gateway = Gateway(options.address)
    show_mails(gateway, options.mails)

    with open(options.eval, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    pairs, waits = [], []
    for start in range(0, len(rows), 16):
        batch = rows[start : start + 16]
        reply = answers(gateway.classify([row["text"] for row in batch]))
        pairs += [(best(answer)[0], row["label"]) for answer, row in zip(reply, batch, strict=True)]
    for row in rows[:100]:
        sent = time.perf_counter()
        gateway.classify([row["text"]])
        waits.append(1000 * (time.perf_counter() - sent))

    with open(options.job, encoding="utf-8") as file:
        job = json.load(file)["status"]
    with open(options.deployment, encoding="utf-8") as file:
        stable = json.load(file)["status"]["stable"]
    report = {
        "f1": job["progress"]["f1"],
        "int8_f1": stable["compression"]["metricAfter"],
        "served_f1": f1(pairs),
        "p50_ms": statistics.median(waits),
        "p95_ms": statistics.quantiles(waits, n=20)[18],
        "seconds": options.seconds + time.monotonic() - began,
        "train_seconds": options.train_seconds,
        "mails": len(rows),
        "progress": job["progress"],
        "restarts": job["restarts"],
        "compression": stable["compression"],
        "revision": stable["revision"],
    }
    pathlib.Path(options.report).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    figures = "f1={f1:.4f} int8_f1={int8_f1:.4f} p50_ms={p50_ms:.1f} seconds={seconds:.0f}".format(**report)
    print(f"  {len(rows)} held-out mails through the gateway: F1 {report['served_f1']:.4f}")
    faults = []
    if report["f1"] < PLEDGED_F1:
        faults.append(f"f1 is below {PLEDGED_F1}")
    if report["f1"] - report["int8_f1"] > PLEDGED_DROP:
        faults.append(f"int8 lost more than {PLEDGED_DROP}")
    if abs(report["served_f1"] - report["int8_f1"]) > PLEDGED_DROP:
        faults.append("the served model's F1 is not the one in its report")
    if faults:
        sys.exit(f"demo: FAILED ({'; '.join(faults)}) {figures}")
    print(f"demo: ok {figures}")


if __name__ == "__main__":
    main()
