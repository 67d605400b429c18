# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup images_lock: the lock file of images, read and checked."""

from __future__ import annotations

DOCUMENTATION = r"""
name: images_lock
short_description: Read the lock file of images
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns what C(make pin-images) has written. Where there is no file, and none was named, no image is pinned.
options:
  _terms:
    description: Path of the file, seen from O(beside). An empty text is C(images.lock.yml) there, which need not be there.
    required: true
  beside:
    description: Folder of the inventory.
    type: str
    default: ""
  optional:
    description: Let a file be missing that was named, too.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Which images are pinned?
  ansible.builtin.debug:
    msg: "{{ lookup('llmops.serving.images_lock', '', beside=inventory_dir).images }}"
"""

RETURN = r"""
_raw:
  description: "One dict for each path: C(path), and C(images), a dict of pins by reference."
  type: list
  elements: dict
"""

import os
import typing as t

import yaml
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.llmops.serving.plugins.module_utils import _images
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError


def read_lock(given: str, beside: str, optional: bool) -> dict[str, t.Any]:
    """Return the lock at *given*, seen from *beside*. Raises ServingError."""
    path = _images.lock_path(given, beside)
    if not os.path.exists(path):
        if given and not optional:
            raise ServingError(f"llm_images_lock: {path} is not there. make pin-images makes it; without the variable, no image is pinned.")
        return {"path": path, "images": {}}
    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise ServingError(f"{path} cannot be read: {' '.join(str(exc).split())}. Mend it, or remove it and run make pin-images.") from exc
    return _images.checked_lock(document, path)


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: t.Any, variables: t.Any = None, **kwargs: t.Any) -> list[dict[str, t.Any]]:
        """Return the lock for each of *terms*."""
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return [read_lock(str(term or ""), self.get_option("beside") or "", self.get_option("optional")) for term in terms]
        except ServingError as exc:
            raise AnsibleLookupError(str(exc)) from exc
