"""Checks the SBOM of an unpacked bundle: against CycloneDX's schema, and with what is really there.

Usage: check_sbom.py FOLDER, with the Python of tests/security/setup.sh, which has the schema.
"""

import copy
import hashlib
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import get_spdx_licensing

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
BINARIES = ["hearth-operator", "hearth-gateway", "hearth-worker"]


def insist(holds: bool, message: str) -> None:
    if not holds:
        sys.exit(f"check_sbom: {message}")


def check_schema(bom: dict) -> None:
    fault = VALIDATOR.validate_str(json.dumps(bom))
    insist(fault is None, f"not CycloneDX 1.6: {fault}")
    broken = [copy.deepcopy(bom) for _ in range(3)]
    del broken[0]["components"][0]["name"]
    broken[1]["components"][0]["hashes"] = [{"alg": "SHA-256", "content": "abc"}]
    broken[2]["extra"] = True
    for planted in broken:
        insist(VALIDATOR.validate_str(json.dumps(planted)) is not None, "the validator lets a planted fault pass")


def check_references(bom: dict) -> None:
    known = {bom["metadata"]["component"]["bom-ref"]} | {part["bom-ref"] for part in bom["components"]}
    insist(len(known) == 1 + len(bom["components"]), "two components have one bom-ref")
    graph = {entry["ref"]: entry["dependsOn"] for entry in bom["dependencies"]}
    insist(set(graph) == known, "components and dependencies do not name the same")
    reached, waiting = set(), [bom["metadata"]["component"]["bom-ref"]]
    while waiting:
        reference = waiting.pop()
        if reference not in reached:
            reached.add(reference)
            waiting += graph[reference]
    insist(reached == known, f"nothing leads to {sorted(known - reached)[:5]}")


def crates_of(*options: str) -> set:
    command = ["cargo", "tree", "--locked", "--offline", "--target", "x86_64-unknown-linux-gnu", *options]
    command += ["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    return {(line.split()[0], line.split()[1].removeprefix("v")) for line in ran.stdout.splitlines() if line}


def check_crates(bom: dict) -> int:
    crates = {(c["name"], c["version"]): c for c in bom["components"] if c["purl"].startswith("pkg:cargo/")}
    insist(len(crates) > 200, f"only {len(crates)} crates")
    missing = crates_of(*[word for name in BINARIES for word in ("--package", name)]) - set(crates)
    insist(not missing, f"crates that the SBOM lacks: {sorted(missing)[:5]}")
    foreign = set(crates) - crates_of("--workspace")
    insist(not foreign, f"crates that are not built: {sorted(foreign)[:5]}")
    locked = {(p["name"], p["version"]): p for p in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    licensing = get_spdx_licensing()
    for identity, crate in crates.items():
        checksum = locked[identity].get("checksum")
        hashes = [entry["content"] for entry in crate.get("hashes", [])]
        insist(hashes == ([checksum] if checksum else []), f"{identity}: {hashes} is not {checksum} of Cargo.lock")
        errors = licensing.validate(crate["licenses"][0]["expression"]).errors
        insist(not errors, f"{identity}: {errors}")
    return len(crates)


def manifest_of(bundle: pathlib.Path, name: str, digest: str) -> dict:
    with tarfile.open(bundle / "images" / f"{name}.tar") as archive:
        return json.load(archive.extractfile(f"blobs/{digest.replace(':', '/')}"))


def unpack(bundle: pathlib.Path, name: str, layer: str, root: pathlib.Path) -> None:
    """What is looked at of a layer: our programs, the packages' status, the small libraries."""
    wanted = "--wildcards '*usr/local/bin/hearth-*' '*var/lib/dpkg/status' '*opt/libtorch/lib/libc*' '*opt/onnxruntime/lib*'"
    command = f"tar -xOf '{bundle}/images/{name}.tar' blobs/{layer.replace(':', '/')} | tar --zstd -C '{root}' -xf - {wanted}"
    # tar's status says no more than that a layer lacks one of the patterns: the caller counts.
    subprocess.run(["bash", "-c", command], stderr=subprocess.DEVNULL, check=False)


def check_image(bom: dict, bundle: pathlib.Path, line: str) -> int:
    """Compares with what lies in the image's layers."""
    tagged, digest = line.split()
    name = tagged.rpartition("/")[2].partition(":")[0]
    files = {file["name"]: file for part in bom["components"] for file in part.get("components", [])}
    (image,) = [part for part in bom["components"] if part["type"] == "container" and part["name"] == name]
    insist(image["hashes"][0]["content"] == digest.removeprefix("sha256:"), f"{name} is not {digest}")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for layer in manifest_of(bundle, name, digest)["layers"]:
            unpack(bundle, name, layer["digest"], root)
        folders = ("usr/local/bin", "opt/libtorch/lib", "opt/onnxruntime")
        there = [path for where in folders for path in (root / where).glob("*")]
        insist({"hearth-operator": 2, "hearth-worker": 5}[name] == len(there), f"{name} holds {there}")
        for path in there:
            entry = files.get(str(path.relative_to(root)))
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            insist(entry is not None and entry["hashes"][0]["content"] == found, f"{name}: {path.name} is another")
        query = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\n"]
        packages = subprocess.run(query, capture_output=True, check=True, text=True).stdout.splitlines()
    known = {f"{c['name']} {c['version']}" for c in bom["components"] if c["purl"].startswith("pkg:deb/")}
    insist(len(packages) > 50 and set(packages) == known, f"{name}: other packages: {set(packages) ^ known}")
    return len(packages)


def main() -> None:
    bundle = pathlib.Path(sys.argv[1])
    bom = json.loads((bundle / "sbom.cdx.json").read_text())
    check_schema(bom)
    check_references(bom)
    crates = check_crates(bom)
    for line in (bundle / "IMAGES").read_text().splitlines():
        packages = check_image(bom, bundle, line)
    for wheel in ("torch", "onnxruntime"):
        parts = [part for part in bom["components"] if part["purl"].startswith(f"pkg:pypi/{wheel}@")]
        insist(len(parts) == 1 and parts[0]["hashes"] and parts[0]["licenses"], f"{wheel} is not told of")
    print(f"{crates} crates, {packages} Debian packages, {len(bom['components'])} components")


if __name__ == "__main__":
    main()
