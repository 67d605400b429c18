"""Smoke models that a test has trained are kept on this machine, for the tests after it that need one to serve and not its training.

What is kept belongs to the script it was trained by: with another smoke_model.py, there is nothing to take, and the installation trains as
it does for everybody. The tests of the platform local always train, and so does the first installation of molecule's scenario default.
$TEST_TRAINED_DIR is where they are kept. Empty: nowhere, and every installation trains.

    python3 molecule/shared/trained.py volume NAMESPACE CLAIM [ROW]
    python3 molecule/shared/trained.py engine NAMESPACE ROW
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "roles/vllm/files/smoke_model.py"
ROWS = ("smoke", "smoke-json")
IMAGE = os.environ.get("TEST_VLLM_IMAGE") or "localhost/vllm-openai-cpu:test"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
KEPT = os.environ.get("TEST_TRAINED_DIR", str(CACHE / "llmops-serving-tests/trained"))
USER = 1000  # vllm_run_as_user
SEEDER = "trained"


def name(row):
    """The name of the folder of a row, as the plan has it."""
    return f"{row}-{hashlib.sha256(SCRIPT.read_bytes()).hexdigest()[:12]}"


def kept(row):
    """The folder in which the model of a row is kept; None where it is not."""
    folder = Path(KEPT) / name(row)
    return folder if KEPT and (folder / "config.json").is_file() else None


def keep(models):
    """Keep what was trained in the folder *models*, in the place of what was kept before."""
    for row in ROWS:
        source, target = Path(models) / name(row), Path(KEPT) / name(row)
        if not KEPT or not (source / "config.json").is_file():
            continue
        coming = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copytree(source, coming)
        shutil.rmtree(target, ignore_errors=True)
        coming.rename(target)


def put(row, models):
    """Copy the model of *row* into the folder *models*, as its training would leave it there; whether there was one."""
    if not (source := kept(row)):
        return False
    shutil.copytree(source, Path(models) / source.name)
    return True


def packed(row, out):
    with tarfile.open(fileobj=out, mode="w|") as archive:
        archive.add(kept(row), name(row), filter=owned)


def owned(entry):
    entry.uid = entry.gid = USER
    entry.uname = entry.gname = ""
    return entry


def kubectl(*words, document=None):
    subprocess.run(["kubectl", *words], input=document and json.dumps(document), check=True, stdout=subprocess.DEVNULL, text=True)


def unpack(namespace, target, row, command="tar -xf - -C /data/models"):
    """Copy the model of *row* through a container that has the volume at /data."""
    words = ["kubectl", "-n", namespace, "exec", "-i", target, "--", "sh", "-c", command]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        packed(row, process.stdin)
    assert process.returncode == 0, words


def engine(namespace, row):
    """Copy the model of *row* to the volume of the engine that runs; whether there was one."""
    if not kept(row):
        return False
    unpack(namespace, "deployment/vllm-backend", row)
    return True


def volume(namespace, claim, row="smoke"):
    """Make the volume of a stack that is still to be installed, with the model of *row* on it; whether there was one."""
    if not kept(row):
        return False
    ours = {"app.kubernetes.io/managed-by": "llmops.serving"}  # so that an uninstallation takes it away
    size = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}
    kubectl("apply", "-f", "-", document={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": ours}})
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["sleep", "600"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
    }
    for document in (
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim}, "spec": size},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": SEEDER, "labels": {"app": SEEDER}}, "spec": pod},
    ):
        kubectl("-n", namespace, "apply", "-f", "-", document=document)
    kubectl("-n", namespace, "wait", "--for=condition=Ready", "--timeout=300s", f"pod/{SEEDER}")
    unpack(namespace, SEEDER, row, f"mkdir -p /data/models && chown {USER}:{USER} /data /data/models && tar -xf - -C /data/models")
    kubectl("-n", namespace, "delete", "pod", SEEDER, "--wait=false")
    return True


if __name__ == "__main__":
    done = {"volume": volume, "engine": engine}[sys.argv[1]](*sys.argv[2:])
    print("copied" if done else "nothing is kept")
