# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role ollama on the platform local, with a real supervisord: from a vLLM to Ollama, and back to it when Ollama does not answer.

Ollama is tests/fakes/ollama.py, packed as its release is. The vLLM of before is the same stand-in under vLLM's names: all that matters of
it here is that it was verified last. The tests build on each other: each takes over what the one before has left.
"""

from __future__ import annotations

import hashlib
import io
import json
import socket
import sys
import tarfile
import typing as t
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _switch
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import NotRunningError, Supervisor
from ansible_collections.llmops.serving.plugins.modules import supervisor_apply
from ansible_collections.llmops.serving.tests.fakes import ollama as fakes
from ansible_collections.llmops.serving.tests.playbooks import playing

FAKE = Path(fakes.__file__)
SUPERVISORD = str(Path(sys.executable).parent / "supervisord")
REGISTRY = {"tiny:1": {"size": 2**20}, "mute:1": {"size": 2**16}}
SERVE = ({"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.include_role": {"name": "llmops.serving.ollama"}}]},)
REMOVE = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.include_role": {"name": "llmops.serving.ollama", "tasks_from": "remove"}}],
    }
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Stack:
    """A state folder, and the runs that change what serves from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.port, self.vllm_port = free_port(), free_port()
        self.archive = self.packed("ollama-linux-amd64.tgz", f"#!{sys.executable}\n{FAKE.read_text(encoding='utf-8')}".encode())

    def packed(self, name: str, program: bytes) -> Path:
        """Return the archive of a release that has *program*."""
        with tarfile.open(self.folder / name, "w:gz") as archive:
            entry = tarfile.TarInfo("./bin/ollama")
            entry.size, entry.mode = len(program), 0o755
            archive.addfile(entry, io.BytesIO(program))
        return self.folder / name

    def begin_with_vllm(self) -> None:
        """Let a vLLM run as its role would have left it."""
        models = self.folder / "vllm"
        store = fakes.Store(models, {"registry": {"smoke:1": {"size": 1024}}}, prune=False)
        list(store.pull("smoke:1"))
        serve = [sys.executable, str(FAKE), "serve"]
        environment = {"OLLAMA_HOST": f"127.0.0.1:{self.vllm_port}", "OLLAMA_MODELS": str(models)}
        programs = [
            {"name": "vllm-backend", "command": [sys.executable, "-c", "import time; time.sleep(3600)"]},
            {"name": "vllm-router", "command": serve, "environment": environment},
        ]
        options = {name: option.get("default") for name, option in supervisor_apply.ARGS.items()}
        suboptions = {name: option.get("default") for name, option in supervisor_apply.ARGS["programs"]["options"].items()}
        whole = [{**suboptions, **program} for program in programs]
        asked = {**options, "state_dir": str(self.state_dir), "component": "vllm", "supervisord": SUPERVISORD, "programs": whole}
        supervisor_apply.run({**asked, "state": "present"})
        (self.state_dir / "ports.json").write_text(json.dumps({"vllm-router": self.vllm_port}))
        weights = {"models/smoke": {"model": "smoke", "gib": 0.1}}
        _switch.FileStore(str(self.state_dir)).write(_switch.Record("smoke:1", "0a1b2c3d4e5f", "recreate", "now", programs, {}, weights))

    def run(self, play: t.Any = SERVE, fake: t.Optional[dict[str, t.Any]] = None, **variables: t.Any) -> playing.Played:
        told = {
            "llm_platform": "local",
            "llm_backend": "ollama",
            "llm_state_dir": self.state_dir,
            "vllm_accelerator": "cpu",
            "ollama_port": self.port,
            "ollama_model_name": "tiny:1",
            "ollama_model_configs": {name: {"weights_gib": 0.01, "tools": True} for name in REGISTRY},
            "ollama_archive": str(self.archive),
            "ollama_archive_checksum": f"sha256:{hashlib.sha256(self.archive.read_bytes()).hexdigest()}",
            "ollama_extra_env": {"FAKE_OLLAMA": json.dumps({"registry": REGISTRY, **(fake or {})})},
        }
        playbook = self.folder / "play.yml"
        playbook.write_text(json.dumps(play))
        return playing.play(str(playbook), **{**told, **variables})

    def models(self, port: int) -> list[str]:
        """Return the models of who listens at *port*, none where nobody does."""
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"http://127.0.0.1:{port}/v1/models", timeout=5
            ) as reply:
                return [entry["id"] for entry in json.load(reply)["data"]]
        except (urllib.error.URLError, ConnectionError):
            return []

    def programs(self) -> set[str]:
        """Return what supervisord keeps running."""
        try:
            return {info.name for info in Supervisor(self.state_dir / "supervisord.sock").processes() if info.pid}
        except NotRunningError:
            return set()

    def good(self, backend: str) -> str:
        store = _switch.FileStore(str(self.state_dir), backend)
        return _switch.from_data(store.load(), store.where)[0].model


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("ollama-local"))
    stack.begin_with_vllm()
    yield stack
    for component in ("ollama-prefetch", "ollama", "vllm"):
        options = {name: option.get("default") for name, option in supervisor_apply.ARGS.items()}
        supervisor_apply.run({**options, "state_dir": str(stack.state_dir), "component": component, "state": "absent"})


def test_an_archive_that_is_another_one_is_refused_while_vllm_serves(stack: Stack) -> None:
    done = stack.run(ollama_archive_checksum=f"sha256:{'0' * 64}")
    assert done.code != 0
    assert "checksum" in " ".join(done.words)
    assert stack.models(stack.vllm_port) == ["smoke:1"]


def test_a_program_that_does_not_run_here_is_refused_while_vllm_serves(stack: Stack) -> None:
    other = stack.packed("other.tgz", b"\x7fELF of another machine")
    done = stack.run(ollama_archive=str(other), ollama_archive_checksum="")
    assert "other.tgz has no bin/ollama that runs here" in " ".join(done.words)
    assert stack.models(stack.vllm_port) == ["smoke:1"]


def test_a_model_that_does_not_answer_brings_vllm_back(stack: Stack) -> None:
    done = stack.run(fake={"mute": True}, ollama_model_name="mute:1")
    assert done.code != 0
    assert done.words[-1] == "smoke:1 of vLLM answers again; mute:1 is not served."
    assert stack.models(stack.vllm_port) == ["smoke:1"]
    assert stack.programs() == {"vllm-backend", "vllm-router"}
    assert stack.good("vllm") == "smoke:1"


def test_ollama_takes_the_place_of_vllm(stack: Stack) -> None:
    done = stack.run()
    assert done.code == 0, done.output[-4000:]
    assert stack.programs() == {"ollama"}
    assert stack.models(stack.vllm_port) == []
    assert {"tiny:1", "chat:latest"} <= set(stack.models(stack.port))
    assert (stack.good("vllm"), stack.good("ollama")) == ("", "tiny:1")
    again = stack.run()
    assert "changed=0 " in again.output, again.output[-4000:]


def test_removed_it_keeps_the_models_and_purged_nothing_of_its_own(stack: Stack) -> None:
    removed = stack.run(REMOVE)
    assert removed.code == 0, removed.output[-4000:]
    assert stack.programs() == set()
    assert (stack.state_dir / "ollama/models/manifests/registry.ollama.ai/library/tiny/1").exists()
    assert stack.run(REMOVE, purge=True).code == 0
    left = {path.name for path in stack.state_dir.iterdir()}
    assert not left & {"ollama", "programs", "bin", "conf.d", "last-good-ollama.json"}, left
