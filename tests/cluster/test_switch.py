# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A switch of the model as a transaction, on the cluster of $KUBECONFIG: the new model serves, or the old one as if nothing had been.

One stack without a page serves smoke, in a namespace of its own; the tests go on from each other, in their order. It asks for no GPU, so
that engines have room side by side whoever else is there. $TEST_NAMESPACE is the beginning of the namespace's name.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import tarfile
import threading
import time
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.urls import open_url
from ansible_collections.llmops.serving.molecule.shared import trained
from ansible_collections.llmops.serving.molecule.shared.chat import kubectl, port_forward, secret
from ansible_collections.llmops.serving.tests.cluster import runs
from ansible_collections.llmops.serving.tests.cluster.runs import ROOT, Ended
from ansible_collections.llmops.serving.tests.unit import stub_hub

ROUTED = "serving.llmops/routed"
PLAN = "serving.llmops/plan"
SMOKE = yaml.safe_load((ROOT / "roles/vllm/vars/models.yml").read_text())["vllm_models"]["smoke"]
ROWS: dict[str, dict[str, t.Any]] = {
    "broken": {**SMOKE, "extra_args": ["--no-such-flag"]},
    "mute": {**SMOKE, "tool_call_parser": "pythonic"},
    "second": SMOKE,
    "tiny": {**SMOKE, "model": "acme/tiny", "source": "hub"},
    "gated": {**SMOKE, "model": "acme/gated", "source": "hub", "gated": True},
}
PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.import_role": {"name": "llmops.serving.vllm"}},
            {"ansible.builtin.set_stats": {"data": {"serving_summary": {"Model": "{{ vllm_endpoint.model }}"}}}},
        ],
    }
]

pytestmark = pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="needs a cluster: export KUBECONFIG")


class Engine(t.NamedTuple):
    """A pod of an engine that is not on its way out."""

    uid: str
    name: str
    model: str
    routed: bool
    ready: bool


class Stack:
    """A stack without a page, the runs that change it, and what a user sees of it."""

    def __init__(self, namespace: str, folder: Path) -> None:
        self.namespace = namespace
        self.folder = folder
        self.hf_endpoint = ""
        (folder / "play.yml").write_text(json.dumps(PLAY))

    # -- runs

    def told(self, model: str, **variables: t.Any) -> dict[str, t.Any]:
        return {
            "llm_namespace": self.namespace,
            "vllm_accelerator": "cpu",
            "vllm_model_name": model,
            "vllm_model_configs": ROWS,
            "vllm_hf_endpoint": self.hf_endpoint,
            "vllm_shutdown_timeout": 5,
            **variables,
        }

    def run(self, model: str, *options: str, playbook: t.Union[Path, str, None] = None, **variables: t.Any) -> Ended:
        return runs.run(playbook or self.folder / "play.yml", *options, **self.told(model, **variables))

    def interrupt(self, model: str, whole: bool, cut_over: bool = False) -> None:
        """Start a run, and kill it while its new engine starts, or once that has the requests; with *whole*, its modules, too."""

        def is_time() -> bool:
            return any(engine.model == model and engine.routed == cut_over and engine.ready >= cut_over for engine in self.engines())

        with (self.folder / f"interrupted-{model}.log").open("w+") as log:
            run = subprocess.Popen(
                runs.command(self.folder / "play.yml", **self.told(model)),
                cwd=ROOT,
                env=runs.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                until(lambda: run.poll() is not None or is_time(), 400)
                log.seek(0)
                assert run.poll() is None, log.read()[-3000:]
            finally:
                begun = descendants(run.pid) if whole else []
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(run.pid, signal.SIGKILL)
                for process in begun:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                run.wait()

    def plan(self, model: str) -> t.Any:
        """Return what make plan tells machines."""
        words = runs.command("chat.yml", **self.told(model))[1:-1]
        command = [str(ROOT / "scripts/plan"), "--output", "json", *words]
        return json.loads(subprocess.run(command, env=runs.environment(), check=True, capture_output=True, text=True).stdout)

    def prune(self, model: str, *options: str) -> Ended:
        return self.run(model, *options, playbook="prune.yml")

    def uninstall(self, **variables: t.Any) -> Ended:
        return self.run("smoke", playbook="uninstall.yml", **variables)

    # -- what is there

    def engines(self) -> list[Engine]:
        pods = kubectl("-n", self.namespace, "get", "pods", "-l", "app=vllm-backend", "-o", "json")["items"]
        return [
            Engine(
                pod["metadata"]["uid"],
                pod["metadata"]["name"],
                pod["metadata"]["annotations"]["serving.llmops/model"],
                pod["metadata"]["labels"][ROUTED] == "true",
                {"type": "Ready", "status": "True"}.items()
                <= next((c for c in pod["status"].get("conditions", []) if c["type"] == "Ready"), {}).items(),
            )
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
        ]

    def engine(self) -> Engine:
        """Return the one engine, which is all that there is."""
        [engine] = self.engines()
        assert engine.routed
        assert engine.ready
        return engine

    def record(self) -> dict[str, t.Any]:
        """Return what was verified last."""
        data = kubectl("-n", self.namespace, "get", "configmap", "vllm-state", "-o", "json")["data"]
        return {**{key: data.get(key) for key in ("model", "digest", "strategy", "committed_at")}, "weights": json.loads(data["weights"])}

    def is_settled(self) -> bool:
        """Whether what is applied is what was verified last, and nothing is held."""
        deployment = kubectl("-n", self.namespace, "get", "deployment", "vllm-backend", "-o", "json")
        return "minReadySeconds" not in deployment["spec"] and deployment["metadata"]["annotations"][PLAN] == self.record()["digest"]

    def weights(self) -> set[str]:
        """Return the names of the weights on the volume."""
        folders = "cd /data; ls -d models/* huggingface/hub/models--* 2>/dev/null || true"
        return set(kubectl("-n", self.namespace, "exec", "deployment/vllm-backend", "--", "sh", "-c", folders).split())

    def smoke_folder(self) -> Path:
        """Copy the smoke model's folder from the volume."""
        pack = "cd /data/models/smoke-*; tar -cf - *"
        command = ["kubectl", "-n", self.namespace, "exec", "deployment/vllm-backend", "--", "sh", "-c", pack]
        packed = subprocess.run(command, check=True, capture_output=True).stdout
        folder = self.folder / "smoke"
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        return folder

    @contextlib.contextmanager
    def router(self) -> t.Iterator[t.Callable[[str], str]]:
        """Give a function that asks a model through the router, and returns which row answers."""
        key = secret(self.namespace, "vllm-secrets", "VLLM_API_KEY")
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        with port_forward(self.namespace, "service/vllm-router", 8000) as url:

            def ask(model: str) -> str:
                body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 32, "temperature": 0}
                answer = json.load(
                    open_url(f"{url}/v1/chat/completions", method="POST", data=json.dumps(body), headers=headers, timeout=60)
                )
                assert answer["choices"][0]["message"]["content"]
                return str(answer["model"])

            yield ask

    @contextlib.contextmanager
    def used(self, model: str) -> t.Iterator[list[str]]:
        """Ask *model* again and again meanwhile; the list that it gives has what went wrong."""
        troubles: list[str] = []
        answers: list[str] = []
        over = threading.Event()

        def use(ask: t.Callable[[str], str]) -> None:
            while not over.wait(3):  # an engine spins for a second behind each answer, and the other one has to load meanwhile
                try:
                    answers.append(ask(model))
                except Exception as exc:
                    troubles.append(f"{time.strftime('%X')} {type(exc).__name__}: {exc}")

        with self.router() as ask:
            user = threading.Thread(target=use, args=(ask,))
            user.start()
            try:
                yield troubles
            finally:
                over.set()
                user.join()
        assert answers

    @contextlib.contextmanager
    def labels_seen(self) -> t.Iterator[dict[str, set[str]]]:
        """Watch meanwhile; give which values of the label that routers look at the engines had, by their model."""
        seen: dict[str, set[str]] = {}
        columns = r"custom-columns=MODEL:.metadata.annotations.serving\.llmops/model,ROUTED:.metadata.labels.serving\.llmops/routed"
        command = ["kubectl", "-n", self.namespace, "get", "pods", "-l", "app=vllm-backend", "-w", "--no-headers", "-o", columns]

        def read(lines: t.Iterable[str]) -> None:
            for line in lines:
                model, routed = line.split()
                seen.setdefault(model, set()).add(routed)

        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout
            reader = threading.Thread(target=read, args=(watch.stdout,))
            reader.start()
            try:
                until(lambda: bool(seen), 30)
                yield seen
                assert watch.poll() is None
            finally:
                watch.terminate()
                reader.join()


def until(there: t.Callable[[], bool], longest_s: float) -> None:
    """Wait for what comes by itself."""
    for _look in range(int(longest_s * 4)):
        if there():
            return
        time.sleep(0.25)
    raise AssertionError("it has not come")


def descendants(process: int) -> list[int]:
    """Return the processes that *process* has started, and theirs."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(status.read_text().rpartition(")")[2].split()[1]), []).append(int(status.parent.name))
    children = parents.get(process, [])
    return [*children, *(other for child in children for other in descendants(child))]


def own_address() -> str:
    """Return the address of this machine that the cluster's nodes, and so their pods, reach."""
    addresses = kubectl("get", "nodes", "-o", "json")["items"][0]["status"]["addresses"]
    node = next(address["address"] for address in addresses if address["type"] == "InternalIP")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((node, 9))
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Stack]:
    namespace = f"{os.environ.get('TEST_NAMESPACE', 'test-switch')}-{secrets.token_hex(3)}"
    stack = Stack(namespace, tmp_path_factory.mktemp("switch"))
    try:
        trained.volume(namespace, "vllm-models")
        run = stack.run("smoke")
        assert run.status == 0, run.words
        yield stack
    finally:
        stack.uninstall(purge=True)


@pytest.fixture(scope="module")
def hub(stack: Stack) -> t.Iterator[stub_hub.StubHub]:
    """A hub that has the smoke model as acme/tiny, and another one that it gives to nobody."""
    files = stub_hub.folder_files(stack.smoke_folder())
    repositories = (stub_hub.Repository("acme/tiny", files), stub_hub.Repository("acme/gated", files, gated=True))
    hub = stub_hub.StubHub(*repositories, bind=own_address())
    hub.start()
    stack.hf_endpoint = hub.url
    try:
        yield hub
    finally:
        hub.stop()


def test_what_cannot_start_leaves_the_old_engine_alone(stack: Stack) -> None:
    before, record = stack.engine(), stack.record()
    with stack.labels_seen() as seen, stack.used("chat") as troubles:
        run = stack.run("broken")
    assert run.status != 0
    assert "--no-such-flag" in run.words
    assert "smoke was not touched and answers; broken is not served." in run.words
    assert stack.engine() == before
    assert seen["smoke"] == {"true"}
    assert "false" in seen["broken"]
    assert troubles == []
    assert stack.record() == record
    again = stack.run("smoke")
    assert again.status == 0
    assert "Nothing was changed" in again.words


def test_with_recreate_the_old_model_comes_back(stack: Stack) -> None:
    before, record = stack.engine(), stack.record()
    run = stack.run("broken", vllm_switch_strategy="recreate")
    assert run.status != 0
    assert "--no-such-flag" in run.words
    assert "smoke answers again; broken is not served." in run.words
    after = stack.engine()
    assert after.uid != before.uid
    assert after.model == "smoke"
    with stack.router() as ask:
        assert ask("chat") == ask("smoke")
    assert {**stack.record(), "strategy": None} == {**record, "strategy": None}
    assert stack.is_settled()


def test_what_calls_no_tools_never_gets_a_request(stack: Stack) -> None:
    before, record = stack.engine(), stack.record()
    with stack.labels_seen() as seen, stack.used("chat") as troubles:
        run = stack.run("mute", vllm_switch_strategy="surge")
    assert run.status != 0
    assert "tool" in run.words
    assert "tool_call_parser" in run.words
    assert "smoke was not touched and answers; mute is not served." in run.words
    assert stack.engine() == before
    assert seen["smoke"] == {"true"}
    assert "false" in seen["mute"]
    assert troubles == []
    assert {**stack.record(), "strategy": None} == {**record, "strategy": None}


def test_the_old_inventory_undoes_what_was_interrupted(stack: Stack) -> None:
    before, record = stack.engine(), stack.record()
    with stack.labels_seen() as seen, stack.used("chat") as troubles:
        stack.interrupt("second", whole=False)
        assert {engine.model for engine in stack.engines()} == {"smoke", "second"}
        assert not stack.is_settled()
        assert stack.run("smoke").status == 0
        assert stack.engine() == before
    assert seen["smoke"] == {"true"}
    assert troubles == []
    assert stack.is_settled()
    assert stack.record() == record


def test_a_gated_repository_ends_the_run_before_anything_is_touched(stack: Stack, hub: stub_hub.StubHub) -> None:
    before, record = stack.engine(), stack.record()
    with stack.labels_seen() as seen:
        run = stack.run("gated")
    assert run.status != 0
    assert "gated" in run.words
    assert "smoke was not touched and answers; gated is not served." in run.words
    assert any(request.path.startswith("/acme/gated/resolve/") for request in hub.requests)
    assert seen["smoke"] == {"true"}
    assert "gated" not in seen
    assert stack.engine() == before
    assert {name for name in stack.weights() if "gated" in name} <= {"huggingface/hub/models--acme--gated"}
    assert {**stack.record(), "strategy": None} == {**record, "strategy": None}


def test_the_new_inventory_goes_on_where_it_was_interrupted(stack: Stack, hub: stub_hub.StubHub) -> None:
    before = stack.engine()
    with stack.labels_seen() as seen, stack.used("chat") as troubles:
        stack.interrupt("tiny", whole=True, cut_over=True)
        assert hub.sent["model.safetensors"] > 2**20
        hub.stop()
        [coming] = [engine for engine in stack.engines() if engine.uid != before.uid]
        run = stack.run("tiny")
    assert run.status == 0, run.words
    after = stack.engine()
    assert (after.uid, after.model) == (coming.uid, "tiny")
    assert {"true", "false"} <= seen["tiny"]
    assert troubles == []
    assert stack.is_settled()
    record = stack.record()
    assert (record["model"], record["strategy"]) == ("tiny", "surge")
    assert {entry["model"] for entry in record["weights"].values()} >= {"tiny"}
    assert "models--acme--tiny" in record["weights"]
    environment_of_engine = kubectl("-n", stack.namespace, "exec", after.name, "--", "env").split()
    assert "HF_HUB_OFFLINE=1" in environment_of_engine
    with stack.router() as ask:
        assert {ask("chat"), ask("tiny")} <= {"tiny", "chat"}

    again = stack.run("tiny")
    assert again.status == 0
    assert "Nothing was changed" in again.words


def test_prune_removes_what_nothing_serves_from_and_no_more(stack: Stack) -> None:
    [smoke] = [name for name in stack.weights() if name.startswith("models/smoke-")]
    tiny = "huggingface/hub/models--acme--tiny"
    assert [entry["name"] for entry in stack.plan("tiny")["unused_weights"]] == [smoke]

    # the inventory names one, and the other was verified last
    assert smoke not in stack.prune("smoke", "--check").words.partition("Kept")[0]
    foreseen = stack.prune("tiny", "--check")
    assert foreseen.status == 0
    assert re.search(rf"Would remove .*{smoke} .*Kept .*acme/tiny", foreseen.words)
    assert stack.weights() >= {smoke, tiny}

    done = stack.prune("tiny")
    assert done.status == 0
    assert re.search(rf"Removed .*{smoke} .*Kept .*acme/tiny", done.words)
    assert stack.weights() == {tiny}
    assert set(stack.record()["weights"]) == {"models--acme--tiny"}
    assert stack.plan("tiny")["unused_weights"] == []
    assert stack.engine().model == "tiny"
    again = stack.prune("tiny")
    assert "nothing: all weights are in use" in again.words


def test_what_is_left_of_an_uninstalled_stack_can_be_pruned(stack: Stack) -> None:
    assert stack.uninstall().status == 0
    kept = stack.prune("tiny")
    assert kept.status == 0, kept.words
    assert "nothing: all weights are in use" in kept.words
    done = stack.prune("smoke")
    assert done.status == 0, done.words
    assert re.search(r"Removed .*acme/tiny", done.words)
    left = kubectl("-n", stack.namespace, "get", "configmaps", "-o", "json")["items"]
    assert "vllm-state" not in {item["metadata"]["name"] for item in left}
