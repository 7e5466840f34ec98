"""A real control plane without nodes, for one run: etcd, API server, controller manager.

All of it listens on loopback, keeps its files in one folder, and ends with the block that
began it. Users are tokens in the group `system:masters`, so that nothing measures RBAC or
fairness between clients; the audit log tells the requests of those that are measured.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import secrets
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

USERS = ("admin", "controllers", "load", "hearth", "trainer", "jobset")
READS = ("get", "list", "watch")
TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def die_with_parent():
    """Asks the kernel to end this process with the one that started it, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Process:
    """A daemon that was started here."""

    def __init__(self, name, command, log, environment=()):
        self.name, self.log = name, log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [str(part) for part in command], stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                env=dict(os.environ, **dict(environment)), preexec_fn=die_with_parent,
            )

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.popen.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def peak_mib(self):
        status = pathlib.Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def await_ready(self, url, seconds=60):
        end = time.monotonic() + seconds
        while not answers(url):
            if self.popen.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.name} is not ready; its log ends with\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def stop(self):
        self.popen.terminate()
        try:
            self.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def answers(url):
    context = ssl._create_unverified_context()  # Whether it is up, no more.
    try:
        with urllib.request.urlopen(url, timeout=2, context=context):
            return True
    except urllib.error.HTTPError as refusal:
        return refusal.code in (401, 403)
    except OSError:
        return False


class Plane:
    """The control plane, and what was started on it. `kube` is the program of tests/cluster/kube.

    `audited` is the audit level of the measured users: `Request` keeps the bodies, too. `server` and
    `controllers` are more options of the API server and of the controller manager.
    """

    def __init__(self, kube, folder, audited="Metadata", server=(), controllers=()):
        self.kube, self.folder, self.audited = kube, folder, audited
        self.server, self.controllers = server, controllers
        self.etcd, self.port = free_port(), free_port()
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.stack.close()

    def run(self, name, *command, environment=()):
        process = Process(name, command, self.folder / f"{name}.log", environment)
        self.stack.callback(process.stop)
        return process

    def start(self):
        self.folder.mkdir(parents=True)
        self.write_files()
        client, peer = f"http://127.0.0.1:{self.etcd}", f"http://127.0.0.1:{free_port()}"
        self.run(
            "etcd", self.kube, "etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--log-level", "warn",
            "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
        ).await_ready(f"{client}/readyz")
        key = self.folder / "service-account.key"
        self.run(
            "apiserver", self.kube, "kube-apiserver", "--etcd-servers", client, "--secure-port", self.port,
            "--bind-address", "127.0.0.1", "--endpoint-reconciler-type", "none", "--cert-dir", self.folder,
            "--token-auth-file", self.folder / "tokens.csv", "--service-cluster-ip-range", "10.96.0.0/16",
            "--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", key,
            "--service-account-signing-key-file", key, "--audit-policy-file", self.folder / "audit.json",
            "--audit-log-path", self.folder / "audit.log", *self.server,
        ).await_ready(f"https://127.0.0.1:{self.port}/readyz")
        self.await_admin()
        health = free_port()
        self.run(
            "controllers", self.kube, "kube-controller-manager", "--kubeconfig", self.kubeconfig("controllers"),
            "--service-account-private-key-file", key, "--leader-elect=false", "--bind-address", "127.0.0.1",
            "--secure-port", health, "--kube-api-qps", "1000", "--kube-api-burst", "1000", *self.controllers,
        ).await_ready(f"https://127.0.0.1:{health}/healthz")

    def write_files(self):
        subprocess.run(
            ["openssl", "genrsa", "-out", self.folder / "service-account.key", "2048"], check=True, capture_output=True
        )
        self.tokens = {user: secrets.token_hex(16) for user in USERS}
        lines = [f'{token},{user},{user},"system:masters"\n' for user, token in self.tokens.items()]
        (self.folder / "tokens.csv").write_text("".join(lines))
        rules = [{"level": self.audited, "users": ["hearth", "trainer", "jobset"]}, {"level": "None"}]
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
        (self.folder / "audit.json").write_text(json.dumps(policy))

    def kubeconfig(self, user):
        """A file that lets a program act as this user."""
        server = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": "apiserver.crt"}
        path = self.folder / f"{user}.kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": server}],
            "users": [{"name": user, "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": user}}],
        }))
        return path

    def await_admin(self):
        self.insist(30, "get", "--raw", "/readyz")

    def kubectl(self, *arguments, manifest=None):
        """What kubectl says, as the administrator."""
        text = manifest if manifest is None or isinstance(manifest, str) else json.dumps(manifest)
        command = [self.kube, "kubectl", "--kubeconfig", self.kubeconfig("admin"), *arguments]
        done = subprocess.run([str(part) for part in command], input=text, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def insist(self, seconds, *arguments, manifest=None):
        """The same, tried again until it succeeds."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.kubectl(*arguments, manifest=manifest)
            except RuntimeError as error:
                if time.monotonic() > end:
                    raise SystemExit(str(error)) from None
                time.sleep(0.2)

    def apply(self, manifest):
        return self.insist(30, "apply", "--server-side", "--filename", "-", manifest=manifest)

    def as_objects(self, *files):
        """Manifests as JSON objects: Python has no YAML of its own."""
        arguments = [part for file in files for part in ("--filename", file)]
        text = self.insist(30, "create", "--dry-run=client", "--validate=false", "--output", "json", *arguments)
        decoder, objects = json.JSONDecoder(), []
        while text.strip():
            found, end = decoder.raw_decode(text.lstrip())
            objects += found["items"] if found["kind"] == "List" else [found]
            text = text.lstrip()[end:]
        return objects


class Audit:
    """Requests of the measured users from now on, as the API server logged them."""

    def __init__(self, plane):
        self.file = (plane.folder / "audit.log").open()
        self.file.seek(0, os.SEEK_END)
        self.text, self.calls, self.writes = "", 0, []

    def news(self):
        """Reads on. Gives the number of new writes."""
        before = len(self.writes)
        self.text += self.file.read()
        lines, _, self.text = self.text.rpartition("\n")
        for line in lines.splitlines():
            entry = json.loads(line)
            if entry["stage"] not in ("ResponseComplete", "Panic"):
                continue
            self.calls += 1
            if entry["verb"] not in READS:
                self.writes.append(entry)
        return len(self.writes) - before

    def settle(self, quiet=5, limit=180):
        """Waits until nothing was written for a while."""
        end, last = time.monotonic() + limit, time.monotonic()
        while time.monotonic() < min(end, last + quiet):
            if self.news():
                last = time.monotonic()
            time.sleep(0.5)
