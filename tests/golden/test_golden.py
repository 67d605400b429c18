"""The manifests of every case are exactly those in expected/, and valid for the oldest and the newest Kubernetes."""

from __future__ import annotations

import hashlib
import re

import kubernetes_validate
import pytest
import yaml
from ansible_collections.llmops.serving.tests.golden.rendering import EXPECTED, ROOT, cases, render, text_of

CASES = cases("inventory.yaml")
NEWEST = kubernetes_validate.latest_version()


SCRIPTS = ROOT / "roles/vllm/files"
SCRIPT = (SCRIPTS / "smoke_model.py").read_bytes()


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    return render("inventory.yaml", "render.yml", tmp_path_factory.mktemp("golden"), tidy)


def tidy(manifests):
    manifests["items"] = [without_scripts(manifest) for manifest in manifests["items"]]
    return text_of(manifests).replace(hashlib.sha256(SCRIPT).hexdigest()[:12], "DIGEST")


def without_scripts(manifest):
    """Scripts have tests of their own, and must not make every golden file change with them."""
    if manifest["kind"] == "ConfigMap" and "ca.crt" not in manifest["data"]:
        assert manifest["data"] == {name: (SCRIPTS / name).read_text() for name in manifest["data"]}
        manifest["data"] = dict.fromkeys(manifest["data"], "(the script)")
    return manifest


def documents(path):
    """Manifests by kind and name."""
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in yaml.safe_load(path.read_text())["items"]}


def test_every_expected_file_belongs_to_a_case():
    elsewhere = ("local-", "systemd-", "docker-", "ollama-", "hosts-ollama-")
    assert sorted(path.stem for path in EXPECTED.glob("*.yaml") if not path.stem.startswith(elsewhere)) == CASES


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_the_expected_ones(rendered, case):
    actual, expected = documents(rendered / f"{case}.yaml"), documents(EXPECTED / f"{case}.yaml")
    assert sorted(actual) == sorted(expected)
    for name in expected:
        assert actual[name] == expected[name], f"{name}: if this change is meant, run `make golden` and look at the diff"


@pytest.mark.parametrize("version", ["1.27", NEWEST])
@pytest.mark.parametrize("case", CASES)
def test_manifests_are_valid_kubernetes(rendered, case, version):
    kinds = set()
    for name, manifest in documents(rendered / f"{case}.yaml").items():
        if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # a custom resource: no schema of Kubernetes' own
        kubernetes_validate.validate(manifest, version, strict=True)
        kinds.add(name.split("/")[0])
    # the page alone, where others serve; else a router needs a Role
    assert {"Deployment", "Service", "Secret", *([] if case == "model-that-others-serve" else ["Role"])} <= kinds


@pytest.mark.parametrize("case", CASES)
def test_no_manifest_holds_a_secret_or_runs_as_root(rendered, case):
    for name, manifest in documents(rendered / f"{case}.yaml").items():
        assert not {"data", "stringData"} & set(manifest) or manifest["kind"] == "ConfigMap", name
        pod = manifest["spec"]["template"]["spec"] if manifest["kind"] in ("Deployment", "Job") else None
        if pod is None:
            continue
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["enableServiceLinks"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert not container["image"].endswith(":latest"), name
            for variable in container.get("env", []):
                if variable["name"].endswith(("API_KEY", "API_KEYS", "_TOKEN", "PASSWORD", "SECRET_KEY")):
                    # references to variables before it, which are references to secrets, hold nothing
                    assert re.fullmatch(r"(\$\(\w+\)|;)*", variable.get("value", "")), f"{name}: {variable['name']}"
