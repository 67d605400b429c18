# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module tells what it does. Partner: plugins/module_utils/_progress.py, PROGRESS_ARGS."""

from __future__ import annotations


class ModuleDocFragment:
    """The option of the modules that take long."""

    DOCUMENTATION = r"""
options:
  progress_path:
    description: File to which the module appends what it does, for the action plugin of the same name, which shows it. Set by that plugin.
    type: path
    version_added: "0.2.0"
"""
