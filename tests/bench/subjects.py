"""What is measured: Hearth's operator, Kubeflow Trainer with JobSet, and the floor below both."""

import json
import subprocess

from plane import free_port

NAMESPACE = "bench"
SAMPLE = "manifests/samples/spam.yaml"
# More than any of them reaches on the machines that this is for.
CLIENT = {"qps": 1000, "burst": 1000}


class Hearth:
    """The operator under test, on an empty namespace with the claims that its jobs name."""

    name = "hearth"
    path = f"/apis/hearth.dev/v1alpha1/namespaces/{NAMESPACE}/trainingjobs"

    def __init__(self, operator):
        self.operator = operator

    def start(self, plane):
        crds = subprocess.run([self.operator, "crds"], check=True, capture_output=True, text=True).stdout
        plane.apply(crds)
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        plane.apply(namespace())
        for claim in ("models", "data"):
            plane.apply(pending_claim(claim))
        return self.processes(plane)

    def processes(self, plane):
        listen = f"127.0.0.1:{free_port()}"
        operator = plane.run(
            "hearth", self.operator, "--leader-elect", "false", "--listen", listen,
            environment={"KUBECONFIG": str(plane.kubeconfig("hearth"))}.items(),
        )
        operator.await_ready(f"http://{listen}/readyz")
        return [operator]

    def template(self, plane, workers, suspend):
        (job,) = plane.as_objects(SAMPLE)
        job["metadata"] = {"name": "@NAME@", "namespace": NAMESPACE}
        job["spec"]["workers"]["replicas"] = workers
        job["spec"]["suspend"] = suspend
        job["spec"]["output"]["destination"] = "pvc://models/@NAME@"
        return job


class Floor(Hearth):
    """No operator: the client that creates a job sends Hearth's writes for it, too."""

    name = "floor"

    def processes(self, plane):
        return []


class Trainer:
    """Kubeflow Trainer and JobSet as they are shipped, with their webhooks, and with a limit on
    requests that they do not reach."""

    name = "trainer"
    path = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"

    def __init__(self, home):
        self.home = home

    def start(self, plane):
        for crd in sorted((self.home / "crds").iterdir()):
            plane.apply(crd.read_text())
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        plane.apply(namespace())
        self.certificate(plane)
        processes = [self.jobset(plane), self.trainer(plane)]
        (runtime,) = plane.as_objects(self.home / "runtime.yaml")
        plane.apply(runtime)
        probe = json.loads(json.dumps(self.template(plane, 1, True)).replace("@NAME@", "probe"))
        # Refused until the webhooks and the runtime are there.
        plane.insist(60, "create", "--dry-run=server", "-f", "-", manifest=probe)
        return processes

    def certificate(self, plane):
        self.tls = plane.folder / "tls" / "k8s-webhook-server" / "serving-certs"
        self.tls.mkdir(parents=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bench",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", self.tls / "tls.key", "-out", self.tls / "tls.crt"],
            check=True, capture_output=True,
        )

    def jobset(self, plane):
        return self.manager(plane, "jobset", {
            "apiVersion": "config.jobset.x-k8s.io/v1alpha1", "internalCertManagement": {"enable": False},
        })

    def trainer(self, plane):
        return self.manager(plane, "trainer", {
            "apiVersion": "config.trainer.kubeflow.org/v1alpha1", "certManagement": {"enable": False},
            "controller": {"groupKindConcurrency": {
                "TrainJob.trainer.kubeflow.org": 5, "TrainingRuntime.trainer.kubeflow.org": 1,
                "ClusterTrainingRuntime.trainer.kubeflow.org": 1,
            }},
        })

    def manager(self, plane, name, settings):
        """Starts one of the two. Both look for certificates below the folder of temporary files."""
        webhook, health = free_port(), free_port()
        config = plane.folder / f"{name}.json"
        config.write_text(json.dumps({
            "kind": "Configuration", "leaderElection": {"leaderElect": False}, "clientConnection": CLIENT,
            "webhook": {"port": webhook, "host": "127.0.0.1"}, "metrics": {"bindAddress": "0"},
            "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"}, **settings,
        }))
        environment = {"KUBECONFIG": plane.kubeconfig(name), "TMPDIR": plane.folder / "tls"}
        process = plane.run(
            name, self.home / name, "--config", config,
            environment=[(key, str(value)) for key, value in environment.items()],
        )
        process.await_ready(f"http://127.0.0.1:{health}/readyz")
        for webhooks in plane.as_objects(self.home / f"{name}-webhooks.yaml"):
            plane.apply(self.registered(name, webhooks, webhook))
        return process

    def registered(self, name, webhooks, port):
        """Webhooks at an address on this machine; pods only where JobSet's own installation has them."""
        authority = subprocess.run(
            ["base64", "-w0", self.tls / "tls.crt"], check=True, capture_output=True, text=True
        ).stdout
        webhooks["metadata"] = {"name": f"{name}-{webhooks['kind'].lower()}"}
        for webhook in webhooks["webhooks"]:
            path = webhook["clientConfig"].pop("service")["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
            if webhook["rules"][0]["resources"] == ["pods"]:
                of_jobset = {"key": "jobset.sigs.k8s.io/jobset-name", "operator": "Exists"}
                webhook["objectSelector"] = {"matchExpressions": [of_jobset]}
        return webhooks

    def template(self, _plane, workers, suspend):
        return {
            "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob",
            "metadata": {"name": "@NAME@", "namespace": NAMESPACE},
            "spec": {
                "runtimeRef": {"name": "torch-distributed"}, "suspend": suspend,
                "trainer": {
                    "numNodes": workers, "command": ["python", "train.py"],
                    "resourcesPerNode": {"limits": {"cpu": "1", "memory": "4Gi"}, "requests": {"cpu": "500m"}},
                },
            },
        }


def namespace():
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def pending_claim(name):
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}},
                 "storageClassName": ""},
    }


def script(writes, job):
    """Hearth's writes for one job, as the load generator replays them for others."""
    uid = next(e["requestObject"]["metadata"]["uid"] for e in writes if is_status(e) and names(e, job))
    steps = []
    for entry in writes:
        if not names(entry, job):
            continue
        body = json.dumps(entry["requestObject"]).replace(job, "@NAME@").replace(uid, "@UID@")
        applied = entry["verb"] == "patch"
        steps.append({
            "method": {"patch": "PATCH", "create": "POST"}[entry["verb"]],
            "path": entry["requestURI"].replace(job, "@NAME@"),
            "content_type": "application/apply-patch+yaml" if applied else "application/json",
            "body": body,
        })
    return steps


def is_status(entry):
    return entry["requestURI"].split("?")[0].endswith("/status")


def names(entry, job):
    return job in entry["requestURI"] or job in json.dumps(entry.get("requestObject", ""))
