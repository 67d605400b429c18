"""After the line vllm_model_name was changed: the other model answers, and the chats are still there."""

from __future__ import annotations

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


def test_the_weights_of_the_model_before_are_kept(host):
    folders = chat.kubectl("-n", NAMESPACE, "exec", "deployment/vllm-backend", "--", "ls", "/data/models").split()
    assert len(folders) == 2


def test_what_only_the_model_before_needed_is_gone():
    jobs = chat.names(NAMESPACE, "jobs")
    assert len(jobs) == 1
    assert "smoke-json" in jobs.pop()
