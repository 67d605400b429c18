# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recorded outputs through the parsers of the engine's image, in a pod on the cluster of $KUBECONFIG, without weights.

$TEST_VLLM_IMAGE is the image, $TEST_NAMESPACE the beginning of the namespace's name.
"""

from __future__ import annotations

import json
import os
import secrets
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.molecule.shared.chat import kubectl

PARSERS = Path(__file__).resolve().parents[1] / "parsers"
IMAGE = os.environ.get("TEST_VLLM_IMAGE") or "localhost/vllm-openai-cpu:test"
FAMILIES = sorted(path.stem for path in (PARSERS / "recordings").glob("*.yml"))
KEPT = json.loads((PARSERS / "results.json").read_text(encoding="utf-8"))
# Files of the pod; the keys of a ConfigMap hold no slash.
FILES = {
    f"{path.relative_to(PARSERS)}".replace("/", "--"): path
    for path in (PARSERS / "run_parsers.py", PARSERS / "tools.yml", *sorted((PARSERS / "recordings").glob("*.yml")))
}
# Of the log, the lines that are JSON are first the registry and then, below the table, the results. A recording that fails is no failure
# of the pod.
SCRIPT = "python3 /parsers/run_parsers.py --registry - --output - || true"
PATIENCE = 600

pytestmark = pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="needs a cluster: export KUBECONFIG")


class Ran(t.NamedTuple):
    """What the pod said, and the two documents in it."""

    log: str
    registry: dict[str, t.Any]
    results: dict[str, t.Any]


def manifests(namespace: str) -> list[dict[str, t.Any]]:
    items = [{"key": key, "path": key.replace("--", "/")} for key in FILES]
    container = {
        "name": "parsers",
        "image": IMAGE,
        "command": ["sh", "-c", SCRIPT],
        "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}, {"name": "HOME", "value": "/tmp"}],
        "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}},
        "volumeMounts": [{"name": "parsers", "mountPath": "/parsers"}],
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "parsers", "namespace": namespace},
            "data": {key: path.read_text(encoding="utf-8") for key, path in FILES.items()},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "parsers", "namespace": namespace},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
                "volumes": [{"name": "parsers", "configMap": {"name": "parsers", "items": items}}],
            },
        },
    ]


@pytest.fixture(scope="module")
def ran() -> t.Iterator[Ran]:
    """The recordings, run once in a pod."""
    namespace = f"{os.environ.get('TEST_NAMESPACE', 'test-parsers')}-{secrets.token_hex(3)}"
    try:
        kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests(namespace)}))
        deadline = time.monotonic() + PATIENCE
        phase = ""
        while phase not in ("Succeeded", "Failed") and time.monotonic() < deadline:
            time.sleep(0.5)
            phase = kubectl("-n", namespace, "get", "pod", "parsers", "-o", "jsonpath={.status.phase}")
        assert phase == "Succeeded", (
            f"The pod is {phase} after {PATIENCE} s: {kubectl('-n', namespace, 'describe', 'pod', 'parsers')[-2000:]}"
        )
        log = kubectl("-n", namespace, "logs", "parsers")
        documents = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        assert len(documents) == 2, log[-6000:]
        yield Ran(log, *documents)
    finally:
        kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parsers_read_what_a_family_writes(ran: Ran, family: str) -> None:
    found = ran.results["families"][family]
    if "not_run" in found:
        pytest.skip(f"not run here: {found['not_run']}")
    assert "refused" not in found, found["refused"]
    failed = {
        f"{recording}, {mode}": cell["found"]
        for recording, modes in found["recordings"].items()
        for mode, cell in modes.items()
        if cell["status"] == "failed"
    }
    assert not failed, ran.log[-6000:]


def test_the_kept_results_are_those_of_this_image(ran: Ran) -> None:
    if ran.results["vllm"] != KEPT["vllm"]:
        pytest.skip(f"the image has vLLM {ran.results['vllm']}, the results that are kept are of {KEPT['vllm']}")
    run = {name: found for name, found in ran.results["families"].items() if "not_run" not in found}
    assert run == {name: KEPT["families"][name] for name in run}


def test_the_kept_registry_is_that_of_this_image(ran: Ran) -> None:
    path = PARSERS / f"registry-{ran.results['vllm']}.json"
    if not path.exists():
        pytest.skip(f"there is no registry of vLLM {ran.results['vllm']}: run_parsers.py --registry makes one")
    assert ran.registry == json.loads(path.read_text(encoding="utf-8"))
