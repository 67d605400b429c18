"""After the line vllm_model_name was changed: the other model answers, and the chats are still there."""

from __future__ import annotations

import json

import chat

NAMESPACE = "molecule-default"
testinfra_hosts = ["local://"]


def test_the_other_model_answers_and_names_itself():
    password = chat.secret(NAMESPACE, "open-webui", "WEBUI_ADMIN_PASSWORD")
    with chat.port_forward(NAMESPACE, "service/open-webui", 8080) as url:
        page = chat.OpenWebUI(url, "admin@localhost", password)
        before = page.chats()
        assert before, "the chat that was held with the model before is gone"
        assert page.models() == ["smoke-json"]
        assert page.config()["default_models"] == "smoke-json"
        assert "smoke-json" in page.ask("smoke-json", "Who are you?").text
        assert before < page.chats()


def test_the_alias_follows_and_the_name_answers():
    key = chat.secret(NAMESPACE, "vllm-secrets", "VLLM_API_KEY")
    with chat.port_forward(NAMESPACE, "service/vllm-router", 8000) as url:
        for name in ("chat", "smoke-json"):
            answer = chat.complete(url, name, key=key, messages=[{"role": "user", "content": "Who are you?"}])
            assert "smoke-json" in answer.json()["choices"][0]["message"]["content"]
        assert chat.complete(url, "smoke", key=key).status_code >= 400


def test_it_was_a_surge_and_is_what_is_remembered_as_good():
    record = chat.kubectl("-n", NAMESPACE, "get", "configmap", "vllm-state", "-o", "json")["data"]
    assert (record["model"], record["strategy"]) == ("smoke-json", "surge")
    weights = json.loads(record["weights"])
    assert {entry["model"] for entry in weights.values()} == {"smoke", "smoke-json"}
    folders = chat.kubectl("-n", NAMESPACE, "exec", "deployment/vllm-backend", "--", "ls", "/data/models").split()
    assert set(weights) == {f"models/{folder}" for folder in folders}


def test_one_engine_is_left_and_nothing_is_held():
    pods = chat.kubectl("-n", NAMESPACE, "get", "pods", "-l", "app=vllm-backend", "-o", "json")["items"]
    [engine] = [pod["metadata"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    assert engine["annotations"]["serving.llmops/model"] == "smoke-json"
    assert engine["labels"]["serving.llmops/routed"] == "true"
    deployment = chat.kubectl("-n", NAMESPACE, "get", "deployment", "vllm-backend", "-o", "json")
    assert "minReadySeconds" not in deployment["spec"]
    assert deployment["status"]["availableReplicas"] == 1


def test_the_weights_of_the_model_before_are_kept(host):
    folders = chat.kubectl("-n", NAMESPACE, "exec", "deployment/vllm-backend", "--", "ls", "/data/models").split()
    assert len(folders) == 2


def test_what_only_the_model_before_needed_is_gone():
    jobs = chat.names(NAMESPACE, "jobs")
    assert len(jobs) == 1
    assert "smoke-json" in jobs.pop()
