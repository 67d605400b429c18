# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the progress of python_environment, and hand it the lock files of the machine that the run is on."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible_collections.llmops.serving.plugins.plugin_utils.progress import ProgressAction


class ActionModule(ProgressAction):
    """Runs the module of the same name."""

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Replace the path of each lock by its text, then run the module."""
        arguments = dict(self._task.args)
        rows = arguments.get("environments")
        if isinstance(rows, list):
            self._task.args = {**arguments, "environments": [with_text(row) if isinstance(row, dict) else row for row in rows]}
        return super().run(tmp, task_vars)


def with_text(row: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return *row* with the text of its lock file in place of its path."""
    if not row.get("lock") or row.get("requirements"):
        return row
    try:
        with open(row["lock"], encoding="utf-8") as file:
            return {**{key: value for key, value in row.items() if key != "lock"}, "requirements": file.read()}
    except OSError as exc:
        raise AnsibleActionFail(f"{row.get('title')}: cannot read the lock file {row['lock']}: {exc.strerror}.") from None
