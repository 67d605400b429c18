# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter mirror_list: what a site without the internet has to hold."""

from __future__ import annotations

DOCUMENTATION = r"""
name: mirror_list
short_description: List images and weights with what copies them
version_added: "0.2.0"
author: The llmops.serving authors (@llmops)
description:
  - Returns every image and every model once, with digest, size and the command that copies it.
options:
  _input:
    description: Images that are wanted, as P(llmops.serving.locked_image#filter) returned them.
    type: list
    elements: dict
    required: true
  lock:
    description: The lock file, as P(llmops.serving.images_lock#lookup) returned it.
    type: dict
    default: {}
  results:
    description: Results of M(llmops.serving.image_digest) for images that are not in the lock file, each with its C(item).
    type: list
    elements: dict
    default: []
  models:
    description: C(name), C(row), C(gib) and C(backend) (V(vllm), V(ollama)) of the models that are served.
    type: list
    elements: dict
    default: []
  registry:
    description: Registry that the images are to go to.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: What has to be copied?
  ansible.builtin.debug:
    msg: "{{ (vllm_plan.images | llmops.serving.mirror_list(lock=lock)).images | map(attribute='command') }}"
"""

RETURN = r"""
_value:
  description:
    - "A dict: C(images), C(weights) and C(registry)."
    - "Of an image C(image), C(digest), C(platform), C(size_bytes), C(pinned), C(source), C(target), C(command), C(note)."
    - "Of weights C(model), C(kind) (V(hub), V(folder), V(smoke), V(ollama)), C(source), C(revision), C(gib), C(gated), C(command)."
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.llmops.serving.plugins.module_utils import _mirror
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError


def mirror_list(
    wanted: t.Sequence[t.Mapping[str, t.Any]],
    lock: t.Optional[t.Mapping[str, t.Any]] = None,
    results: t.Sequence[t.Mapping[str, t.Any]] = (),
    models: t.Sequence[t.Mapping[str, t.Any]] = (),
    registry: str = "",
) -> dict[str, t.Any]:
    """Return images and weights; the reason as AnsibleFilterError where they cannot be listed."""
    try:
        return _mirror.mirror_list(wanted, lock, [{**result, "written": result["item"]} for result in results], models, registry)
    except ServingError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"mirror_list": mirror_list}
