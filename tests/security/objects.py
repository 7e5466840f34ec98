"""The objects that users get: the rendered chart, and the operator's reviewed plans."""

import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/hearth"
VALUES = ROOT / "tests/security/values"
SNAPSHOTS = ROOT / "operator/tests/it/snapshots"


def chart(*arguments, namespace="hearth-system"):
    """What Helm would install, as objects."""
    command = ["helm", "template", "hearth", str(CHART), "--namespace", namespace, *arguments]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def charts():
    """The chart by the name of its values."""
    without_crds = ("--set", "crds.install=false")
    found = {"default": chart(*without_crds)}
    for values in sorted(VALUES.glob("*.yaml")):
        found[values.stem] = chart(*without_crds, "--values", str(values))
    return found


def plans():
    """The objects of each sample's plan, which operator/tests/it/plans.rs holds to these files."""
    found = {}
    # Of samples in folders the pods are made alike: these stand for them.
    plans = SNAPSHOTS.glob("*__each_sample_keeps_its_reviewed_plan@*.snap")
    for path in sorted(path for path in plans if "__" not in path.name.split("@")[1]):
        _, _, body = path.read_text().split("---\n", 2)
        found[path.name.split("@")[1].removesuffix(".yaml.snap")] = yaml.safe_load(body)
    if not found:
        raise SystemExit(f"{SNAPSHOTS} holds no plans: were the snapshots renamed?")
    return found
