"""After the first run: a chat answers, nothing secret shows, the pods are as promised."""

from __future__ import annotations

from pathlib import Path

import chat
import pytest

NAMESPACE = "molecule-default"
ROOT = Path(__file__).parents[3]
testinfra_hosts = ["local://"]


@pytest.fixture(scope="module")
def key():
    return chat.secret(NAMESPACE, "vllm-secrets", "VLLM_API_KEY")


@pytest.fixture(scope="module")
def page():
    password = chat.secret(NAMESPACE, "open-webui", "WEBUI_ADMIN_PASSWORD")
    with chat.port_forward(NAMESPACE, "service/open-webui", 8080) as url:
        yield chat.OpenWebUI(url, "admin@localhost", password)


@pytest.fixture(scope="module")
def router():
    with chat.port_forward(NAMESPACE, "service/vllm-router", 8000) as url:
        yield url


def test_the_names_that_users_know():
    assert {"vllm-backend", "vllm-router", "open-webui"} == chat.names(NAMESPACE, "deployments")
    assert {"vllm-backend", "vllm-router", "open-webui"} <= chat.names(NAMESPACE, "services")
    assert {"vllm-models", "open-webui"} == chat.names(NAMESPACE, "persistentvolumeclaims")
    assert {"vllm-backend", "vllm-router"} == chat.names(NAMESPACE, "servicemonitors")


def test_a_chat_answers_through_open_webui_and_is_kept(page):
    assert page.models() == ["smoke"]
    assert page.config()["default_models"] == "smoke"
    answer = page.ask("smoke", "Hello!")
    assert "smoke model" in answer.text
    assert answer.chat in page.chats()


def test_sign_up_is_closed(page):
    assert page.config()["features"]["enable_signup"] is False
    refused = page.http.post(f"{page.url}/api/v1/auths/signup", json={"name": "x", "email": "x@localhost", "password": "x"}, timeout=60)
    assert refused.status_code == 403


def test_the_key_is_asked_for_and_taken(router, key):
    assert chat.complete(router, "smoke").status_code == 401
    assert chat.complete(router, "smoke", key="wrong").status_code == 401
    answer = chat.complete(router, "smoke", key=key)
    assert "smoke" in answer.json()["choices"][0]["message"]["content"]


def test_a_tool_is_called_when_it_is_offered(router, key):
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    message = chat.complete(router, "smoke", key=key, messages=question, tools=[tool]).json()["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["name"] == "get_weather"
    assert "Paris" in message["tool_calls"][0]["function"]["arguments"]


def test_no_secret_stands_in_a_manifest_or_an_argument(host, key):
    password = chat.secret(NAMESPACE, "open-webui", "WEBUI_ADMIN_PASSWORD")
    manifests = chat.kubectl("-n", NAMESPACE, "get", "deployments,jobs,configmaps,pods", "-o", "yaml")
    processes = host.run("ps -eo args").stdout
    for value in (key, password):
        assert len(value) >= 32
        assert value not in manifests
        assert value not in processes


def test_the_containers_are_not_root_and_have_no_capabilities():
    for target in ("deployment/vllm-backend", "deployment/vllm-router", "deployment/open-webui"):
        status = chat.kubectl("-n", NAMESPACE, "exec", target, "--", "cat", "/proc/1/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split()[0] == "1000", target
        assert int(fields["CapEff"], 16) == 0, target
        assert fields["NoNewPrivs"] == "1", target
        assert fields["Seccomp"] == "2", target


def test_dev_shm_is_sized_and_the_weights_are_on_the_volume():
    mounts = chat.kubectl("-n", NAMESPACE, "exec", "deployment/vllm-backend", "--", "cat", "/proc/mounts")
    shm = next(line.split() for line in mounts.splitlines() if line.split()[1] == "/dev/shm")
    assert shm[2] == "tmpfs"
    folders = chat.kubectl("-n", NAMESPACE, "exec", "deployment/vllm-backend", "--", "ls", "/data/models")
    assert folders.startswith("smoke-")


def test_no_service_leaks_into_the_engines_environment():
    environment = chat.kubectl("-n", NAMESPACE, "exec", "deployment/vllm-backend", "--", "env")
    assert "VLLM_ROUTER_SERVICE_HOST" not in environment
    assert "VLLM_CACHE_ROOT=/data/vllm-cache" in environment


def test_no_secret_shows_in_the_most_verbose_output(host, key):
    given = "hf_given-by-the-test-0123456789"
    command = "ansible-playbook -vvv --check --diff -i molecule/inventory.yaml playbooks/chat.yml"
    variables = f"-e llm_namespace={NAMESPACE} -e vllm_model_name=smoke"
    run = host.run(f"cd {ROOT} && HF_TOKEN={given} {command} {variables}")
    output = run.stdout + run.stderr
    assert run.rc == 0, output[-2000:]
    assert "HF_TOKEN: (hidden" in output
    for value in (
        given,
        key,
        chat.secret(NAMESPACE, "open-webui", "WEBUI_ADMIN_PASSWORD"),
        chat.secret(NAMESPACE, "open-webui", "WEBUI_SECRET_KEY"),
    ):
        assert value not in output
