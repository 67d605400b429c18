# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From Ollama to vLLM and back on a machine that is reached by SSH: what was verified last serves, and what both have stays.

vLLM and the page are the real ones. Ollama is tests/fakes/ollama.py, packed as its release is: its program and its library are not to be
had everywhere. The tests build on each other: each takes over what the one before has left.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
import typing as t
from pathlib import Path

import chat
import pytest
import requests
import trained
from remote import KEEP, ROOT, Machine, Played, inventory, play, until

STATE_DIR = "/opt/llmops-serving/chat"
MODELS = f"{STATE_DIR}/data/ollama/models"
PAGE, ROUTER, ENGINE, SERVER = 8080, 8000, 8100, 11434
VLLM, OLLAMA = {"vllm-backend", "vllm-router"}, {"ollama"}
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
FILES = Path(os.environ.get("TEST_MACHINES_STATE") or CACHE / "llmops-serving-tests") / "machines"
FAKE = f"#!/usr/bin/env python3\n{(ROOT / 'tests/fakes/ollama.py').read_text(encoding='utf-8')}"
REGISTRY = {"tiny:1": {"size": 4 * 2**20}, "other:1": {"size": 2**20}, "mute:1": {"size": 2**20}}
CANNOT_START = {"smoke": {"extra_args": ["--no-such-flag"]}}
EXPOSURE_MOST = 2.0
PATIENCE_S = 300


def packed() -> bytes:
    """Return the archive of a release, with the stand-in for its program."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        entry = tarfile.TarInfo("./bin/ollama")
        entry.size, entry.mode = len(FAKE.encode()), 0o755
        archive.addfile(entry, io.BytesIO(FAKE.encode()))
    return out.getvalue()


class Systemd:
    """How a person on the machine looks at its units, and where the program comes from."""

    options: tuple[str, ...] = ()
    archive = "/srv/ollama-linux-amd64.tgz"

    def __init__(self, machine: Machine):
        self.machine = machine

    def prepare(self) -> dict[str, t.Any]:
        """Have what the docs ask for, and return the variables by which it is found."""
        self.machine.shell("apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null")
        archive = packed()
        (FILES / self.machine.name / "tree" / self.archive.lstrip("/")).write_bytes(archive)
        return {"ollama_archive": self.archive, "ollama_archive_checksum": f"sha256:{hashlib.sha256(archive).hexdigest()}"}

    def running(self) -> set[str]:
        """Return which programs are there, all of them running."""
        names = sorted({*VLLM, *OLLAMA, "ollama-prefetch"})
        shown = [self.machine.run("systemctl", "show", "--property=LoadState,ActiveState", name).split() for name in names]
        found = {name: state for name, state in zip(names, shown) if "LoadState=not-found" not in state}
        assert all("ActiveState=active" in state for state in found.values()), found
        return set(found)


class Docker:
    """How a person on the machine looks at its containers, and where the image comes from."""

    options = ("--docker",)
    image = "localhost/ollama:test"

    def __init__(self, machine: Machine):
        self.machine = machine

    def prepare(self) -> dict[str, t.Any]:
        """Have an image of the stand-in, made of one that has Python, and return the variables by which all are found."""
        program = FILES / self.machine.name / "tree/srv/ollama"
        program.write_text(FAKE, encoding="utf-8")
        program.chmod(0o755)
        self.machine.shell(
            "docker create --name made localhost/vllm-openai-cpu:test && docker cp /srv/ollama made:/usr/local/bin/ollama && "
            f"docker commit --change 'ENTRYPOINT []' made {self.image} && docker rm made"
        )
        return {
            "ollama_image": self.image,
            "vllm_image": "localhost/vllm-openai-cpu:test",
            "vllm_router_type": "vllm-router",
            "vllm_router_image": "localhost/vllm-router:test",
            "open_webui_image": "localhost/open-webui:test",
        }

    def running(self) -> set[str]:
        """Return which programs are there, all of them running."""
        lines = self.machine.run("docker", "ps", "--all", "--format", "{{.Names}} {{.State}}").splitlines()
        found = dict(line.split() for line in lines)
        assert set(found.values()) <= {"running"}, found
        return set(found) - {"open-webui"}


class Stack:
    """A machine, what serves on it, and the runs that change that."""

    def __init__(self, platform: str, folder: Path):
        self.platform = platform
        self.machine = Machine(f"oll-{platform}")
        self.programs = {"systemd": Systemd, "docker": Docker}[platform](self.machine)
        self.inventory = folder / "inventory.yaml"

    def begin(self) -> None:
        self.machine.down()
        self.machine.up(*self.programs.options)
        variables = {
            "llm_platform": self.platform,
            "ansible_become": True,
            "vllm_accelerator": "cpu",
            "vllm_model_name": "smoke",
            "vllm_startup_timeout": 900,
            "vllm_shutdown_timeout": 2,
            "ollama_model_name": "tiny:1",
            "ollama_model_configs": {name: {"weights_gib": 0.1, "tools": True} for name in REGISTRY},
            **self.programs.prepare(),
        }
        inventory(self.inventory, [self.machine], **variables)

    def put_trained(self) -> None:
        """Put the smoke model where its training would leave it, if one is kept: another training would show no more."""
        models = f"{STATE_DIR}/data/models"
        self.machine.shell(f"mkdir -p {models}")
        trained.put("smoke", FILES / self.machine.name / "tree" / models.lstrip("/"))
        self.machine.shell(f"chown --recursive --reference={STATE_DIR}/data {models}")

    def run(
        self, backend: str, *words: str, playbook: str = "chat", fake: t.Optional[dict[str, t.Any]] = None, **variables: t.Any
    ) -> Played:
        told = {"llm_backend": backend, "ollama_extra_env": {"FAKE_OLLAMA": json.dumps({"registry": REGISTRY, **(fake or {})})}}
        return play(playbook, self.inventory, *words, **told, **variables)

    def secret(self, name: str) -> str:
        return self.machine.run("cat", f"{STATE_DIR}/secrets/{name}").strip()

    def said(self, model: str) -> str:
        """Return what a person reads who says hello on the page, where *model* is the only one."""
        with self.machine.tunnel(PAGE) as url:
            page = chat.OpenWebUI(url, "admin@localhost", self.secret("open-webui/WEBUI_ADMIN_PASSWORD"))
            assert page.models() == [model]
            return page.ask(model, "Hello!").text

    def answers(self, model: str, port: int) -> bool:
        """Whether *model* answers at *port* of the machine."""
        key = self.secret("vllm/VLLM_API_KEY") if port == ROUTER else None
        with contextlib.suppress(requests.RequestException, AssertionError), self.machine.tunnel(port) as url:
            return chat.complete(url, model, key=key).status_code == 200
        return False

    def record(self, backend: str) -> dict[str, t.Any]:
        name = "last-good.json" if backend == "vllm" else f"last-good-{backend}.json"
        text = self.machine.shell(f"cat {STATE_DIR}/{name} 2>/dev/null || true")
        data = json.loads(text or "{}")
        return {"model": data.get("model"), "weights": sorted(json.loads(data.get("weights", "{}")))}

    def pulled(self) -> list[str]:
        """Return the layers that were pulled, and when."""
        return sorted(self.machine.shell(f"find {MODELS}/blobs -type f -printf '%f %T@\\n' 2>/dev/null || true").splitlines())

    def listening(self) -> set[str]:
        """Return the ports on which the machine listens to others."""
        lines = self.machine.run("ss", "--no-header", "--listening", "--tcp", "--numeric").splitlines()
        addresses = [line.split()[3].rpartition(":") for line in lines]
        return {port for address, _colon, port in addresses if not address.startswith("127.")}


@pytest.fixture(scope="module", params=["systemd", "docker"])
def stack(request, tmp_path_factory):
    stack = Stack(request.param, tmp_path_factory.mktemp(request.param))
    stack.begin()
    yield stack
    if not KEEP:
        stack.machine.down()


def only(stack: Stack, platform: str) -> None:
    if stack.platform != platform:
        pytest.skip(f"a matter of {platform}")


def ok(played: Played) -> Played:
    assert played.code == 0, played.output[-6000:]
    return played


def words(played: Played) -> str:
    return " ".join(played.words)


def test_what_unpacks_the_archive_has_to_be_there(stack):
    only(stack, "systemd")
    done = stack.run("ollama", ollama_archive="/srv/ollama-linux-amd64.tar.zst")
    assert "tiny:1 on this machine is installed by the program zstd, and it is not there. Install it: apt install zstd" in words(done)
    assert not stack.machine.succeeds(f"test -e {STATE_DIR}/programs")


def test_a_preview_tells_what_would_be_done(stack):
    done = ok(stack.run("ollama", playbook="plan"))
    assert "tiny:1 (not running yet)" in words(done)
    assert stack.programs.running() == set()


def test_one_command_serves_with_ollama(stack):
    done = ok(stack.run("ollama"))
    assert f"http://127.0.0.1:{SERVER}/v1" in words(done)
    assert stack.programs.running() == OLLAMA
    assert stack.said("tiny:1") == "Hello! I am tiny:1, and I compute nothing."
    assert stack.record("ollama") == {"model": "tiny:1", "weights": ["tiny:1"]}


def test_again_it_changes_nothing(stack):
    done = ok(stack.run("ollama"))
    assert "changed=0 " in done.recap
    assert "Nothing was changed" in words(done)
    assert "changed=0 " in ok(stack.run("ollama", "--check")).recap
    assert "Nothing is to be done." in words(ok(stack.run("ollama", playbook="plan")))
    assert "5 of 5 passed" in words(ok(stack.run("ollama", playbook="verify")))


def test_nobody_elsewhere_reaches_it(stack):
    assert stack.listening() == {"22"}
    assert not stack.machine.reaches(SERVER)


def test_the_container_may_do_little(stack):
    only(stack, "docker")
    config = json.loads(stack.machine.run("docker", "inspect", "--format", "{{json .HostConfig}}", "ollama"))
    assert (config["CapDrop"], config["ReadonlyRootfs"], config["Privileged"]) == (["ALL"], True, False)
    assert config["PortBindings"] == {"11434/tcp": [{"HostIp": "127.0.0.1", "HostPort": "11434"}]}
    health = "docker inspect --format '{{.State.Health.Status}}' ollama"
    assert until(lambda: stack.machine.shell(health).strip() == "healthy", 60)


def test_the_unit_may_do_little(stack):
    only(stack, "systemd")
    said = stack.machine.shell("systemd-analyze security --no-pager ollama")
    exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1])
    print(f"exposure of ollama: {exposure}")
    assert exposure <= EXPOSURE_MOST, said
    assert stack.machine.run("systemctl", "show", "--property=User", "--value", "ollama").strip() == "llmops-serving"


def test_a_model_that_nobody_has_is_refused_and_what_served_goes_on(stack):
    done = stack.run("ollama", ollama_model_name="none:1", ollama_model_configs={"none:1": {}})
    assert done.code != 0
    assert "none:1 cannot be pulled: the library has no such model" in words(done)
    assert stack.answers("tiny:1", SERVER)


def test_a_model_that_does_not_answer_is_taken_back(stack):
    done = stack.run("ollama", fake={"mute": True}, ollama_model_name="mute:1")
    assert done.code != 0
    assert done.words[-1] == "tiny:1 answers again; mute:1 is not served."
    assert stack.answers("tiny:1", SERVER)


def test_an_engine_that_cannot_start_brings_ollama_back(stack):
    stack.put_trained()
    done = stack.run("vllm", vllm_model_configs=CANNOT_START)
    assert done.code != 0
    assert "--no-such-flag" in words(done)
    assert done.words[-1] == "tiny:1 of Ollama answers again; smoke is not served."
    assert stack.programs.running() == OLLAMA
    assert stack.answers("tiny:1", SERVER)
    assert stack.record("vllm")["model"] is None


def test_vllm_takes_the_place_of_ollama_whose_models_stay(stack):
    before = stack.pulled()
    assert before
    plan = words(ok(stack.run("vllm", playbook="plan")))
    assert "ollama" in plan.rpartition("Deletes")[2]
    ok(stack.run("vllm"))
    assert stack.programs.running() == VLLM
    assert "I am the smoke model" in stack.said("smoke")
    assert stack.pulled() == before
    assert stack.record("vllm")["model"] == "smoke"
    assert stack.record("ollama") == {"model": None, "weights": ["tiny:1"]}
    assert "changed=0 " in ok(stack.run("vllm")).recap


def test_a_failing_ollama_brings_vllm_back(stack):
    missing = stack.run("ollama", ollama_model_name="none:1", ollama_model_configs={"none:1": {}})
    assert "none:1 cannot be pulled: the library has no such model" in words(missing)
    assert stack.programs.running() == VLLM
    done = stack.run("ollama", fake={"mute": True}, ollama_model_name="mute:1")
    assert done.code != 0
    assert done.words[-1] == "smoke of vLLM answers again; mute:1 is not served."
    assert stack.programs.running() == VLLM
    assert stack.answers("smoke", ROUTER)
    assert stack.record("vllm")["model"] == "smoke"


def test_ollama_takes_the_place_of_vllm_whose_weights_and_secrets_stay(stack):
    key, before = stack.secret("vllm/VLLM_API_KEY"), stack.pulled()
    ok(stack.run("ollama"))
    assert stack.programs.running() == OLLAMA
    assert stack.said("tiny:1") == "Hello! I am tiny:1, and I compute nothing."
    assert set(before) <= set(stack.pulled())
    assert stack.secret("vllm/VLLM_API_KEY") == key
    assert stack.machine.succeeds(f"test -e {STATE_DIR}/data/models/{trained.name('smoke')}/config.json")
    vllm = stack.record("vllm")
    assert vllm["model"] is None
    assert len(vllm["weights"]) == 1


def test_after_a_reboot_it_answers_by_itself(stack):
    stack.machine.reboot()
    assert until(lambda: stack.answers("tiny:1", SERVER), PATIENCE_S)


def test_uninstalled_it_keeps_the_models(stack):
    before = stack.pulled()
    ok(stack.run("ollama", playbook="uninstall"))
    assert stack.programs.running() == set()
    assert stack.pulled() == before
    assert stack.secret("vllm/VLLM_API_KEY")


def test_purged_it_leaves_nothing(stack):
    ok(stack.run("ollama", playbook="uninstall", purge=True))
    assert stack.machine.shell("find /opt/llmops-serving -mindepth 1 2>/dev/null || true") == ""
    assert stack.machine.shell("find /etc/systemd -name '*ollama*'") == ""
    assert stack.listening() == {"22"}
    if stack.platform == "docker":
        assert stack.machine.run("docker", "ps", "--all", "--quiet").split() == []
        assert stack.machine.run("docker", "network", "ls", "--filter", "type=custom", "--quiet").split() == []
