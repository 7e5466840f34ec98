"""Requests that the admission policies refuse, and requests that they must let through."""

import copy
import json
from typing import Any, NamedTuple

import yaml

import objects

OPERATOR = "system:serviceaccount:hearth-system:hearth-operator"
KUEUE = "system:serviceaccount:kueue-system:kueue-controller-manager"
NAMESPACES_END = "system:serviceaccount:kube-system:namespace-controller"
TEAM = "team-a"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
NAMESPACES = {
    TEAM: RESTRICTED,
    "limited": {"hearth.dev/max-devices": "4"},
    "mislabelled": {"hearth.dev/max-devices": "four"},
    "team-b": RESTRICTED,
}
LABELS = {
    "app.kubernetes.io/component": "worker", "app.kubernetes.io/managed-by": "hearth-operator",
    "hearth.dev/kind": "trainingjob", "hearth.dev/name": "spam",
}
WORKERS = ",".join(f"{label}={value}" for label, value in LABELS.items())
KEPT = "is labelled as part of the trainingjob spam, which Hearth's operator alone keeps"


class Case(NamedTuple):
    """A request, and what its refusal says; none where it must be admitted."""

    what: str
    user: str
    arguments: tuple
    manifest: Any = None
    refusal: str | None = None


def config_map(name, labels):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"a": "b"}}


def pod(labels):
    spec = dict(job()["spec"]["template"]["spec"], volumes=[{"name": "tmp", "emptyDir": {}}])
    spec["containers"] = [dict(spec["containers"][0], volumeMounts=[])]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "strange", "labels": labels}, "spec": spec}


def job(**pod_fields):
    """A Job as the operator makes it, with these fields of its pods changed."""
    plan = copy.deepcopy(next(child for child in objects.plans()["spam"] if child["kind"] == "Job"))
    plan["metadata"].update(name="another", namespace=None)
    plan["spec"]["template"]["spec"].update(pod_fields)
    return plan


def harmed(**security):
    """The same, with this security context of its container."""
    plan = job()
    plan["spec"]["template"]["spec"]["containers"][0]["securityContext"].update(security)
    return plan


def training_job(name, replicas, limits):
    job = yaml.safe_load((objects.ROOT / "manifests/samples/spam.yaml").read_text())
    job["metadata"]["name"] = name
    job["spec"]["workers"] = {"replicas": replicas, "accelerator": "CPU", "resources": {"limits": limits}}
    return job


def sweep(parallel):
    found = yaml.safe_load((objects.ROOT / "manifests/samples/spam-sweep.yaml").read_text())
    found["spec"]["trials"]["parallel"] = parallel
    found["spec"]["job"]["workers"]["resources"]["limits"] = {"nvidia.com/gpu": 2}
    return found


# What ana makes before the policies are there.
BEFORE = [
    {**config_map("mine", {}), "metadata": {"name": "mine", "namespace": TEAM}},
    {**training_job("large", 8, {"nvidia.com/gpu": 1}), "metadata": {"name": "large", "namespace": "limited"}},
]


def request(user, *words, namespace=TEAM, manifest=None):
    """A dry run of a kubectl command."""
    source = ("--filename", "-") if manifest else ()
    return user, (*words, "--namespace", namespace, "--dry-run=server", *source), manifest


def patch(user, target, body, *words, namespace=TEAM):
    kind, name = target.split("/")
    change = ("--type", "merge", "--patch", json.dumps(body))
    return request(user, "patch", kind, name, *change, *words, namespace=namespace)


def create(user, manifest, namespace=TEAM):
    return request(user, "create", manifest=manifest, namespace=namespace)


def build(worker):
    """All cases; `worker` is a pod of the job spam."""
    status = {"status": {"state": "Succeeded"}}
    raw = f"/apis/batch/v1/namespaces/{TEAM}/jobs/spam-train?dryRun=All"
    device = {"nvidia.com/gpu": 1, "cpu": 64, "memory": "1Ti"}
    orphan = job()
    del orphan["metadata"]["ownerReferences"]
    volumes = orphan["spec"]["template"]["spec"]["volumes"]
    secret = [*volumes, {"name": "loot", "secret": {"secretName": "loot"}}]
    secrets = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    container = {name: part for name, part in job()["spec"]["template"]["spec"]["containers"][0].items()
                 if "Probe" not in name}
    quota = "and namespace limited allows 4 (its label hearth.dev/max-devices)"
    return [
        Case("an editor deletes a job's NetworkPolicy",
             *request("ana", "delete", "networkpolicy", "spam-train"), f"NetworkPolicy spam-train {KEPT}"),
        Case("an editor opens a job's NetworkPolicy",
             *patch("ana", "networkpolicy/spam-train", {"spec": {"ingress": [{}]}}),
             f"{KEPT}; ana may not update it: change the trainingjob instead"),
        Case("a role with wildcards deletes a job's NetworkPolicy",
             *request("tia", "delete", "networkpolicy", "spam-train"), KEPT),
        Case("an editor changes a routing table",
             *patch("ana", "configmap/spam-routing", {"data": {"routing.json": "{}"}}),
             "is labelled as part of the modeldeployment spam"),
        Case("an editor takes the labels off",
             *patch("ana", "configmap/spam-train", {"metadata": {"labels": {label: None for label in LABELS}}}), KEPT),
        Case("an editor puts the labels on", *patch("ana", "configmap/mine", {"metadata": {"labels": LABELS}}), KEPT),
        Case("an editor deletes a Job", *request("ana", "delete", "job", "spam-train"), KEPT),
        Case("an editor starts or stops a Job", *patch("ana", "job/spam-train", {"spec": {"suspend": True}}), KEPT),
        Case("an editor scales servers by their Deployment",
             *patch("ana", "deployment/spam-gateway", {"spec": {"replicas": 0}}),
             "is labelled as part of the modeldeployment spam"),
        Case("an editor turns a deployment's Service elsewhere",
             *patch("ana", "service/spam", {"spec": {"selector": {"app": "mine"}}}),
             "change the modeldeployment instead"),
        Case("a role with wildcards widens a gateway's Role",
             *patch("tia", "role/spam-gateway", {"rules": [secrets]}),
             "Role spam-gateway is labelled"),
        Case("an editor makes a child of their own", *create("ana", config_map("forged", LABELS)), KEPT),
        Case("an editor makes a pod with a worker's labels", *create("ana", pod(LABELS)), f"Pod strange {KEPT}"),
        Case("an editor gives a worker another job's labels",
             *patch("ana", f"pod/{worker}", {"metadata": {"labels": {"hearth.dev/name": "other"}}}),
             "is labelled as part of the trainingjob other"),
        Case("an editor makes what is not Hearth's", *create("ana", config_map("other", {"app": "other"}))),
        Case("an editor makes a pod of their own", *create("ana", pod({"app": "other"}))),
        Case("an editor deletes a worker", *request("ana", "delete", "pod", worker)),
        Case("a network annotates a worker",
             *patch("ana", f"pod/{worker}", {"metadata": {"annotations": {"ip": "10.0.0.1"}}})),
        Case("an editor suspends a TrainingJob", *patch("ana", "trainingjob/spam", {"spec": {"suspend": True}})),
        Case("an editor deletes a TrainingJob", *request("ana", "delete", "trainingjob", "spam")),
        Case("Kueue starts and stops a Job", *patch(KUEUE, "job/spam-train", {"spec": {"suspend": True}})),
        Case("an administrator opens a NetworkPolicy",
             *patch("kai", "networkpolicy/spam-train", {"spec": {"ingress": [{}]}})),
        Case("the operator deletes a Job", OPERATOR, ("delete", "--raw", raw)),
        Case("the namespace's end deletes a Job", NAMESPACES_END, ("delete", "--raw", raw)),

        Case("a role with wildcards writes a status",
             *patch("tia", "trainingjob/spam", status, "--subresource", "status"),
             "the status of TrainingJob spam is what Hearth's operator saw; tia may not write it: change the spec"),
        Case("the same of a ModelDeployment", *patch("tia", "modeldeployment/spam", status, "--subresource", "status"),
             "the status of ModelDeployment spam"),
        Case("an administrator writes a status", *patch("kai", "trainingjob/spam", status, "--subresource", "status")),
        Case("the operator writes a status", OPERATOR,
             ("apply", "--server-side", "--subresource", "status", "--namespace", TEAM, "--dry-run=server",
              "--validate=false", "--filename", "-"),
             {"apiVersion": "hearth.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "spam"}, **status}),

        Case("the operator makes a Job", *create(OPERATOR, job())),
        Case("the operator makes a Job that is nobody's", *create(OPERATOR, orphan),
             f"Hearth's operator may not write the Job another in {TEAM}, which is no child of a TrainingJob"),
        Case("the operator makes a Job in kube-system", *create(OPERATOR, job(), "kube-system"), "is no child of"),
        Case("the operator makes a Job of another account",
             *create(OPERATOR, job(serviceAccountName="default")), "with a token of another account"),
        Case("the operator makes a Job with a token",
             *create(OPERATOR, job(automountServiceAccountToken=True)), "a token of another account"),
        Case("the operator makes a Job on its node's network",
             *create(OPERATOR, job(hostNetwork=True), "limited"), "with parts of its node"),
        Case("the operator makes a Job with a Secret",
             *create(OPERATOR, job(volumes=secret)), "or volumes other than"),
        Case("the operator makes a privileged Job",
             *create(OPERATOR, harmed(privileged=True, allowPrivilegeEscalation=True)), "with privileges"),
        Case("the operator makes a Job with a capability",
             *create(OPERATOR, harmed(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]})), "with privileges"),
        Case("the operator makes a Job with another container before it",
             *create(OPERATOR, job(initContainers=[dict(container, name="first")]))),
        Case("the operator makes a Job with a privileged container before it",
             *create(OPERATOR, job(initContainers=[dict(container, name="first", securityContext={
                 "privileged": True, "allowPrivilegeEscalation": True})])), "with privileges"),
        Case("an administrator makes a Job with a Secret", *create("kai", job(volumes=secret))),

        Case("a job asks for too much", *create("ana", training_job("a", 3, {"nvidia.com/gpu": "2"}), "limited"),
             f"it asks for 6 devices at once, {quota}: lower workers.replicas"),
        Case("devices of two kinds add up",
             *create("kai", training_job("a", 1, {"nvidia.com/gpu": 3, "amd.com/gpu": 2}), "limited"),
             "asks for 5 devices"),
        Case("a sweep's trials at once count", *create("ana", sweep(3), "limited"), "asks for 6 devices"),
        Case("a job that was there asks for more",
             *patch("ana", "trainingjob/large", {"spec": {"workers": {"replicas": 9}}}, namespace="limited"),
             "asks for 9 devices"),
        Case("the label is no number", *create("ana", training_job("a", 1, device), "mislabelled"),
             "the label hearth.dev/max-devices of namespace mislabelled is 'four', not a whole number"),
        Case("a job asks for what is allowed", *create("ana", training_job("a", 4, device), "limited")),
        Case("a job asks for no devices", *create("ana", training_job("a", 64, {"cpu": "8"}), "limited")),
        Case("a sweep within the limit", *create("ana", sweep(2), "limited")),
        Case("a job that was there is suspended",
             *patch("ana", "trainingjob/large", {"spec": {"suspend": True}}, namespace="limited")),
        Case("a namespace without the label", *create("ana", training_job("a", 64, device))),
    ]
