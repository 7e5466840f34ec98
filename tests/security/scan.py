"""Scans the rendered chart and the planned objects with checkov and kube-score, and with trivy where
it is given.

    python3 scan.py --checkov PROGRAM --kube-score PROGRAM [--trivy PROGRAM] --out FOLDER

Fails on each finding that exceptions.txt does not name, and on each exception that nothing
needs. checkov tells no severities without its maker's service, so all of its findings count;
of kube-score's those that it calls critical, of trivy's the high and critical ones. Then the same is asked about planted faults, one
of which not found fails too.
"""

import argparse
import copy
import fnmatch
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import yaml

import objects

EXCEPTIONS = pathlib.Path(__file__).with_name("exceptions.txt")
CRITICAL = 1
# How trivy's checks of Kubernetes begin.
TRIVY = "KSV-"


class Finding(NamedTuple):
    """What a scanner does not like."""

    check: str
    target: str
    file: str
    text: str


def checkov(program, folder):
    """All that its Kubernetes rules find below a folder. It is kept from asking its maker anything."""
    command = [program, "--directory", folder, "--framework", "kubernetes", "--skip-download", "--quiet", "--compact"]
    done = subprocess.run(
        [*map(str, command), "--output", "json", "--soft-fail"], capture_output=True, text=True, check=True,
        env=dict(os.environ, LOG_LEVEL="ERROR"),
    )
    report = json.loads(done.stdout)
    if report["summary"]["parsing_errors"]:
        raise SystemExit(f"checkov cannot read {report['results']['parsing_errors']}")
    for found in report["results"]["failed_checks"]:
        parts = found["resource"].split(".")
        target = f"{parts[0]}/{'.'.join(parts[2:] if len(parts) > 2 else parts[1:])}"
        yield Finding(found["check_id"], target, pathlib.Path(found["file_path"]).name, found["check_name"])


def kube_score(program, file):
    """What it calls critical in objects that belong together."""
    command = [str(program), "score", "--output-format", "json", "--kubernetes-version", "v1.33", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"kube-score of {file}: {done.stderr}")
    for scored in json.loads(done.stdout) or []:
        target = f"{scored['type_meta']['kind']}/{scored['object_meta']['name']}"
        for check in scored["checks"]:
            if check["skipped"] or check["grade"] > CRITICAL:
                continue
            for comment in check["comments"] or [{"summary": check["check"]["name"]}]:
                yield Finding(check["check"]["id"], target, file.name, comment["summary"])


def trivy(program, folder):
    """What it calls high or critical below a folder, by the rules that it brings along."""
    command = [program, "config", "--skip-check-update", "--severity", "HIGH,CRITICAL", "--format", "json", "--quiet"]
    done = subprocess.run([*map(str, command), folder], capture_output=True, text=True, check=True)
    for result in json.loads(done.stdout)["Results"]:
        lines = (folder / result["Target"]).read_text().splitlines()
        for found in result.get("Misconfigurations") or []:
            before = lines[: found["CauseMetadata"].get("StartLine", 1)]
            document = list(yaml.safe_load_all("\n".join(lines)))[before.count("---")]
            target = f"{document['kind']}/{document['metadata']['name']}"
            yield Finding(found["ID"], target, result["Target"], found["Message"])


# A revision that is text to PyYAML and, unquoted, a number to Go's reader.
NUMBERLIKE = "1234567e12"


class Quoted(yaml.SafeDumper):
    """YAML whose strings are all quoted."""

    def represent_str(self, text):
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"')


Quoted.add_representer(str, Quoted.represent_str)


class Scanners:
    """All of them, over a folder of YAML files."""

    def __init__(self, options):
        self.options = options

    def findings(self, name, sets):
        """Of sets of objects, each a file."""
        folder = self.options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for title, documents in sets.items():
            (folder / f"{title}.yaml").write_text(yaml.dump_all(documents, Dumper=Quoted))
        found = list(checkov(self.options.checkov, folder))
        for title in sets:
            found += kube_score(self.options.kube_score, folder / f"{title}.yaml")
        if self.options.trivy:
            found += trivy(self.options.trivy, folder)
        return found


def exceptions(file, of_trivy):
    """[(check, target, reason)], without trivy's where it is not there."""
    rows = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split(maxsplit=2)
        if len(fields) < 3:
            raise SystemExit(f"{file.name}, line {number}: write CHECK KIND/NAME REASON")
        if of_trivy or not fields[0].startswith(TRIVY):
            rows.append(tuple(fields))
    return rows


def excused(finding, rows):
    """The exceptions that name a finding."""
    return [row for row in rows if row[0] == finding.check and fnmatch.fnmatchcase(finding.target, row[1])]


def pod_of(document):
    return document["spec"]["template"]["spec"]


def security(document):
    return pod_of(document)["containers"][0]["securityContext"]


# Each is done to a copy of one good object, KIND/NAME of the chart or of a plan, and must be told
# as this finding.
PLANTS = {
    "privileged": ("Job/spam-train", "CKV_K8S_16", lambda o: security(o).update(privileged=True)),
    "writable image": ("Job/spam-quantize-*", "CKV_K8S_22", lambda o: security(o).pop("readOnlyRootFilesystem")),
    "root": ("Deployment/hearth-operator", "CKV_K8S_23", lambda o: (
        pod_of(o)["securityContext"].update(runAsNonRoot=False, runAsUser=0), security(o).pop("runAsNonRoot"))),
    "capabilities": ("Deployment/spam-server-*", "CKV_K8S_37", lambda o: security(o).pop("capabilities")),
    "escalation": ("Deployment/spam-gateway", "CKV_K8S_20", lambda o: (
        security(o).update(allowPrivilegeEscalation=True))),
    "no seccomp": ("Job/spam-train", "CKV_K8S_31", lambda o: pod_of(o)["securityContext"].pop("seccompProfile")),
    "host network": ("Job/spam-train", "CKV_K8S_19", lambda o: pod_of(o).update(hostNetwork=True)),
    "docker's socket": ("Job/spam-train", "CKV_K8S_27", lambda o: pod_of(o)["volumes"].append(
        {"name": "docker", "hostPath": {"path": "/var/run/docker.sock"}})),
    "token": ("Job/spam-train", "CKV_K8S_38", lambda o: pod_of(o).update(automountServiceAccountToken=True)),
    "no memory limit": ("Deployment/hearth-operator", "CKV_K8S_13", lambda o: (
        pod_of(o)["containers"][0].pop("resources"))),
    "low user": ("Job/spam-train", "container-security-context-user-group-id", lambda o: (
        pod_of(o)["securityContext"].update(runAsUser=1000))),
    "wildcards": ("ClusterRole/hearth-operator", "CKV_K8S_156", lambda o: o["rules"].append(
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})),
}


# The same for trivy.
TRIVY_PLANTS = {
    "privileged": "KSV-0017",
    "writable image": "KSV-0014",
    "host network": "KSV-0009",
    "docker's socket": "KSV-0006",
    "wildcards": "KSV-0046",
}


def planted(good):
    """{name: [object]}."""
    every = [document for documents in good.values() for document in documents]
    harmed = {}
    for name, (target, _, harm) in PLANTS.items():
        found = [o for o in every if fnmatch.fnmatchcase(f"{o['kind']}/{o['metadata']['name']}", target)]
        if not found:
            raise SystemExit(f"there is no {target} to plant {name!r} in")
        harmed[name] = [copy.deepcopy(found[0])]
        harmed[name][0]["metadata"].setdefault("labels", {})["hearth.dev/revision"] = NUMBERLIKE
        harm(harmed[name][0])
    return harmed


def judged(found, rows):
    """What is wrong: findings that no exception names, and exceptions that nothing needs."""
    faults, needed = [], set()
    for finding in found:
        named = excused(finding, rows)
        needed.update(named)
        if not named:
            faults.append(f"{finding.check}: {finding.target} of {finding.file}: {finding.text}")
    return faults + [f"exception that nothing needs: {check} {target}" for check, target, _ in rows if
                     not any((check, target) == row[:2] for row in needed)]


def arguments():
    """Those of a program that scans."""
    parser = argparse.ArgumentParser()
    for name in ("checkov", "kube-score", "out"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    parser.add_argument("--trivy", type=pathlib.Path)
    return parser


def main():
    options = arguments().parse_args()
    scanners, rows = Scanners(options), exceptions(EXCEPTIONS, options.trivy)

    good = {f"chart-{name}": documents for name, documents in objects.charts().items()}
    good |= {f"plan-{name}": documents for name, documents in objects.plans().items()}
    found = scanners.findings("good", good)
    faults = judged(found, rows)

    bad = scanners.findings("planted", planted(good))
    unnoticed, plants = 0, [(name, check) for name, (_, check, _) in PLANTS.items()]
    plants += TRIVY_PLANTS.items() if options.trivy else []
    for name, check in plants:
        told = any(f.check == check and f.file == f"{name}.yaml" and not excused(f, rows) for f in bad)
        if not told or any(f.check == check and not excused(f, rows) for f in found):
            unnoticed += 1
            faults.append(f"planted fault not told: {name} ({check})")
    for fault in sorted(set(faults)):
        print(fault)
    count = sum(len(documents) for documents in good.values())
    told = len(plants) - unnoticed
    print(f"{count} objects, {len(rows)} exceptions, {told} of {len(plants)} planted faults told")
    print(f"{len(set(faults))} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
