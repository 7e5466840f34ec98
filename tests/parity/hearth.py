"""Runs hearth-worker on this machine. Standard library only."""

import json
import os
import pathlib
import socket
import subprocess
import threading

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
VERSION = "hearth.dev/worker/v1"


def data_file(path):
    return {"path": str(path), "uri": f"file://{path}", "text": "text", "label": "label"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_config(spec, model, train, held_out, output, ranks):
    """A TrainConfig (crds/src/worker_config.rs) for `ranks` processes under one agent."""
    return {
        "version": VERSION,
        "job": {"namespace": "local", "name": "parity", "uid": ""},
        "task": spec["task"],
        "accelerator": "CPU",
        "model": str(model),
        "data": {
            "train": data_file(train),
            "eval": data_file(held_out) if held_out else None,
            "evalSplit": None,
            "clean": spec["data"].get("clean", []),
            "maxBadRows": 0,
        },
        **{part: spec[part] for part in ("objective", "peft") if part in spec},
        "training": spec["training"],
        "parallelism": {"sharding": "None", "tensor": 1, "pipeline": 1},
        "replicas": 1,
        "processesPerWorker": ranks,
        "output": str(output),
        "outputUri": f"file://{output}",
        "keepCheckpoints": 1,
        "maxRestarts": 0,
        "coordinatorHost": "127.0.0.1",
        "coordinatorPort": free_port(),
    }


class Worker:
    """The binary, and the libraries that it needs."""

    def __init__(self, binary):
        self.binary = pathlib.Path(binary)
        if not self.binary.exists():
            raise SystemExit(f"{binary} is not built: run `make build`")

    def run(self, command, config, folder, threads=1):
        """Runs `hearth-worker COMMAND` to its end; returns its termination message, if it left one."""
        folder.mkdir(parents=True, exist_ok=True)
        path, log, message = folder / f"{command}.json", folder / f"{command}.log", folder / f"{command}-result.json"
        path.write_text(json.dumps(config, indent=1))
        environment = self.environment(threads) | {"HEARTH_TERMINATION_LOG": str(message)}
        with log.open("wb") as output:
            code = subprocess.call([self.binary, command, "--config", path], stdout=output, stderr=output, env=environment)
        if code:
            tail = log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"hearth-worker {command} ended with {code}:\n{tail}")
        return json.loads(message.read_text()) if message.exists() else None

    def import_gguf(self, file, output):
        """Makes a Hugging Face directory of llama.cpp's file."""
        command = [self.binary, "import", "--gguf", file, "--output", output, "--dtype", "f32"]
        subprocess.run(command, check=True, env=self.environment(2), stdout=subprocess.DEVNULL)
        return output

    def environment(self, threads):
        return os.environ | {
            "HEARTH_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            # Not this process's own: the reference brings another libtorch.
            "LD_LIBRARY_PATH": os.environ["HEARTH_LIBTORCH_LIB"],
        }


class Memory:
    """Watches a process and its descendants: the sum of their peak resident memory, in bytes.

    Pages that processes share count once for each.
    """

    def __init__(self, pid, interval=0.1):
        self.pid, self.interval, self.peaks = pid, interval, {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        while not self.ended.wait(self.interval):
            for pid in descendants(self.pid):
                peak = peak_resident(pid)
                if peak:
                    self.peaks[pid] = peak

    def stop(self):
        self.ended.set()
        self.thread.join()
        return sum(self.peaks.values())


def descendants(pid):
    """The process and all below it that live now (Linux)."""
    found = [str(pid)]
    for one in found:
        for children in pathlib.Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += children.read_text().split()
            except OSError:
                continue
    return found


def peak_resident(pid):
    """VmHWM of a process in bytes; None when it is gone."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    lines = (line.split() for line in status.splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:"), None)
