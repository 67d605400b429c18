#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that this machine can serve, and reserve what a deployment needs of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_check
short_description: Check that this machine can serve, and reserve what a deployment needs of it
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Looks at the operating system, the CPU, the memory, the disk, the Python interpreters and the ports of the machine that it runs on,
    before anything is installed there.
  - Keeps two runs from working on the same deployment at a time. The lock is the run's (of C(ansible-playbook)), and ends with it. For
    a run that was started on another machine than the one that asks, it ends with the SSH connection.
  - Chooses ports, and keeps what it has chosen for later runs.
  - Linux on x86-64 or aarch64 only; anything else ends in a message.
attributes:
  check_mode:
    support: full
    description: Everything is checked; the state folder is not made, no lock is taken, ports are not kept.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: What was chosen is kept.
options:
  state_dir:
    description: The folder of the deployment. It is made, by default for this user alone.
    type: path
    required: true
  state_dir_mode:
    description: Permissions of O(state_dir) where it is made; V(0755) where programs of another user have to reach what is in it.
    type: str
    default: "0700"
    version_added: "0.2.0"
  create:
    description: Whether to make O(state_dir). Where it is not made, and not there, no lock is taken.
    type: bool
    default: true
    version_added: "0.2.0"
  systemd:
    description: Whether this host has to be run by a systemd for which this user may make units.
    type: bool
    default: false
    version_added: "0.2.0"
  run:
    description: Who asks. The action plugin of the same name gives it; by default it is the process of Ansible above the module.
    type: dict
    suboptions: &run
      node:
        description: The machine that the run was started on, until it boots again.
        type: str
        required: true
      pid:
        description: The run's process there.
        type: int
        required: true
      started:
        description: When that was started, in clock ticks since the machine booted.
        type: int
        required: true
    version_added: "0.2.0"
  over:
    description: A run that is known to have ended, as RV(holder) names it. It holds no lock any more.
    type: dict
    suboptions: *run
    version_added: "0.2.0"
  find:
    description: Paths to look for.
    type: list
    elements: path
    default: []
    version_added: "0.2.0"
  title:
    description: What is to be installed, as messages call it.
    type: str
    default: This deployment
  cpu_check:
    description: Whether vLLM's wheels for CPUs have to run here, which on x86-64 need AVX2 and libnuma.
    type: bool
    default: false
  compiler_check:
    description: Whether a C compiler and Python's headers have to be there, as vLLM needs them on a GPU.
    type: bool
    default: false
  python:
    description:
      - The interpreter to use, a name or a path.
      - Without it, the first of C(python3) and C(python3.N) with a version that fits.
    type: str
    default: ""
  python_versions:
    description: Least and greatest version of Python. Without it, or when all of O(disk) is there, no interpreter is looked for.
    type: list
    elements: str
    default: []
  memory_mib:
    description: How much memory (MiB) has to be free. What the deployment's own processes hold counts as free. V(0) does not look.
    type: int
    default: 0
  disk:
    description: What will be written into O(state_dir).
    type: list
    elements: dict
    default: []
    suboptions:
      paths:
        description: What is there when it has been written. It is not counted when all of them are.
        type: list
        elements: path
        required: true
      mib:
        description: How much it takes (MiB).
        type: int
        required: true
      commands:
        description: Programs without which it cannot be written. They are looked for when it is not there yet.
        type: list
        elements: str
        default: []
        version_added: "0.3.0"
  disk_mib:
    description: How much disk (MiB) others will take beside O(disk).
    type: int
    default: 0
  ports:
    description: Ports of the loopback interface to reserve.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The program that will listen there.
        type: str
        required: true
      usual:
        description: Port to take when it is free. The next free one is taken otherwise.
        type: int
        required: true
      port:
        description: Port that has to be taken, whatever is usual.
        type: int
      outside:
        description: Whether the program will listen at O(address), so that the port has to be free there, too.
        type: bool
        default: false
      variable:
        description: Name of the variable that O(ports[].port) comes from, for messages.
        type: str
        default: port
  address:
    description:
      - Address of this machine at which one of its programs shall be reached by others, IPv4 or a name that this machine knows.
      - What is no address of this machine, or one of the loopback interface, is refused.
    type: str
    version_added: "0.2.0"
  own_ports:
    description: Ports on which the deployment itself listens, though not by processes of its own, as Docker does for containers.
    type: list
    elements: int
    default: []
    version_added: "0.2.0"
"""

EXAMPLES = r"""
- name: See whether two programs of 4 GiB can live here, and get ports for them
  llmops.serving.host_check:
    state_dir: ~/.local/state/example
    python_versions: ["3.11", "3.12"]
    memory_mib: 4096
    disk:
      - paths: [~/.local/state/example/venvs/app]
        mib: 1500
    ports:
      - name: app
        usual: 8000
  register: host
"""

RETURN = r"""
found:
  description: Those of O(find) that are there.
  returned: always
  type: list
  elements: str
  sample: [/srv/chat/models/smoke-0123456789ab]
holder:
  description: The run that works on O(state_dir).
  returned: when it fails for that
  type: dict
  sample: {node: "laptop/1b4e28ba-2fa1-11d2-883f-0016d3cca427/pid:[4026531836]", pid: 4711, started: 1234567}
ports:
  description: The port of each program that one was asked for.
  returned: always
  type: dict
  sample: {vllm-backend: 8100, vllm-router: 8000}
address:
  description: O(address), as IPv4.
  returned: with O(address)
  type: str
  sample: 192.0.2.10
machine:
  description: The kind of machine, as C(uname -m) says it.
  returned: always
  type: str
  sample: x86_64
cpu:
  description: What there is for computing.
  returned: always
  type: dict
  sample: {cores: 16, numa_nodes: 1, features: [avx2, avx512_bf16, avx512f]}
  contains:
    cores:
      description: Physical cores that processes here may use; in a container with a quota, at most that many.
      returned: always
      type: int
      sample: 16
    numa_nodes:
      description: NUMA nodes that those cores belong to.
      returned: always
      type: int
      sample: 1
    features:
      description: What decides how vLLM computes on them, as the kernel calls it.
      returned: always
      type: list
      elements: str
      sample: [avx2, avx512_bf16, avx512f]
python:
  description: Path of the interpreter.
  returned: when an interpreter was looked for
  type: str
  sample: /usr/bin/python3.11
python_version:
  description: Its version.
  returned: when an interpreter was looked for
  type: str
  sample: 3.11.7
disk_mib:
  description: How much disk (MiB) is still to be written.
  returned: always
  type: int
  sample: 1500
disk_free_mib:
  description: How much disk (MiB) is free.
  returned: always
  type: int
  sample: 68120
memory_available_mib:
  description: How much memory (MiB) is free, that of the deployment's own processes included.
  returned: always
  type: int
  sample: 22380
"""

import os
import platform
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _host, _processes, _run_lock
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._run_lock import Run

RUN: dict[str, t.Any] = {
    "node": {"type": "str", "required": True},
    "pid": {"type": "int", "required": True},
    "started": {"type": "int", "required": True},
}


def run(params: t.Mapping[str, t.Any], check_mode: bool = False) -> dict[str, t.Any]:
    """Check and reserve. Raises ServingError for the first thing that stands in the way."""
    state_dir, title = Path(params["state_dir"]), params["title"]
    _host.check_platform(avx2=params["cpu_check"])
    if params["cpu_check"]:
        _host.check_library("numa", "libnuma1")
    if params["systemd"]:
        _host.check_systemd()
    changed = params["create"] and _host.make_state_dir(state_dir, dry=check_mode, mode=int(params["state_dir_mode"], 8))
    if not check_mode and state_dir.is_dir():
        asking, over = (Run(**params[key]) if params.get(key) else None for key in ("run", "over"))
        _run_lock.take(state_dir, asking, over)
    result: dict[str, t.Any] = {"address": _host.own_address(params["address"])} if params.get("address") else {}
    missing = [item for item in params["disk"] if not all(map(os.path.exists, item["paths"]))]
    _host.check_commands([name for item in missing for name in item.get("commands") or []], title)
    missing_mib = sum(item["mib"] for item in missing)
    if params["python_versions"] and (missing_mib or not params["disk"]):
        least, most = (_version(text) for text in (params["python_versions"][0], params["python_versions"][-1]))
        python = _host.find_python(params["python"], least, most, title)
        result.update(python=python.path, python_version=python.text)
        if params["compiler_check"]:
            _host.check_compiler(python)
    own = _processes.belonging(str(state_dir))
    disk_free_mib = _host.check_disk(state_dir, missing_mib + params["disk_mib"], title)
    available_mib, own_mib = _host.available_memory_mib(), sum(process.resident_mib for process in own)
    _host.check_memory(params["memory_mib"], available_mib, own_mib, title)

    path = state_dir / "ports.json"
    reserved = _host.read_ports(path)
    requests = [
        _host.PortRequest(
            wanted["name"], wanted["usual"], wanted["port"], wanted["variable"], result.get("address", "") if wanted.get("outside") else ""
        )
        for wanted in params["ports"]
    ]
    listeners = [_host.listener(port) for port in params.get("own_ports") or []]
    ports = _host.choose_ports(requests, reserved, {*(process.pid for process in own), *filter(None, listeners)})
    if any(reserved.get(name) != port for name, port in ports.items()):
        changed = True
        if not check_mode:
            _host.write_ports(path, {**reserved, **ports})
    return {
        **result,
        "changed": changed,
        "found": [path for path in params["find"] if os.path.exists(path)],
        "ports": ports,
        "machine": platform.machine(),
        "cpu": _host.find_cpu()._asdict(),
        "disk_mib": missing_mib,
        "disk_free_mib": disk_free_mib,
        "memory_available_mib": available_mib + own_mib,
    }


def _version(text: str) -> tuple[int, int]:
    major, minor = (int(part) for part in text.split("."))
    return major, minor


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "state_dir_mode": {"type": "str", "default": "0700"},
            "create": {"type": "bool", "default": True},
            "systemd": {"type": "bool", "default": False},
            "run": {"type": "dict", "options": RUN},
            "over": {"type": "dict", "options": RUN},
            "find": {"type": "list", "elements": "path", "default": []},
            "title": {"type": "str", "default": "This deployment"},
            "cpu_check": {"type": "bool", "default": False},
            "compiler_check": {"type": "bool", "default": False},
            "python": {"type": "str", "default": ""},
            "python_versions": {"type": "list", "elements": "str", "default": []},
            "memory_mib": {"type": "int", "default": 0},
            "disk": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "paths": {"type": "list", "elements": "path", "required": True},
                    "mib": {"type": "int", "required": True},
                    "commands": {"type": "list", "elements": "str", "default": []},
                },
            },
            "disk_mib": {"type": "int", "default": 0},
            "address": {"type": "str"},
            "own_ports": {"type": "list", "elements": "int", "default": []},
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "usual": {"type": "int", "required": True},
                    "port": {"type": "int"},
                    "outside": {"type": "bool", "default": False},
                    "variable": {"type": "str", "default": "port"},
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
