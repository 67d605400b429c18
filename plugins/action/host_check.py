# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell host_check which run asks: the host cannot see the process, nor whether that of another run from here has ended."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.llmops.serving.plugins.module_utils import _run_lock


class ActionModule(ActionBase):
    """Runs the module of the same name."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Run the module; its result is the task's."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            arguments["run"] = _run_lock.this_run()._asdict()
        except OSError:  # a control node without /proc: the connection stands for the run
            return {**result, **self._execute_module(module_args=arguments, task_vars=task_vars)}
        found = self._execute_module(module_args=arguments, task_vars=task_vars)
        if found.get("holder") and _run_lock.has_ended(_run_lock.Run(**found["holder"])):
            found = self._execute_module(module_args={**arguments, "over": found["holder"]}, task_vars=task_vars)
        return {**result, **found}
