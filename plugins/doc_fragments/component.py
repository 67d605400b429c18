# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of a component and their secrets. Partner: plugins/module_utils/_component.py, COMPONENT_ARGS."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of the modules that keep programs of a host running."""

    DOCUMENTATION = r"""
options:
  state_dir:
    description:
      - Folder that everything is in.
      - Its path may have up to 82 bytes, because of a socket in it, and no semicolon, hash, star, question mark or square bracket.
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
      writable:
        description: Folders that the program writes to. M(llmops.serving.systemd_apply) keeps it from writing elsewhere.
        type: list
        elements: path
        default: []
      gpu:
        description: Whether the program uses NVIDIA GPUs. M(llmops.serving.systemd_apply) keeps others from all devices.
        type: bool
        default: false
      log_mib:
        description: MiB after which a log is rotated.
        type: int
        default: 10
      log_backups:
        description: Rotated logs to keep.
        type: int
        default: 3
  files:
    description: More files, a text for each path below O(state_dir), such as scripts that the programs run. They may not be secret.
    type: dict
    default: {}
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
