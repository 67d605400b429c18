# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of clients: each in the form that its program reads, all from one description."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _clients, _plan, _runtimes
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ROLE = Path(__file__).parents[4] / "roles/vllm"
CATALOG = yaml.safe_load((ROLE / "vars/models.yml").read_text())["vllm_models"]
OPTIONS = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
KEY = "sk-0123456789abcdef"
ENDPOINT: dict[str, t.Any] = {
    "url": "http://127.0.0.1:8000/v1",
    "model": "Qwen/Qwen3-8B",
    "max_model_len": 32768,
    "tool_call_parser": "hermes",
    "session_header": "X-Session-ID",
    "key": {"command": "cat /srv/key"},
}


def plan(**changes: t.Any) -> dict[str, t.Any]:
    """A plan for Kubernetes."""
    defaults = {name: spec.get("default") for name, spec in OPTIONS.items()}
    settings = {**defaults, "vllm_smoke_model_digest": "0" * 16, "vllm_state_dir": "", "vllm_files_dir": "/f", "vllm_lock_dir": "/l"}
    settings |= {
        "vllm_lock_digests": {},
        "vllm_hf_token": "",
        "vllm_api_key": "",
        **{f"vllm_{key}": value for key, value in changes.items()},
    }
    return _plan.make_plan(settings, CATALOG)


def described(**changes: t.Any) -> dict[str, t.Any]:
    return _clients.description({**ENDPOINT, **changes})


def texts(key: t.Optional[str] = None, fallbacks: t.Sequence[t.Mapping[str, t.Any]] = (), **changes: t.Any) -> dict[str, str]:
    return {file.name: file.text for file in _clients.files(described(**changes), key, _clients.checked_fallbacks(fallbacks))}


def pairs(text: str) -> dict[str, str]:
    """An environment file as Docker reads it."""
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


# --- the description -------------------------------------------------------------------------------------------------------------------


def test_a_plan_for_kubernetes_is_reached_by_a_port_forward() -> None:
    found = _clients.of_plan(plan(model_name="gpt-oss-120b"), kubeconfig="/srv/ada/my config", context="gpu")
    kubectl = "kubectl --kubeconfig '/srv/ada/my config' --context gpu -n chatbot"
    assert found["url"] == "http://localhost:8000/v1"
    assert found["inside_url"] == "http://vllm-router.chatbot:8000/v1"
    assert found["reached_by"] == f"{kubectl} port-forward service/vllm-router 8000:8000"
    assert found["key"]["command"] == f"{kubectl} get secret vllm-secrets -o jsonpath='{{.data.VLLM_API_KEY}}' | base64 -d"
    assert found["key"]["secret"] == {"namespace": "chatbot", "name": "vllm-secrets", "key": "VLLM_API_KEY"}
    told = {name: found[name] for name in ("model", "aliases", "max_model_len", "tool_calls", "tool_call_parser", "reasoning")}
    assert told == {
        "model": "gpt-oss-120b",
        "aliases": ["chat"],
        "max_model_len": 131072,
        "tool_calls": True,
        "tool_call_parser": "openai",
        "reasoning": True,
    }
    assert _clients.description(found)["url"] == found["url"]


def test_sessions_are_only_told_where_they_are_kept() -> None:
    """The Rust router keeps them on a port of its own, which is not the one that clients are sent to."""
    assert _clients.of_plan(plan())["session_header"] == "X-Session-ID"
    assert _clients.of_plan(plan(router_type="vllm-router", router_image="r:1", replicas=2))["session_header"] == ""


def test_no_key_is_told_where_none_is_wanted() -> None:
    assert _clients.of_plan(plan(api_key_enabled=False))["key"] is None


@pytest.mark.parametrize(
    ("url", "ssh", "reached_by", "command"),
    [
        ("http://127.0.0.1:8002/v1", "", "", "cat '/srv/a b/key'"),
        (
            "http://127.0.0.1:8002/v1",
            "ops@gpu-a",
            "ssh -N -L 8002:127.0.0.1:8002 ops@gpu-a",
            "ssh ops@gpu-a 'cat '\"'\"'/srv/a b/key'\"'\"''",
        ),
        ("http://gpu-a:8002/v1", "gpu-a", "", "ssh gpu-a 'cat '\"'\"'/srv/a b/key'\"'\"''"),
    ],
)
def test_a_machine_is_reached_directly_or_through_ssh(url: str, ssh: str, reached_by: str, command: str) -> None:
    endpoint = {"url": url, "session_url": url, "model": "smoke", "api_key_secret": {"path": "/srv/a b/key"}}
    found = _clients.of_plan({"platform": "docker", "endpoint": endpoint}, ssh=ssh)
    assert (found["url"], found["reached_by"], found["key"]["command"]) == (url, reached_by, command)
    _clients.description(found)


def test_an_endpoint_of_others_is_asked_directly_wherever_the_page_is() -> None:
    endpoint = {"url": "https://llm.example.com/v1", "session_url": "https://llm.example.com/v1", "model": "m", "api_key_secret": None}
    plan = {"platform": "kubernetes", "namespace": "chatbot", "remote": {"url": "https://llm.example.com"}, "endpoint": endpoint}
    found = _clients.of_plan(plan)
    assert (found["url"], found["reached_by"], found["inside_url"], found["provider"]) == ("https://llm.example.com/v1", "", "", "openai")
    assert found["key"] is None
    assert _clients.of_plan({**plan, "endpoint": {**endpoint, "own_key": True}})["key"]["command"] == "printenv VLLM_API_KEY"


def test_ollama_in_a_cluster_keeps_its_port() -> None:
    endpoint = {"url": "http://ollama.chatbot:11434/v1", "model": "qwen3:8b", "service": "ollama", "port": 11434, "api_key_secret": None}
    found = _clients.of_plan({"platform": "kubernetes", "namespace": "chatbot", "backend": "ollama", "endpoint": endpoint})
    assert (found["provider"], found["url"], found["key"]) == ("ollama", "http://localhost:11434/v1", None)
    assert found["reached_by"] == "kubectl -n chatbot port-forward service/ollama 11434:11434"


def test_a_url_gets_the_version_of_the_api_unless_it_has_a_path() -> None:
    assert described(url="http://gpu-a:8000")["url"] == "http://gpu-a:8000/v1"
    assert described(url="https://example.com/llm/v1/")["url"] == "https://example.com/llm/v1"


def test_another_url_needs_no_port_forward() -> None:
    found = _clients.description({**ENDPOINT, "reached_by": "kubectl port-forward"}, "https://llm.example.com")
    assert (found["url"], found["reached_by"]) == ("https://llm.example.com/v1", "")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modle": "x"}, r'endpoint\.modle: no such key \(did you mean "model"\?\)'),
        ({"url": "gpu-a:8000"}, r"endpoint\.url: 'gpu-a:8000' is no URL"),
        ({"url": "http://ada:secret@gpu-a"}, r"endpoint\.url has a password in it"),
        ({"model": ""}, r"endpoint\.model: '' is no name of a model"),
        ({"model": "a'b"}, r"endpoint\.model: \"a'b\" is no name"),
        ({"aliases": ["a b"]}, r"endpoint\.aliases: 'a b' is no name"),
        ({"provider": "tgi"}, r'endpoint\.provider: "tgi" is not one of vllm, ollama, openai'),
        ({"session_header": "X: y"}, r"endpoint\.session_header: 'X: y' may have"),
        ({"key": {"path": "/k"}}, r"endpoint\.key\.command is missing"),
    ],
)
def test_a_description_that_cannot_be_right_is_refused(changes: dict[str, t.Any], told: str) -> None:
    with pytest.raises(ServingError, match=told):
        described(**changes)


@pytest.mark.parametrize("key", ["sk 1", "sk'1", "sk$1", 'sk"1', "sk\n1", ""])
def test_a_key_that_would_break_a_file_is_refused(key: str) -> None:
    with pytest.raises(ServingError, match="cannot stand in settings"):
        texts(key)


# --- each client's own form ------------------------------------------------------------------------------------------------------------


def test_environment_files_name_everything_and_the_key_only_where_it_is_handed_over() -> None:
    without, with_key = pairs(texts()["endpoint.env"]), pairs(texts(KEY)["endpoint.env"])
    assert without == {
        "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1",
        "OPENAI_MODEL": "Qwen/Qwen3-8B",
        "VLLM_BASE_URL": "http://127.0.0.1:8000/v1",
        "SMOKE_PROVIDER": "vllm",
        "SMOKE_VLLM_BASE_URL": "http://127.0.0.1:8000/v1",
        "SMOKE_VLLM_MODEL": "Qwen/Qwen3-8B",
    }
    assert with_key == {**without, "OPENAI_API_KEY": KEY, "VLLM_API_KEY": KEY, "SMOKE_VLLM_API_KEY": KEY}
    # clients of OpenAI want some key, where the endpoint wants none
    assert pairs(_keyless()["endpoint.env"])["OPENAI_API_KEY"] == "not-needed"


def _keyless() -> dict[str, str]:
    return {file.name: file.text for file in _clients.files(_clients.description({**ENDPOINT, "key": None}))}


def test_where_no_key_is_wanted_none_is_asked_for() -> None:
    for name, text in _keyless().items():
        assert "cat /srv/key" not in text, name
        assert "VLLM_API_KEY" not in text, name
        assert "api_key_env" not in text, name


def test_open_webui_sends_the_id_of_the_chat() -> None:
    found = pairs(texts(KEY)["open-webui.env"])
    assert json.loads(found["OPENAI_API_CONFIGS"]) == {"0": {"model_ids": ["Qwen/Qwen3-8B"], "headers": {"X-Session-ID": "{{CHAT_ID}}"}}}
    assert (found["OPENAI_API_BASE_URLS"], found["OPENAI_API_KEYS"]) == ("http://127.0.0.1:8000/v1", KEY)
    assert "OPENAI_API_KEYS" not in pairs(texts()["open-webui.env"])


def test_the_matrix_is_one_that_runtime_probe_reads(tmp_path: Path) -> None:
    path = tmp_path / "runtime_matrix.json"
    path.write_text(texts(KEY)["runtime_matrix.json"])
    assert KEY not in path.read_text()
    (runtime,) = _runtimes.read_file(str(path))["runtimes"]
    assert (runtime["url"], runtime["models"], runtime["api_key_env"]) == ("http://127.0.0.1:8000/v1", ["Qwen/Qwen3-8B"], "VLLM_API_KEY")


def test_victor_takes_the_provider_that_sends_a_key() -> None:
    found = yaml.safe_load(texts()["victor/profiles.yaml"])
    assert found["profiles"]["chat"] == {
        "provider": "openai",
        "model": "Qwen/Qwen3-8B",
        "max_tokens": 4096,
        "description": "Qwen/Qwen3-8B at http://127.0.0.1:8000/v1",
    }
    assert found["providers"] == {"openai": {"base_url": "http://127.0.0.1:8000/v1", "timeout": 300, "api_key": "${VLLM_API_KEY}"}}
    assert yaml.safe_load(texts(KEY)["victor/profiles.yaml"])["providers"]["openai"]["api_key"] == KEY
    keyless = yaml.safe_load(_keyless()["victor/profiles.yaml"])
    assert keyless["profiles"]["chat"]["provider"] == "vllm"
    assert keyless["providers"] == {"vllm": {"base_url": "http://127.0.0.1:8000/v1", "timeout": 300}}


def test_victor_asks_ollama_at_its_root() -> None:
    found = yaml.safe_load(_ollama()["victor/profiles.yaml"])
    assert found["profiles"]["chat"]["provider"] == "ollama"
    assert found["providers"]["ollama"]["base_url"] == "http://127.0.0.1:11434"


def _ollama() -> dict[str, str]:
    given = {"provider": "ollama", "url": "http://127.0.0.1:11434", "model": "qwen3:8b"}
    return {file.name: file.text for file in _clients.files(_clients.description(given))}


def test_ollama_is_described_by_the_same_dict() -> None:
    assert pairs(_ollama()["endpoint.env"])["SMOKE_PROVIDER"] == "ollama"
    assert json.loads(_ollama()["picoclaw/config.json"])["model_list"][0]["model"] == "ollama/qwen3:8b"


def test_a_short_context_is_not_promised_to_answers_and_victor_is_warned() -> None:
    found = texts(max_model_len=4096)
    assert yaml.safe_load(found["victor/profiles.yaml"])["profiles"]["chat"]["max_tokens"] == 2048
    assert "Victor's system prompt takes about 6,500 tokens" in found["README.md"]
    assert "6,500" not in texts()["README.md"]


def test_archi_has_the_prefix_of_its_provider() -> None:
    found = yaml.safe_load(texts()["archi/config.yaml"])
    assert found["archi"]["pipeline_map"]["CMSCompOpsAgent"]["models"]["required"]["agent_model"] == "vllm/Qwen/Qwen3-8B"
    assert found["services"]["vllm"] == {"model": "Qwen/Qwen3-8B", "tool_parser": "hermes"}
    assert found["services"]["chat_app"]["providers"]["vllm"] == {
        "enabled": True,
        "base_url": "http://127.0.0.1:8000/v1",
        "default_model": "Qwen/Qwen3-8B",
        "tool_call_parser": "hermes",
        "models": ["Qwen/Qwen3-8B"],
    }
    assert yaml.safe_load(texts(KEY)["archi/config.yaml"])["services"]["chat_app"]["providers"]["vllm"]["extra_kwargs"] == {"api_key": KEY}


def test_picoclaw_of_today_reads_keys_from_files_beside_its_settings() -> None:
    found = json.loads(texts(KEY, [{"model": "openrouter/meta-llama/llama-3.2-3b-instruct"}])["picoclaw/config.json"])
    assert found["agents"]["defaults"]["model_name"] == found["model_list"][0]["model_name"] == "Qwen/Qwen3-8B"
    assert found["model_list"][0]["model"] == "vllm/Qwen/Qwen3-8B"
    assert [entry["api_keys"] for entry in found["model_list"]] == [["file://api.key"], ["file://openrouter.key"]]
    assert found["agents"]["defaults"]["model_fallbacks"] == [found["model_list"][1]["model_name"]]
    assert texts(KEY)["picoclaw/api.key"] == f"{KEY}\n"


def test_picoclaw_of_before_has_providers() -> None:
    found = json.loads(texts(KEY, [{"model": "openrouter/meta-llama/llama-3.2-3b-instruct"}])["picoclaw/config.legacy.json"])
    assert found["agents"]["defaults"]["model"] == "vllm/Qwen/Qwen3-8B"
    assert found["agents"]["defaults"]["model_fallbacks"] == ["openrouter/meta-llama/llama-3.2-3b-instruct"]
    assert found["providers"] == {"vllm": {"api_base": "http://127.0.0.1:8000/v1", "api_key": KEY}, "openrouter": {}}
    assert "api_key" not in json.loads(texts()["picoclaw/config.legacy.json"])["providers"]["vllm"]


# --- examples --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("changes", [{}, {"tool_calls": False, "session_header": ""}, {"reached_by": 'ssh -N -L 1:h:1 "ada"@h'}])
def test_python_examples_compile(key: t.Optional[str], changes: dict[str, t.Any]) -> None:
    found = texts(key, **changes)
    for name in ("chat.py", "chat_openai.py"):
        compile(found[name], name, "exec")
        assert ("get_weather" in found["chat_openai.py"]) is (changes.get("tool_calls") is not False)
    assert KEY not in found["chat.py"] + found["chat_openai.py"] + found["chat.sh"]


def test_only_examples_are_programs_and_only_files_with_the_key_are_private() -> None:
    for file in _clients.files(described(), KEY):
        assert file.secret == (KEY in file.text), file.name
        assert file.mode == (0o600 if file.secret else 0o755 if file.name.startswith("chat") else 0o644), file.name
