# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The option ``supervised`` of modules that look at programs of a host: what keeps them, and how that is asked."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._docker import SOCKET, Containers, Docker
from ansible_collections.llmops.serving.plugins.module_utils._keepers import Keeper
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import Supervisor
from ansible_collections.llmops.serving.plugins.module_utils._systemd import Systemd

# What keeps programs of a host running, by the words of supervised.by.
KEEPERS: dict[str, t.Callable[[t.Mapping[str, t.Any]], Keeper]] = {
    "supervisord": lambda asked: Supervisor(os.path.join(asked["state_dir"], "supervisord.sock")),
    "systemd": lambda asked: Systemd(asked["programs"], asked["suffix"]),
    "docker": lambda asked: Containers(Docker(asked["docker_host"]), asked["programs"]),
}

SUPERVISED_OPTIONS: dict[str, t.Any] = {
    "by": {"type": "str", "choices": list(KEEPERS), "default": "supervisord"},
    "suffix": {"type": "str", "default": ""},
    "docker_host": {"type": "str", "default": SOCKET},
    "state_dir": {"type": "path", "required": True},
}
