#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the facts of a model from its own files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_info
short_description: Read the facts of a model from its own files, without its weights
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Reads C(config.json) of a model, and how large its safetensors are, from a Hugging Face hub, a mirror of it, or a folder.
  - Returns what follows for vLLM 0.32 as keys of a row of the model table, so that M(llmops.serving.model_fit) can tell whether a model
    fits that the table does not know. Usually this takes two small requests.
  - What the files do not tell, or what is not known of a model of a new kind, is left out, with a note.
extends_documentation_fragment: [llmops.serving.read_only]
options:
  model:
    description: Id of the model on the hub, as V(Qwen/Qwen3-8B), or the absolute path of a folder.
    type: str
    required: true
  title:
    description: Name of the row of the model table, as messages call it. By default it is O(model).
    type: str
  revision:
    description: Branch, tag or commit on the hub.
    type: str
    default: main
  hf_endpoint:
    description: URL of the hub, or of a mirror. A mirror has to know the C(/resolve/) URLs of files only.
    type: str
    default: https://huggingface.co
  hf_token:
    description: Token of the hub, for gated and private models. It is sent to the host of O(hf_endpoint) alone.
    type: str
  timeout:
    description: Seconds to wait for an answer. Nothing is tried twice.
    type: float
    default: 15
"""

EXAMPLES = r"""
- name: Read the facts of a model that is not in the table
  llmops.serving.model_info:
    model: Qwen/Qwen3-14B
  register: info

- name: Does it fit onto an L40S?
  llmops.serving.model_fit:
    name: qwen3-14b
    row: "{{ info.row | combine({'model': 'Qwen/Qwen3-14B', 'max_model_len': 16384}) }}"
    gpus:
      - {product: NVIDIA-L40S, memory_mib: 46068, compute_capability: "8.9", count: 1}
"""

RETURN = r"""
row:
  description: The facts, as keys of a row of the model table. C(docs/models.md) tells what they mean.
  returned: always
  type: dict
  sample:
    architecture: Qwen3ForCausalLM
    weights_gib: 27.51
    weights_format: bf16
    vocab_size: 151936
    num_attention_heads: 40
    num_kv_heads: 8
    head_dim: 128
    layers: {full: 40}
    max_context: 40960
notes:
  description: Which facts are left out, and why. The module warns of each.
  returned: always
  type: list
  elements: str
  sample: ["weights_gib is left out: the repository has no safetensors, only .gguf."]
source:
  description: URL of the C(config.json) that was read, or the folder.
  returned: always
  type: str
  sample: https://huggingface.co/Qwen/Qwen3-14B/resolve/main/config.json
requests:
  description: How many requests were sent, redirects included.
  returned: always
  type: int
  sample: 2
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _hub
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError


def run(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the facts of the model. Raises ServingError."""
    model, title = params["model"], params["title"] or params["model"]
    if model.startswith("/"):
        reading, requests = _hub.read_folder(model, title), 0
    else:
        hub = _hub.Hub(params["hf_endpoint"], params["hf_token"], params["timeout"])
        reading, requests = _hub.read_hub(hub, model, params["revision"], title), hub.requests
    return {"changed": False, "row": reading.row, "notes": reading.notes, "source": reading.source, "requests": requests}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "model": {"type": "str", "required": True},
            "title": {"type": "str"},
            "revision": {"type": "str", "default": "main"},
            "hf_endpoint": {"type": "str", "default": _hub.HUB},
            "hf_token": {"type": "str", "no_log": True},
            "timeout": {"type": "float", "default": 15},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    for note in result["notes"]:
        module.warn(f"{module.params['title'] or module.params['model']}: {note}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
