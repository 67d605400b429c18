# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter images_back: what going back to the lock file of before changes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: images_back
short_description: Tell what going back to the lock file of before changes
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Compares the lock file with the one of before, which is the input, and returns the latter in the form of
    P(llmops.serving.next_images#filter).
options:
  _input:
    description: The lock file of before, as P(llmops.serving.images_lock#lookup) returned it.
    type: dict
    required: true
  lock:
    description: The lock file as it is, as P(llmops.serving.images_lock#lookup) returned it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: What would be other than now?
  ansible.builtin.debug:
    msg: "{{ (previous | llmops.serving.images_back(lock)).lines }}"
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


def images_back(previous: t.Mapping[str, t.Any], lock: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return what differs; the reason as AnsibleFilterError where that cannot be told."""
    try:
        return _images.back_to(lock, previous)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"images_back": images_back}
