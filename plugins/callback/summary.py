# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback summary: the last lines of a run are for the person who started it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: summary
type: aggregate
short_description: Say at the very end of a run what a person wants to know
version_added: "0.1.0"
author: The llmops.serving authors (@llmops)
description:
  - Prints, below the recap, the pairs that the run has put into C(serving_summary) with M(ansible.builtin.set_stats), aligned.
  - Before them, the lines in C(serving_report), as they are.
  - Where the run had several hosts, what is of each stands below its name. M(ansible.builtin.set_stats) says so with C(per_host).
  - When nothing was changed, it says so. When the run has failed, it repeats the message of the task that ended it - the last one to fail
    on a host, because a failure before may have been rescued.
"""

import typing as t

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Collects failures while the run goes on, and prints at its end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "llmops.serving.summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self.failures: dict[str, str] = {}

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        """Keep the message of the last failure of each host: what comes after a rescue knows how it ended."""
        if not ignore_errors:
            self.failures[str(result.host)] = first_lines(cause(result.result))

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        """Keep the message of a host that does not answer."""
        self.v2_runner_on_failed(result)

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """Print what is to be known now."""
        hosts = sorted({*stats.custom, *stats.processed} - {"_run"})
        for host in hosts:
            if len(hosts) > 1:
                self._display.display(f"{host}:")
            told = {**stats.custom.get("_run", {}), **stats.custom.get(host, {})}
            self._tell(str(host), told, failed=host in stats.failures or host in stats.dark)
        ended = any((*stats.failures, *stats.dark))
        summarised = any(row.get("serving_summary") for row in stats.custom.values())
        if summarised and not ended and not any(stats.changed.values()):
            self._display.display("Nothing was changed: all is as the inventory says.", color="green")

    def _tell(self, host: str, custom: t.Mapping[str, t.Any], failed: bool) -> None:
        """Print what is to be known of one host."""
        for line in custom.get("serving_report") or []:
            self._display.display(line)
        if failed:
            self._display.display(f"Failed: {self.failures.get(host) or 'see above'}", color="red")
            return
        summary: dict[str, t.Any] = custom.get("serving_summary") or {}
        width = max(map(len, summary), default=0)
        for label, text in summary.items():
            self._display.display(f"{label:<{width}}  {text}")


def cause(result: t.Mapping[str, t.Any]) -> t.Any:
    """Return the message of a result that failed; of a task with a loop, that of the first turn that did."""
    turns = result.get("results")
    failed = [turn["msg"] for turn in turns if turn.get("failed") and turn.get("msg")] if isinstance(turns, list) else []
    return failed[0] if failed else result.get("msg")


def first_lines(message: t.Any, most: int = 4) -> str:
    """Return the first *most* lines that are not empty."""
    lines = [line.strip() for line in str(message or "").splitlines() if line.strip()]
    return "\n".join(lines[:most])
