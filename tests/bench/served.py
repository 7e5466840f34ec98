"""`hearth-worker serve` on loopback, for serve.py. Standard library only."""

import contextlib
import http.client
import json
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "parity"))
import hearth  # noqa: E402
from plane import Process  # noqa: E402

NAME = "bench"


class Server:
    """A server that is ready. Times are seconds on the clock of the wall."""

    def __init__(self, process, port, began):
        self.process, self.port, self.began = process, port, began


@contextlib.contextmanager
def serving(worker, directory, threads, folder, runtime="Libtorch", batch=32):
    """A server of a model in a process of its own, which ends with the block."""
    port, path = hearth.free_port(), folder / "serve.json"
    path.write_text(json.dumps({
        "version": hearth.VERSION, "job": {"namespace": "local", "name": NAME, "uid": ""}, "revision": "r1",
        "model": str(directory), "accelerator": "CPU", "runtime": runtime, "maxBatchSize": batch,
        "maxBatchDelayMilliseconds": 0, "maxQueueDepth": 64, "maxBodyBytes": 1 << 20, "responseCacheBytes": 0,
        "port": port,
    }))
    began = time.time()
    command = [worker.binary, "serve", "--config", path]
    process = Process("hearth-worker serve", command, folder / "serve.log", worker.environment(threads).items())
    try:
        await_ready(process, port)
        yield Server(process, port, began)
    finally:
        process.stop()


def await_ready(process, port, seconds=300):
    end = time.monotonic() + seconds
    while not is_ready(port):
        if process.popen.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"{process.name} is not ready; its log ends with\n{process.log.read_text()[-3000:]}")
        time.sleep(0.01)


def is_ready(port):
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        asked.request("GET", "/readyz")
        return asked.getresponse().status == 200
    except OSError:
        return False
    finally:
        asked.close()


def run_peer(name, command, folder, environment):
    """Runs a program to its end. What it wrote to the file that its settings name is its answer."""
    process = Process(name, command, folder / "peer.log", environment.items())
    try:
        code = process.popen.wait()
    finally:
        process.stop()
    if code:
        log = process.log.read_text(errors="replace")
        raise SystemExit(f"bench-serve: {name} ended with {code}:\n{log[-3000:]}")
