#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the programs of one component to the state that is asked for, under a supervisord that is started when none runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: supervisor_apply
short_description: Keep the programs of a component running on this machine
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Writes a launch script and the configuration for each program of a component, and its secrets, and lets supervisord keep the
    programs running. Programs that the component no longer has are stopped and taken away.
  - Starts supervisord when none answers, without root. Processes that a dead supervisord left behind are ended before.
  - Only a program whose script, secrets or settings have changed is started anew. One that is down is started, without waiting for it.
  - It can be interrupted at any point; the next run completes the work.
  - Several components share one state folder and one supervisord, which is shut down with the last of them.
notes:
  - Runs on Linux, where it reads C(/proc).
  - "Programs get a small environment: C(PATH), C(HOME), C(USER), C(TMPDIR), proxies and certificates of the run that started
    supervisord, and what O(programs) say. C(LLMOPS_SERVING_STATE) in it is the state folder, by which processes are found."
  - A running supervisord keeps its own settings and environment until it is shut down; a new O(supervisord) is used with the next start.
  - While supervisord is dead nobody keeps its programs, so V(absent) for one component ends those of all. V(present) starts the others.
extends_documentation_fragment: [llmops.serving.component, llmops.serving.progress]
attributes:
  check_mode:
    description: Can run in check mode, also before there is a state folder. Executables are not looked for then.
    support: full
  diff_mode:
    description: Shows scripts and configuration before and after. Values of secrets are never shown.
    support: full
  idempotent:
    description: A second run with the same options changes nothing, unless a program has gone down meanwhile.
    support: full
options:
  supervisord:
    description: Path of the supervisord executable. Required with O(state=present).
    type: path
"""

EXAMPLES = r"""
- name: Keep a router running
  llmops.serving.supervisor_apply:
    state_dir: "{{ llm_state_dir }}"
    component: vllm
    supervisord: "{{ llm_state_dir }}/venvs/supervisor-1a2b3c4d/bin/supervisord"
    programs:
      - name: vllm-router
        command: ["{{ llm_state_dir }}/venvs/vllm-router-5e6f7a8b/bin/vllm-router", --port, "8000"]
        secret_environment: {VLLM_API_KEY: vllm/VLLM_API_KEY}
    generate_secrets: [VLLM_API_KEY]

- name: Stop all of it and remove everything but the models
  llmops.serving.supervisor_apply:
    state_dir: "{{ llm_state_dir }}"
    component: vllm
    state: absent
    remove_paths: ["{{ llm_state_dir }}/venvs", "{{ llm_state_dir }}/cache"]
    remove_secrets: true
"""

RETURN = r"""
programs:
  description: The programs of the component, those that were removed last. In check mode, what would happen.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: vllm-router, state: STARTING, pid: 4711, action: restarted}
  contains:
    name:
      description: Name of the program.
      type: str
      sample: vllm-router
    state:
      description: State at the end of the module, in supervisord's word. Empty for what does not exist.
      type: str
      sample: STARTING
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
  description: Folder with a log for each program, and that of supervisord.
  returned: success
  type: str
  sample: /srv/chat/logs
"""

import contextlib
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _supervisor
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
    remove,
    run_component,
)
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._keepers import DOWN, ProcessInfo, until
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import KILL_S, STUCK, NotRunningError, Supervisor

# How long supervisord may take to try what it was told to start.
BEGIN_S = 5.0

ARGS: dict[str, t.Any] = {"supervisord": {"type": "path"}, **COMPONENT_ARGS}


class Supervised(Component):
    """What both states share: the programs by supervisord's configuration, and whether it runs."""

    def read_programs(self) -> None:
        """Read which programs this component and the others have by the configuration on disk."""
        self.before = _supervisor.sections(read_text(self.layout.component_conf(self.name)) or "")
        self.elsewhere: dict[str, str] = {}
        self.known = dict(self.before)
        for path in sorted(self.layout.confs.glob("*.conf")):
            if path.stem != self.name:
                found = _supervisor.sections(read_text(path) or "")
                self.elsewhere.update(dict.fromkeys(found, path.stem))
                self.known.update(found)

    def look(self) -> tuple[t.Optional[Supervisor], dict[str, ProcessInfo]]:
        """Return the supervisord that answers, with the programs that it knows; None when none does."""
        supervisor = Supervisor(self.layout.socket)
        try:
            return supervisor, {info.name: info for info in supervisor.processes()}
        except NotRunningError:
            return None, {}

    def clear_the_way(self) -> None:
        """End what a supervisord that is gone left behind: processes, its socket and its pid file."""
        if self.check_mode:
            self.changed = self.changed or bool(_supervisor.leftovers(str(self.state_dir)))
            return
        if _supervisor.end_leftovers(str(self.state_dir), _supervisor.stop_seconds(self.known) + 1):
            self.changed = True
        for path in (self.layout.socket, self.layout.pid):
            remove(path)


class Present(Supervised, Wanted):
    """The programs are to run. The constructor checks the options, ``run`` acts."""

    def __init__(self, params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> None:
        super().__init__(params, check_mode, environ)
        if not params["supervisord"]:
            raise ServingError("state is present and supervisord is not set. Give the path of the supervisord executable.")

    def run(self) -> dict[str, t.Any]:
        """Write, start and stop what differs, and return the result of the module."""
        self.check_place()
        self.read_programs()
        self.refuse_twins(self.elsewhere)
        if not self.check_mode:
            self.check_executables({"supervisord": self.params["supervisord"]})
        self.make_folders([self.layout.scripts, self.layout.confs, self.layout.logs])
        self.write_files()
        self.write_secrets()
        rewritten, self.after = self._write_texts()
        self._remove_scripts()
        supervisor, infos = self.look()
        result = self._begin() if supervisor is None else self._update(supervisor, infos, rewritten)
        if not self.check_mode:
            self.wait_until_ready(Supervisor(self.layout.socket))
        return result

    def _write_texts(self) -> tuple[set[str], dict[str, dict[str, str]]]:
        """Write scripts and configuration. Return the programs whose script was another, and the sections that are now wanted.

        Scripts come first: a program has its new version in the configuration only when its script is there.
        """
        layout = self.layout
        rewritten, sections = set(), []
        for name, program in self.wanted.items():
            script = _supervisor.script_text(program, layout)
            if self.write_text(layout.script(name), script, 0o700):
                rewritten.add(name)
            versions = self.secret_versions(program.references)
            sections.append(_supervisor.program_section(program, layout, _supervisor.digest(script, versions)))
        conf = _supervisor.component_conf(sections)
        self.write_text(layout.component_conf(self.name), conf, 0o600)
        self.write_text(layout.conf, _supervisor.supervisord_conf(layout), 0o600)
        return rewritten, _supervisor.sections(conf)

    # --- programs --------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> dict[str, t.Any]:
        """Start supervisord, which starts the programs of all components."""
        actions = {name: STARTED if name in self.before else ADDED for name in self.wanted}
        actions.update({name: REMOVED for name in self.before if name not in self.wanted})
        self.changed = True
        self.clear_the_way()
        if self.check_mode:
            return self.result([], actions)
        self.check_ports(self.wanted)
        supervisor = _supervisor.start_supervisord(self.params["supervisord"], self.layout, self.environ)
        return self.result(self._begun(supervisor), actions)

    def _update(self, supervisor: Supervisor, infos: dict[str, ProcessInfo], rewritten: t.Collection[str]) -> dict[str, t.Any]:
        """Bring the supervisord that runs to what the configuration says, touching only what differs."""
        changes = supervisor.reload()
        differs = {*changes.changed, *rewritten}
        if self.check_mode:  # what was not written supervisord cannot tell
            differs.update(name for name in self.after if self.after[name] != self.before.get(name))
        actions = {name: self._action(infos.get(name), name in differs) for name in self.wanted}
        gone = [name for name in infos if name not in self.wanted and (name in changes.removed or name in self.before)]
        actions.update({name: REMOVED for name in [*gone, *self.before] if name not in self.wanted})
        if self.check_mode or set(actions.values()) <= {NONE}:
            return self.result(infos.values(), actions)

        self.check_ports([name for name, action in actions.items() if action in (ADDED, RESTARTED, STARTED)])
        anew = [name for name in self.wanted if name in infos and (name in differs or infos[name].state in STUCK)]
        supervisor.stop([*gone, *anew], _supervisor.stop_seconds({**self.after, **self.known}) + KILL_S)
        for name in [*gone, *anew]:
            supervisor.remove(name)
        for name, action in actions.items():
            if name in anew or action == ADDED:
                supervisor.add(name)
            elif action == STARTED:
                supervisor.start(name)
        return self.result(self._begun(supervisor), actions)

    @staticmethod
    def _action(info: t.Optional[ProcessInfo], differs: bool) -> str:
        if info is None:
            return ADDED
        if info.state in DOWN or info.state in STUCK:
            return STARTED
        return RESTARTED if differs else NONE

    def _begun(self, supervisor: Supervisor) -> list[ProcessInfo]:
        """Return the programs once supervisord has tried to start each of them; how that goes on is for others to watch."""
        found: list[ProcessInfo] = []

        def tried() -> bool:
            found[:] = supervisor.processes()
            return not any(info.name in self.wanted and info.state == "STOPPED" for info in found)

        until(tried, BEGIN_S)
        return found

    def _remove_scripts(self) -> None:
        """Remove the scripts of programs that no component has any more, also those that an interrupted run left."""
        for path in sorted(self.layout.scripts.glob("*")):
            if path.name not in self.wanted and path.name not in self.elsewhere:
                self.note(path, read_text(path) or "", "")
                if not self.check_mode:
                    remove(path)


class Absent(Supervised, Unwanted):
    """The programs are to be gone. The constructor checks the options, ``run`` acts."""

    def run(self) -> dict[str, t.Any]:
        """Stop and remove, and return the result of the module."""
        self.read_programs()
        last = not self.elsewhere
        supervisor, infos = self.look()
        actions = dict.fromkeys(self.before, REMOVED)
        if supervisor is None:
            self.clear_the_way()
        elif last:
            actions.update(dict.fromkeys(infos, REMOVED))
            self._shut_down(supervisor, infos)
        layout = self.layout
        self.remove(layout.component_conf(self.name))
        if supervisor is not None and not last:
            actions.update(self._take_out(supervisor, infos))
        for name in actions:
            self.remove(layout.script(name))
        if last:
            for path in (layout.conf, layout.socket, layout.pid, layout.confs, layout.scripts):
                self.remove(path)
        self.remove_rest(last)
        return self.result([], actions)

    def _shut_down(self, supervisor: Supervisor, infos: t.Mapping[str, ProcessInfo]) -> None:
        self.changed = True
        if self.check_mode:
            return
        with contextlib.suppress(NotRunningError):  # it may end by itself meanwhile
            pid = supervisor.pid()
            supervisor.stop(infos, _supervisor.stop_seconds(self.known) + KILL_S)
            supervisor.shutdown()
            until(lambda: all(process.pid != pid for process in _supervisor.leftovers(str(self.state_dir))), KILL_S)
        self.clear_the_way()

    def _take_out(self, supervisor: Supervisor, infos: t.Mapping[str, ProcessInfo]) -> dict[str, str]:
        """Stop and forget the programs of this component, which are no longer in the configuration, and return them."""
        if self.check_mode:
            return {}
        gone = [name for name in supervisor.reload().removed if name in infos]
        supervisor.stop(gone, _supervisor.stop_seconds(self.known) + KILL_S)
        for name in gone:
            supervisor.remove(name)
        return dict.fromkeys(gone, REMOVED)


def run(params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> dict[str, t.Any]:
    """Return the result of the module. Raises ServingError, also for a disk that is full or may not be written to."""
    return run_component(Present if params["state"] == "present" else Absent, params, check_mode, environ)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGS, required_if=[("state", "present", ["supervisord"])], supports_check_mode=True)
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)


if __name__ == "__main__":
    main()
