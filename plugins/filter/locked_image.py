# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter locked_image: which image is used where one is asked for."""

from __future__ import annotations

DOCUMENTATION = r"""
name: locked_image
short_description: Tell which image is used where one is asked for
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - By the digest that the lock file has for it, and from another registry where one is set.
  - Refuses an image that may change by itself, and one whose tag is not the one that was pinned.
options:
  _input:
    description: The image as the inventory has it.
    type: str
    required: true
  variable:
    description: Name of the variable that holds it, for messages.
    type: str
    required: true
  lock:
    description: What P(llmops.serving.images_lock#lookup) returned.
    type: dict
    default: {}
  registry:
    description: Registry that takes the place of the image's own, as V(registry.example.com:5000/mirror).
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Which image does the page have?
  ansible.builtin.debug:
    msg: "{{ (open_webui_image | llmops.serving.locked_image('open_webui_image', lock)).image }}"
  vars:
    lock: "{{ lookup('llmops.serving.images_lock', '', beside=inventory_dir) }}"
"""

RETURN = r"""
_value:
  description:
    - "A dict: C(image), with tag and digest, for Kubernetes; C(by_digest), without the tag, for Docker; C(digest); C(written), as
      asked for; C(variable); C(note), why it has no digest though there is a lock."
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils import _images
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError


def locked_image(image: str, variable: str, lock: t.Optional[t.Mapping[str, t.Any]] = None, registry: str = "") -> dict[str, t.Any]:
    """Return which image is used; the reason as AnsibleFilterError where none can be."""
    try:
        return _images.choose(variable, image, lock, registry)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"locked_image": locked_image}
