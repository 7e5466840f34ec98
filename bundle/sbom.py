"""Prints a CycloneDX 1.6 SBOM of a bundle's images: crates, Debian packages, libtorch, ONNX Runtime, files.

Usage: sbom.py BUNDLE LAYOUTS. What the images hold is read from their OCI layouts in LAYOUTS;
which crates are in the binaries from `cargo metadata` for Linux, their hashes from Cargo.lock.
Without a date and with a serial number made of its content, it is the same for the same bundle.
"""

import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import uuid
from urllib.parse import quote

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = "x86_64-unknown-linux-gnu"
BINARIES = {"hearth-operator": ["hearth-operator", "hearth-gateway"], "hearth-worker": ["hearth-worker"]}
# Of which wheel a library below /opt is, by the start of its name; else torch's.
WHEELS = {"libcudart": "nvidia-cuda-runtime", "libcupti": "nvidia-cuda-cupti", "libonnxruntime": "onnxruntime"}
WHEEL_LICENCES = {
    "torch": {"license": {"id": "BSD-3-Clause"}},
    "onnxruntime": {"license": {"id": "MIT"}},
    "nvidia-cuda-runtime": {"license": {"name": "NVIDIA CUDA Toolkit EULA"}},
    "nvidia-cuda-cupti": {"license": {"name": "NVIDIA CUDA Toolkit EULA"}},
}


def escaped(text: str) -> str:
    return quote(text, safe="")


def sha256(content: str) -> list:
    return [{"alg": "SHA-256", "content": content}]


def file_component(path: str, digest: str, owner: str) -> dict:
    return {"type": "file", "bom-ref": f"{owner}#{path}", "name": path, "hashes": sha256(digest)}


class Crates:
    """The crates that are compiled into binaries: no build scripts, macros or tests."""

    def __init__(self) -> None:
        command = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", TARGET]
        ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        metadata = json.loads(ran.stdout)
        self.packages = {package["id"]: package for package in metadata["packages"]}
        self.nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
        lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
        self.checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
        self.components, self.dependencies = {}, {}
        # What features leave out is in the metadata, too; the tree is what is built.
        command = ["cargo", "tree", "--locked", "--offline", "--workspace", "--target", TARGET]
        command += ["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"]
        ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        self.built = {tuple(line.split()[:2]) for line in ran.stdout.splitlines() if line}

    def purl(self, identity: str) -> str:
        package = self.packages[identity]
        return f"pkg:cargo/{package['name']}@{escaped(package['version'])}"

    def is_linked(self, identity: str) -> bool:
        package = self.packages[identity]
        return (package["name"], f"v{package['version']}") in self.built

    def linked(self, identity: str) -> list:
        found = {
            dep["pkg"]
            for dep in self.nodes[identity]["deps"]
            if any(kind["kind"] is None for kind in dep["dep_kinds"]) and self.is_linked(dep["pkg"])
        }
        return sorted(found, key=self.purl)

    def add(self, name: str) -> str:
        """Adds a crate of this workspace with all that it links; returns its reference."""
        (first,) = [p["id"] for p in self.packages.values() if p["name"] == name and p["source"] is None]
        waiting = [first]
        while waiting:
            identity = waiting.pop()
            if self.purl(identity) in self.components:
                continue
            self.components[self.purl(identity)] = self.component(identity)
            needs = self.linked(identity)
            self.dependencies[self.purl(identity)] = [self.purl(need) for need in needs]
            waiting += needs
        return self.purl(first)

    def component(self, identity: str) -> dict:
        package = self.packages[identity]
        name, version = package["name"], package["version"]
        kinds = {kind for target in package["targets"] for kind in target["kind"]}
        made = {
            "type": "application" if package["source"] is None and "bin" in kinds else "library",
            "bom-ref": self.purl(identity),
            "name": name,
            "version": version,
            "purl": self.purl(identity),
        }
        if package["source"] is not None:
            checksum = self.checksums[name, version]
            if checksum is None:
                sys.exit(f"sbom: Cargo.lock has no checksum of {name} {version}")
            made["hashes"] = sha256(checksum)
        if not package["license"]:
            sys.exit(f"sbom: {name} {version} names no licence in its Cargo.toml")
        # Cargo's older spelling of "or".
        made["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
        return made


def image_files(layout: pathlib.Path):
    """Each file of an image, a layer at a time: its path, and how to read it."""

    def blob(digest: str) -> pathlib.Path:
        return layout / "blobs" / digest.replace(":", "/")

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    for layer in manifest["layers"]:
        unpack = subprocess.Popen(["zstd", "-dc", blob(layer["digest"])], stdout=subprocess.PIPE)
        with tarfile.open(fileobj=unpack.stdout, mode="r|", bufsize=1 << 20) as files:
            for entry in files:
                if entry.isfile():
                    yield entry.name.removeprefix("./"), files.extractfile(entry)
        unpack.stdout.read()
        if unpack.wait() != 0:
            sys.exit(f"sbom: zstd cannot read layer {layer['digest']} of {layout}")


def debian_packages(status: str):
    for paragraph in status.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if not fields["Status"].endswith(" installed"):
            continue
        purl = f"pkg:deb/debian/{escaped(fields['Package'])}@{escaped(fields['Version'])}"
        purl += f"?arch={fields['Architecture']}&distro=debian-12"
        yield {
            "type": "library",
            "bom-ref": purl,
            "supplier": {"name": fields["Maintainer"]},
            "name": fields["Package"],
            "version": fields["Version"],
            "purl": purl,
        }


def wheel_pins() -> dict:
    libtorch, onnxruntime = [(ROOT / f"tests/setup/{name}.sh").read_text() for name in ("libtorch", "onnxruntime")]
    pins = re.findall(r"([a-z0-9-]+)==(\$VERSION|[\d.]+) --hash=sha256:([0-9a-f]{64})", libtorch + onnxruntime)
    version = re.search(r"^VERSION=(\S+)$", libtorch, re.MULTILINE)[1]
    return {name: (version if pinned == "$VERSION" else pinned, digest) for name, pinned, digest in pins}


def wheel_component(name: str, libraries: list) -> dict:
    version, digest = wheel_pins()[name]
    purl = f"pkg:pypi/{name}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "hashes": sha256(digest),
        "licenses": [WHEEL_LICENCES[name]],
        "purl": purl,
        "components": [file_component(path, hashed, purl) for path, hashed in libraries],
    }


def image_content(layout: pathlib.Path) -> tuple:
    """Of an image: the Debian packages' status, and hashes of our binaries and of libraries."""
    status, hashes = None, {}
    for path, content in image_files(layout):
        if path == "var/lib/dpkg/status":
            status = content.read().decode()
        elif path.startswith(("usr/local/bin/", "opt/libtorch/lib/", "opt/onnxruntime/lib")):
            hashes[path] = hashlib.file_digest(content, "sha256").hexdigest()
    return status, hashes


def bundle_sbom(bundle: pathlib.Path, layouts: pathlib.Path) -> dict:
    version = bundle.name.removeprefix("hearth-")
    crates, others, needs = Crates(), {}, {}
    hearth = f"hearth@{version}"
    needs[hearth] = []
    for line in (bundle / "IMAGES").read_text().splitlines():
        tagged, digest = line.split()
        name, _, tag = tagged.rpartition("/")[2].rpartition(":")
        status, hashes = image_content(layouts / name)
        reference = f"pkg:oci/{name}@{escaped(digest)}?arch=amd64&tag={escaped(tag)}"
        wheels = {}
        for path in sorted(path for path in hashes if path.startswith("opt/")):
            library = pathlib.Path(path).name
            wheel = next((wheel for start, wheel in WHEELS.items() if library.startswith(start)), "torch")
            wheels.setdefault(wheel, []).append((path, hashes[path]))
        parts = list(debian_packages(status)) + [wheel_component(*wheel) for wheel in sorted(wheels.items())]
        others |= {part["bom-ref"]: part for part in parts}
        binaries = sorted(path for path in hashes if path.startswith("usr/local/bin/"))
        if [pathlib.Path(path).name for path in binaries] != sorted(BINARIES[name]):
            sys.exit(f"sbom: {name} holds {binaries}; sbom.py knows of {BINARIES[name]}")
        others[reference] = {
            "type": "container",
            "bom-ref": reference,
            "name": name,
            "version": tag,
            "purl": reference,
            "hashes": sha256(digest.removeprefix("sha256:")),
            "components": [file_component(path, hashes[path], reference) for path in binaries],
        }
        needs[reference] = sorted([crates.add(name) for name in BINARIES[name]] + [part["bom-ref"] for part in parts])
        needs[hearth].append(reference)

    helm = helm_component(bundle)
    others[helm["bom-ref"]] = helm
    needs[hearth].append(helm["bom-ref"])
    every = others | crates.components
    needs |= crates.dependencies
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": hearth,
                "name": "hearth",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": [every[reference] for reference in sorted(every)],
        "dependencies": [{"ref": ref, "dependsOn": sorted(needs.get(ref, []))} for ref in sorted([hearth, *every])],
    }
    bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True))}"
    return bom


def helm_component(bundle: pathlib.Path) -> dict:
    said = subprocess.run([bundle / "bin/helm", "version", "--template", "{{.Version}}"], capture_output=True, check=True)
    version = said.stdout.decode().strip()
    purl = f"pkg:golang/helm.sh/helm/{version.split('.')[0]}@{version}"
    with open(bundle / "bin/helm", "rb") as program:
        digest = hashlib.file_digest(program, "sha256").hexdigest()
    return {
        "type": "application",
        "bom-ref": purl,
        "name": "helm",
        "version": version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "purl": purl,
        "components": [file_component("bin/helm", digest, purl)],
    }


if __name__ == "__main__":
    json.dump(bundle_sbom(*[pathlib.Path(path).resolve() for path in sys.argv[1:3]]), sys.stdout, indent=1)
    print()
