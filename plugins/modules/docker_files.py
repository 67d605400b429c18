#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put onto the host what the containers of one component read and write."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_files
short_description: Put onto the host what containers of a component read and write
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Makes the folders that containers mount, writes the scripts that they run, and keeps the secrets of a component.
  - "A secret is a file that root alone can read. Each container gets copies of those that it needs, in a folder that it alone mounts and
    that its user alone can read, with the name of an environment variable each. So C(docker inspect) shows no secret."
notes:
  - Runs as root, because the containers' users are others than its own.
attributes:
  check_mode:
    description: Can run in check mode, also before there is a state folder.
    support: full
  diff_mode:
    description: Shows files before and after. Values of secrets are never shown.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
options:
  state_dir:
    description: Folder that everything is in.
    type: path
    required: true
  component:
    description: The part of the stack, for example V(vllm) or V(open-webui).
    type: str
    required: true
  state:
    description:
      - V(present) writes.
      - V(absent) removes what containers read. O(folders) stay, unless they are among O(remove_paths).
    type: str
    choices: [present, absent]
    default: present
  containers:
    description: The containers of the component that need secrets.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the container.
        type: str
        required: true
      user:
        description: Number of its user.
        type: int
        required: true
      variables:
        description:
          - For each environment variable the names of its secrets, as V(COMPONENT/KEY). Several become one value, with semicolons between;
            one that is empty, or does not exist, leaves its place empty.
          - A variable of which no secret exists is not set.
        type: dict
        default: {}
  folders:
    description: Folders to make below O(state_dir), each with the number of the user who owns it and all that is in it.
    type: dict
    default: {}
  files:
    description: Files to write, a text for each path below O(state_dir). They may not be secret.
    type: dict
    default: {}
  secret_data:
    description:
      - Secrets of the component. An empty value is no value.
      - Secrets that are not named stay as they are.
    type: dict
    default: {}
  generate_secrets:
    description: Secrets of the component that get a random value when there is none, neither on disk nor in O(secret_data).
    type: list
    elements: str
    default: []
  remove_paths:
    description: Files and folders of the state folder to remove. Used with O(state=absent).
    type: list
    elements: path
    default: []
  remove_secrets:
    description: Remove the secrets of the component, and with the last component the logs. Used with O(state=absent).
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Give an engine its key
  llmops.serving.docker_files:
    state_dir: /opt/llmops-serving/chat
    component: vllm
    generate_secrets: [VLLM_API_KEY]
    folders: {/opt/llmops-serving/chat/data: 1000}
    files: {bin/launch.sh: "{{ lookup('ansible.builtin.file', 'launch.sh') }}"}
    containers:
      - name: vllm-backend
        user: 1000
        variables: {VLLM_API_KEY: [vllm/VLLM_API_KEY]}
  register: files
"""

RETURN = r"""
versions:
  description: For each of O(containers) a word that changes whenever one of its secrets does. It tells nothing about their values.
  returned: with O(state=present)
  type: dict
  sample: {vllm-backend: 0a1b2c3d4e5f}
secrets_generated:
  description: Secrets whose values were generated in this run, as C(component/KEY). The values are in the files only.
  returned: success
  type: list
  elements: str
  sample: [vllm/VLLM_API_KEY]
secrets_changed:
  description: Secrets that got a given value in this run, as C(component/KEY).
  returned: success
  type: list
  elements: str
  sample: [vllm/HF_TOKEN]
last:
  description: Whether no component of the stack is left.
  returned: with O(state=absent)
  type: bool
  sample: false
"""

import os
import stat
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _docker, _supervisor
from ansible_collections.llmops.serving.plugins.module_utils._component import (
    FOLDER_ARGS,
    Component,
    Unwanted,
    Wanted,
    read_text,
    run_component,
    write,
)
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ARGS: dict[str, t.Any] = {
    **FOLDER_ARGS,
    "containers": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "user": {"type": "int", "required": True},
            "variables": {"type": "dict", "default": {}},
        },
    },
    "folders": {"type": "dict", "default": {}},
}


class Folders(Component):
    """What both states share: where containers find what is theirs."""

    @property
    def containers(self) -> Path:
        """The folder with a folder of secrets for each container."""
        return self.state_dir / _docker.CONTAINERS

    @property
    def scripts(self) -> Path:
        """The folder with the scripts, which all containers read."""
        return self.state_dir / _docker.SCRIPTS


class Present(Folders, Wanted):
    """What the containers need is to be there."""

    def __init__(self, params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> None:
        super().__init__({**params, "programs": []}, check_mode, environ)
        for container in params["containers"]:
            for variable, references in container["variables"].items():
                self._check(container["name"], variable, references)

    @staticmethod
    def _check(name: str, variable: str, references: t.Any) -> None:
        if not _supervisor.VARIABLE.fullmatch(variable):
            raise ServingError(f"{variable!r} of the container {name} cannot be the name of an environment variable.")
        for reference in references if isinstance(references, list) else [references]:
            if reference == "" and isinstance(references, list) and len(references) > 1:
                continue  # a place that stays empty
            if not isinstance(references, list) or not _supervisor.REFERENCE.fullmatch(str(reference)):
                raise ServingError(f"variables.{variable} of {name} is {references!r}; it has to be a list of COMPONENT/KEY.")

    def run(self) -> dict[str, t.Any]:
        """Write what differs, and return the result of the module."""
        self.check_place()
        self.make_folders([self.containers, self.layout.logs])
        self.write_files()
        if self.scripts.is_dir():
            self.set_mode(self.scripts, 0o755)
        self.write_secrets()
        for path, user in self.params["folders"].items():
            self._give(self._ours(path), int(user))
        for container in self.params["containers"]:
            self._write_copies(container)
        return {**self._told(), "versions": {container["name"]: self._version(container) for container in self.params["containers"]}}

    def _told(self) -> dict[str, t.Any]:
        return {
            "changed": self.changed,
            "secrets_generated": self.generated,
            "secrets_changed": self.given,
            "diff": self.diff,
        }

    def _ours(self, text: str) -> Path:
        path = Path(os.path.abspath(text))
        if self.state_dir not in path.parents:
            raise ServingError(f"folders has {text}, which is not in the state folder {self.state_dir}. Nothing was started.")
        return path

    def _give(self, folder: Path, user: int) -> None:
        """Make *folder*, and give it to *user* with all that is in it, where it is somebody else's."""
        found = folder.stat() if folder.is_dir() else None
        if found and (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (user, user, 0o700):
            return
        self.note(folder, "" if found is None else f"user {found.st_uid}\n", f"user {user}\n")
        if self.check_mode:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if found and found.st_uid != user:
            for place, folders, files in os.walk(folder):
                for name in [*folders, *files]:
                    os.chown(os.path.join(place, name), user, user, follow_symlinks=False)
        os.chown(folder, user, user)
        folder.chmod(0o700)

    def _write_copies(self, container: t.Mapping[str, t.Any]) -> None:
        """Give *container* its secrets, and nothing beside them."""
        folder, user = self.containers / container["name"], container["user"]
        if not folder.is_dir() and self.check_mode:
            self.changed = True
            return
        self._give(folder, user)
        wanted = {variable: self._value(references) for variable, references in container["variables"].items()}
        for variable, value in wanted.items():
            path = folder / variable
            if value is None:
                self.remove(path)
            elif read_text(path) != value:
                self.note(path, "(hidden)\n" if path.exists() else "", "(hidden, another)\n")
                if not self.check_mode:
                    write(path, value, 0o400)
                    os.chown(path, user, user)
        for path in sorted(folder.iterdir()):
            if path.name not in wanted:
                self.remove(path)

    def _value(self, references: t.Iterable[str]) -> t.Optional[str]:
        """Return the value of a variable, None where none of its secrets exists."""
        values = [(read_text(self.layout.secret(reference)) or "").rstrip("\n") if reference else "" for reference in references]
        return ";".join(values) if any(values) else None

    def _version(self, container: t.Mapping[str, t.Any]) -> str:
        variables = sorted(container["variables"].items())
        versions = [
            f"{variable} {version}" for variable, references in variables for version in self.secret_versions(filter(None, references))
        ]
        return _supervisor.digest("", versions)


class Absent(Folders, Unwanted):
    """What the containers needed is to be gone."""

    def run(self) -> dict[str, t.Any]:
        """Remove, and return the result of the module."""
        names = {container["name"] for container in self.params["containers"]}
        others = [path for path in self.containers.iterdir() if path.name not in names] if self.containers.is_dir() else []
        for name in sorted(names):
            self.remove(self.containers / name)
        for name in self.params["files"]:
            path = self.state_dir / name
            if path.parent != self.scripts or not others:
                self.remove(path)
        if not others:
            self.remove(self.containers)
            self.remove(self.scripts)
        self.remove_rest(last=not others)
        return {"changed": self.changed, "secrets_generated": [], "secrets_changed": [], "last": not others, "diff": self.diff}


def run(params: t.Mapping[str, t.Any], check_mode: bool = False) -> dict[str, t.Any]:
    """Return the result of the module. Raises ServingError, also for a disk that is full or may not be written to."""
    return run_component(Present if params["state"] == "present" else Absent, params, check_mode, None)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGS, supports_check_mode=True)
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)


if __name__ == "__main__":
    main()
