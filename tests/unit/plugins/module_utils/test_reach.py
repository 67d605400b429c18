# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reaching an endpoint by its URL, and in a cluster of dicts whose port-forward leads to a stub."""

from __future__ import annotations

import base64
import contextlib
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.doc_fragments.reach import ModuleDocFragment
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import Object
from ansible_collections.llmops.serving.plugins.module_utils._reach import REACH_ARGS, Reach, first_trouble
from ansible_collections.llmops.serving.plugins.module_utils._wait import NotYetError
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

KEY = "sk-0123456789abcdef"
SERVICE = {"namespace": "chatbot", "name": "vllm-router", "port": 80}
PODS_OF = {"namespace": "chatbot", "label_selector": "app=vllm-backend,hash in (a,b)", "port": 8000}
SECRET = {"namespace": "chatbot", "name": "vllm-api-key", "key": "api-key"}
SERVICES = "/api/v1/namespaces/chatbot/services/vllm-router"
PODS = "/api/v1/namespaces/chatbot/pods"
SECRETS = "/api/v1/namespaces/chatbot/secrets/vllm-api-key"


def pod(name: str, ready: bool = True, created: str = "2026-01-01T00:00:00Z", **metadata: t.Any) -> Object:
    return {
        "metadata": {"name": name, "creationTimestamp": created, **metadata},
        "spec": {"containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


class Cluster:
    """As much of Kube as is asked, on dicts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects: dict[str, Object] = {
            SERVICES: {"spec": {"selector": {"app": "vllm-router"}, "ports": [{"port": 80, "targetPort": "http"}]}},
            SECRETS: {"data": {"api-key": base64.b64encode(KEY.encode()).decode()}},
        }
        self.pods = [pod("one")]
        self.calls: list[str] = []

    def get(self, path: str) -> t.Optional[Object]:
        self.calls.append(path)
        return self.objects.get(path)

    def list(self, path: str, label_selector: str = "") -> t.Iterator[Object]:
        self.calls.append(f"{path}?{label_selector}")
        yield from self.pods

    @contextlib.contextmanager
    def port_forward(self, namespace: str, pod: str, port: int) -> t.Iterator[str]:
        self.calls.append(f"forward {namespace}/{pod}:{port}")
        yield self.url
        self.calls.append("closed")


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("smoke")], api_key=KEY) as running:
        yield running


@pytest.fixture
def cluster(server: stub.StubOpenAI) -> Cluster:
    return Cluster(server.url)


def reach(cluster: t.Optional[Cluster] = None, **params: t.Any) -> Reach:
    def kube() -> t.Any:
        assert cluster is not None, "the cluster was asked, though nothing of it was needed"
        return cluster

    defaults = dict.fromkeys(("url", "service", "pods", "api_key", "api_key_secret", "api_key_file", "ca_path", "kubeconfig", "context"))
    return Reach({**defaults, "validate_certs": True, **params}, kube)


def models(way: Reach) -> list[str]:
    with way.client(5) as client:
        return client.models()


def test_a_url_needs_no_cluster(server: stub.StubOpenAI) -> None:
    way = reach(url=server.url, api_key=KEY)
    assert (way.endpoint, models(way)) == (server.url, ["smoke"])


def test_the_client_is_made_as_the_options_say(cluster: Cluster) -> None:
    with reach(url="https://llm.example.com", validate_certs=False, ca_path="/ca.pem").client(7) as client:
        assert (client.validate_certs, client.ca_path, client.use_proxy, client.timeout_s) == (False, "/ca.pem", True, 7)
        assert client.name == "https://llm.example.com"
    with reach(cluster, pods=PODS_OF).client(7) as client:
        assert (client.validate_certs, client.ca_path, client.use_proxy) == (True, None, False)
        assert client.name == "pods chatbot/app=vllm-backend,hash in (a,b):8000"


def test_options_that_a_module_leaves_out_count_as_not_given(server: stub.StubOpenAI) -> None:
    assert models(Reach({"url": server.url, "api_key": KEY}, lambda: pytest.fail("the cluster was asked"))) == ["smoke"]


def test_a_service_is_reached_by_a_forward_that_is_closed(cluster: Cluster) -> None:
    way = reach(cluster, service=SERVICE, api_key_secret=SECRET)
    assert cluster.calls == []
    assert models(way) == ["smoke"]
    assert cluster.calls == [SECRETS, SERVICES, f"{PODS}?app=vllm-router", "forward chatbot/one:8000", "closed"]
    assert way.endpoint == "service chatbot/vllm-router:80"


def test_service_and_secret_are_read_once_and_the_pod_is_looked_for_each_time(cluster: Cluster) -> None:
    way = reach(cluster, service=SERVICE, api_key_secret=SECRET)
    models(way)
    cluster.pods = [pod("two")]
    models(way)
    assert (cluster.calls.count(SERVICES), cluster.calls.count(SECRETS)) == (1, 1)
    assert cluster.calls[-2] == "forward chatbot/two:8000"


def test_pods_are_reached_directly(cluster: Cluster) -> None:
    way = reach(cluster, pods=PODS_OF, api_key=KEY)
    assert models(way) == ["smoke"]
    assert cluster.calls == [f"{PODS}?app=vllm-backend,hash in (a,b)", "forward chatbot/one:8000", "closed"]
    assert way.endpoint == "pods chatbot/app=vllm-backend,hash in (a,b):8000"


@pytest.mark.parametrize("where", [{"service": SERVICE}, {"pods": PODS_OF}])
def test_the_newest_ready_pod_is_asked(cluster: Cluster, where: dict[str, t.Any]) -> None:
    cluster.pods = [
        pod("old", created="2026-01-01T00:00:00Z"),
        pod("new", created="2026-01-01T00:02:00Z"),
        pod("loading", created="2026-01-01T00:03:00Z", ready=False),
        pod("leaving", created="2026-01-01T00:04:00Z", deletionTimestamp="2026-01-01T00:05:00Z"),
    ]
    models(reach(cluster, api_key=KEY, **where))
    assert "forward chatbot/new:8000" in cluster.calls


@pytest.mark.parametrize(
    ("where", "pods", "words"),
    [
        ({"service": SERVICE}, [], r"no router pod is ready \(there is none of chatbot/vllm-router\)"),
        ({"service": SERVICE}, [pod("one", ready=False)], r"no router pod is ready \(one: Running\)"),
        ({"pods": PODS_OF}, [], r"no pod is ready \(there is none of chatbot/app=vllm-backend,hash in"),
        ({"pods": PODS_OF}, [pod("one", ready=False)], r"no pod is ready \(one: Running\)"),
    ],
)
def test_pods_that_are_not_ready_may_come(cluster: Cluster, where: dict[str, t.Any], pods: list[Object], words: str) -> None:
    cluster.pods = pods
    with pytest.raises(NotYetError, match=words):
        models(reach(cluster, **where))


def test_a_port_that_the_pod_does_not_name_may_come(cluster: Cluster) -> None:
    cluster.objects[SERVICES]["spec"]["ports"][0]["targetPort"] = "https"
    with pytest.raises(NotYetError, match="the pod one has no port named https"):
        models(reach(cluster, service=SERVICE))


def test_a_port_without_a_target_is_the_same_in_the_pod(cluster: Cluster) -> None:
    del cluster.objects[SERVICES]["spec"]["ports"][0]["targetPort"]
    models(reach(cluster, service=SERVICE, api_key=KEY))
    assert "forward chatbot/one:80" in cluster.calls


@pytest.mark.parametrize(
    ("path", "found", "words"),
    [
        (SERVICES, None, r"There is no Service vllm-router in namespace chatbot\. Look: kubectl -n chatbot get services"),
        (SERVICES, {"spec": {}}, "selects no pods"),
        (SERVICES, {"spec": {"selector": {"app": "x"}, "ports": [{"port": 8001}, {"port": 81}]}}, "has no port 80, but 81, 8001"),
        (SECRETS, None, "There is no Secret chatbot/vllm-api-key"),
        (SECRETS, {"data": {"token": "eA=="}}, "has no api-key; it has: token"),
        (SECRETS, {"data": {"api-key": "/w=="}}, "is not text"),
        (SECRETS, {"data": {"api-key": base64.b64encode(b"key\n").decode()}}, "line break at its end"),
    ],
)
def test_what_is_not_as_the_options_say_does_not_heal(cluster: Cluster, path: str, found: t.Optional[Object], words: str) -> None:
    cluster.objects.pop(path)
    if found:
        cluster.objects[path] = found
    with pytest.raises(ServingError, match=words) as caught:
        models(reach(cluster, service=SERVICE, api_key_secret=SECRET))
    assert not isinstance(caught.value, NotYetError)


def test_the_key_is_read_from_its_file_once(server: stub.StubOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "VLLM_API_KEY"
    path.write_text(f"{KEY}\n")
    way = reach(url=server.url, api_key_file=str(path))
    assert models(way) == ["smoke"]
    path.unlink()
    assert models(way) == ["smoke"]


def test_the_key_is_taken_from_the_environment(server: stub.StubOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    way = reach(url=server.url, api_key_env="KEY_OF_THE_ENGINE")
    monkeypatch.delenv("KEY_OF_THE_ENGINE", raising=False)
    with pytest.raises(ServingError, match="api_key_env names KEY_OF_THE_ENGINE, which is not set"):
        models(way)
    monkeypatch.setenv("KEY_OF_THE_ENGINE", KEY)
    assert models(way) == ["smoke"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=rf"Cannot read the API key from {tmp_path}/KEY: No such file or directory"):
        models(reach(url="http://127.0.0.1:9", api_key_file=str(tmp_path / "KEY")))
    (tmp_path / "KEY").write_bytes(b"\xff\xfe")
    with pytest.raises(ServingError, match=rf"Cannot read the API key from {tmp_path}/KEY: it is not text"):
        models(reach(url="http://127.0.0.1:9", api_key_file=str(tmp_path / "KEY")))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ({"api_key_secret": SECRET}, "The API key in api-key of the Secret chatbot/vllm-api-key is not the one"),
        ({"api_key_file": "/keys/K"}, "The API key in /keys/K is not the one"),
        ({"api_key_env": "KEY_OF_THE_ENGINE"}, "The API key in the environment variable KEY_OF_THE_ENGINE is not the one"),
        ({"api_key": KEY}, "The API key is not the one that the engines use"),
        ({}, "none was given"),
    ],
)
def test_a_refused_key_is_told_with_where_it_came_from(key: dict[str, t.Any], words: str) -> None:
    hint = reach(url="http://127.0.0.1:9", **key).key_hint()
    assert words in hint
    assert KEY not in hint


def test_commands_to_look_with_name_the_same_cluster() -> None:
    of_cluster = {"kubeconfig": "/my files/config", "context": "lab"}
    kubectl = "kubectl --kubeconfig '/my files/config' --context lab -n chatbot"
    assert reach(service=SERVICE, **of_cluster).where_to_look() == f"Look: {kubectl} get pods; {kubectl} logs service/vllm-router"
    assert reach(pods=PODS_OF, **of_cluster).where_to_look() == f"Look: {kubectl} logs -l 'app=vllm-backend,hash in (a,b)' --tail=50"
    assert reach(url="http://x").where_to_look() == "Look at the log of what serves http://x."


def test_the_first_pod_that_is_not_ready_is_told() -> None:
    assert first_trouble([pod("one"), pod("two", ready=False)]) == "two: Running"
    assert first_trouble([pod("one")]) == ""


def test_the_options_are_documented_as_they_are() -> None:
    def shape(options: t.Mapping[str, t.Any], sub: str) -> dict[str, t.Any]:
        return {
            name: (option["type"], option.get("default"), option.get("required", False), shape(option.get(sub) or {}, sub))
            for name, option in options.items()
        }

    documented = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    assert shape(documented, "suboptions") == shape(REACH_ARGS, "options")
