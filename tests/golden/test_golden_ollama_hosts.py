"""The programs of every case of the backend ollama on hosts, and what is asked of the machine, are exactly those in expected/."""

from __future__ import annotations

import re

import pytest
import yaml
from ansible_collections.llmops.serving.tests.golden.rendering import EXPECTED, cases, render, text_of

CASES = cases("ollama_hosts.yaml")


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    return render("ollama_hosts.yaml", "render_ollama_hosts.yml", tmp_path_factory.mktemp("golden-ollama-hosts"), tidy)


def tidy(found):
    # the lock files of the page and of supervisord have tests of their own
    return re.sub(r"(venvs/[a-z-]+)-[0-9a-f]{8}/", r"\1-DIGEST/", text_of(found))


def load(path):
    return yaml.safe_load(path.read_text())


def test_every_expected_file_belongs_to_a_case():
    assert sorted(path.stem for path in EXPECTED.glob("hosts-ollama-*.yaml")) == CASES


@pytest.mark.parametrize("case", CASES)
def test_programs_are_the_expected_ones(rendered, case):
    actual, expected = load(rendered / f"{case}.yaml"), load(EXPECTED / f"{case}.yaml")
    assert actual == expected, "if this change is meant, run `make golden` and look at the diff"


@pytest.mark.parametrize("case", [case for case in CASES if "docker" not in case])
def test_nothing_listens_or_writes_beyond_its_own(rendered, case):
    server, prefetch, page = load(rendered / f"{case}.yaml")["programs"]
    for program in (server, prefetch):
        assert program["environment"]["OLLAMA_HOST"] == f"127.0.0.1:{program['ports'][0]}"
        assert all(program["environment"][key].startswith(f"{program['writable'][0]}") for key in ("HOME", "OLLAMA_MODELS"))
        assert program["ready_url"] == f"http://{program['environment']['OLLAMA_HOST']}/api/version"
    assert not prefetch["gpu"]
    assert page["environment"]["OPENAI_API_BASE_URLS"] == f"http://{server['environment']['OLLAMA_HOST']}/v1"
    assert "OPENAI_API_KEYS" not in page.get("secret_environment", {})


@pytest.mark.parametrize("case", [case for case in CASES if "docker" in case])
def test_containers_have_no_rights_that_they_do_not_need(rendered, case):
    server, prefetch, page = load(rendered / f"{case}.yaml")["programs"]
    for container in (server, prefetch):
        assert (container["cap_drop"], container["security_opts"]) == (["ALL"], ["no-new-privileges"])
        assert container["user"] == "1000:1000"
        assert container["read_only"]
        assert [mount["target"] for mount in container["mounts"] if not mount.get("read_only")] == ["/data", "/tmp"]
        assert not any(port.startswith("0.0.0.0") for port in container["published_ports"])
    assert prefetch["device_requests"] == []
    assert set(server) == set(prefetch) == set(page)
