"""Real processes that measure something: the operator on a real API server, and the workers, servers
and gateways that it plans, each started here in the place of its pod.

There are no nodes: the controller manager makes the pods, and they stay Pending. What runs here has
the configuration that the operator wrote for the pod, with folders of this machine for its claims.
"""

import http.server
import json
import pathlib
import random
import shutil
import subprocess
import threading
import time
import urllib.request

from plane import free_port
from subjects import pending_claim

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/parity/fixtures/tiny-bert"
SYSTEM, TEAM, FULL = "hearth-system", "team-a", "team-full"
VALUES = [
    "replicas=1", "metrics.namespace=monitoring", "metrics.serviceMonitor.enabled=true", "metrics.rules.enabled=true",
    "metrics.dashboard.enabled=true", "metrics.serviceMonitor.labels.release=prometheus",
]


def training_job(namespace):
    return {
        "apiVersion": "hearth.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {"name": "spam", "namespace": namespace},
        "spec": {
            "task": "SequenceClassification", "model": {"source": "pvc://models/tiny"},
            "data": {"train": {"source": "pvc://data/rows.jsonl", "text": "text", "label": "label"}, "evalSplit": 0.25},
            # It goes on until it is stopped.
            "training": {"perDeviceTrainBatchSize": 4, "maxSteps": 1000000, "learningRate": 1e-4, "loggingSteps": 100,
                         "evalStrategy": "Steps", "evalSteps": 100, "saveSteps": 100, "maxLength": 16},
            "workers": {"replicas": 2, "accelerator": "CPU", "resources": {"limits": {"memory": "1Gi"}}},
            "output": {"destination": "pvc://models/spam", "keepCheckpoints": 1},
        },
    }


DEPLOYMENT = {
    "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "spam", "namespace": TEAM},
    "spec": {"model": {"source": "pvc://models/tiny"}, "serving": {"replicas": 1}, "gateway": {"replicas": 1}},
}
# In this namespace no Job may be made, so that reconciles fail.
QUOTA = {
    "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-jobs", "namespace": FULL},
    "spec": {"hard": {"count/jobs.batch": "0"}},
}


def claim(name, namespace):
    found = pending_claim(name)
    found["metadata"]["namespace"] = namespace
    return found


def listed(*things):
    return {"apiVersion": "v1", "kind": "List", "items": things}


def await_that(what, found, seconds=60):
    """Waits until `found` gives something, and gives it."""
    end = time.monotonic() + seconds
    while not (it := found()):
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds} s for {what}")
        time.sleep(0.2)
    return it


def read(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


class Stand:
    """Everything that is scraped. `address_of` tells which process plays which port of which pod."""

    def __init__(self, plane, binaries, crds, helm):
        self.plane, self.binaries, self.crds, self.helm = plane, binaries, crds, helm
        self.addresses, self.processes = {}, []
        self.folder = plane.folder / "claims"
        self.stopping = threading.Event()

    def address_of(self, pod, port):
        if (pod, port) not in self.addresses:
            raise SystemExit(f"a monitor selects port {port} of {pod}, which has no /metrics: see its port's name")
        return self.addresses[pod, port]

    def run(self, name, program, *arguments, environment=()):
        process = self.plane.run(name, self.binaries / program, *arguments, environment=environment)
        self.processes.append(process)
        return process

    def logs(self):
        return "\n".join(f"== {one.name}\n{one.log.read_text()[-2000:]}" for one in self.processes)

    def stop(self):
        """Tells all at once to end; the control plane waits for each."""
        self.stopping.set()
        for process in self.processes:
            process.popen.terminate()

    def objects(self, kind, namespace, **labels):
        chosen = ",".join(f"{key}={value}" for key, value in labels.items())
        text = self.plane.kubectl("get", kind, "--namespace", namespace, "--selector", chosen, "--output", "json")
        return json.loads(text)["items"]

    def pods(self, namespace, count, component):
        """So many pods in this role, once they are made."""
        def found():
            pods = self.objects("pods", namespace, **{"app.kubernetes.io/component": component})
            return pods if len(pods) == count else None
        return await_that(f"{count} pods of component {component} in {namespace}", found)

    def start(self):
        self.fill_claims()
        self.install()
        operator = self.pods(SYSTEM, 1, "operator")
        self.start_operator(operator[0])
        workers = self.pods(TEAM, 2, "worker")
        servers, gateways = self.pods(TEAM, 1, "server"), self.pods(TEAM, 1, "gateway")
        self.start_workers(workers)
        self.start_server(servers[0])
        self.start_gateway(gateways[0], servers[0]["metadata"]["labels"]["hearth.dev/revision"])
        return operator + workers + servers + gateways

    def fill_claims(self):
        (self.folder / "models").mkdir(parents=True)
        (self.folder / "data").mkdir()
        shutil.copytree(TINY, self.folder / "models/tiny", ignore=shutil.ignore_patterns("*.jsonl"))
        shutil.copy(TINY / "train.jsonl", self.folder / "data/rows.jsonl")

    def install(self):
        """CRDs of prometheus-operator, the chart with all of its monitoring, and what it is to act on."""
        self.plane.apply("---\n".join(crd.read_text() for crd in sorted(self.crds.iterdir())))
        self.plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        namespaces = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (SYSTEM, TEAM, FULL)
        ]
        claims = [claim(name, namespace) for name in ("models", "data") for namespace in (TEAM, FULL)]
        self.plane.apply(listed(*namespaces, *claims, QUOTA))
        self.plane.apply(self.rendered())
        self.plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        await_that("the quota's count", lambda: "hard" in self.get("resourcequota", FULL, "no-jobs").get("status", {}))
        self.plane.apply(listed(training_job(TEAM), training_job(FULL), DEPLOYMENT))

    def rendered(self):
        settings = [part for value in VALUES for part in ("--set", value)]
        command = [self.helm, "template", "hearth", ROOT / "charts/hearth", "--namespace", SYSTEM, *settings]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"helm template: {done.stderr}")
        return done.stdout

    def get(self, kind, namespace, name):
        return json.loads(self.plane.kubectl("get", kind, name, "--namespace", namespace, "--output", "json"))

    def start_operator(self, pod):
        listen = f"127.0.0.1:{free_port()}"
        (container,) = pod["spec"]["containers"]
        environment = {
            "KUBECONFIG": str(self.plane.kubeconfig("hearth")), "POD_NAMESPACE": SYSTEM,
            "POD_NAME": pod["metadata"]["name"], "RUST_LOG": "info",
        }
        process = self.run(
            "hearth", "hearth-operator", *container["args"], "--listen", listen,
            environment=environment.items(),
        )
        process.await_ready(f"http://{listen}/readyz")
        self.addresses[pod["metadata"]["name"], 8080] = listen

    def configured(self, pod, name, **changes):
        """A file with the configuration that the operator wrote for a pod."""
        (config_map,) = [volume["configMap"]["name"] for volume in pod["spec"]["volumes"] if "configMap" in volume]
        text = self.get("configmap", TEAM, config_map)["data"]["config.json"]
        path = self.plane.folder / f"{name}.json"
        path.write_text(json.dumps({**json.loads(text.replace("/mnt/hearth", str(self.folder))), **changes}))
        return path

    def start_workers(self, pods):
        ports = [free_port() for _ in pods]
        config = self.configured(pods[0], "train", coordinatorHost="127.0.0.1", coordinatorPort=ports[0])
        for pod in pods:
            index = int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])
            listen = f"127.0.0.1:{ports[index]}"
            self.run(
                f"worker-{index}", "hearth-worker", "agent", "--config", config, "--index", index,
                "--listen", listen, environment=self.worker_environment(f"worker-{index}"),
            )
            self.addresses[pod["metadata"]["name"], 8470] = listen

    def worker_environment(self, name):
        log = self.plane.folder / f"{name}.result"
        return {"HEARTH_CPUS": "1", "HEARTH_THREADS": "1", "HEARTH_TERMINATION_LOG": str(log)}.items()

    def start_server(self, pod):
        self.server = free_port()
        config = self.configured(pod, "serve", port=self.server)
        process = self.run(
            "server", "hearth-worker", "serve", "--config", config,
            environment=self.worker_environment("server"),
        )
        process.await_ready(f"http://127.0.0.1:{self.server}/readyz")
        self.addresses[pod["metadata"]["name"], 8080] = f"127.0.0.1:{self.server}"

    def start_gateway(self, pod, revision):
        """One that has seen trouble: an unreadable routing table, no server, a canary without one, and then one
        that fails."""
        traffic, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.table = self.plane.folder / "routing.json"
        self.table.write_text("not a routing table")
        self.run(
            "gateway", "hearth-gateway", "--routing", self.table, "--listen", traffic, "--admin-listen", admin,
            "--drain-delay", "0s", "--drain-timeout", "1s", "--reach-timeout", "0s",
        )
        self.addresses[pod["metadata"]["name"], 9090] = admin

        def tells(text):
            await_that(f"{text} in the gateway's figures", lambda: text in read(f"http://{admin}/metrics"))

        tells('reason="Malformed"')
        nobody = free_port()
        self.route(stable=(revision, nobody, 100))
        tells('variant_weight{variant="stable"} 100')
        ask(traffic)
        tells('requests_total{variant="stable",code="5xx"} 1')
        self.route(stable=(revision, self.server, 80), canary=("absent", nobody, 20))

        def goes_over():
            ask(traffic)
            return 'fallbacks_total{variant="canary"}' in read(f"http://{admin}/metrics")

        await_that("a request to the canary that the stable revision answers", goes_over)
        self.route(stable=(revision, self.server, 80), canary=("broken", failing(), 20))
        tells('variant_weight{variant="canary"} 20')
        for _ in range(4):
            threading.Thread(target=self.keep_asking, args=(traffic,), daemon=True).start()

    def route(self, **variants):
        """Replaces the gateway's routing table."""
        limits = {"maxBodyBytes": 65536, "maxInFlightRequests": 64, "requestTimeoutSeconds": 10}
        whole = self.table.with_suffix(".new")
        whole.write_text(json.dumps({"deployment": "spam", "limits": limits, "variants": [
            {"name": name, "revision": revision, "backend": f"127.0.0.1:{port}", "weight": weight}
            for name, (revision, port, weight) in variants.items()
        ]}))
        whole.rename(self.table)

    def keep_asking(self, address):
        """Until the stand is stopped."""
        while not self.stopping.wait(0.05):
            ask(address)


def failing():
    """The port of a server that answers everything with 500."""

    class Failing(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(500)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def ask(address):
    # What was asked before would be answered from memory.
    words = ("win", "free", "cash", "lunch", "meeting", "notes", "click", "now")
    body = json.dumps({"inputs": [" ".join(random.choices(words, k=8)) for _ in range(2)]}).encode()
    request = urllib.request.Request(f"http://{address}/v1/classify", body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=10).read()
    except OSError:
        pass
