# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the backends of a stack are, and what it takes to go back to one."""

from __future__ import annotations

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _backends, _guard, _switch
from ansible_collections.llmops.serving.plugins.module_utils._apply import Owner
from ansible_collections.llmops.serving.plugins.module_utils._keepers import ProcessInfo
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

    asked = {"kubeconfig": None, "context": None, "namespace": "chatbot", "instance": "chat", "supervised": None}
    found = backend_info.run(asked, lambda *_args: Kube())
    assert Kube.sent == ["vllm-state", "vllm-backend", "ollama-state", "ollama"]
    assert set(found["backends"]) == {"vllm", "ollama"}
    assert found["troubles"] == []


# --- on a host -------------------------------------------------------------------------------------------------------------------------


class Keeper:
    """Keeps some programs of a host."""

    def __init__(self, **states):
        self.states = {name.replace("_", "-"): state for name, state in states.items()}

    def __call__(self, asked):
        self.wanted = asked["programs"]
        return self

    def processes(self):
        facts = {"pid": 1, "exit_status": 0, "started_at": 1, "stopped_at": 0, "spawn_error": "", "log_at": ""}
        return [ProcessInfo(name=name, state=state, **facts) for name, state in self.states.items() if name in self.wanted]


def on_host(monkeypatch, state_dir, keeper, by="systemd", instance="chat"):
    monkeypatch.setitem(backend_info.KEEPERS, by, keeper)
    supervised = {"by": by, "state_dir": str(state_dir), "suffix": "", "docker_host": ""}
    return backend_info.run({"namespace": None, "instance": instance, "supervised": supervised, "address": "127.0.0.1"})["backends"]


def test_programs_of_a_host_have_a_record_for_each_backend(monkeypatch, tmp_path):
    programs = [{"name": "ollama", "command": ["ollama", "serve"]}]
    _switch.FileStore(str(tmp_path), "ollama").write(Record("a:1", "0a1b2c3d4e5f", "recreate", "now", programs, {}, {}))
    _switch.FileStore(str(tmp_path)).write(Record(weights={"models/smoke": {"model": "smoke"}}))
    (tmp_path / "ports.json").write_text('{"ollama": 11436}')
    found = on_host(monkeypatch, tmp_path, Keeper(ollama="RUNNING"))
    assert found["ollama"]["last_good"]["programs"] == programs
    assert found["ollama"]["last_good"]["url"] == "http://127.0.0.1:11436"
    assert found["ollama"]["last_good"]["api_key_file"] is None
    assert (found["ollama"]["serves"], found["ollama"]["wants_pods"]) == (True, True)
    assert (found["vllm"]["serves"], found["vllm"]["wants_pods"], found["vllm"]["last_good"]) == (False, False, None)
    assert found["vllm"]["weights"] == {"models/smoke": {"model": "smoke"}}


def test_the_way_back_to_vllm_on_a_host_knows_the_key(monkeypatch, tmp_path):
    _switch.FileStore(str(tmp_path)).write(Record("smoke", "0a1b2c3d4e5f", "recreate", "now", [], {}, {}))
    (tmp_path / "secrets/vllm").mkdir(parents=True)
    (tmp_path / "secrets/vllm/VLLM_API_KEY").write_text("key")
    found = on_host(monkeypatch, tmp_path, Keeper(vllm_backend="RUNNING", vllm_router="BACKOFF"))["vllm"]
    assert found["last_good"]["api_key_file"] == str(tmp_path / "secrets/vllm/VLLM_API_KEY")
    assert found["last_good"]["url"] == "http://127.0.0.1:8000"
    assert (found["serves"], found["wants_pods"]) == (False, True)
    assert found["owner"] == {"instance": "chat", "component": "vllm"}
    assert found["kept"] == ["vllm-backend", "vllm-router"]


def test_a_host_without_supervisord_keeps_nothing(monkeypatch, tmp_path):
    found = backend_info.run(
        {"namespace": None, "instance": "chat", "address": "", "supervised": {"by": "supervisord", "state_dir": str(tmp_path)}}
    )["backends"]
    assert [each["wants_pods"] for each in found.values()] == [False, False]


def test_containers_have_the_name_of_the_stack_behind_theirs(monkeypatch, tmp_path):
    keeper = Keeper(ollama_lab="RUNNING")
    found = on_host(monkeypatch, tmp_path, keeper, "docker", "lab")
    assert found["ollama"]["programs"] == ["ollama-lab"]
    assert found["ollama"]["serves"]
    assert on_host(monkeypatch, tmp_path, Keeper(ollama="RUNNING"), "systemd", "lab")["ollama"]["serves"]
