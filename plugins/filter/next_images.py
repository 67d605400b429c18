# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter next_images: what becomes of the lock file."""

from __future__ import annotations

DOCUMENTATION = r"""
name: next_images
short_description: Tell what becomes of the lock file of images
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Compares what the tags of images name now with the lock file, and returns the next one.
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
  when:
    description: The time that is noted with what is new.
    type: str
    required: true
  keep:
    description: Leave pins as they are whose tags name other images now, and only add what is missing.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: What has moved?
  ansible.builtin.debug:
    msg: "{{ (asked.results | llmops.serving.next_images(lock, when='2026-11-22T06:00:00Z')).lines }}"
"""

RETURN = r"""
_value:
  description:
    - "A dict: C(images), the pins by reference; C(rows), what becomes of each; C(lines), they as a table; C(notes), what is to be
      said of tags that have moved; C(differs), whether anything does."
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils import _images
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError


def next_images(results: t.Sequence[t.Mapping[str, t.Any]], lock: t.Mapping[str, t.Any], when: str, keep: bool = False) -> dict[str, t.Any]:
    """Return the next lock; the reason as AnsibleFilterError where there can be none."""
    try:
        return _images.next_lock([{**result, "written": result["item"]} for result in results], lock, when, keep)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"next_images": next_images}
