#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the programs of one component to the state that is asked for, as units of systemd."""

from __future__ import annotations

DOCUMENTATION = r"""
module: systemd_apply
short_description: Keep the programs of a component running as units of systemd
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Writes a launch script and a unit for each program of a component, and its secrets, and lets systemd keep the programs running, also
    after the host has been started anew. Units that the component no longer has are stopped and removed.
  - A unit runs as a user of its own, may write to O(programs[].writable) only, and gets the secrets as credentials (C(LoadCredential)).
  - Only a program whose script, unit or secrets differ from those that it was started with is started anew. One that is down is started.
  - It can be interrupted at any point; the next run completes the work.
  - Logs are in the journal.
notes:
  - Runs as root, on a host with systemd 247 or newer.
  - O(programs[].log_mib) and O(programs[].log_backups) are for other keepers; the journal has limits of its own.
extends_documentation_fragment: [llmops.serving.component, llmops.serving.progress]
attributes:
  check_mode:
    description: Can run in check mode, also before there is a state folder. Executables are not looked for then.
    support: full
  diff_mode:
    description: Shows scripts and units before and after. Values of secrets are never shown.
    support: full
  idempotent:
    description: A second run with the same options changes nothing, unless a program has gone down meanwhile.
    support: full
options:
  user:
    description: The user that the programs run as. It has to exist. Required with O(state=present).
    type: str
  suffix:
    description: What the names of the units have beside those of the programs, for a second stack on one host.
    type: str
    default: ""
  after:
    description: Programs of other components that start before those of this one.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Keep a router running
  llmops.serving.systemd_apply:
    state_dir: /opt/llmops-serving/chat
    component: vllm
    user: llmops-serving
    programs:
      - name: vllm-router
        command: [/opt/llmops-serving/chat/venvs/vllm-router-5e6f7a8b/bin/vllm-router, --port, "8000"]
        secret_environment: {VLLM_API_KEY: vllm/VLLM_API_KEY}
    generate_secrets: [VLLM_API_KEY]

- name: Stop all of it; the models and the secrets stay
  llmops.serving.systemd_apply:
    state_dir: /opt/llmops-serving/chat
    component: vllm
    state: absent
"""

RETURN = r"""
programs:
  description: The programs of the component, those that were removed last. In check mode, what would happen.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: vllm-router, state: RUNNING, pid: 4711, action: restarted}
  contains:
    name:
      description: Name of the program.
      type: str
      sample: vllm-router
    state:
      description: State at the end of the module, in the words that M(llmops.serving.supervisor_apply) has. Empty for what does not exist.
      type: str
      sample: RUNNING
    pid:
      description: Process id. Null while the program does not run.
      type: int
      sample: 4711
    action:
      description: One of V(none), V(started), V(restarted), V(added), V(removed).
      type: str
      sample: restarted
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
log_dir:
  description: Folder with the logs of jobs; those of programs are in the journal.
  returned: success
  type: str
  sample: /opt/llmops-serving/chat/logs
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _supervisor, _systemd
from ansible_collections.llmops.serving.plugins.module_utils._component import (
    ADDED,
    COMPONENT_ARGS,
    NONE,
    REMOVED,
    RESTARTED,
    STARTED,
    Component,
    Unwanted,
    Wanted,
    read_text,
    run_component,
)
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._keepers import DOWN
from ansible_collections.llmops.serving.plugins.module_utils._systemd import STOP_S, Shown, Systemd, Unit

# A unit that ended and waits for its next start is started at once, with what it has now.
BACKOFF = "BACKOFF"

ARGS: dict[str, t.Any] = {
    "user": {"type": "str"},
    "suffix": {"type": "str", "default": ""},
    "after": {"type": "list", "elements": "str", "default": []},
    **COMPONENT_ARGS,
}


class Units(Component):
    """What both states share: the units of the state folder, by component."""

    def read_units(self) -> None:
        """Read which programs this component has, ``before``, and which there are ``elsewhere``, by the files of units on disk."""
        self.before: dict[str, str] = {}
        self.elsewhere: dict[str, str] = {}
        suffix = self.params["suffix"]
        for path in sorted(_systemd.UNITS.glob(f"*{suffix}.service")):
            state_dir, component = _systemd.owner(read_text(path) or "")
            if state_dir == str(self.state_dir):
                name = path.name[: -len(f"{suffix}.service")]
                (self.before if component == self.name else self.elsewhere)[name] = component
        self.systemd = Systemd(list(self.before), suffix)

    def stop_seconds(self, names: t.Iterable[str]) -> float:
        """Return how long systemd may take to stop *names*, all at once."""
        texts = [read_text(_systemd.UNITS / f"{name}{self.params['suffix']}.service") or "" for name in names]
        return max([0, *map(_systemd.stop_timeout, texts)]) + STOP_S

    def take_away(self, names: t.Collection[str]) -> None:
        """Stop the units *names*, and remove their files and scripts."""
        if names and not self.check_mode:
            self.systemd.do("stop", names, self.stop_seconds(names))
            self.systemd.do("disable", names)
        for name in names:
            self.remove(_systemd.UNITS / f"{name}{self.params['suffix']}.service")
            self.remove(self.layout.script(name))
        if names and not self.check_mode:
            self.systemd.reload()


class Present(Units, Wanted):
    """The programs are to run. The constructor checks the options, ``run`` acts."""

    # units run as another user, who has to reach their programs
    FOLDER_MODE, SCRIPT_MODE = 0o755, 0o755

    def __init__(self, params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> None:
        super().__init__(params, check_mode, environ)
        if not params["user"]:
            raise ServingError("state is present and user is not set. Name the user that the programs run as.")
        order = list(params["after"])
        self.units: dict[str, Unit] = {}
        for name, program in self.wanted.items():
            self.units[name] = Unit(program, params["suffix"], self.name, params["user"], tuple(order))
            order.append(name)

    def run(self) -> dict[str, t.Any]:
        """Write, start and stop what differs, and return the result of the module."""
        self.check_place()
        self.read_units()
        self.refuse_twins(self.elsewhere)
        if not self.check_mode:
            self.check_executables({})
        self.make_folders([self.layout.scripts])
        self.write_files()
        self.write_secrets()
        versions = self._write_units()
        gone = [name for name in self.before if name not in self.wanted]
        self.take_away(gone)
        self.systemd.names = list(self.wanted)
        shown = self.systemd.show(self.systemd.names)
        actions = {name: self._action(shown[name], versions[name]) for name in self.wanted}
        actions.update(dict.fromkeys(gone, REMOVED))
        if not self.check_mode:
            self._act(shown, actions)
            self.wait_until_ready(self.systemd)
        elif not all(shown[name].enabled for name in self.wanted):
            self.changed = True
        return self.result(self.systemd.processes(), actions)

    def _write_units(self) -> dict[str, str]:
        """Write scripts and units; return the version of each, which differs when any of them, or a secret, does."""
        versions = {}
        for name, unit in self.units.items():
            script = _supervisor.script_text(unit.program, self.layout, unit=True)
            self.write_text(self.layout.script(name), script, self.SCRIPT_MODE)
            references = unit.program.references
            found = [ref for ref in references if ref in self.pending or self.layout.secret(ref).exists()]
            plain = _systemd.unit_text(unit, self.layout, found)
            versions[name] = _supervisor.digest(script + plain, self.secret_versions(references))
            self.write_text(unit.path, _systemd.unit_text(unit, self.layout, found, versions[name]), 0o644)
        return versions

    def _action(self, shown: Shown, version: str) -> str:
        if shown.info.name not in self.before:
            return ADDED
        if shown.info.state in DOWN or shown.info.state == BACKOFF:
            return STARTED
        return NONE if _systemd.running_version(shown.info.name + self.params["suffix"]) == version else RESTARTED

    def _act(self, shown: t.Mapping[str, Shown], actions: t.Mapping[str, str]) -> None:
        if any(row.needs_reload or not row.loaded for row in shown.values()):
            self.systemd.reload()
        off = [name for name, row in shown.items() if not row.enabled]
        if off:
            self.changed = True
            self.systemd.do("enable", off)
        anew = [name for name, action in actions.items() if action in (ADDED, STARTED, RESTARTED)]
        if not anew:
            return
        self.check_ports(anew)
        # what was given up is tried again, and counted anew
        self.systemd.do("reset-failed", [name for name in anew if shown[name].loaded and shown[name].info.state == "FATAL"])
        self.systemd.do("restart", anew, self.stop_seconds(anew))


class Absent(Units, Unwanted):
    """The programs are to be gone. The constructor checks the options, ``run`` acts."""

    def run(self) -> dict[str, t.Any]:
        """Stop and remove, and return the result of the module."""
        self.read_units()
        actions = dict.fromkeys(self.before, REMOVED)
        self.take_away(list(self.before))
        last = not self.elsewhere
        if last:
            self.remove(self.layout.scripts)
        self.remove_rest(last)
        return self.result([], actions)


def run(params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> dict[str, t.Any]:
    """Return the result of the module. Raises ServingError, also for a disk that is full or may not be written to."""
    return run_component(Present if params["state"] == "present" else Absent, params, check_mode, environ)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGS, required_if=[("state", "present", ["user"])], supports_check_mode=True)
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)


if __name__ == "__main__":
    main()
