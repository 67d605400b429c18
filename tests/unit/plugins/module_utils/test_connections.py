# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page's connections, and the plan for an endpoint that others serve."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _connections, _plan
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

OPTIONS = yaml.safe_load((Path(__file__).parents[4] / "roles/vllm/meta/argument_specs.yml").read_text())["argument_specs"]["main"][
    "options"
]
DEFAULTS = {name: spec.get("default") for name, spec in OPTIONS.items()} | {"vllm_endpoint_has_key": False}

ON_CLUSTER = {
    "session_url": "http://vllm-router.chatbot:8000/v1",
    "session_header": "X-Session-ID",
    "model": "smoke",
    "api_key_secret": {"namespace": "chatbot", "name": "vllm-secrets", "key": "VLLM_API_KEY"},
}
HERE = {**ON_CLUSTER, "api_key_secret": {"component": "vllm", "key": "VLLM_API_KEY", "path": "/s/vllm/VLLM_API_KEY"}}
CLOUD = {"url": "https://api.example.com/v1/", "models": ["large-1"], "label": "cloud", "has_key": True}
POD, MACHINE = {"name": "open-webui"}, {"component": "open-webui"}


def told(endpoint: dict[str, t.Any], own: dict[str, str], fallback: t.Optional[dict[str, t.Any]] = None) -> dict[str, t.Any]:
    return _connections.settings(_connections.connections(endpoint, own, fallback))


def remote(url: str, **changes: t.Any) -> dict[str, t.Any]:
    settings = {**DEFAULTS, "vllm_endpoint_url": url, **{f"vllm_{key}": value for key, value in changes.items()}}
    assert set(settings) == set(DEFAULTS), "a test sets a variable that does not exist"
    return _plan.make_plan(settings, {}, options=OPTIONS)


# --- connections --------------------------------------------------------------------------------------------------------------------


def test_the_private_model_alone() -> None:
    found = told(ON_CLUSTER, POD)
    assert found["environment"]["OPENAI_API_BASE_URLS"] == "http://vllm-router.chatbot:8000/v1"
    assert json.loads(found["environment"]["OPENAI_API_CONFIGS"]) == {
        "0": {"headers": {"X-Session-ID": "{{CHAT_ID}}"}, "model_ids": ["smoke"]}
    }
    assert found["container_env"] == [
        {"name": "OPENAI_API_KEYS", "valueFrom": {"secretKeyRef": {"name": "vllm-secrets", "key": "VLLM_API_KEY"}}}
    ]
    assert told(HERE, MACHINE)["secret_environment"] == {"OPENAI_API_KEYS": "vllm/VLLM_API_KEY"}


def test_a_provider_comes_second_and_carries_its_label() -> None:
    private, provider = _connections.connections(ON_CLUSTER, POD, CLOUD)
    assert (private["private"], private["models"], private["prefix"]) == (True, ["smoke"], "")
    assert (provider["private"], provider["url"], provider["tags"], provider["headers"]) == (False, CLOUD["url"][:-1], ["cloud"], {})
    config = json.loads(told(ON_CLUSTER, POD, CLOUD)["environment"]["OPENAI_API_CONFIGS"])
    assert (config["0"]["connection_type"], config["1"]["connection_type"]) == ("local", "external")
    assert config["1"] == {"model_ids": ["large-1"], "prefix_id": "cloud", "tags": [{"name": "cloud"}], "connection_type": "external"}


def test_keys_stand_in_the_order_of_the_connections() -> None:
    entries = told(ON_CLUSTER, POD, CLOUD)["container_env"]
    assert [entry["name"] for entry in entries] == ["OPENAI_API_KEY_OF_0", "OPENAI_API_KEY_OF_1", "OPENAI_API_KEYS"]
    assert entries[1]["valueFrom"]["secretKeyRef"] == {"name": "open-webui", "key": "FALLBACK_API_KEY"}
    assert entries[2]["value"] == "$(OPENAI_API_KEY_OF_0);$(OPENAI_API_KEY_OF_1)"
    assert told(HERE, MACHINE, CLOUD)["secret_environment"] == {"OPENAI_API_KEYS": ["vllm/VLLM_API_KEY", "open-webui/FALLBACK_API_KEY"]}


def test_who_has_no_key_keeps_his_place() -> None:
    open_one = {**ON_CLUSTER, "api_key_secret": None}
    assert told(open_one, POD)["container_env"] == []
    assert told(open_one, POD, CLOUD)["container_env"][-1]["value"] == ";$(OPENAI_API_KEY_OF_1)"
    assert told(open_one, MACHINE, CLOUD)["secret_environment"] == {"OPENAI_API_KEYS": ["", "open-webui/FALLBACK_API_KEY"]}
    free = {**CLOUD, "has_key": False}
    # what is last and empty need not be said
    assert told(HERE, MACHINE, free)["secret_environment"] == {"OPENAI_API_KEYS": "vllm/VLLM_API_KEY"}
    assert told(open_one, POD, free)["container_env"] == []


def test_the_key_of_an_endpoint_of_others_is_the_pages_own_secret() -> None:
    theirs = remote("https://vllm.example.com", endpoint_has_key=True)["endpoint"]
    assert told(theirs, POD)["keys"] == [{"name": "open-webui", "key": "ENDPOINT_API_KEY"}]
    assert told(theirs, MACHINE)["secret_environment"] == {"OPENAI_API_KEYS": "open-webui/ENDPOINT_API_KEY"}
    assert told(remote("https://vllm.example.com")["endpoint"], POD)["keys"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": ""}, r"^open_webui_fallback_models is set, and open_webui_fallback_url is not"),
        ({"url": "", "models": []}, r"^open_webui_fallback_api_key is set, and open_webui_fallback_url is not"),
        ({"models": []}, r"^open_webui_fallback_url is set, and open_webui_fallback_models is not\. Name the models"),
        ({"url": "api.example.com"}, r'^open_webui_fallback_url: "api\.example\.com" is no URL\. Give the base of the API, like https://'),
        ({"url": "https://a.example/v1;https://b.example/v1"}, "is no URL"),
        ({"label": "Cloud Model"}, r'^open_webui_fallback_label: "Cloud Model" has to be lower-case letters'),
        ({"label": ""}, r'^open_webui_fallback_label: "" has to be'),
    ],
)
def test_a_provider_that_cannot_work(changes: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        _connections.connections({}, POD, {**CLOUD, **changes})


# --- endpoints of others ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://vllm.example.com", "https://vllm.example.com"),
        ("https://vllm.example.com/v1", "https://vllm.example.com"),
        (" https://vllm.example.com/v1/ ", "https://vllm.example.com"),
        ("http://10.0.0.7:8000/", "http://10.0.0.7:8000"),
        ("https://example.com/team/llm/v1", "https://example.com/team/llm"),
        ("http://[fd00::7]:8000/v1", "http://[fd00::7]:8000"),
    ],
)
def test_a_url_with_and_without_its_end(url: str, base: str) -> None:
    made = remote(url)
    assert (made["remote"]["url"], made["endpoint"]["url"], made["endpoint"]["session_url"]) == (base, f"{base}/v1", f"{base}/v1")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("vllm.example.com", "is no URL"),
        ("ftp://vllm.example.com", "is no URL"),
        ("https://", "is no URL"),
        ("https://vllm example.com", "is no URL"),
        ("http://vllm.example.com:port", "is no URL"),
        ("https://vllm.example.com/v1/chat/completions", "names one function of the API"),
        ("https://vllm.example.com/v1?key=sk-1", "has something behind its path"),
        ("http://localhost:8000", r"is this machine, which the pod of the page takes for itself"),
        ("http://127.0.0.1:8000/v1", r"is this machine"),
    ],
)
def test_urls_that_cannot_be_used(url: str, message: str) -> None:
    with pytest.raises(ServingError, match=rf"^vllm_endpoint_url: .*{message}"):
        remote(url)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ServingError, match=r"^vllm_endpoint_url has a name or a password before the @") as caught:
        remote("https://ada:secret@vllm.example.com/v1")
    assert "secret@" not in str(caught.value)


def test_this_machine_may_be_asked_from_this_machine() -> None:
    made = remote("http://127.0.0.1:8000", platform="local", state_dir="/s")
    assert made["endpoint"]["url"] == "http://127.0.0.1:8000/v1"


def test_the_model_need_not_be_in_the_table() -> None:
    made = remote("https://vllm.example.com", model_name="Qwen/Qwen3-8B")
    assert (made["model"]["name"], made["verify"]["request"]["tool_calls"]) == ("Qwen/Qwen3-8B", True)
    assert remote("https://vllm.example.com", endpoint_tool_calls="false")["verify"]["request"]["tool_calls"] is False


def test_certificates_need_tls() -> None:
    assert remote("https://vllm.example.com", endpoint_ca="/etc/ca.pem")["remote"]["ca"] == "/etc/ca.pem"
    with pytest.raises(
        ServingError, match=r"^vllm_endpoint_ca: /etc/ca\.pem with vllm_endpoint_url: http://10\.0\.0\.7, which uses no TLS"
    ):
        remote("http://10.0.0.7", endpoint_ca="/etc/ca.pem")


def test_no_value_of_a_key_gets_into_the_plan() -> None:
    settings = {**DEFAULTS, "vllm_endpoint_url": "https://vllm.example.com", "vllm_endpoint_api_key": "sk-hidden"}
    assert "hidden" not in json.dumps(_plan.make_plan(settings, {}))
