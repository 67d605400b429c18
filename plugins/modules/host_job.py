#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command until what it makes is there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_job
short_description: Run a command once, until what it makes is there
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Does on a host what a Job does on a cluster - runs a command that makes a file or a folder, and nothing when that is there.
  - While it runs, the last line that it wrote is shown as its progress. All it wrote is kept in a file.
  - The command ends with the module, also when that is interrupted.
extends_documentation_fragment: [llmops.serving.progress]
attributes:
  check_mode:
    support: full
    description: Nothing is run; the module says whether something would be.
  diff_mode:
    support: none
    description: What the command makes is unknown.
  idempotent:
    support: full
    description: Nothing is run when all of O(creates) exist. Without O(creates), it is as idempotent as its command.
options:
  title:
    description: What is made, as progress and messages call it.
    type: str
    required: true
  command:
    description: The command and its arguments. There is no shell.
    type: list
    elements: str
    required: true
  creates:
    description:
      - What is there when the command has been run. It fails when it does not make all of this.
      - Without it the command is run each time.
    type: list
    elements: path
    default: []
  files:
    description: Files to write before the command is run, such as the script that it runs - a text for each path.
    type: dict
    default: {}
    version_added: "0.2.0"
  user:
    description: User of this host to run the command as. Needs root; by default the user of the module.
    type: str
    version_added: "0.2.0"
  chdir:
    description: Folder to run the command in.
    type: path
  environment:
    description: Environment variables of the command, beside those of the module.
    type: dict
    default: {}
  secret_environment:
    description: More environment variables of the command, with values that nobody shall see.
    type: dict
    default: {}
  log_path:
    description: File for what the command writes. It is written anew.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Train a model, unless it is there
  llmops.serving.host_job:
    title: smoke
    command: [/opt/vllm/bin/python, smoke_model.py, --row, smoke, --out, /srv/models/smoke]
    chdir: /srv/scripts
    creates: /srv/models/smoke
    log_path: /srv/logs/smoke.log
"""

RETURN = r"""
elapsed_seconds:
  description: How long the command took. 0 when it was not run.
  returned: always
  type: float
  sample: 61.8
last_line:
  description: The last line that the command wrote.
  returned: when the command was run
  type: str
  sample: smoke model ready in /srv/models/smoke (2017344 parameters, 61 s)
"""

import os
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils._child import Child
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress

LINES_OF_FAILURE = 3


def run(params: t.Mapping[str, t.Any], check_mode: bool = False) -> dict[str, t.Any]:
    """Run the command when its result is missing. Raises ServingError when it fails."""
    if params["creates"] and all(map(os.path.exists, params["creates"])):
        return {"changed": False, "elapsed_seconds": 0.0}
    if check_mode:
        return {"changed": True, "elapsed_seconds": 0.0}
    title, log_path = params["title"], params["log_path"]
    if not params["command"]:
        raise ServingError(f"{title}: the command is empty. Give a list: the executable, then its arguments.")
    progress = Progress(params["progress_path"])
    begun = time.monotonic()
    lines: list[str] = []
    try:
        os.makedirs(os.path.dirname(log_path) or ".", mode=0o700, exist_ok=True)
        for path, text in params["files"].items():
            write(path, text)
        with (
            open(log_path, "w", encoding="utf-8") as log,
            Child(
                params["command"],
                cwd=params["chdir"],
                user=params["user"],
                env={**os.environ, **{key: str(value) for key, value in {**params["environment"], **params["secret_environment"]}.items()}},
            ) as child,
        ):
            for line in child.lines():
                log.write(line + "\n")
                log.flush()
                if line.strip():
                    lines = [*lines[1 - LINES_OF_FAILURE :], line.strip()]
                    progress.tell("run", line.strip())
            code = child.wait()
    except OSError as exc:
        where = f": {exc.filename}" if exc.filename else ""
        raise ServingError(f"{title}: cannot run {params['command'][0]}: {exc.strerror}{where}") from exc
    if code != 0:
        raise ServingError(f"{title} could not be made (exit code {code}): {' | '.join(lines) or 'no output'}. The whole log: {log_path}")
    missing = [path for path in params["creates"] if not os.path.exists(path)]
    if missing:
        raise ServingError(f"{title}: the command succeeded, but did not make {missing[0]}. Its log: {log_path}")
    return {"changed": True, "elapsed_seconds": round(time.monotonic() - begun, 1), "last_line": lines[-1] if lines else ""}


def write(path: str, text: str) -> None:
    """Write a file that all may read, and its folder."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        os.makedirs(folder)
        os.chmod(folder, 0o755)
    with open(path, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "title": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "creates": {"type": "list", "elements": "path", "default": []},
            "files": {"type": "dict", "default": {}},
            "user": {"type": "str"},
            "chdir": {"type": "path"},
            "environment": {"type": "dict", "default": {}},
            "secret_environment": {"type": "dict", "default": {}, "no_log": True},
            "log_path": {"type": "path", "required": True},
            **PROGRESS_ARGS,
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
