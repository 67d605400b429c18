"""The manifests of every case of the backend ollama are exactly those in expected/, and valid for the oldest and the newest Kubernetes."""

from __future__ import annotations

import kubernetes_validate
import pytest
import yaml
from ansible_collections.llmops.serving.tests.golden.rendering import EXPECTED, cases, render, text_of

CASES = cases("ollama.yaml")
NEWEST = kubernetes_validate.latest_version()


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    return render("ollama.yaml", "render_ollama.yml", tmp_path_factory.mktemp("golden-ollama"), text_of)


def documents(path):
    """Manifests by kind and name."""
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in yaml.safe_load(path.read_text())["items"]}


def test_every_expected_file_belongs_to_a_case():
    assert sorted(path.stem for path in EXPECTED.glob("ollama-*.yaml")) == CASES


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_the_expected_ones(rendered, case):
    actual, expected = documents(rendered / f"{case}.yaml"), documents(EXPECTED / f"{case}.yaml")
    assert sorted(actual) == sorted(expected)
    for name in expected:
        assert actual[name] == expected[name], f"{name}: if this change is meant, run `make golden` and look at the diff"


@pytest.mark.parametrize("version", ["1.27", NEWEST])
@pytest.mark.parametrize("case", CASES)
def test_manifests_are_valid_kubernetes(rendered, case, version):
    for manifest in documents(rendered / f"{case}.yaml").values():
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_nothing_runs_as_root_and_the_page_needs_no_branch(rendered, case):
    found = documents(rendered / f"{case}.yaml")
    for name, manifest in found.items():
        if manifest["kind"] != "Deployment":
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["enableServiceLinks"] is False, name
        for container in pod["containers"]:
            assert {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}.items() <= container["securityContext"].items(), (
                name
            )
            assert not container["image"].endswith(":latest"), name
    page = next(manifest for name, manifest in found.items() if name.startswith("Deployment/open-webui"))
    env = {entry["name"]: entry.get("value") for entry in page["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["ENABLE_OLLAMA_API"] == "false"
    assert env["OPENAI_API_BASE_URLS"].endswith(":11434/v1")
    assert "OPENAI_API_KEYS" not in env
