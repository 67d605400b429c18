"""Two engines: a session stays on one of them, requests without a session are spread."""

from __future__ import annotations

import re
from collections import Counter

import chat
import pytest
import requests

NAMESPACE = "molecule-replicas"
testinfra_hosts = ["local://"]


def engines():
    pods = chat.get(NAMESPACE, "pods")
    return sorted(pod["metadata"]["name"] for pod in pods if pod["metadata"]["labels"].get("app") == "vllm-backend")


def answered():
    """Answers that each engine has given so far, by its own counter."""
    counts = Counter()
    for pod in engines():
        with chat.port_forward(NAMESPACE, f"pod/{pod}", 8000) as url:
            metrics = requests.get(f"{url}/metrics", timeout=60).text
        counts[pod] = sum(float(value) for value in re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", metrics, re.MULTILINE))
    return counts


def spent(ask):
    """How many answers each engine gave while *ask* ran."""
    before = answered()
    ask()
    return sorted((after - before[pod] for pod, after in answered().items()), reverse=True)


@pytest.fixture(scope="module")
def spreading():
    with chat.port_forward(NAMESPACE, "service/vllm-router-lab", 8000) as url:
        yield url


@pytest.fixture(scope="module")
def sticky():
    with chat.port_forward(NAMESPACE, "service/vllm-router-lab", 8001) as url:
        yield url


def test_two_engines_of_a_stack_with_names_of_its_own():
    assert chat.names(NAMESPACE, "deployments") == {"vllm-backend-lab", "vllm-router-lab", "open-webui-lab"}
    assert len(engines()) == 2


def test_no_key_is_asked_for(spreading):
    assert chat.complete(spreading, "smoke").status_code == 200


def test_a_session_stays_on_its_engine(sticky):
    for session in ("chat-a", "chat-b", "chat-c"):
        assert spent(lambda session=session: [chat.complete(sticky, "smoke", session=session) for _turn in range(4)]) == [4, 0]


def test_sessions_are_spread_over_the_engines(sticky):
    most, least = spent(lambda: [chat.complete(sticky, "smoke", session=f"chat-{number}") for number in range(24)])
    assert most + least == 24
    assert least >= 4


def test_requests_without_a_session_are_spread(spreading):
    most, least = spent(lambda: [chat.complete(spreading, "smoke") for _request in range(24)])
    assert most + least == 24
    assert least >= 4


def test_open_webui_keeps_a_chat_on_its_engine():
    password = chat.secret(NAMESPACE, "open-webui-lab", "WEBUI_ADMIN_PASSWORD")
    with chat.port_forward(NAMESPACE, "service/open-webui-lab", 8080) as url:
        page = chat.OpenWebUI(url, "admin@localhost", password)
        assert page.models() == ["smoke"]

        def converse():
            answer = page.ask("smoke", "Hello!")
            for question in ("Who are you?", "What can you do?"):
                answer = page.ask("smoke", question, after=answer)

        assert spent(converse) == [3, 0]
        assert spent(converse) == [3, 0]
