"""Scans the pods that ran, as the API server's audit log holds them, with the scanners of scan.py.

    python3 pods.py --checkov PROGRAM --kube-score PROGRAM [--trivy PROGRAM] --audit LOG --out FOLDER

Pods of Hearth that differ in no more than names, images and arguments count once. Each is scanned
as Pod/COMPONENT beside the NetworkPolicies of its object. Fails on each finding that
exceptions-pods.txt does not name, and where a component of Hearth ran no pod.
"""

import json
import pathlib
import sys

import scan

EXCEPTIONS = pathlib.Path(__file__).with_name("exceptions-pods.txt")
COMPONENT = "app.kubernetes.io/component"
NAME = "hearth.dev/name"
# Each is a kind of pod that users get.
COMPONENTS = {"worker", "quantize", "server", "gateway", "operator"}


def made(lines):
    """(pods, NetworkPolicies) that the API server took, in order."""
    kinds = {"pods": [], "networkpolicies": []}
    for line in lines:
        entry = json.loads(line)
        about, created = entry.get("objectRef") or {}, entry.get("responseObject") or {}
        if "subresource" in about or entry["responseStatus"].get("code", 0) >= 300 or "spec" not in created:
            continue
        if about.get("resource") in kinds:
            kinds[about["resource"]].append(created)
    return kinds["pods"], kinds["networkpolicies"]


def shape(pod):
    """What scanners look at, as text: containers without names and arguments, volumes by their kind."""
    spec = pod["spec"]
    containers = [
        {key: value for key, value in container.items() if key in (
            "securityContext", "resources", "livenessProbe", "readinessProbe", "ports", "imagePullPolicy")}
        for container in spec["containers"] + spec.get("initContainers", [])
    ]
    volumes = sorted({tuple(sorted(volume.keys() - {"name"})) for volume in spec.get("volumes", [])})
    rest = {key: value for key, value in spec.items() if key.startswith(("host", "security", "automount", "service"))}
    return json.dumps([pod["metadata"]["labels"][COMPONENT], containers, volumes, rest], sort_keys=True)


def selects(policy, pod):
    """Whether a NetworkPolicy is for a pod."""
    wanted = policy["spec"].get("podSelector", {}).get("matchLabels", {})
    same = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and wanted.items() <= pod["metadata"]["labels"].items()


def is_ours(pod):
    labels = pod["metadata"].get("labels") or {}
    of_chart = labels.get("app.kubernetes.io/name") == "hearth"
    return COMPONENT in labels and (of_chart or labels.get("app.kubernetes.io/managed-by") == "hearth-operator")


def sets(pods, policies):
    """{title: [a pod as Pod/COMPONENT, its NetworkPolicies]}, a pod of each shape."""
    found = {}
    for pod in pods:
        if not is_ours(pod) or shape(pod) in found:
            continue
        component = pod["metadata"]["labels"][COMPONENT]
        own = {policy["metadata"]["name"]: policy for policy in policies if selects(policy, pod)}
        metadata = dict(pod["metadata"], name=component)
        found[shape(pod)] = [dict(pod, apiVersion="v1", kind="Pod", metadata=metadata)] + [
            dict(policy, apiVersion="networking.k8s.io/v1", kind="NetworkPolicy") for policy in own.values()]
    return {f"{documents[0]['metadata']['name']}-{number}": documents
            for number, documents in enumerate(found.values())}


def main():
    parser = scan.arguments()
    parser.add_argument("--audit", required=True, type=pathlib.Path)
    options = parser.parse_args()
    with options.audit.open() as log:
        pods, policies = made(log)
    found = sets(pods, policies)
    ran = {documents[0]["metadata"]["name"] for documents in found.values()}
    faults = [f"no pod of {component} ran" for component in sorted(COMPONENTS - ran)]
    faults += scan.judged(scan.Scanners(options).findings("pods", found), scan.exceptions(EXCEPTIONS, options.trivy))
    for fault in sorted(set(faults)):
        print(fault)
    print(f"{len(found)} shapes of {len(pods)} pods: {', '.join(sorted(ran))}")
    print(f"{len(set(faults))} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
