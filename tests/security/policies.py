"""The chart's admission policies on a real API server: what they refuse, and whom they let work.

    python3 policies.py --kube PROGRAM --out FOLDER

Each request is made twice, as a dry run: before the policies are there, when all are admitted,
and with them in force. Then the operator's ServiceAccount, with the chart's rights and no other,
writes whole plans, and the cluster's own controllers make pods of them and take them away again.
"""

import argparse
import copy
import json
import pathlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import yaml

import cases
import objects
from cases import OPERATOR, TEAM
from plane import Plane

POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
RBAC = {"apiVersion": "rbac.authorization.k8s.io/v1"}


class Cluster:
    """kubectl as different users."""

    def __init__(self, plane):
        self.plane, self.config = plane, plane.kubeconfig("admin")

    def ask(self, user, *arguments, manifest=None):
        """Whether a request was admitted, and what was said."""
        person = [] if user == "admin" else ["--as", user]
        command = [self.plane.kube, "kubectl", "--kubeconfig", self.config, *person, *arguments]
        done = subprocess.run(
            [str(part) for part in command], input=manifest and json.dumps(manifest), capture_output=True, text=True
        )
        return done.returncode == 0, (done.stderr if done.returncode else done.stdout).strip()

    def apply(self, documents, user="admin", namespace=None):
        where = ["--namespace", namespace] if namespace else []
        listed = {"apiVersion": "v1", "kind": "List", "items": documents}
        admitted, said = self.ask(
            user, "apply", "--server-side", "--validate=false", *where, "--filename", "-", manifest=listed
        )
        if not admitted:
            raise SystemExit(f"{user} cannot apply: {said}")
        return said

    def read(self, *arguments):
        return json.loads(self.plane.kubectl("get", *arguments, "--output", "json"))


def await_true(seconds, what, question):
    end, seen = time.monotonic() + seconds, question()
    while seen is not True:
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds} s: {seen}")
        time.sleep(0.2)
        seen = question()


def people():
    """ana edits her namespaces, tia's role there has a wildcard, and kai may do everything."""
    wild = {"metadata": {"name": "wild"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}
    queue = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "patch"]}
    yield {**RBAC, "kind": "ClusterRole", **wild}
    yield {**RBAC, "kind": "ClusterRole", "metadata": {"name": "queue"}, "rules": [queue]}
    yield bind("ClusterRoleBinding", "cluster-admin", "kai")
    yield bind("ClusterRoleBinding", "queue", cases.KUEUE)
    for namespace in cases.NAMESPACES:
        yield bind("RoleBinding", "edit", "ana", namespace)
        yield bind("RoleBinding", "wild", "tia", namespace)


def bind(kind, role, user, namespace=None):
    metadata = {"name": f"{role}-{user.rpartition(':')[2]}", **({"namespace": namespace} if namespace else {})}
    return {
        **RBAC, "kind": kind, "metadata": metadata,
        "roleRef": {"apiGroup": RBAC["apiVersion"].split("/")[0], "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user, "apiGroup": RBAC["apiVersion"].split("/")[0]}],
    }


def set_up(cluster, chart):
    namespaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        for name, labels in {"hearth-system": {}, **cases.NAMESPACES}.items()
    ]
    cluster.apply(namespaces)
    for path in sorted((objects.ROOT / "manifests/crds").glob("*.hearth.dev.yaml")):
        cluster.plane.kubectl("apply", "--server-side", "--filename", path)
    cluster.plane.insist(30, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    cluster.apply([o for o in chart if o["kind"] not in (*POLICIES, "Deployment")] + list(people()))
    for name in cases.NAMESPACES:
        cluster.plane.insist(30, "get", "serviceaccount", "default", "--namespace", name)
        # The chart's role becomes part of the role `edit`.
        may = ("auth", "can-i", "create", "trainingjobs.hearth.dev", "--as", "ana", "--namespace", name)
        cluster.plane.insist(30, *may)


def install(cluster, namespace):
    """Samples by ana, and their plans by the operator. Gives the children."""
    children = []
    for sample, kind in (("spam", "trainingjob"), ("spam-deployment", "modeldeployment")):
        owner = yaml.safe_load((objects.ROOT / f"manifests/samples/{sample}.yaml").read_text())
        cluster.apply([owner], "ana", namespace)
        uid = cluster.read(kind, owner["metadata"]["name"], "--namespace", namespace)["metadata"]["uid"]
        for child in copy.deepcopy(objects.plans()[sample]):
            child["metadata"]["namespace"] = namespace
            child["metadata"]["ownerReferences"][0]["uid"] = uid
            for subject in child.get("subjects", []):
                subject["namespace"] = namespace
            children.append(child)
    cluster.apply(children, OPERATOR, namespace)
    return children


def pods(cluster, namespace, children):
    """Whether the controllers made all pods of these children."""
    specs = [child["spec"] for child in children if child["kind"] in ("Job", "Deployment")]
    want = sum(spec.get("replicas", spec.get("parallelism", 1)) for spec in specs)
    got = len(cluster.read("pods", "--namespace", namespace)["items"])
    return got == want or f"{got} pods of {want}"


def gone(cluster, namespace, children):
    kinds = ",".join(sorted({child["kind"] for child in children} | {"Pod"}))
    left = cluster.read(kinds, "--namespace", namespace, "--selector", "app.kubernetes.io/managed-by=hearth-operator")
    return not left["items"] or [f"{o['kind']} {o['metadata']['name']}" for o in left["items"]]


def answers(cluster, tried):
    """What is said to each case."""
    def ask(case):
        return cluster.ask(case.user, *case.arguments, manifest=case.manifest)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, tried))


def check(cluster, tried):
    """What is not as it should be. Policies take a moment to be in force: until then it is asked again."""
    end, wrong = time.monotonic() + 40, [(case, "") for case in tried]
    while wrong and time.monotonic() < end:
        asked = [case for case, _ in wrong]
        wrong = [
            (case, "it was admitted" if admitted else said)
            for case, (admitted, said) in zip(asked, answers(cluster, asked))
            if admitted != (case.refusal is None) or (case.refusal and case.refusal not in said)
        ]
    return [f"{case.what}: {said}" for case, said in wrong]


def check_types(cluster):
    """Whether the API server finds all fields that the expressions name."""
    policies = cluster.read("validatingadmissionpolicies")["items"]
    seen = [policy.get("status", {}) for policy in policies]
    if any(status.get("observedGeneration") is None for status in seen):
        return "not looked at yet"
    return not any(status.get("typeChecking", {}).get("expressionWarnings") for status in seen) or json.dumps(seen)


def forged(cluster, namespace):
    """Whether somebody may make a child of Hearth's there."""
    user, arguments, manifest = cases.create("ana", cases.config_map("forged", cases.LABELS), namespace)
    return cluster.ask(user, *arguments, manifest=manifest)[0]


def run(plane):
    cluster = Cluster(plane)
    chart = objects.chart("--set", "crds.install=false")
    set_up(cluster, chart)
    install(cluster, TEAM)
    cluster.apply(cases.BEFORE, "ana")
    def workers():
        return cluster.read("pods", "--namespace", TEAM, "--selector", cases.WORKERS)["items"]

    await_true(30, "worker pods", lambda: bool(workers()) or "none")
    worker = workers()[0]["metadata"]["name"]
    tried = cases.build(worker)
    faults = [
        f"refused without the policies: {case.what}: {said}"
        for case, (admitted, said) in zip(tried, answers(cluster, tried)) if not admitted
    ]
    cluster.apply([o for o in chart if o["kind"] in POLICIES])
    await_true(30, "type check of the policies", lambda: check_types(cluster))
    faults += check(cluster, tried)

    later = next(reversed(cases.NAMESPACES))
    children = install(cluster, later)
    await_true(60, "pods by the cluster's controllers", lambda: pods(cluster, later, children))
    for kind in ("trainingjob", "modeldeployment"):
        cluster.plane.kubectl("delete", kind, "spam", "--namespace", later, "--as", "ana")
    await_true(60, "removal by the garbage collector", lambda: gone(cluster, later, children))

    narrow = objects.chart("--set", "crds.install=false", "--set", f"watchNamespace={later}")
    cluster.apply([o for o in narrow if o["kind"] in POLICIES])
    await_true(30, "policies of one namespace in no other", lambda: forged(cluster, TEAM))
    if forged(cluster, later):
        faults.append(f"policies of the namespace {later} do not hold in it")
    return tried, faults


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kube", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    options = parser.parse_args()
    server = ("--authorization-mode", "RBAC", "--allow-privileged")
    with Plane(options.kube, options.out, server=server, controllers=("--use-service-account-credentials",)) as plane:
        tried, faults = run(plane)
    for fault in faults:
        print(fault)
    refused = sum(case.refusal is not None for case in tried)
    print(f"{refused} requests to be refused, {len(tried) - refused} to be admitted, {len(faults)} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
