# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the backends of a stack are, and what it takes to go back to one."""

from __future__ import annotations

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _backends, _guard
from ansible_collections.llmops.serving.plugins.module_utils._apply import Owner
from ansible_collections.llmops.serving.plugins.module_utils._switch import Record
from ansible_collections.llmops.serving.plugins.modules import backend_info

KEY = {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "vllm-secrets", "key": "VLLM_API_KEY"}}}


def engine(name="vllm-backend", env=(KEY,), deadline=900):
    spec = {"progressDeadlineSeconds": deadline, "template": {"spec": {"containers": [{"name": "main", "env": list(env)}]}}}
    return {"kind": "Deployment", "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize(("stack", "names"), [("chat", ("vllm-backend", "ollama")), ("lab", ("vllm-backend-lab", "ollama-lab"))])
def test_places_are_those_of_the_plans_and_of_the_guard(stack, names):
    places = [_backends.place(backend, stack, "chatbot") for backend in _backends.BACKENDS]
    assert tuple(place["deployment"] for place in places) == names
    for place, other in zip(places, reversed(_backends.BACKENDS)):
        assert Owner(**place["owner"]).selector in _guard.rival_selector(other, stack)
    assert [place["service"]["port"] for place in places] == [8000, 11434]


def test_the_way_back_knows_the_key_and_the_time():
    where = _backends.place("vllm", "chat", "chatbot")
    record = Record("smoke", "0a1b2c3d4e5f", "recreate", "2026-11-21T16:06:00Z", [engine()], {}, {})
    live = {"spec": {"replicas": 0}, "status": {}}
    told = _backends.told(where, record, live)
    assert told["last_good"]["api_key_secret"] == {"namespace": "chatbot", "name": "vllm-secrets", "key": "VLLM_API_KEY"}
    assert told["last_good"]["wait_timeout"] == 900
    assert (told["serves"], told["wants_pods"]) == (False, False)
    assert _backends.told(where, record, {"status": {"readyReplicas": 1}})["serves"]
    assert _backends.api_key_secret([engine(env=())], where) is None
    assert _backends.wait_s([], "vllm-backend") == _backends.USUAL_WAIT_S


def test_a_record_without_a_plan_is_nothing_to_go_back_to():
    told = _backends.told(_backends.place("ollama", "chat", "chatbot"), Record(weights={"a:1": {"model": "a:1"}}), None)
    assert told["last_good"] is None
    assert told["weights"] == {"a:1": {"model": "a:1"}}
    assert not told["wants_pods"]


def test_the_module_asks_for_two_records_and_two_deployments():
    class Kube:
        sent: list[str] = []

        def get(self, path):
            self.sent.append(path.rpartition("/")[2])

    found = backend_info.run({"kubeconfig": None, "context": None, "namespace": "chatbot", "instance": "chat"}, lambda *_args: Kube())
    assert Kube.sent == ["vllm-state", "vllm-backend", "ollama-state", "ollama"]
    assert set(found["backends"]) == {"vllm", "ollama"}
    assert found["troubles"] == []
