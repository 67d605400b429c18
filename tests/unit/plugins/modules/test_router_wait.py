# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a router that plays a script, in a cluster of dicts, on a clock that only the test moves."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _supervised
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._keepers import ProcessInfo
from ansible_collections.llmops.serving.plugins.module_utils._kube import KubeError, Object
from ansible_collections.llmops.serving.plugins.module_utils._logs import tail
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import NotRunningError
from ansible_collections.llmops.serving.plugins.modules import router_wait
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub
from ansible_collections.llmops.serving.tests.unit.clock import Clock

KEY = "sk-0123456789abcdef"
ANSWER = stub.events("Hello", " there")
LISTED = stub.models("smoke")
SERVICE = {"namespace": "chatbot", "name": "vllm-router", "port": 80}
SECRET = {"namespace": "chatbot", "name": "vllm-api-key", "key": "api-key"}
SERVICES = "/api/v1/namespaces/chatbot/services/vllm-router"
PODS = "/api/v1/namespaces/chatbot/pods"
EVENTS = "/api/v1/namespaces/chatbot/events"
SECRETS = "/api/v1/namespaces/chatbot/secrets/vllm-api-key"
DEPLOYMENTS = "/apis/apps/v1/namespaces/chatbot/deployments"
SETS = "/apis/apps/v1/namespaces/chatbot/replicasets"
TEMPLATE = {"metadata": {"labels": {"app": "vllm-backend"}}, "spec": {"containers": [{"name": "main"}]}}


class Cluster:
    """As much of Kube as the module asks, on dicts; a port-forward leads to the stub."""

    def __init__(self, server: stub.StubOpenAI) -> None:
        self.server = server
        self.objects: dict[str, Object] = {
            SERVICES: {"spec": {"selector": {"app": "vllm-router"}, "ports": [{"port": 80, "targetPort": "http"}]}},
            SECRETS: {"data": {"api-key": base64.b64encode(KEY.encode()).decode()}},
        }
        self.pods = [pod("vllm-router-1", app="vllm-router"), pod("vllm-backend-1", app="vllm-backend")]
        self.replicas = 1
        self.generation = 1
        self.held = False
        self.deployed = True
        self.has_new_set = True
        self.events: list[Object] = []
        self.log = ""
        self.calls: list[str] = []
        self.errors: list[KubeError] = []

    def get(self, path: str) -> t.Optional[Object]:
        self._called(path)
        return self.objects.get(path)

    def deployment(self) -> Object:
        """The engines' Deployment, its status as a controller would count the pods."""
        engines = [
            pod
            for pod in self.pods
            if pod["metadata"]["labels"]["app"] == "vllm-backend"
            and pod["status"].get("phase") != "Failed"
            and "deletionTimestamp" not in pod["metadata"]
        ]
        new = [pod for pod in engines if pod["metadata"]["labels"]["pod-template-hash"] == "new"]
        available = [] if self.held else [pod for pod in engines if router_wait.is_ready(pod)]
        counts = {"replicas": len(engines), "updatedReplicas": len(new), "availableReplicas": len(available)}
        return {
            "metadata": {"name": "vllm-backend", "uid": "d1", "generation": self.generation},
            "spec": {"replicas": self.replicas, "selector": {"matchLabels": {"app": "vllm-backend"}}, "template": TEMPLATE},
            "status": {"observedGeneration": 1, **counts},
        }

    def replica_set(self, version: str, revision: int, template: Object) -> Object:
        labels = {"app": "vllm-backend", "pod-template-hash": version}
        return {
            "metadata": {
                "name": f"vllm-backend-{version}",
                "annotations": {"deployment.kubernetes.io/revision": str(revision)},
                "ownerReferences": [{"kind": "Deployment", "name": "vllm-backend", "uid": "d1"}],
            },
            "spec": {"template": {**template, "metadata": {"labels": labels}}},
        }

    def list(self, path: str, label_selector: str = "", field_selector: str = "", missing_ok: bool = True) -> t.Iterator[Object]:
        self._called(f"{path}?{label_selector}{field_selector}")
        wanted = dict(pair.split("=") for pair in label_selector.split(",") if pair)
        if path == DEPLOYMENTS:
            yield from [self.deployment()] if self.deployed else []
        elif path == SETS:
            yield self.replica_set("old", 1, {"spec": {"containers": [{"name": "main", "args": ["--old"]}]}})
            yield from [self.replica_set("new", 2, TEMPLATE)] if self.has_new_set else []
        elif path == PODS:
            yield from [pod for pod in self.pods if wanted.items() <= pod["metadata"]["labels"].items()]
        elif path == EVENTS:
            yield from self.events

    def logs(self, namespace: str, pod: str, container: str = "", tail_lines: int = 40, previous: bool = False) -> str:
        self._called(f"log {pod}/{container}")
        return self.log

    @contextlib.contextmanager
    def port_forward(self, namespace: str, pod: str, port: int) -> t.Iterator[str]:
        self._called(f"forward {namespace}/{pod}:{port}")
        yield self.server.url

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if self.errors:
            raise self.errors.pop(0)


def pod(name: str, app: str, ready: bool = True, created: str = "2026-01-01T00:00:00Z", version: str = "new", **status: t.Any) -> Object:
    labels = {"app": app, "pod-template-hash": version}
    return {
        "metadata": {
            "name": name,
            "labels": labels,
            "ownerReferences": [{"kind": "ReplicaSet", "name": f"{app}-{version}"}],
            "creationTimestamp": created,
        },
        "spec": {"nodeName": "node1", "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}], **status},
    }


def waiting(reason: str, message: str) -> dict[str, t.Any]:
    return {"containerStatuses": [{"name": "main", "state": {"waiting": {"reason": reason, "message": message}}}]}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[LISTED], chat=[ANSWER], api_key=KEY) as running:
        yield running


@pytest.fixture
def cluster(server: stub.StubOpenAI) -> Cluster:
    return Cluster(server)


def run(clock: Clock, cluster: t.Optional[Cluster] = None, once: bool = False, **params: t.Any) -> dict[str, t.Any]:
    def connect(_kubeconfig: t.Optional[str], _context: t.Optional[str]) -> t.Any:
        assert cluster is not None, "the cluster was asked, though nothing of it was needed"
        return cluster

    defaults: dict[str, t.Any] = {
        "model": "smoke",
        "url": None,
        "service": None,
        "pods": None,
        "api_key": None,
        "api_key_file": None,
        "api_key_secret": None,
        "engine_deployment": None,
        "held": False,
        "aliases": [],
        "supervised": None,
        "wait_timeout": 60,
        "wait_sleep": 0.5,
        "request_timeout": 60.0,
        "max_tokens": 8,
        "validate_certs": True,
        "ca_path": None,
        "kubeconfig": None,
        "context": None,
        "progress_path": None,
    }
    return router_wait.run({**defaults, **params}, once, connect, clock.now, clock.sleep, lambda: 1767225600 + clock.time)


def rollout(clock: Clock, cluster: Cluster, **params: t.Any) -> dict[str, t.Any]:
    """Wait as the role does: by the Service, with the Secret, for the engines of this rollout."""
    of_the_role = {"engine_deployment": "vllm-backend", "api_key_secret": SECRET}
    return run(clock, cluster, service=SERVICE, **{**of_the_role, **params})


def by_url(clock: Clock, server: stub.StubOpenAI, **params: t.Any) -> dict[str, t.Any]:
    return run(clock, url=server.url, api_key=KEY, **params)


# What is ready


def test_a_router_at_a_url_is_ready_at_once_and_no_cluster_is_asked(clock: Clock, server: stub.StubOpenAI) -> None:
    assert by_url(clock, server) == {
        "ready": True,
        "model": "smoke",
        "endpoint": server.url,
        "models": ["smoke"],
        "attempts": 1,
        "elapsed_seconds": 0.0,
        "first_token_seconds": pytest.approx(0, abs=60),
        "last_error": "",
        "phases": [{"name": "router", "seconds": 0.0}, {"name": "ready", "seconds": 0.0}],
    }
    asked = server.requests[1].body
    assert (asked["model"], asked["max_tokens"], asked["stream"], asked["temperature"]) == ("smoke", 8, True, 0)


def test_a_rollout_that_is_over_costs_few_requests(clock: Clock, cluster: Cluster) -> None:
    result = rollout(clock, cluster)
    assert (result["ready"], result["engines_ready"], result["endpoint"]) == (True, 1, "service chatbot/vllm-router:80")
    assert cluster.calls == [
        f"{DEPLOYMENTS}?metadata.name=vllm-backend",
        f"{PODS}?app=vllm-backend",
        f"{SETS}?app=vllm-backend",
        SERVICES,
        f"{PODS}?app=vllm-router",
        SECRETS,
        SERVICES,
        f"{PODS}?app=vllm-router",
        "forward chatbot/vllm-router-1:8000",
    ]


def forwards(cluster: Cluster) -> list[str]:
    return [call for call in cluster.calls if call.startswith("forward")]


def test_the_port_forward_of_the_first_look_serves_the_others(clock: Clock, cluster: Cluster) -> None:
    cluster.server.scripts["/v1/models"] = [stub.models(), stub.models(), LISTED]
    assert rollout(clock, cluster)["attempts"] == 3
    assert cluster.calls.count(SECRETS) == 1
    assert forwards(cluster) == ["forward chatbot/vllm-router-1:8000"]


def test_a_port_forward_that_broke_is_opened_anew(clock: Clock, cluster: Cluster) -> None:
    cluster.server.scripts["/v1/models"] = [stub.drops(), stub.status(503), LISTED]
    assert rollout(clock, cluster)["attempts"] == 3
    assert len(forwards(cluster)) == 2


def test_a_port_forward_to_a_router_of_before_is_left(clock: Clock, cluster: Cluster) -> None:
    cluster.server.scripts["/v1/models"] = [stub.models(), LISTED]
    clock.events[0.5] = lambda: cluster.pods.append(pod("vllm-router-2", "vllm-router", created="2026-01-01T00:02:00Z"))
    assert rollout(clock, cluster)["ready"]
    assert forwards(cluster) == ["forward chatbot/vllm-router-1:8000", "forward chatbot/vllm-router-2:8000"]


def test_while_engines_load_the_router_is_not_asked(clock: Clock, cluster: Cluster) -> None:
    cluster.pods[1] = pod("vllm-backend-1", "vllm-backend", ready=False)
    clock.events[20] = lambda: cluster.pods.__setitem__(1, pod("vllm-backend-1", "vllm-backend"))
    result = rollout(clock, cluster)
    assert (result["elapsed_seconds"], result["attempts"]) == (20, 5)
    assert [request.path for request in cluster.server.requests] == ["/v1/models", "/v1/chat/completions"]
    assert [phase["name"] for phase in result["phases"]] == ["scheduled", "engine", "router", "ready"]
    assert result["phases"][0]["seconds"] == 20


def test_the_newest_ready_router_pod_is_asked(clock: Clock, cluster: Cluster) -> None:
    cluster.pods += [
        pod("vllm-router-3", "vllm-router", created="2026-01-01T00:03:00Z", ready=False),
        pod("vllm-router-2", "vllm-router", created="2026-01-01T00:02:00Z"),
    ]
    rollout(clock, cluster)
    assert cluster.calls[-1] == "forward chatbot/vllm-router-2:8000"


def test_reasoning_alone_proves_the_model_ready(clock: Clock, server: stub.StubOpenAI) -> None:
    server.scripts["/v1/chat/completions"] = [stub.events({"reasoning": "Hm"}, finish=None)]
    assert by_url(clock, server)["ready"]


# What heals


@pytest.mark.parametrize(
    "trouble",
    [
        stub.status(503, "no engine"),
        stub.status(404, "unknown model"),
        stub.status(429, "busy"),
        stub.status(500, "engine died"),
        stub.drops(),
        stub.page("<html>starting</html>"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
def test_trouble_that_heals_is_waited_for(clock: Clock, server: stub.StubOpenAI, path: str, trouble: stub.Reply) -> None:
    server.scripts[path] = [trouble, trouble, server.scripts[path][0]]
    result = by_url(clock, server)
    assert (result["ready"], result["attempts"], result["elapsed_seconds"], result["last_error"]) == (True, 3, 1.0, "")


@pytest.mark.parametrize("trouble", [stub.breaks_off("Hel"), stub.events(finish=None), stub.raw_events('{"error": {"code": 500}}')])
def test_half_a_completion_is_none(clock: Clock, server: stub.StubOpenAI, trouble: stub.Reply) -> None:
    server.scripts["/v1/chat/completions"] = [trouble, ANSWER]
    assert by_url(clock, server)["attempts"] == 2


def test_a_refused_connection_is_waited_for(clock: Clock) -> None:
    with contextlib.ExitStack() as stack:
        late = stub.StubOpenAI(models=[LISTED], chat=[ANSWER])
        clock.events[5] = lambda: stack.enter_context(late)
        assert run(clock, url=late.url)["elapsed_seconds"] == 5


def test_a_hanging_request_is_given_up_and_tried_again(clock: Clock, server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.hangs(), LISTED]
    assert by_url(clock, server, request_timeout=0.1)["attempts"] == 2


def test_no_completion_is_asked_for_while_an_engine_of_before_may_answer_it(clock: Clock, cluster: Cluster) -> None:
    old = cluster.pods[1]
    old["metadata"]["labels"]["pod-template-hash"] = "old"
    clock.events[20] = lambda: cluster.pods.append(pod("vllm-backend-2", "vllm-backend"))
    clock.events[40] = lambda: cluster.pods.remove(old)
    assert rollout(clock, cluster)["elapsed_seconds"] >= 40
    assert [request.method for request in cluster.server.requests].count("POST") == 1


def test_a_deployment_that_was_just_changed_is_not_taken_for_rolled_out(clock: Clock, cluster: Cluster) -> None:
    cluster.generation = 2
    clock.events[5] = lambda: setattr(cluster, "generation", 1)
    assert rollout(clock, cluster)["elapsed_seconds"] >= 5
    assert cluster.calls.count(f"{DEPLOYMENTS}?metadata.name=vllm-backend") == 2


def test_as_many_engines_as_wanted_have_to_be_ready(clock: Clock, cluster: Cluster) -> None:
    leaving = pod("vllm-backend-0", "vllm-backend")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster.pods.append(leaving)
    cluster.replicas = 2
    with pytest.raises(ServingError, match=r"1 of 2 engine pods are ready: 1 of 2 new pods made \(vllm-backend-0: terminating\)") as caught:
        rollout(clock, cluster)
    assert caught.value.details["engines_ready"] == 1


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 401), ("/v1/models", 403), ("/v1/chat/completions", 400)])
def test_what_an_engine_of_before_refuses_may_heal(clock: Clock, cluster: Cluster, path: str, status: int) -> None:
    old = pod("vllm-backend-0", "vllm-backend")
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster.pods.append(old)
    cluster.server.scripts[path] = [stub.status(status), stub.status(status), cluster.server.scripts[path][0]]
    clock.events[20] = lambda: cluster.pods.remove(old)
    assert rollout(clock, cluster)["attempts"] == 3


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_an_api_server_that_stumbles_on_the_way_is_waited_for(clock: Clock, cluster: Cluster, status: int) -> None:
    cluster.server.scripts["/v1/models"] = [stub.models(), LISTED]
    clock.events[0.5] = lambda: cluster.errors.append(KubeError("The Kubernetes API stumbled.", status))
    assert rollout(clock, cluster)["attempts"] == 3


def test_an_api_server_that_is_about_to_start_is_waited_for(clock: Clock, cluster: Cluster) -> None:
    cluster.errors = [KubeError("The Kubernetes API cannot be reached.", 0)] * 20
    result = rollout(clock, cluster)
    assert (result["ready"], result["attempts"]) == (True, 21)


def test_an_api_server_that_has_never_answered_is_given_up(clock: Clock, cluster: Cluster) -> None:
    cluster.errors = [KubeError("The Kubernetes API cannot be reached.", 0)] * 200
    with pytest.raises(ServingError, match=r"^The Kubernetes API cannot be reached\.$") as caught:
        rollout(clock, cluster, wait_timeout=600)
    assert caught.value.details["elapsed_seconds"] == 30


def test_an_api_server_that_goes_away_later_is_waited_for_to_the_end(clock: Clock, cluster: Cluster) -> None:
    cluster.server.scripts["/v1/models"] = [stub.models()]
    clock.events[1] = lambda: cluster.errors.extend([KubeError("The Kubernetes API cannot be reached.", 0)] * 200)
    with pytest.raises(ServingError, match=r"Last cause: The Kubernetes API cannot be reached\. Last phase:") as caught:
        rollout(clock, cluster)
    assert caught.value.details["elapsed_seconds"] == 60


# What does not heal


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
def test_a_refused_key_fails_at_once(clock: Clock, cluster: Cluster, path: str, status: int) -> None:
    cluster.server.scripts[path] = [stub.status(status, f"not {KEY}")]
    with pytest.raises(ServingError, match="The API key in api-key of the Secret chatbot/vllm-api-key is not the one") as caught:
        rollout(clock, cluster)
    assert caught.value.details["attempts"] == 1
    assert f"answered {status}" in str(caught.value)
    assert KEY not in f"{caught.value} {caught.value.details}"


def test_a_missing_key_is_told_from_a_wrong_one(clock: Clock, server: stub.StubOpenAI) -> None:
    with pytest.raises(ServingError, match="none was given"):
        run(clock, url=server.url)
    with pytest.raises(ServingError, match="The API key is not the one that the engines use"):
        run(clock, url=server.url, api_key="other")


def test_a_refused_completion_fails_at_once(clock: Clock, server: stub.StubOpenAI) -> None:
    server.scripts["/v1/chat/completions"] = [stub.status(400, "no chat template")]
    with pytest.raises(ServingError, match=r"refuses a plain completion: .*no chat template") as caught:
        by_url(clock, server)
    assert caught.value.details["attempts"] == 1
    assert caught.value.details["models"] == ["smoke"]


def test_a_model_that_ready_engines_do_not_serve_fails_after_a_grace(clock: Clock, cluster: Cluster) -> None:
    with pytest.raises(ServingError, match=r'the router lists smoke, not smoky \(did you mean "smoke"\?\), although all engine') as caught:
        rollout(clock, cluster, model="smoky")
    assert caught.value.details["elapsed_seconds"] == 30
    assert caught.value.details["verdict"]["cause"] == "model-not-listed"
    assert caught.value.details["verdict"]["since"] == "2026-01-01T00:00:00Z"


def test_the_grace_begins_when_the_rollout_is_over_and_again_when_an_engine_was_lost(clock: Clock, cluster: Cluster) -> None:
    engine = cluster.pods.pop()
    clock.events = {
        100: lambda: cluster.pods.append(engine),
        120: lambda: cluster.pods.remove(engine),
        140: lambda: cluster.pods.append(engine),
    }
    with pytest.raises(ServingError, match="although all engine pods have been ready for 30 s") as caught:
        rollout(clock, cluster, model="other", wait_timeout=600)
    assert 170 <= caught.value.details["elapsed_seconds"] < 190


def test_a_router_that_lists_nothing_for_long_is_told_with_its_log(clock: Clock, cluster: Cluster) -> None:
    cluster.server.scripts["/v1/models"] = [stub.models()]
    words = r"the router lists no model, although all engine pods have been ready for 30 s.* kubectl -n chatbot logs service/vllm-router"
    with pytest.raises(ServingError, match=words) as caught:
        rollout(clock, cluster)
    assert caught.value.details["elapsed_seconds"] == 30


@pytest.mark.parametrize(("listed", "seconds"), [(stub.models(), 25), (stub.status(503), 40)])
def test_a_router_may_still_find_its_engines(clock: Clock, cluster: Cluster, listed: stub.Reply, seconds: float) -> None:
    cluster.server.scripts["/v1/models"] = [listed]
    clock.events[seconds] = lambda: cluster.server.scripts.update({"/v1/models": [LISTED]})
    assert rollout(clock, cluster)["elapsed_seconds"] == seconds


def test_without_engines_to_look_at_an_unlisted_model_is_waited_for(clock: Clock, server: stub.StubOpenAI) -> None:
    with pytest.raises(ServingError, match="did not answer within 60 s") as caught:
        by_url(clock, server, model="other")
    assert caught.value.details["last_error"] == "the router lists smoke, not other"


@pytest.mark.parametrize(
    "error",
    [KubeError("Not permitted.", 403), KubeError("Unauthorized.", 401), KubeError("Not reached: CERTIFICATE_VERIFY_FAILED.", 0)],
)
def test_a_cluster_that_refuses_fails_at_once(clock: Clock, cluster: Cluster, error: KubeError) -> None:
    cluster.errors = [error]
    with pytest.raises(ServingError, match=f"^{error}$") as caught:
        rollout(clock, cluster)
    assert caught.value.details["attempts"] == 1


@pytest.mark.parametrize(
    ("path", "found", "words"),
    [
        (SERVICES, None, "There is no Service vllm-router in namespace chatbot"),
        (SERVICES, {"spec": {"ports": []}}, "selects no pods"),
        (SERVICES, {"spec": {"selector": {"app": "x"}, "ports": [{"port": 8001}, {"port": 81}]}}, "has no port 80, but 81, 8001"),
        (SECRETS, None, "There is no Secret chatbot/vllm-api-key"),
        (SECRETS, {"data": {"token": "eA=="}}, "has no api-key; it has: token"),
        (SECRETS, {"data": {"api-key": "/w=="}}, "is not text"),
        (SECRETS, {"data": {"api-key": base64.b64encode(b"key\n").decode()}}, "line break at its end"),
    ],
)
def test_objects_that_are_not_as_the_options_say_fail_at_once(
    clock: Clock, cluster: Cluster, path: str, found: t.Optional[Object], words: str
) -> None:
    cluster.objects.pop(path)
    if found:
        cluster.objects[path] = found
    with pytest.raises(ServingError, match=words) as caught:
        rollout(clock, cluster)
    assert caught.value.details["attempts"] == 1


# What is told at the end


def test_the_timeout_tells_the_last_cause_and_where_to_look(clock: Clock, cluster: Cluster) -> None:
    cluster.pods[1] = pod("vllm-backend-1", "vllm-backend", ready=False)
    with pytest.raises(ServingError) as caught:
        rollout(clock, cluster)
    assert str(caught.value) == (
        f"Model smoke did not answer within 60 s ({caught.value.details['attempts']} attempts). Last cause: "
        "the rollout of the engines is not over; 0 of 1 engine pods are ready: 0 of 1 pods available (vllm-backend-1: Running). "
        "Last phase: scheduled on node node1. "
        "Look: kubectl -n chatbot get pods; kubectl -n chatbot logs deployment/vllm-backend --tail=50"
    )
    assert caught.value.details["ready"] is False
    assert caught.value.details["elapsed_seconds"] == 60


def test_the_commands_to_look_with_name_the_same_cluster(clock: Clock, cluster: Cluster) -> None:
    cluster.server.scripts["/v1/models"] = [stub.models()]
    with pytest.raises(ServingError, match="kubectl --kubeconfig '/my files/config' --context lab -n chatbot logs service/vllm-router"):
        run(clock, cluster, service=SERVICE, api_key=KEY, kubeconfig="/my files/config", context="lab")


def test_when_the_engines_are_ready_the_router_is_the_one_to_look_at(clock: Clock, cluster: Cluster) -> None:
    del cluster.pods[0]
    with pytest.raises(ServingError, match=r"Look: kubectl -n chatbot get pods; kubectl -n chatbot logs service/vllm-router$"):
        rollout(clock, cluster)


def test_models_of_an_earlier_look_are_not_told_as_those_of_the_last(clock: Clock, server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.models("other"), stub.status(503)]
    with pytest.raises(ServingError) as caught:
        by_url(clock, server)
    assert caught.value.details["models"] == []
    assert "answered 503" in caught.value.details["last_error"]


def test_requests_do_not_outlast_the_wait(clock: Clock, server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.hangs()]
    with pytest.raises(ServingError, match="no whole answer within 1 s"):
        by_url(clock, server, wait_timeout=0)


def test_one_look_tells_instead_of_failing(clock: Clock, cluster: Cluster) -> None:
    cluster.objects.clear()
    result = rollout(clock, cluster, once=True)
    assert (result["ready"], result["attempts"], clock.time) == (False, 1, 0)
    assert result["last_error"].startswith("There is no Secret")
    assert "first_token_seconds" not in result


def test_one_look_may_take_as_long_as_a_request_may(clock: Clock, server: stub.StubOpenAI) -> None:
    server.scripts["/v1/models"] = [stub.hangs()]
    assert "within 1.5 s" in by_url(clock, server, once=True, request_timeout=1.5)["last_error"]


def test_a_router_that_is_not_ready_is_told_in_the_words_of_its_pod(clock: Clock, cluster: Cluster) -> None:
    crash = waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container")
    cluster.pods[0] = pod("vllm-router-1", "vllm-router", ready=False, **crash)
    assert rollout(clock, cluster, once=True)["last_error"] == (
        "no router pod is ready (vllm-router-1: container main: CrashLoopBackOff (back-off 5m0s restarting failed container)); "
        "1 of 1 engine pods are ready"
    )


def test_a_router_without_pods(clock: Clock, cluster: Cluster) -> None:
    del cluster.pods[0]
    assert rollout(clock, cluster, once=True)["last_error"].startswith("no router pod is ready (there is none of chatbot/vllm-router)")


def test_pods_that_have_ended_are_no_engines(clock: Clock, cluster: Cluster) -> None:
    cluster.pods.append(pod("vllm-backend-0", "vllm-backend", ready=False, phase="Failed", reason="Evicted"))
    with pytest.raises(ServingError, match="although all engine pods"):
        rollout(clock, cluster, model="other")


# What ends the wait at once


def crashed(reason: str = "Error", restarts: int = 0, **terminated: t.Any) -> dict[str, t.Any]:
    state = {"terminated": {"exitCode": 1, "reason": reason, "finishedAt": "2026-01-01T00:00:10Z", **terminated}}
    return {"phase": "Running", "containerStatuses": [{"name": "main", "ready": False, "restartCount": restarts, "state": state}]}


UNKNOWN_FLAG = "vllm: error: unrecognized arguments: --foo"


def test_pods_that_were_evicted_tell_what_keeps_their_successors_from_staying(clock: Clock, cluster: Cluster) -> None:
    evicted = {"phase": "Failed", "reason": "Evicted", "message": 'Usage of EmptyDir volume "shm" exceeds the limit "8Mi". '}
    cluster.pods[1:] = [pod(f"vllm-backend-{number}", "vllm-backend", ready=False, **evicted) for number in (1, 2)]
    cluster.pods.append(pod("vllm-backend-3", "vllm-backend", ready=False))
    with pytest.raises(ServingError, match='exceeds the limit "8Mi"') as caught:
        rollout(clock, cluster, wait_timeout=3600)
    assert (caught.value.details["verdict"]["cause"], caught.value.details["elapsed_seconds"]) == ("evicted", 0)


def test_evicted_pods_of_another_version_say_nothing_about_this_one(clock: Clock, cluster: Cluster) -> None:
    evicted = {"phase": "Failed", "reason": "Evicted", "message": 'Usage of EmptyDir volume "shm" exceeds the limit "8Mi". '}
    cluster.pods[1:] = [pod(f"vllm-backend-{number}", "vllm-backend", ready=False, version="old", **evicted) for number in (1, 2)]
    cluster.pods.append(pod("vllm-backend-3", "vllm-backend", ready=False))
    clock.events[20] = lambda: cluster.pods.append(pod("vllm-backend-3", "vllm-backend")) or cluster.pods.pop(-2)
    assert rollout(clock, cluster)["ready"]


def test_a_cause_that_does_not_heal_ends_the_wait_in_the_look_that_sees_it(clock: Clock, cluster: Cluster) -> None:
    cluster.pods[1] = pod("vllm-backend-1", "vllm-backend", ready=False)

    def fail() -> None:
        cluster.log = UNKNOWN_FLAG
        cluster.pods[1] = pod("vllm-backend-1", "vllm-backend", ready=False, **crashed())

    clock.events[20] = fail
    with pytest.raises(ServingError) as caught:
        rollout(clock, cluster, wait_timeout=3600)
    assert str(caught.value).startswith("vllm-backend-1, container main: its program does not know the flag --foo (for 10 s). Its log: ")
    assert caught.value.details["elapsed_seconds"] == 20
    assert [phase["name"] for phase in caught.value.details["phases"]] == ["scheduled", "again"]
    assert caught.value.details["verdict"] == {
        "cause": "unknown-flag",
        "what": "its program does not know the flag --foo",
        "where": "container main of pod vllm-backend-1",
        "since": "2026-01-01T00:00:10Z",
        "log": "unrecognized arguments: --foo",
        "advice": caught.value.details["verdict"]["advice"],
    }
    assert "vllm_model_configs.smoke.extra_args" in caught.value.details["verdict"]["advice"]
    assert "vllm_model_configs.smoke.extra_args" in str(caught.value)
    assert cluster.server.requests == []


def test_the_log_of_a_run_that_ended_is_read_once(clock: Clock, cluster: Cluster) -> None:
    cluster.log = "requests.exceptions.HTTPError: 429 Client Error: Too Many Requests for url: https://huggingface.co/x"
    cluster.pods[1] = pod("vllm-backend-1", "vllm-backend", ready=False, **crashed())
    with pytest.raises(ServingError, match="did not answer within 60 s") as caught:
        rollout(clock, cluster)
    assert caught.value.details["attempts"] > 10
    assert cluster.calls.count("log vllm-backend-1/main") == 1
    assert caught.value.details["verdict"]["cause"] == "hub-rate-limit"


def test_what_may_heal_is_told_and_waited_for(clock: Clock, cluster: Cluster, tmp_path: Path) -> None:
    refused = waiting("ErrImagePull", "dial tcp: connection refused")
    cluster.pods[1] = pod("vllm-backend-1", "vllm-backend", ready=False, phase="Pending", **refused)
    clock.events[20] = lambda: cluster.pods.__setitem__(1, pod("vllm-backend-1", "vllm-backend"))
    result = rollout(clock, cluster, progress_path=str(tmp_path / "progress"))
    assert (result["ready"], "verdict" in result) == (True, False)
    first = json.loads((tmp_path / "progress").read_text().splitlines()[0])
    assert first["text"].startswith("smoke: pulling image")
    assert "cannot be reached" in first["note"]


def test_pods_of_before_are_not_judged(clock: Clock, cluster: Cluster) -> None:
    old = pod("vllm-backend-0", "vllm-backend", ready=False, version="old", **crashed())
    cluster.log = UNKNOWN_FLAG
    cluster.pods[1] = old
    cluster.has_new_set = False  # as while the pods of before end
    clock.events[10] = lambda: (setattr(cluster, "has_new_set", True), cluster.pods.__setitem__(1, pod("vllm-backend-1", "vllm-backend")))
    result = rollout(clock, cluster)
    assert (result["ready"], result["elapsed_seconds"]) == (True, 10)
    assert result["phases"][0]["name"] == "absent"


def test_a_router_that_cannot_start_ends_the_wait_while_engines_load(clock: Clock, cluster: Cluster) -> None:
    cluster.log = "vllm-router: error: unrecognized arguments: --foo"
    cluster.pods = [
        pod("vllm-router-1", "vllm-router", ready=False, **crashed()),
        pod("vllm-backend-1", "vllm-backend", ready=False),
    ]
    with pytest.raises(ServingError, match=r"^vllm-router-1, container main: .* does not know the flag --foo") as caught:
        rollout(clock, cluster)
    assert caught.value.details["attempts"] == 1


def test_a_new_router_that_cannot_start_beside_one_that_serves_is_no_obstacle(clock: Clock, cluster: Cluster) -> None:
    cluster.log = "vllm-router: error: unrecognized arguments: --foo"
    cluster.pods.append(pod("vllm-router-2", "vllm-router", ready=False, **crashed()))
    assert rollout(clock, cluster)["ready"]


def test_completions_that_fail_alike_for_long_though_the_engines_stay_ready(clock: Clock, cluster: Cluster) -> None:
    replies = [stub.status(500, f"request {number:032x} failed") for number in range(200)]
    cluster.server.scripts["/v1/chat/completions"] = replies
    cluster.log = "ERROR 11-21 09:13:34 [x.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    with pytest.raises(ServingError, match="each completion has failed for 30 s, while the engines stay ready") as caught:
        rollout(clock, cluster, wait_timeout=600)
    assert caught.value.details["elapsed_seconds"] == 30
    assert caught.value.details["verdict"]["cause"] == "completion-fails"
    assert "out of memory" in caught.value.details["verdict"]["log"]


def test_completions_that_fail_in_another_way_each_time_are_waited_for(clock: Clock, cluster: Cluster) -> None:
    cluster.server.scripts["/v1/chat/completions"] = [stub.status(500, word) for word in ("this", "that") * 100]
    with pytest.raises(ServingError, match="did not answer within 60 s"):
        rollout(clock, cluster)


def test_an_engine_that_hangs_is_found_out_by_the_second_completion(clock: Clock, cluster: Cluster) -> None:
    cluster.server.scripts["/v1/chat/completions"] = [stub.hangs()]
    with pytest.raises(ServingError, match=r"2 completions of 8 tokens got no whole answer within 0\.2 s: the engine hangs") as caught:
        rollout(clock, cluster, request_timeout=0.2)
    assert caught.value.details["attempts"] == 2
    assert caught.value.details["verdict"]["cause"] == "engine-hangs"


def test_one_completion_that_hangs_is_none_yet(clock: Clock, cluster: Cluster) -> None:
    cluster.server.scripts["/v1/chat/completions"] = [stub.hangs(), stub.status(503), stub.hangs(), ANSWER]
    assert rollout(clock, cluster, request_timeout=0.2)["attempts"] == 4


def test_further_names_have_to_be_listed_too(clock: Clock, cluster: Cluster) -> None:
    cluster.server.scripts["/v1/models"] = [LISTED, stub.models("smoke", "chat")]
    assert rollout(clock, cluster, aliases=["chat"])["attempts"] == 2
    cluster.server.scripts["/v1/models"] = [LISTED]
    with pytest.raises(ServingError, match="the router lists smoke, not chat"):
        rollout(clock, cluster, aliases=["chat"])


# A rollout that is held


@pytest.fixture
def held(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[t.Any]:
    """Make *cluster* one in which a new engine starts beside one of before; return what was asked to be hidden."""
    cluster.held = True
    cluster.pods[1] = pod("vllm-backend-0", "vllm-backend", version="old")
    cluster.pods.append(pod("vllm-backend-1", "vllm-backend", ready=False))
    hidden: list[t.Any] = []
    monkeypatch.setattr(
        router_wait, "hide_new", lambda kube, namespace, deployment, pods: hidden.append([p["metadata"]["name"] for p in pods])
    )
    return hidden


def test_a_held_rollout_is_ready_when_its_new_engine_answers_directly(clock: Clock, cluster: Cluster, held: list[t.Any]) -> None:
    clock.events[10] = lambda: cluster.pods.__setitem__(2, pod("vllm-backend-1", "vllm-backend"))
    result = rollout(clock, cluster, held=True)
    assert (result["ready"], result["engines_ready"], result["elapsed_seconds"]) == (True, 1, 10)
    assert held[0] == ["vllm-backend-0", "vllm-backend-1"]
    assert forwards(cluster) == ["forward chatbot/vllm-backend-1:8000"]
    selector = "app=vllm-backend,pod-template-hash=new"
    assert f"{PODS}?{selector}" in cluster.calls
    assert result["pods"] == {"namespace": "chatbot", "label_selector": selector, "port": 8000}


def test_a_held_rollout_waits_for_all_new_engines(clock: Clock, cluster: Cluster, held: list[t.Any]) -> None:
    cluster.pods[2] = pod("vllm-backend-1", "vllm-backend")
    cluster.replicas = 2
    with pytest.raises(ServingError, match="1 of 2 engine pods are ready: 1 of 2 new pods made"):
        rollout(clock, cluster, held=True)
    assert cluster.server.requests == []


def test_one_look_at_a_held_rollout_hides_nothing(clock: Clock, cluster: Cluster, held: list[t.Any]) -> None:
    assert rollout(clock, cluster, once=True, held=True)["ready"] is False
    assert held == []


def test_nothing_is_hidden_where_nothing_is_held(clock: Clock, cluster: Cluster, held: list[t.Any]) -> None:
    cluster.held = False
    rollout(clock, cluster, once=True)
    with pytest.raises(ServingError):
        rollout(clock, cluster, wait_timeout=1)
    assert held == []


# On a host


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "VLLM_API_KEY"
    path.write_text(f"{KEY}\n")
    return path


class Engine:
    """A supervisord that keeps an engine and a router; ``info`` is what it says about the engine, None when it knows of none."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "vllm-backend.log"
        self.info: t.Optional[ProcessInfo] = ProcessInfo("vllm-backend", "STARTING", 100, 0, 1, 0, "", str(self.log))
        self.error: t.Optional[ServingError] = None
        self.sockets: set[str] = set()
        self.router = ProcessInfo("vllm-router", "RUNNING", 90, 0, 1, 0, "", str(folder / "vllm-router.log"))
        self.programs = {"by": "supervisord", "suffix": "", "state_dir": str(folder), "programs": ["vllm-backend", "vllm-router"]}

    def becomes(self, **changes: t.Any) -> None:
        assert self.info is not None
        self.info = self.info._replace(**changes)

    def __call__(self, socket_path: str) -> Engine:
        self.sockets.add(socket_path)
        return self

    def processes(self) -> list[ProcessInfo]:
        if self.error is not None:
            raise self.error
        page = ProcessInfo("open-webui", "FATAL", None, 1, 1, 1, "", "")
        return [page, self.router, *([self.info] if self.info else [])]

    def log_of(self, info: ProcessInfo) -> str:
        return tail(info.log_at)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine(tmp_path)
    monkeypatch.setattr(_supervised, "Supervisor", made)
    return made


def test_the_key_is_read_from_its_file(clock: Clock, server: stub.StubOpenAI, key_file: Path) -> None:
    assert run(clock, url=server.url, api_key_file=str(key_file))["ready"]


def test_a_file_with_another_key_is_named_and_no_key_is_told(clock: Clock, server: stub.StubOpenAI, key_file: Path) -> None:
    key_file.write_text("sk-other")
    with pytest.raises(ServingError, match=f"The API key in {key_file} is not the one that the engine uses") as caught:
        run(clock, url=server.url, api_key_file=str(key_file))
    assert "sk-" not in f"{caught.value} {caught.value.details}"


def test_a_file_that_is_not_there(clock: Clock, server: stub.StubOpenAI, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=rf"Cannot read the API key from {tmp_path}/KEY: No such file or directory"):
        run(clock, url=server.url, api_key_file=str(tmp_path / "KEY"))


def test_an_engine_that_starts_is_waited_for(clock: Clock, server: stub.StubOpenAI, engine: Engine) -> None:
    server.scripts["/v1/models"] = [stub.status(503)]
    clock.events[20] = lambda: engine.becomes(state="RUNNING")
    clock.events[30] = lambda: server.scripts.update({"/v1/models": [LISTED]})
    result = by_url(clock, server, supervised=engine.programs)
    assert (result["ready"], result["elapsed_seconds"]) == (True, 30)
    assert engine.sockets == {f"{engine.programs['state_dir']}/supervisord.sock"}


def test_an_engine_of_another_host_has_to_be_reached(clock: Clock, server: stub.StubOpenAI) -> None:
    with stub.StubOpenAI() as other:
        other.scripts["/health"] = [stub.status(503), stub.page("")]
        result = by_url(clock, server, engines={"gpu2": other.url})
    assert (result["ready"], result["attempts"]) == (True, 2)


def test_an_engine_that_stays_out_of_reach_is_named_within_seconds(clock: Clock, server: stub.StubOpenAI) -> None:
    with stub.StubOpenAI() as other:
        other.scripts["/health"] = [stub.page("")]
        with pytest.raises(ServingError) as caught:
            by_url(clock, server, engines={"gpu1": other.url, "gpu2": "http://127.0.0.1:9"})
    said, details = str(caught.value), caught.value.details
    assert "the engine of gpu2 is not reached from the router's host: " in said
    assert "in the firewall of gpu2" in said
    assert details["elapsed_seconds"] == router_wait.UNREACHED_S
    assert details["verdict"]["cause"] == "engine-not-reached"


def test_an_engine_that_loads_is_called_that(clock: Clock, engine: Engine) -> None:
    result = run(clock, url="http://127.0.0.1:9", once=True, supervised=engine.programs)
    assert result["last_error"] == "the engine is loading; nobody answers at http://127.0.0.1:9 yet"


CAUSE = "ValueError: No room"
LOG = (
    f"(EngineCore pid=1) ERROR 11-21 09:13:34 [core.py:1510] {CAUSE}\nRuntimeError: Engine core initialization failed. See root cause above"
)


@pytest.mark.parametrize(
    ("changes", "log", "cause"),
    [
        ({"state": "BACKOFF", "pid": None}, LOG, CAUSE),
        ({"state": "FATAL", "pid": None}, LOG, CAUSE),
        ({"state": "EXITED", "pid": None, "exit_status": 3}, LOG, CAUSE),
        ({"state": "EXITED", "pid": None, "exit_status": 3}, "", "exit code 3"),
        ({"state": "FATAL", "pid": None}, "", "its log does not say why"),
        # supervisord has started it again before somebody looked
        ({"state": "STARTING", "pid": 101}, LOG, CAUSE),
        # it was not started, so the log is about earlier
        ({"state": "FATAL", "pid": None, "spawn_error": "couldn't exec /venvs/x: ENOENT"}, LOG, "couldn't exec /venvs/x: ENOENT"),
    ],
)
def test_an_engine_that_ended_ends_the_wait(
    clock: Clock, server: stub.StubOpenAI, engine: Engine, changes: dict[str, t.Any], log: str, cause: str
) -> None:
    server.scripts["/v1/models"] = [stub.status(503)]
    engine.log.write_text(log)
    clock.events[20] = lambda: engine.becomes(**changes)
    with pytest.raises(ServingError) as caught:
        by_url(clock, server, supervised=engine.programs)
    assert str(caught.value) == f"vllm-backend ended before the model answered: {cause}. Its log: {engine.log}"
    assert caught.value.details["elapsed_seconds"] == 20


BUSY = "requests.exceptions.HTTPError: 429 Client Error: Too Many Requests for url: https://huggingface.co/x"


def test_an_end_that_may_heal_is_waited_for_while_the_engine_is_started_again(
    clock: Clock, server: stub.StubOpenAI, engine: Engine, tmp_path: Path
) -> None:
    server.scripts["/v1/models"] = [stub.status(503)]
    engine.log.write_text(BUSY)
    clock.events = {
        5: lambda: engine.becomes(state="BACKOFF", pid=None, stopped_at=1),
        8: lambda: engine.becomes(state="STARTING", pid=101, spawn_error=""),
        20: lambda: server.scripts.update({"/v1/models": [LISTED]}),
    }
    path = tmp_path / "progress"
    assert by_url(clock, server, supervised=engine.programs, progress_path=str(path))["elapsed_seconds"] == 20
    assert "vllm-backend ended before the model answered" in path.read_text()


def test_an_end_that_may_heal_is_final_when_nobody_starts_the_engine_again(clock: Clock, server: stub.StubOpenAI, engine: Engine) -> None:
    server.scripts["/v1/models"] = [stub.status(503)]
    engine.log.write_text(BUSY)
    clock.events[5] = lambda: engine.becomes(state="FATAL", pid=None, stopped_at=1)
    with pytest.raises(ServingError, match=rf"^vllm-backend ended before .* Its log {engine.log}: .*429") as caught:
        by_url(clock, server, supervised=engine.programs)
    assert caught.value.details["elapsed_seconds"] == 5


def test_the_phases_of_an_engine_on_a_host_are_those_of_its_log(
    clock: Clock, server: stub.StubOpenAI, engine: Engine, tmp_path: Path
) -> None:
    server.scripts["/v1/models"] = [stub.status(503)]
    path = tmp_path / "progress"
    before = "Loading weights took 3 seconds\n=== start of vllm-backend, now\n"
    shards = "Loading safetensors checkpoint shards:  40% Completed | 4/10 [00:02<00:03,  2.00it/s]\n"
    clock.events = {
        2: lambda: engine.log.write_text(before),
        4: lambda: engine.log.write_text(before + shards),
        6: lambda: engine.log.write_text(before + shards + "Loading weights took 3 seconds\n"),
        8: lambda: server.scripts.update({"/v1/models": [LISTED]}),
    }
    result = by_url(clock, server, supervised=engine.programs, progress_path=str(path))
    names = ["starting", "loading", "compiling", "router", "ready"]
    assert [phase["name"] for phase in result["phases"]] == names
    assert [phase["seconds"] for phase in result["phases"]][:3] == [4, 2, 2]
    told = dict.fromkeys(json.loads(line)["text"] for line in path.read_text().splitlines())
    assert list(told)[1] == "smoke: loading weights 40 % (4 of 10 shards)"


def test_an_engine_that_had_ended_before_is_told_at_once(clock: Clock, server: stub.StubOpenAI, engine: Engine) -> None:
    engine.becomes(state="FATAL", pid=None)
    with pytest.raises(ServingError, match="vllm-backend ended before the model answered") as caught:
        by_url(clock, server, supervised=engine.programs)
    assert caught.value.details["attempts"] == 1
    assert server.requests == []


def test_a_router_that_ended_ends_the_wait_too(clock: Clock, server: stub.StubOpenAI, engine: Engine) -> None:
    engine.router = engine.router._replace(state="BACKOFF", pid=None)
    Path(engine.router.log_at).write_text("vllm-router: error: unrecognized arguments: --x\n")
    with pytest.raises(ServingError, match=r"^vllm-router ended before .* the flag --x\. Its log .*: \"unrecognized arg.* Remove it"):
        by_url(clock, server, supervised=engine.programs)


def test_an_engine_that_nobody_keeps(clock: Clock, server: stub.StubOpenAI, engine: Engine) -> None:
    engine.info = None
    with pytest.raises(ServingError, match="Nothing keeps a program vllm-backend here"):
        by_url(clock, server, supervised=engine.programs)
    engine.error = NotRunningError("No supervisord listens at /x.")
    assert by_url(clock, server, once=True, supervised=engine.programs)["last_error"] == "No supervisord listens at /x."


def test_the_timeout_names_the_log_of_the_engine(clock: Clock, server: stub.StubOpenAI, engine: Engine) -> None:
    server.scripts["/v1/models"] = [stub.status(503)]
    with pytest.raises(ServingError, match=rf"did not answer within 5 s \(11 attempts\).* Look: {engine.log}$"):
        by_url(clock, server, supervised=engine.programs, wait_timeout=5)


def test_why_it_waits_is_told(clock: Clock, server: stub.StubOpenAI, tmp_path: Path) -> None:
    server.scripts["/v1/models"] = [stub.models(), stub.status(503, "no engine"), LISTED]
    by_url(clock, server, progress_path=str(tmp_path / "progress"))
    told = [json.loads(line)["text"] for line in (tmp_path / "progress").read_text().splitlines()]
    assert told[0] == "smoke: the router lists no model"
    assert "503" in told[1]
    assert told[2:] == ["smoke: router: engine found", "smoke: ready"]


def test_a_real_supervisord_is_asked(clock: Clock, server: stub.StubOpenAI, tmp_path: Path) -> None:
    script = tmp_path / "engine.py"
    script.write_text("raise SystemExit('ValueError: No room')")
    conf = tmp_path / "supervisord.conf"
    conf.write_text(
        "[unix_http_server]\nfile=%(here)s/supervisord.sock\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        "[supervisord]\nlogfile=%(here)s/supervisord.log\npidfile=%(here)s/supervisord.pid\nminfds=64\nminprocs=10\n"
        f"[program:vllm-backend]\ncommand={sys.executable} {script}\nstartretries=100\nredirect_stderr=true\n"
        "stdout_logfile=%(here)s/vllm-backend.log\n"
    )
    supervisord = os.path.join(os.path.dirname(sys.executable), "supervisord")
    with subprocess.Popen([supervisord, "-n", "-c", str(conf)], stdout=subprocess.DEVNULL) as process:
        try:
            while not (tmp_path / "vllm-backend.log").exists() or not (tmp_path / "vllm-backend.log").read_text():
                assert process.poll() is None
                time.sleep(0.05)
            with pytest.raises(
                ServingError, match=rf"^vllm-backend ended before the model answered: ValueError: No room\. Its log: {tmp_path}"
            ):
                run(
                    clock,
                    url="http://127.0.0.1:9",
                    supervised={"by": "supervisord", "suffix": "", "state_dir": str(tmp_path), "programs": ["vllm-backend"]},
                    wait_timeout=3600,
                )
        finally:
            process.terminate()
