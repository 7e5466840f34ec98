"""Runs a command with `KUBECONFIG` set to a control plane of its own that has Hearth's CRDs.

    python3 run.py --operator BINARY --kube BINARY --logs FOLDER COMMAND…
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
from plane import Plane  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    for name in ("operator", "kube", "logs"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    arguments.logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Plane(arguments.kube, pathlib.Path(folder) / "plane") as plane:
        plane.apply(subprocess.run([arguments.operator, "crds"], check=True, capture_output=True, text=True).stdout)
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        environment = dict(
            os.environ, KUBECONFIG=str(plane.kubeconfig("admin")), HEARTH_FAULTS_LOGS=str(arguments.logs.resolve())
        )
        raise SystemExit(subprocess.run(arguments.command, env=environment).returncode)


if __name__ == "__main__":
    main()
