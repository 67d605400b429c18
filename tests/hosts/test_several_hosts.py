# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several hosts in one run, with the real programs: each with a chat of its own, then all behind one router, on each platform of hosts.

The tests build on each other: each takes over what the one before has left.
"""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import chat
import pytest
import requests
import trained
import yaml
from remote import KEEP, ROOT, Machine, Played, inventory, machine_files, play, until, verb

STATE_DIR = "/opt/llmops-serving/chat"
PAGE, ROUTER, SESSIONS, ENGINE, METRICS = 8080, 8000, 8001, 8100, 29000
SMOKE = yaml.safe_load((ROOT / "roles/vllm/vars/models.yml").read_text(encoding="utf-8"))["vllm_models"]["smoke"]
# its parser reads another kind of calls than it writes
MUTE = {**SMOKE, "tool_call_parser": "pythonic"}
# an engine that does not know its flag ends at once
BROKEN = {"smoke-json": {"extra_args": ["--no-such-flag"]}}
# two engines start at the same time, on the same few cores
PATIENCE_S = 900
PLATFORMS: dict[str, dict[str, t.Any]] = {
    "systemd": {},
    "docker": {
        "vllm_image": "localhost/vllm-openai-cpu:test",
        "vllm_router_image": "localhost/vllm-router:test",
        "open_webui_image": "localhost/open-webui:test",
    },
}


class Pair:
    """Two machines, and an inventory with both. The first one is to have the router."""

    def __init__(self, platform: str, folder: Path):
        self.platform = platform
        self.first, self.second = (Machine(f"pair-{platform}-{end}") for end in ("a", "b"))
        self.machines = [self.first, self.second]
        self.inventory = folder / "inventory.yaml"
        self.variables = {"ansible_become": True, "llm_platform": platform, "vllm_accelerator": "cpu", **PLATFORMS[platform]}
        self.variables["vllm_startup_timeout"] = PATIENCE_S

    def begin(self) -> None:
        for machine in self.machines:
            machine.down()
            machine.up(*(["--docker"] if self.platform == "docker" else []))
            if self.platform == "systemd":
                machine.shell("apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null")
            models = machine_files(machine) / f"{STATE_DIR[1:]}/data/models"
            models.mkdir(parents=True)
            for row in trained.ROWS:  # what is kept need not be trained again
                trained.put(row, models)
            machine.shell(f"chmod -R a+rX {STATE_DIR}; chown -R 1000:1000 {STATE_DIR}/data")

    def end(self) -> None:
        for machine in self.machines:
            machine.down()

    def play(self, playbook: str, *words: str, hosts: t.Optional[dict[str, t.Any]] = None, **variables: t.Any) -> Played:
        """Play with *variables* of the group, and in *hosts* with those of a machine beside them."""
        inventory(self.inventory, self.machines, **self.variables, **variables)
        document = yaml.safe_load(self.inventory.read_text(encoding="utf-8"))
        for name, own in (hosts or {}).items():
            document["llm"]["hosts"][name].update(own)
        self.inventory.write_text(yaml.safe_dump(document), encoding="utf-8")
        return play(playbook, self.inventory, *words)

    def together(self, playbook: str, *words: str, **variables: t.Any) -> Played:
        return self.play(playbook, *words, vllm_router_host=self.first.name, **{"vllm_model_name": "smoke", **variables})

    def alone(self, playbook: str, first: str, second: str, **variables: t.Any) -> Played:
        models = {self.first.name: {"vllm_model_name": first}, self.second.name: {"vllm_model_name": second}}
        return self.play(playbook, hosts=models, **variables)


def words_of(done: Played, host: Machine) -> str:
    """The last lines that are about *host*."""
    text = "\n".join(done.words)
    return re.split(r"^\S+:$|^Nothing was changed", text.partition(f"{host.name}:\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def ok(done: Played) -> Played:
    assert done.code == 0, done.output[-6000:]
    return done


def key(machine: Machine) -> str:
    return machine.run("cat", f"{STATE_DIR}/secrets/vllm/VLLM_API_KEY").strip()


def secrets(machine: Machine) -> list[str]:
    return machine.shell(f"cd {STATE_DIR}/secrets && find . -type f -exec sh -c 'cat {{}}; echo' ';'").split()


def asked(machine: Machine, model: str, sessions: t.Sequence[t.Optional[str]]) -> list[int]:
    """Ask the router of *machine* once for each of *sessions*, of which all or none are None; return what it answers with."""
    with machine.tunnel(SESSIONS if sessions[0] else ROUTER) as url:
        return [chat.complete(url, model, key=key(machine), session=session).status_code for session in sessions]


def answers(machine: Machine, model: str = "smoke") -> bool:
    try:
        return asked(machine, model, [None]) == [200]
    except (requests.RequestException, AssertionError):
        return False


CHATS = [f"chat-{number}" for number in range(12)]


def page(machine: Machine, question: str) -> str:
    with machine.tunnel(PAGE) as url:
        password = machine.run("cat", f"{STATE_DIR}/secrets/open-webui/WEBUI_ADMIN_PASSWORD").strip()
        return chat.OpenWebUI(url, "admin@localhost", password).ask("smoke", question).text


def listening(machine: Machine) -> set[str]:
    """Return address and port of all that *machine* has for others."""
    lines = machine.run("ss", "--no-header", "--listening", "--tcp", "--numeric").splitlines()
    found = {line.split()[3] for line in lines}
    return {where for where in found if not where.startswith(("127.", "[::1]")) and not where.endswith(":22")}


def processed(pair: Pair) -> dict[str, int]:
    """Return how many requests went to each engine, by its address."""
    look = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/metrics').read().decode())"
    where = {"systemd": "python3", "docker": "docker exec {name} python3"}[pair.platform]
    text = ""
    for name, port in (("vllm-router", METRICS), ("vllm-sessions", METRICS + 1)):
        text += pair.first.shell(f'{where.format(name=name)} -c "{look.format(port=port)}"')
    found: dict[str, int] = {}
    for url, count in re.findall(r'processed_requests_total\{worker="http://([^":]+)[^"]*"\} (\d+)', text):
        found[url] = found.get(url, 0) + int(count)
    return found


def only(pair: Pair, platform: str) -> None:
    if pair.platform != platform:
        pytest.skip(f"shown on {platform}")


@pytest.fixture(scope="module", params=list(PLATFORMS))
def pair(request, tmp_path_factory):
    pair = Pair(request.param, tmp_path_factory.mktemp(f"pair-{request.param}"))
    pair.begin()
    yield pair
    if not KEEP:
        pair.end()


# --- each by itself ---------------------------------------------------------------------------------------------------------------------


def test_each_host_has_a_model_of_its_own(pair):
    only(pair, "systemd")
    done = ok(pair.alone("chat", "smoke", "smoke-json"))
    for machine, model in zip(pair.machines, ("smoke", "smoke-json")):
        assert re.search(rf"^Model +{model}$", words_of(done, machine), re.MULTILINE), done.words
        assert f"[{machine.name}] {model}:" in done.output, "progress names the host"
        assert answers(machine, model)
    assert key(pair.first) != key(pair.second)


def test_again_nothing_is_changed_and_both_verify(pair):
    only(pair, "systemd")
    done = ok(pair.alone("chat", "smoke", "smoke-json"))
    assert done.words[-1].startswith("Nothing was changed"), done.words
    assert "\n".join(ok(pair.alone("verify", "smoke", "smoke-json")).words).count("6 of 6 passed") == 2


def test_a_host_that_fails_does_not_harm_the_other(pair):
    only(pair, "systemd")
    done = pair.alone("chat", "mute", "smoke", vllm_model_configs={"mute": MUTE})
    assert done.code != 0
    assert "tool_call_parser" in words_of(done, pair.first)
    assert words_of(done, pair.first).rstrip().endswith("smoke answers again; mute is not served.")
    assert re.search(r"^Model +smoke$", words_of(done, pair.second), re.MULTILINE), done.words
    assert answers(pair.first, "smoke")
    assert answers(pair.second, "smoke")


# --- behind one router -------------------------------------------------------------------------------------------------------------------


def test_one_router_leads_to_both_and_no_secret_is_shown(pair):
    done = ok(pair.together("chat", "-vvv", "--diff"))
    assert re.search(rf"^Chat +on {pair.first.name}$", words_of(done, pair.second), re.MULTILINE), done.words
    assert "Sign in" in words_of(done, pair.first)
    assert key(pair.first) == key(pair.second)
    found = {secret for machine in pair.machines for secret in secrets(machine)}
    assert len(found) >= 3
    assert not [secret for secret in found if secret in done.output], "a value of a secret was printed"
    for machine in pair.machines:
        assert listening(machine) == {f"{machine.address}:{ENGINE}"}
        shown = machine.shell("ps auxww; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
        assert key(machine) not in shown
    assert requests.get(f"http://{pair.second.address}:{ENGINE}/v1/models", timeout=10).status_code == 401


def test_again_it_changes_nothing(pair):
    done = ok(pair.together("chat"))
    assert done.words[-1].startswith("Nothing was changed"), done.words
    assert done.output.count("changed=0 ") == 2


def test_a_person_chats_and_both_engines_work(pair):
    assert "I am the smoke model" in page(pair.first, "Hello!")
    assert set(asked(pair.first, "smoke", CHATS) + asked(pair.first, "smoke", [None] * 12)) == {200}
    counts = processed(pair)
    assert len(counts) == 2, counts
    assert min(counts.values()) > 2, counts


def test_on_one_of_them_alone_it_is_refused(pair):
    done = pair.together("chat", "--limit", pair.second.name)
    assert done.code != 0
    assert f"this run leaves out {pair.first.name}" in "\n".join(done.words)


def test_models_that_differ_are_refused(pair):
    own = {pair.second.name: {"vllm_model_name": "smoke-json"}}
    done = pair.together("chat", hosts=own)
    assert done.code != 0
    assert f"vllm_model_name is smoke-json on {pair.second.name} and smoke on {pair.first.name}" in "\n".join(done.words)
    assert answers(pair.first)


def test_a_model_that_fails_on_one_host_is_taken_back_on_both(pair):
    own = {pair.second.name: {"vllm_model_configs": BROKEN}}
    done = pair.together("chat", vllm_model_name="smoke-json", hosts=own)
    assert done.code != 0
    assert "no-such-flag" in words_of(done, pair.second)
    assert f"{pair.second.name} has failed" in words_of(done, pair.first)
    for machine in pair.machines:
        assert words_of(done, machine).rstrip().endswith("smoke answers again; smoke-json is not served."), done.words
    assert answers(pair.first, "smoke")
    assert ok(pair.together("chat")).words[-1].startswith("Nothing was changed")


def test_when_a_host_is_gone_the_others_answer(pair):
    verb("stop", pair.second.name, "--hard")
    assert set(asked(pair.first, "smoke", CHATS)) == {200}, "some of these chats were on the other one"
    assert "smoke model" in page(pair.first, "Hello!")
    done = pair.together("chat")
    assert done.code != 0
    assert f"{pair.second.name} has failed" in words_of(done, pair.first)
    assert answers(pair.first)


def test_it_comes_back_with_its_host(pair):
    before = processed(pair)[pair.second.address]
    pair.second.up()
    assert until(lambda: answers(pair.first) and processed(pair).get(pair.second.address, 0) > before, PATIENCE_S)


def test_uninstalled_nothing_is_left(pair):
    ok(pair.together("uninstall", "-e", "purge=true"))
    for machine in pair.machines:
        assert listening(machine) == set()
        assert machine.shell(f"find {STATE_DIR} -mindepth 1 2>/dev/null || true") == ""
        assert machine.shell("ls /etc/systemd/system | grep -E '^(vllm|open-webui)' || true") == ""
        if pair.platform == "docker":
            assert machine.run("docker", "ps", "--all", "--quiet").split() == []
