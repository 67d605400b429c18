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
extends_documentation_fragment: [llmops.serving.progress]
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
  state_dir:
    description:
      - Folder that everything is in. It is made for its user only.
      - Its path may have up to 82 bytes, because of the socket in it, and no semicolon, hash, star, question mark or square bracket.
    type: path
    required: true
  component:
    description: The part of the stack, for example V(vllm) or V(open-webui).
    type: str
    required: true
  state:
    description:
      - V(present) writes and starts the programs.
      - V(absent) stops them, and removes their scripts and configuration. Logs stay.
    type: str
    choices: [present, absent]
    default: present
  supervisord:
    description: Path of the supervisord executable. Required with O(state=present).
    type: path
  programs:
    description: All programs of the component. Used with O(state=present).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the program, its script and its log. No other component may have it.
        type: str
        required: true
      command:
        description: The executable, as a path or a name on C(PATH), and its arguments.
        type: list
        elements: str
        required: true
      environment:
        description: Environment variables. They stand in the script, so a secret belongs into O(programs[].secret_environment).
        type: dict
        default: {}
      secret_environment:
        description:
          - Environment variables whose values are secrets, each with the name of one, as V(COMPONENT/KEY).
          - A variable is not set when the secret does not exist. Line breaks at the end of a value are left out.
          - A list of names becomes their values with semicolons between them, as Open WebUI takes several API keys. One that is empty, or
            does not exist, leaves its place empty.
        type: dict
        default: {}
      directory:
        description: Folder to run in. It is made if it is in the state folder. By default the state folder itself.
        type: path
      before:
        description: A command to run to its end each time before the program starts. Its failure does not keep the program from starting.
        type: list
        elements: str
        default: []
        version_added: "0.2.0"
      start_seconds:
        description: Seconds a program has to stay up to count as running.
        type: int
        default: 5
      start_retries:
        description: How often a program that ends sooner is tried again before it is given up.
        type: int
        default: 3
      stop_seconds:
        description: Seconds a program may take to stop before it is killed.
        type: int
        default: 10
      ready_url:
        description:
          - URL on this machine (C(http://...)) that answers with a status below 400 when the program is ready. The module waits for that.
          - A program that ends before is not waited for; the message has the decisive line of its log.
        type: str
      ports:
        description: Ports of the loopback interface that the program listens on. It is not started while somebody else does.
        type: list
        elements: int
        default: []
      log_mib:
        description: MiB after which a log is rotated.
        type: int
        default: 10
      log_backups:
        description: Rotated logs to keep.
        type: int
        default: 3
  secret_data:
    description:
      - Secrets of the component, each in a file of its own that only its user can read. An empty value is no value.
      - Secrets that are not named stay as they are.
    type: dict
    default: {}
  generate_secrets:
    description: Secrets of the component that get a random value when there is none, neither on disk nor in O(secret_data).
    type: list
    elements: str
    default: []
  wait_timeout:
    description: For how many seconds to wait for programs with O(programs[].ready_url).
    type: int
    default: 300
  remove_paths:
    description:
      - Files and folders of the state folder to remove once the programs have ended. Used with O(state=absent).
      - The last part of a path may be a pattern, as C(venvs/app-*).
    type: list
    elements: path
    default: []
  remove_secrets:
    description: Remove the secrets of the component, and with the last component the logs. Used with O(state=absent).
    type: bool
    default: false
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
import errno
import glob
import http.client
import os
import pwd
import secrets
import shutil
import stat
import tempfile
import typing as t
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _host, _processes, _supervisor
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._host import LONGEST_STATE_DIR
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import (
    DOWN,
    KILL_S,
    STUCK,
    Layout,
    NotRunningError,
    ProcessInfo,
    Supervisor,
    Watch,
)
from ansible_collections.llmops.serving.plugins.module_utils._wait import laps

ADDED = "added"
NONE = "none"
REMOVED = "removed"
RESTARTED = "restarted"
STARTED = "started"
# How long supervisord may take to try what it was told to start.
BEGIN_S = 5.0
# Between two looks whether a program is ready.
READY_PAUSE_S = 0.5
# What host_check leaves in the state folder: the lock of a run, and the ports that were chosen.
RESERVED = {"run.lock", "ports.json"}

ARGS: dict[str, t.Any] = {
    "state_dir": {"type": "path", "required": True},
    "component": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "supervisord": {"type": "path"},
    "programs": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "environment": {"type": "dict", "default": {}},
            "secret_environment": {"type": "dict", "default": {}, "no_log": False},
            "directory": {"type": "path"},
            "before": {"type": "list", "elements": "str", "default": []},
            "start_seconds": {"type": "int", "default": 5},
            "start_retries": {"type": "int", "default": 3},
            "stop_seconds": {"type": "int", "default": 10},
            "ready_url": {"type": "str"},
            "ports": {"type": "list", "elements": "int", "default": []},
            "log_mib": {"type": "int", "default": 10},
            "log_backups": {"type": "int", "default": 3},
        },
    },
    "secret_data": {"type": "dict", "default": {}, "no_log": True},
    "generate_secrets": {"type": "list", "elements": "str", "default": [], "no_log": False},
    "wait_timeout": {"type": "int", "default": 300},
    "remove_paths": {"type": "list", "elements": "path", "default": []},
    "remove_secrets": {"type": "bool", "default": False, "no_log": False},
    **PROGRESS_ARGS,
}


class Component:
    """What both states share: where things are, what is there, and a note of every change."""

    def __init__(self, params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> None:
        self.params = params
        self.check_mode = check_mode
        self.environ = os.environ if environ is None else environ
        self.layout = Layout(Path(os.path.abspath(params["state_dir"])))
        self.name: str = params["component"]
        self.diff: list[dict[str, str]] = []
        self.changed = False
        self.generated: list[str] = []
        self.given: list[str] = []
        if not _supervisor.NAME.fullmatch(self.name):
            raise ServingError(f"The component {self.name!r} has to be letters, digits and . _ - only.")

    @property
    def state_dir(self) -> Path:
        """The state folder."""
        return self.layout.state_dir

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

    def note(self, path: Path, before: str, after: str) -> None:
        """Take down that *path* changes, for ``--diff``."""
        self.changed = True
        self.diff.append({"before": before, "after": after, "before_header": str(path), "after_header": str(path)})

    def result(self, infos: t.Iterable[ProcessInfo], actions: t.Mapping[str, str]) -> dict[str, t.Any]:
        """Return the result of the module; *actions* are those of each program."""
        found = {info.name: info for info in infos}
        programs: list[dict[str, t.Any]] = []
        for name, action in actions.items():
            info = found.get(name)
            programs.append({"name": name, "state": info.state if info else "", "pid": info.pid if info else None, "action": action})
        return {
            "changed": self.changed or any(action != NONE for action in actions.values()),
            "programs": programs,
            "secrets_generated": self.generated,
            "secrets_changed": self.given,
            "log_dir": str(self.layout.logs),
            "diff": self.diff,
        }

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


class Present(Component):
    """The programs are to run. The constructor checks the options, ``run`` acts."""

    def __init__(self, params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> None:
        super().__init__(params, check_mode, environ)
        _supervisor.check_path(str(self.state_dir))
        length = len(os.fsencode(self.state_dir))
        if length > LONGEST_STATE_DIR:
            raise ServingError(
                f"The path of the state folder {self.state_dir} has {length} bytes; a socket in it allows {LONGEST_STATE_DIR}. "
                "Choose a shorter llm_state_dir."
            )
        self.wanted = {options["name"]: _supervisor.program_from(options) for options in params["programs"]}
        if len(self.wanted) < len(params["programs"]):
            raise ServingError(
                f"Two programs of {self.name} have the same name. Names: {', '.join(o['name'] for o in params['programs'])}."
            )
        self.values = secret_values(params["secret_data"], params["generate_secrets"])
        if not params["supervisord"]:
            raise ServingError("state is present and supervisord is not set. Give the path of the supervisord executable.")

    def run(self) -> dict[str, t.Any]:
        """Write, start and stop what differs, and return the result of the module."""
        self._check_place()
        self.read_programs()
        for name in self.wanted:
            if name in self.elsewhere:
                raise ServingError(f"The program {name} of {self.name} is already one of {self.elsewhere[name]}. Give it another name.")
        if not self.check_mode:
            self._check_executables()
        self._make_folders()
        self._write_secrets()
        rewritten, self.after = self._write_texts()
        self._remove_scripts()
        supervisor, infos = self.look()
        result = self._begin() if supervisor is None else self._update(supervisor, infos, rewritten)
        if not self.check_mode:
            self._wait_until_ready()
        return result

    # --- before any change -----------------------------------------------------------------------------------------------------------

    def _check_place(self) -> None:
        try:
            found = os.stat(self.state_dir)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise ServingError(f"The state folder {self.state_dir} is a file. Remove it, or choose another llm_state_dir.")
        if found.st_uid != os.geteuid():
            raise ServingError(
                f"The state folder {self.state_dir} belongs to {user_name(found.st_uid)}, and this run is {user_name(os.geteuid())}. "
                "Run as its owner, or choose another llm_state_dir."
            )

    def _check_executables(self) -> None:
        path = _supervisor.environment(self.environ, str(self.state_dir))["PATH"]
        commands = {"supervisord": self.params["supervisord"], **{name: program.command[0] for name, program in self.wanted.items()}}
        for name, command in commands.items():
            search = self.wanted[name].environment.get("PATH", path) if name in self.wanted else path
            if "/" in command and not os.path.isabs(command):
                raise ServingError(f"The executable of {name} is {command}; give its whole path.")
            if shutil.which(command, path=search) is None:
                state = "is not executable" if os.path.exists(command) else "does not exist"
                raise ServingError(f"The executable of {name}, {command}, {state}. Nothing was changed. Install it, then run again.")
        for program in self.wanted.values():
            if program.directory and not self._is_ours(program.directory) and not os.path.isdir(program.directory):
                raise ServingError(f"The folder {program.directory} of {program.name} does not exist. Make it, then run again.")

    def _is_ours(self, directory: str) -> bool:
        return Path(os.path.abspath(directory)).is_relative_to(self.state_dir)

    # --- files -----------------------------------------------------------------------------------------------------------------------

    def _make_folders(self) -> None:
        layout = self.layout
        folders = [layout.state_dir, layout.scripts, layout.confs, layout.logs, layout.secrets, layout.secrets / self.name]
        for folder in folders:
            if folder.is_dir():
                self._set_mode(folder, 0o700)
                continue
            self.changed = True
            if not self.check_mode:
                folder.mkdir(mode=0o700, parents=True)
        for program in self.wanted.values():
            if program.directory and self._is_ours(program.directory) and not os.path.isdir(program.directory):
                self.changed = True
                if not self.check_mode:
                    os.makedirs(program.directory, mode=0o700)

    def _write_secrets(self) -> None:
        self.pending: set[str] = set()
        for key, value in self.values.items():
            reference = f"{self.name}/{key}"
            path = self.layout.secret(reference)
            before = read_text(path)
            if before and value in (None, before):
                self._set_mode(path, 0o600)
                continue
            (self.generated if value is None else self.given).append(reference)
            word = "generated" if value is None else "changed" if before else "new"
            self.pending.add(reference)
            self.note(path, "(hidden)\n" if before else "", f"(hidden, {word})\n")
            if not self.check_mode:
                write(path, secrets.token_urlsafe(32) if value is None else value, 0o600)

    def _write_texts(self) -> tuple[set[str], dict[str, dict[str, str]]]:
        """Write scripts and configuration. Return the programs whose script was another, and the sections that are now wanted.

        Scripts come first: a program has its new version in the configuration only when its script is there.
        """
        layout = self.layout
        rewritten, sections = set(), []
        for name, program in self.wanted.items():
            script = _supervisor.script_text(program, layout)
            if self._write_text(layout.script(name), script, 0o700):
                rewritten.add(name)
            versions = [
                "pending" if self.check_mode and reference in self.pending else _supervisor.secret_version(layout.secret(reference))
                for references in program.secret_environment.values()
                for reference in filter(None, references)
            ]
            sections.append(_supervisor.program_section(program, layout, _supervisor.digest(script, versions)))
        conf = _supervisor.component_conf(sections)
        self._write_text(layout.component_conf(self.name), conf, 0o600)
        self._write_text(layout.conf, _supervisor.supervisord_conf(layout), 0o600)
        return rewritten, _supervisor.sections(conf)

    def _write_text(self, path: Path, text: str, mode: int) -> bool:
        """Write a file, and return whether there was one with another text."""
        before = read_text(path)
        if before == text:
            self._set_mode(path, mode)
            return False
        self.note(path, before or "", text)
        if not self.check_mode:
            write(path, text, mode)
        return before is not None

    def _set_mode(self, path: Path, mode: int) -> None:
        if stat.S_IMODE(path.stat().st_mode) != mode:
            self.changed = True
            if not self.check_mode:
                path.chmod(mode)

    # --- programs --------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> dict[str, t.Any]:
        """Start supervisord, which starts the programs of all components."""
        actions = {name: STARTED if name in self.before else ADDED for name in self.wanted}
        actions.update({name: REMOVED for name in self.before if name not in self.wanted})
        self.changed = True
        self.clear_the_way()
        if self.check_mode:
            return self.result([], actions)
        self._check_ports(self.wanted)
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

        self._check_ports([name for name, action in actions.items() if action in (ADDED, RESTARTED, STARTED)])
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

    def _check_ports(self, names: t.Container[str]) -> None:
        """Raise ServingError when somebody else has taken a port of one of *names* since it was chosen."""
        own = {process.pid for process in _processes.marked(str(self.state_dir))}
        for options in self.params["programs"]:
            for port in options["ports"] if options["name"] in names else []:
                if not _host.usable(port, own):
                    raise ServingError(
                        f"Port {port}, which {options['name']} was to have, has been taken by {_host.port_holder(port)} in the meantime. "
                        "Run again, and another one is chosen."
                    )

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

        _supervisor.until(tried, BEGIN_S)
        return found

    def _wait_until_ready(self) -> None:
        """Wait for the programs that tell when they are ready. Raises ServingError for one that ends before, or takes too long."""
        urls = {options["name"]: options["ready_url"] for options in self.params["programs"] if options["ready_url"]}
        progress = Progress(self.params["progress_path"])
        watch = Watch(Supervisor(self.layout.socket), "it was ready")
        for _lap in laps(self.params["wait_timeout"], READY_PAUSE_S, longest_pause_s=READY_PAUSE_S) if urls else ():
            urls = {name: url for name, url in urls.items() if not answers(url)}
            if not urls:
                return
            watch.look(urls)
            progress.tell("wait", f"{', '.join(urls)}: starting")
        if urls:
            logs = ", ".join(watch.infos[name].log_path for name in urls)
            raise ServingError(f"{', '.join(urls)} not ready within {self.params['wait_timeout']} s. Look: {logs}")

    def _remove_scripts(self) -> None:
        """Remove the scripts of programs that no component has any more, also those that an interrupted run left."""
        for path in sorted(self.layout.scripts.glob("*")):
            if path.name not in self.wanted and path.name not in self.elsewhere:
                self.note(path, read_text(path) or "", "")
                if not self.check_mode:
                    remove(path)


class Absent(Component):
    """The programs are to be gone. The constructor checks the options, ``run`` acts."""

    def __init__(self, params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> None:
        super().__init__(params, check_mode, environ)
        self.paths = [path for text in params["remove_paths"] for path in self._matching(self._inside(text))]

    def _inside(self, text: str) -> Path:
        """Return the path *text*, which has to be in the state folder, also after links have been followed."""
        path = Path(os.path.abspath(text))
        parent = Path(os.path.realpath(path.parent))
        if self.state_dir not in path.parents or not parent.is_relative_to(os.path.realpath(self.state_dir)):
            raise ServingError(f"remove_paths has {text}, which is not in the state folder {self.state_dir}. Nothing was changed.")
        return path

    @staticmethod
    def _matching(path: Path) -> list[Path]:
        """Return what is called *path*, whose name may be a pattern."""
        return sorted(Path(found) for found in glob.glob(os.path.join(glob.escape(str(path.parent)), path.name)))

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
        self._remove(layout.component_conf(self.name))
        if supervisor is not None and not last:
            actions.update(self._take_out(supervisor, infos))
        for name in actions:
            self._remove(layout.script(name))
        if last:
            for path in (layout.conf, layout.socket, layout.pid, layout.confs, layout.scripts):
                self._remove(path)
        for path in self.paths:
            self._remove(path)
        if self.params["remove_secrets"]:
            self._remove(layout.secrets / self.name)
            if last:
                self._remove(layout.logs)
        if not self.check_mode:
            self._tidy(last)
        return self.result([], actions)

    def _shut_down(self, supervisor: Supervisor, infos: t.Mapping[str, ProcessInfo]) -> None:
        self.changed = True
        if self.check_mode:
            return
        with contextlib.suppress(NotRunningError):  # it may end by itself meanwhile
            pid = supervisor.pid()
            supervisor.stop(infos, _supervisor.stop_seconds(self.known) + KILL_S)
            supervisor.shutdown()
            _supervisor.until(lambda: all(process.pid != pid for process in _supervisor.leftovers(str(self.state_dir))), KILL_S)
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

    def _remove(self, path: Path) -> None:
        if not os.path.lexists(path):
            return
        self.note(path, "present\n", "absent\n")
        if not self.check_mode:
            remove(path)

    def _tidy(self, last: bool) -> None:
        """Remove the folders that are empty now: those of this module, those above a removed path, and the state folder itself."""
        layout = self.layout
        folders = [layout.secrets / self.name, layout.secrets, layout.logs, layout.scripts, layout.confs]
        for path in self.paths:
            folders += [parent for parent in path.parents if self.state_dir in parent.parents]
        for folder in folders:
            remove_if_empty(folder)
        if last and self.state_dir.is_dir() and set(os.listdir(self.state_dir)) <= RESERVED:
            for name in RESERVED:
                remove(self.state_dir / name)
        remove_if_empty(self.state_dir)


def secret_values(given: t.Mapping[str, t.Any], generate: t.Iterable[str]) -> dict[str, t.Optional[str]]:
    """Return ``{key: value}`` for all keys, None for what is to be generated where there is none. Errors name keys, never values."""
    values: dict[str, t.Optional[str]] = dict.fromkeys(generate)
    for key, value in given.items():
        if isinstance(value, (dict, list, bool)):
            raise ServingError(f"secret_data.{key} has to be a text, and it is a {type(value).__name__}.")
        if value not in (None, ""):
            values[key] = str(value)
            if "\0" in str(value):
                raise ServingError(f"secret_data.{key} holds a zero byte, which no process can be given.")
    for key in values:
        if not _supervisor.NAME.fullmatch(key):
            raise ServingError(f"The key {key!r} of a secret has to be letters, digits and . _ - only.")
    return values


def answers(url: str) -> bool:
    """Whether *url*, on this machine, answers with a status below 400."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=5)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def user_name(uid: int) -> str:
    """Return the name of a user, or its number when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def read_text(path: Path) -> t.Optional[str]:
    """Return what is in a file, None when there is none."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path: Path, text: str, mode: int) -> None:
    """Write a file as a whole: whoever reads it meets the old one or the new one, and never one with wider permissions."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            os.fchmod(file.fileno(), mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def remove_if_empty(folder: Path) -> None:
    """Remove *folder*, if there is one and nothing is in it."""
    try:
        folder.rmdir()
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise


def run(params: t.Mapping[str, t.Any], check_mode: bool = False, environ: t.Optional[t.Mapping[str, str]] = None) -> dict[str, t.Any]:
    """Return the result of the module. Raises ServingError, also for a disk that is full or may not be written to."""
    kind = Present if params["state"] == "present" else Absent
    try:
        return kind(params, check_mode, environ).run()
    except OSError as exc:
        place = exc.filename2 or exc.filename or params["state_dir"]
        advice = "Free some space" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else "Give this user the right to write there"
        raise ServingError(
            f"Cannot change {place}: {exc.strerror or exc}. {advice}, or choose another llm_state_dir, then run again."
        ) from None


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGS, required_if=[("state", "present", ["supervisord"])], supports_check_mode=True)
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)


if __name__ == "__main__":
    main()
