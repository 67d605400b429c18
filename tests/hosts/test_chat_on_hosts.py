# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A chat on a machine that is reached by SSH, from its installation to its end, with the real three programs, on each platform of hosts.

The tests build on each other: each takes over what the one before has left.
"""

from __future__ import annotations

import contextlib
import re
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chat
import pytest
import requests
import trained
import yaml
from remote import KEEP, ROOT, Machine, Played, inventory, machine_files, play, until

STATE_DIR = "/opt/llmops-serving/chat"
PROGRAMS = ("vllm-backend", "vllm-router", "open-webui")
PAGE, ROUTER, ENGINE, METRICS = 8080, 8000, 8100, 29000
HF_TOKEN = "hf_thistokenisnotonethatahubknows"
COMMON = {"ansible_become": True, "vllm_accelerator": "cpu", "vllm_model_name": "smoke"}
EXPOSURE_MOST = 2.0
SMOKE = yaml.safe_load((ROOT / "roles/vllm/vars/models.yml").read_text(encoding="utf-8"))["vllm_models"]["smoke"]
# its parser reads another kind of calls than it writes
MUTE = {**SMOKE, "tool_call_parser": "pythonic"}
# the programs have started; what is waited for computes on a few cores
PATIENCE_S = 300


class Systemd:
    """How a person on the machine looks at its units."""

    options: tuple[str, ...] = ()
    variables: dict[str, t.Any] = {}

    def __init__(self, machine: Machine):
        self.machine = machine

    def prepare(self) -> None:
        """Debian's Python comes without the module that makes virtual environments; the docs tell it."""
        self.machine.shell("apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null")

    def pid(self, program: str) -> int:
        return int(self.machine.run("systemctl", "show", "--property=MainPID", "--value", program))

    def is_there(self, program: str) -> bool:
        return self.machine.run("systemctl", "show", "--property=LoadState", "--value", program).strip() != "not-found"

    def shown(self) -> str:
        """All that can be read of them without being root, and what root reads in passing."""
        looks = ("systemctl show", "systemctl cat", "systemctl status --lines=1000")
        names = " ".join(PROGRAMS)
        return self.machine.shell(";".join(f"{look} {names}" for look in looks) + "; journalctl --no-pager")

    def stop(self, program: str) -> None:
        self.machine.run("systemctl", "stop", program)

    def start(self, program: str) -> None:
        self.machine.run("systemctl", "start", program)

    def stopped_in_order(self, program: str) -> bool:
        """Whether it ended before systemd lost patience; a helper of multiprocessing that stays behind is ended with its unit."""
        shown = self.machine.run("systemctl", "show", "--property=ActiveState,Result,ExecMainStatus", program).split()
        said = self.machine.run("journalctl", "--no-pager", "--unit", program, "--lines", "50")
        return {"ActiveState=inactive", "Result=success"} < set(shown) and "ExecMainStatus=9" not in shown and "timed out" not in said


class Docker:
    """How a person on the machine looks at its containers."""

    options = ("--docker",)
    variables = {
        "vllm_image": "localhost/vllm-openai-cpu:test",
        "vllm_router_type": "vllm-router",
        "vllm_router_image": "localhost/vllm-router:test",
        "open_webui_image": "localhost/open-webui:test",
    }

    def __init__(self, machine: Machine):
        self.machine = machine

    def prepare(self) -> None:
        """Docker and the images are there."""

    def pid(self, program: str) -> int:
        return int(self.machine.run("docker", "inspect", "--format", "{{.State.Pid}}", program))

    def is_there(self, program: str) -> bool:
        return program in self.machine.run("docker", "ps", "--all", "--format", "{{.Names}}").split()

    def shown(self) -> str:
        logs = "; ".join(f"docker logs {name} 2>&1" for name in PROGRAMS)
        return self.machine.shell(f"docker inspect {' '.join(PROGRAMS)}; {logs}; cat {STATE_DIR}/compose.yaml; journalctl --no-pager")

    def stop(self, program: str) -> None:
        self.machine.run("docker", "stop", program)

    def start(self, program: str) -> None:
        self.machine.run("docker", "start", program)

    def stopped_in_order(self, program: str) -> bool:
        return self.machine.run("docker", "inspect", "--format", "{{.State.Running}} {{.State.ExitCode}}", program).split() in (
            ["false", "0"],
            ["false", "143"],
        )


class Host:
    """A machine, what is installed on it and how, and what its user has."""

    def __init__(self, platform: str, folder: Path):
        self.platform = platform
        self.machine = Machine(f"chat-{platform}")
        self.programs = {"systemd": Systemd, "docker": Docker}[platform](self.machine)
        self.inventory = folder / "inventory.yaml"

    def begin(self) -> None:
        self.machine.down()
        self.machine.up(*self.programs.options)
        self.programs.prepare()
        inventory(self.inventory, [self.machine], llm_platform=self.platform, **COMMON, **self.programs.variables)

    def play(
        self, playbook: str, *words: str, through: tuple[str, ...] = (), environ: t.Optional[dict[str, str]] = None, **variables: t.Any
    ) -> Played:
        return play(playbook, self.inventory, *words, through=through, environ={"HF_TOKEN": HF_TOKEN, **(environ or {})}, **variables)

    def secret(self, name: str) -> str:
        return self.machine.run("cat", f"{STATE_DIR}/secrets/{name}").strip()

    def secrets(self) -> list[str]:
        """Return all values that nobody may see."""
        found = self.machine.shell(f"cd {STATE_DIR}/secrets && find . -type f -exec sh -c 'cat {{}}; echo' ';'").split()
        assert len(set(found)) >= 3, "API key, password and session key are files there"
        return found

    def answers(self, model: str = "smoke") -> bool:
        """Whether *model* answers through the router."""
        key = self.secret("vllm/VLLM_API_KEY")
        with contextlib.suppress(requests.RequestException, AssertionError), self.machine.tunnel(ROUTER) as url:
            return chat.complete(url, model, key=key).status_code == 200
        return False

    def pids(self) -> dict[str, int]:
        return {program: self.programs.pid(program) for program in PROGRAMS}

    @contextlib.contextmanager
    def page(self) -> t.Iterator[chat.OpenWebUI]:
        with self.machine.tunnel(PAGE) as url:
            yield chat.OpenWebUI(url, "admin@localhost", self.secret("open-webui/WEBUI_ADMIN_PASSWORD"))

    def page_answers(self) -> bool:
        with contextlib.suppress(requests.RequestException, AssertionError), self.machine.tunnel(PAGE) as url:
            return requests.get(f"{url}/ready", timeout=10).status_code == 200
        return False

    def listening(self) -> set[str]:
        """Return the ports on which the machine listens to others."""
        lines = self.machine.run("ss", "--no-header", "--listening", "--tcp", "--numeric").splitlines()
        addresses = [line.split()[3].rpartition(":") for line in lines]
        return {port for address, _colon, port in addresses if not address.startswith("127.")}

    def models(self) -> list[str]:
        """Return the folders of trained models."""
        return self.machine.shell(f"find {STATE_DIR} -path '*/models/smoke*' -name config.json -printf '%h\\n' || true").split()

    def put_trained(self, row: str) -> None:
        """Put the model of *row* beside the one that was trained here, if one is kept: another training would show no more."""
        beside = Path(self.models()[0])
        if trained.put(row, machine_files(self.machine) / beside.parent.relative_to("/")):
            self.machine.run("chown", "--recursive", f"--reference={beside}", str(beside.parent / trained.name(row)))


@pytest.fixture(scope="module", params=["systemd", "docker"])
def host(request, tmp_path_factory):
    host = Host(request.param, tmp_path_factory.mktemp(request.param))
    host.begin()
    yield host
    if not KEEP:
        host.machine.down()


def only(host: Host, platform: str) -> None:
    if host.platform != platform:
        pytest.skip(f"a matter of {platform}")


def ok(played: Played) -> Played:
    assert played.code == 0, played.output[-6000:]
    return played


@pytest.mark.ci
def test_one_command_installs_it_and_shows_no_secret(host):
    done = ok(host.play("chat", "-vvv", "--diff"))
    words = "\n".join(done.words)
    assert "smoke" in words
    assert "admin@localhost" in words
    shown = [secret for secret in (*host.secrets(), HF_TOKEN) if secret in done.output]
    assert not shown, "a value of a secret was printed"
    assert host.answers()


@pytest.mark.ci
def test_again_it_changes_nothing_and_says_so(host):
    before = host.pids()
    done = ok(host.play("chat"))
    assert "changed=0 " in done.recap
    assert any("Nothing was changed" in line for line in done.words), done.words
    assert host.pids() == before


def test_a_preview_finds_nothing_to_do(host):
    done = ok(host.play("chat", "--check", "--diff"))
    assert "changed=0 " in done.recap


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_second_run_is_refused_while_one_is_at_work(host, tmp_path_factory, elsewhere):
    # another node: processes that nobody here sees, and SSH connections of its own
    ssh = {
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(tmp_path_factory.mktemp("ssh")),
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=1s",
    }
    other = {"through": ("unshare", "--pid", "--fork", "--mount-proc"), "environ": ssh} if elsewhere else {}
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(host.play, "chat", **options) for options in ({}, other)]
    refused = [run.result() for run in runs if run.result().code != 0]
    assert len(refused) == 1, [run.result().output[-500:] for run in runs]
    said = re.search(r"Another run works on \S+ since \S+ \(process \d+( on \S+)?\)", "\n".join(refused[0].words))
    assert said, refused[0].words
    assert bool(said[1]) == elsewhere
    # a connection outlives its run
    assert until(lambda: host.play("chat").code == 0, 90)


@pytest.mark.ci
def test_verify_passes_every_step(host):
    done = ok(host.play("verify"))
    assert any("6 of 6 passed" in line for line in done.words), done.words


def test_a_person_chats(host):
    with host.page() as page:
        assert page.models() == ["smoke"]
        assert "I am the smoke model" in page.ask("smoke", "Hello!").text


@pytest.mark.ci
def test_nobody_elsewhere_reaches_it(host):
    assert host.listening() == {"22"}
    assert host.machine.reaches(22)
    assert [port for port in (PAGE, ROUTER, ENGINE, METRICS) if host.machine.reaches(port)] == []


def test_no_secret_shows_on_the_machine(host):
    everywhere = host.programs.shown() + host.machine.shell("ps auxww; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert not [secret for secret in (*host.secrets(), HF_TOKEN) if secret in everywhere]


@pytest.mark.ci
def test_what_is_secret_belongs_to_whom_it_is_for(host):
    listed = host.machine.shell(f"find {STATE_DIR}/secrets -type f -printf '%m %p\\n'").splitlines()
    assert {line.split()[0] for line in listed} <= {"400", "600"}, listed
    hidden = host.secrets()
    files = "find /opt/llmops-serving /etc/systemd -type f -size -1000k -not -path '*/venvs/*' -readable"
    readable = f"{files} -exec cat {{}} + 2>/dev/null || true"
    seen = host.machine.ssh(readable)  # not root
    assert not [secret for secret in hidden if secret in seen], "another user of the machine reads a secret"


def test_what_is_killed_comes_back(host):
    for program in PROGRAMS:
        before = host.programs.pid(program)
        host.machine.run("kill", "-9", str(before))
        assert until(lambda before=before, program=program: host.programs.pid(program) not in (0, before), 60), program
    assert until(lambda: host.answers() and host.page_answers(), PATIENCE_S)


def test_docker_itself_is_restarted(host):
    only(host, "docker")
    host.machine.run("systemctl", "restart", "docker")
    assert until(lambda: host.answers() and host.page_answers(), PATIENCE_S)
    assert "Nothing was changed" in "\n".join(ok(host.play("chat")).words)


def test_compose_takes_the_file(host):
    only(host, "docker")
    services = host.machine.shell(f"cd {STATE_DIR} && docker-compose config --services 2>&1").split()
    assert set(services) == set(PROGRAMS)


def test_units_may_do_little(host, record_property):
    only(host, "systemd")
    for program in PROGRAMS:
        said = host.machine.shell(f"systemd-analyze security --no-pager {program}")
        exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1])
        record_property(f"exposure of {program}", exposure)
        print(f"exposure of {program}: {exposure}")
        assert exposure <= EXPOSURE_MOST, said


def test_they_stop_in_order_and_start_again(host):
    for program in reversed(PROGRAMS):
        host.programs.stop(program)
        assert host.programs.stopped_in_order(program), host.programs.shown()[-3000:]
    for program in PROGRAMS:
        host.programs.start(program)
    assert until(lambda: host.answers() and host.page_answers(), PATIENCE_S)


def test_a_switch_to_what_calls_no_tools_is_taken_back(host):
    done = host.play("chat", vllm_model_name="mute", vllm_model_configs={"mute": MUTE})
    assert done.code != 0
    assert "tool_call_parser" in "\n".join(done.words), done.words
    assert done.words[-1] == "smoke answers again; mute is not served."
    assert host.answers()
    assert "Nothing was changed" in "\n".join(ok(host.play("chat")).words)


def test_another_model_is_a_line_of_the_inventory(host):
    host.put_trained("smoke-json")
    ok(host.play("chat", vllm_model_name="smoke-json"))
    assert host.answers("smoke-json")
    assert not host.answers("smoke")
    with host.page() as page:
        assert page.models() == ["smoke-json"]
        assert page.chats()
    assert len(host.models()) == 2


def test_after_a_reboot_it_answers_by_itself(host):
    with host.page() as page:
        kept = page.chats()
    host.machine.reboot()
    assert until(lambda: host.answers("smoke-json") and host.page_answers(), PATIENCE_S)
    with host.page() as page:
        assert page.chats() == kept


def test_uninstalled_it_keeps_what_is_the_users(host):
    key = host.secret("vllm/VLLM_API_KEY")
    ok(host.play("uninstall"))
    assert [program for program in PROGRAMS if host.programs.is_there(program)] == []
    assert host.machine.shell(f"find {STATE_DIR} -name webui.db -size +0").strip()
    assert len(host.models()) == 2
    assert host.secret("vllm/VLLM_API_KEY") == key


@pytest.mark.ci
def test_purged_it_leaves_nothing(host):
    ok(host.play("uninstall", purge=True))
    names = " -o ".join(f"-name '{name}*'" for name in ("*llmops-serving", *PROGRAMS))
    elsewhere = " ".join(f"-not -path '{path}/*'" for path in ("/proc", "/sys", "/var/log", "/var/lib/docker/overlay2"))
    left = host.machine.shell(f"find / -xdev {elsewhere} '(' {names} ')'").split()
    assert set(left) <= {"/opt/llmops-serving"}  # other stacks are beside this one
    assert host.machine.shell("find /opt/llmops-serving -mindepth 1 2>/dev/null || true") == ""
    assert host.listening() == {"22"}
    if host.platform == "docker":
        assert host.machine.run("docker", "ps", "--all", "--quiet").split() == []
        assert host.machine.run("docker", "network", "ls", "--filter", "type=custom", "--quiet").split() == []
        assert host.machine.run("docker", "volume", "ls", "--quiet").split() == []
