# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter moved_images: which pinned tags have moved."""

from __future__ import annotations

DOCUMENTATION = r"""
name: moved_images
short_description: Tell which pinned tags have moved
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns a line for each image whose tag names another one than the lock file has pinned, and for each that could not be looked at.
options:
  _input:
    description: Results of M(llmops.serving.image_digest), called in a loop over images, so that each has its C(item).
    type: list
    elements: dict
    required: true
  lock:
    description: The lock file as it is, as P(llmops.serving.images_lock#lookup) returned it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Has anything moved?
  ansible.builtin.debug:
    msg: "{{ asked.results | llmops.serving.moved_images(lock) }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils import _images
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError


def moved_images(results: t.Sequence[t.Mapping[str, t.Any]], lock: t.Mapping[str, t.Any]) -> list[str]:
    """Return the lines; the reason as AnsibleFilterError where there can be none."""
    try:
        return _images.moved_notes([{**result, "written": result["item"]} for result in results], lock)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"moved_images": moved_images}
