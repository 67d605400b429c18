# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines that the other tests install on are what they are taken for. The tests of this file build on each other."""

from __future__ import annotations

import pytest
from remote import KEEP, Machine, verb


@pytest.fixture(scope="module")
def machine():
    machine = Machine("bed-plain")
    machine.down()
    machine.up()
    yield machine
    if not KEEP:
        machine.down()


@pytest.fixture(scope="module")
def docker():
    machine = Machine("bed-docker")
    machine.down()
    machine.up("--docker")
    yield machine
    if not KEEP:
        machine.down()


def boot_id(machine):
    return machine.run("cat", "/proc/sys/kernel/random/boot_id")


def test_it_boots_systemd_and_nothing_fails(machine):
    assert machine.run("cat", "/proc/1/comm").strip() == "systemd"
    assert machine.run("systemctl", "--failed", "--no-legend") == ""
    assert machine.run("cat", "/etc/hostname").strip() == "bed-plain"


def test_its_user_comes_in_by_ssh_and_may_become_root(machine):
    assert machine.ssh("id --user --name; sudo --non-interactive id --user --name").split() == ["deploy", "root"]
    assert machine.reaches(22)
    assert not machine.reaches(8000)


def test_its_packages_come_from_where_they_come_here(machine):
    assert machine.succeeds("apt-get update -q && apt-get install -q -y --no-install-recommends python3-venv")
    machine.ssh("python3 -m venv /tmp/venv && /tmp/venv/bin/pip install -q --no-deps idna && /tmp/venv/bin/python -c 'import idna'")


def test_what_listens_there_is_not_here(machine):
    machine.run("systemd-run", "--quiet", "--unit=page", "python3", "-m", "http.server", "--bind", "127.0.0.1", "8000")
    with machine.tunnel(8000) as url:
        assert url.startswith("http://127.0.0.1:")
    assert not machine.reaches(8000)


def test_up_again_leaves_it_alone(machine):
    before = boot_id(machine)
    machine.up()
    assert boot_id(machine) == before


@pytest.mark.parametrize("how", ["reboot", "stop", "stop --hard"])
def test_files_outlive_it_and_processes_do_not(machine, how):
    before = boot_id(machine)
    machine.ssh("date +%N >kept; sync")
    kept = machine.ssh("cat kept")
    machine.run("systemd-run", "--quiet", "--unit=mark", "sleep", "1d")
    word, *options = how.split()
    verb(word, machine.name, *options)
    machine.up()
    assert boot_id(machine) != before
    assert machine.ssh("cat kept") == kept
    assert not machine.succeeds("systemctl is-active mark")


def test_docker_has_the_images_and_its_containers_come_back(docker):
    images = docker.ssh("docker images --format '{{.Repository}}:{{.Tag}}'").split()
    assert {f"localhost/{name}:test" for name in ("vllm-openai-cpu", "vllm-router", "open-webui")} <= set(images)
    version = "from importlib.metadata import version; print(version('vllm'))"
    engine = f'docker run --rm --entrypoint python3 localhost/vllm-openai-cpu:test -c "{version}"'
    assert docker.ssh(engine).strip() == "0.32.0+cpu"
    docker.ssh("docker run -d --name stays --restart unless-stopped --memory 100m --entrypoint sleep localhost/vllm-router:test 1d")
    before = boot_id(docker)
    docker.reboot()
    assert boot_id(docker) != before
    assert docker.ssh("docker inspect --format '{{.State.Running}}' stays").strip() == "true"


def test_two_machines_have_two_addresses_and_reach_each_other(machine, docker):
    assert machine.address != docker.address
    assert machine.succeeds(f"timeout 5 bash -c '</dev/tcp/{docker.address}/22'")
    assert not machine.succeeds(f"timeout 5 bash -c '</dev/tcp/{docker.address}/23'")
