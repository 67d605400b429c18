#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module llmops.serving.model_fit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_fit
short_description: Tell whether a model fits onto GPUs, before it is downloaded
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Computes what vLLM 0.32 will find when it starts - weights, overhead and KV cache against the memory of the GPUs, the context and the
    number of chats - and fails when the engine surely would not start.
  - What the arithmetic cannot know, the memory that an engine needs beside weights and cache, is an estimate with an error. A model that
    fits by less than that error is let through with a warning.
  - C(docs/capacity.md) has the formulas, and how well they agree with vLLM.
extends_documentation_fragment: [llmops.serving.read_only]
options:
  name:
    description: Name of the row, as messages call it.
    type: str
    required: true
  row:
    description:
      - The row of the model table, with its facts and the choices for serving; C(docs/models.md) has the keys.
      - Facts that a table lacks can be had with M(llmops.serving.model_info).
    type: dict
    required: true
  accelerator:
    description: What the engine computes on.
    type: str
    choices: [nvidia, amd, cpu]
    default: nvidia
  gpus:
    description: GPUs on which the engine may land, as RV(llmops.serving.gpu_memory_check#module:eligible). The least of them decides.
    type: list
    elements: dict
    default: []
  gpu_count:
    description: GPUs over which one engine is split (tensor parallel).
    type: int
    default: 1
  kv_cache_dtype:
    description: Type of the KV cache, as C(vllm serve --kv-cache-dtype).
    type: str
    default: auto
  memory_mib:
    description: MiB of memory that an engine on CPUs may use. Without it only the KV cache is judged there.
    type: int
  volume_gib:
    description: GiB of the volume that has to hold the weights. Without it nobody looks.
    type: float
  others:
    description: Rows of the model table, by name, one of which may be proposed instead.
    type: dict
    default: {}
  enforce:
    description: Fail when it surely does not fit. V(false) warns only.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Would gpt-oss-120b with its whole context start on an A100?
  llmops.serving.model_fit:
    name: gpt-oss-120b
    row:
      model: openai/gpt-oss-120b
      weights_gib: 60.77
      weights_format: mxfp4
      vocab_size: 201088
      num_attention_heads: 64
      num_kv_heads: 8
      head_dim: 64
      layers: {full: 18, sliding_window: 18}
      sliding_window: 128
      active_parameters_b: 5.1
      max_context: 131072
      max_model_len: 131072
    gpus:
      - {product: NVIDIA-A100-SXM4-80GB, memory_mib: 81920, compute_capability: "8.0", count: 1}
"""

RETURN = r"""
verdict:
  description:
    - V(fits) even if the overhead is underestimated by its error. V(does_not_fit) even if it is overestimated by its error.
    - V(within_error) between the two. V(unknown) where facts of the model or the memory of the GPUs are missing.
  returned: always
  type: str
  sample: within_error
summary:
  description: The verdict in a sentence, with the numbers behind it.
  returned: always
  type: str
  sample: >-
    gpt-oss-120b fits on 1 x NVIDIA-H200: weights 66.2 GiB, KV cache 55.9 GiB,
    room for 11 chats of 131,072 tokens at a time, or 99 of 8,192.
advice:
  description: What would fit instead, as lines of an inventory, the smallest change first.
  returned: always
  type: list
  elements: str
  sample: ["vllm_model_configs.gpt-oss-120b: {max_model_len: 70672}", "vllm_gpu_count: 2", "vllm_model_name: qwen-qwq-32b"]
notes:
  description: What is doubtful, or not allowed by the licence. The module warns of each.
  returned: always
  type: list
  elements: str
  sample: []
refusal:
  description: Why this would fail for sure. Null where it would not.
  returned: always
  type: str
  sample: null
product:
  description: The GPU that decides. Null on CPUs.
  returned: when the verdict is known
  type: str
  sample: NVIDIA-A100-SXM4-80GB
gpu_count:
  description: GPUs of one engine; V(0) on CPUs.
  returned: when the verdict is known
  type: int
  sample: 1
memory_gib:
  description:
    - Where the memory of one GPU goes, GiB. C(budget) is the share of the C(total) that vLLM takes, and C(left) the rest.
      C(overhead) may be wrong by C(overhead_error) either way. C(missing) is what weights and overhead have too little.
  returned: when the verdict is known
  type: dict
  sample: {total: 79.31, budget: 72.97, weights: 66.24, overhead: 2.65, overhead_error: 1.5, kv_cache: 4.07, missing: 0.0, left: 6.34}
max_model_len:
  description: Tokens of one chat, as it would be served.
  returned: when the verdict is known
  type: int
  sample: 131072
request_gib:
  description: GiB of KV cache, on each GPU, that one chat of that length takes.
  returned: when the verdict is known
  type: float
  sample: 4.65
kv_cache_tokens:
  description: Tokens in the pool, the figure that vLLM logs as C(GPU KV cache size).
  returned: when the verdict is known
  type: int
  sample: 114688
concurrency:
  description: Chats of full length at a time, the figure that vLLM logs as C(Maximum concurrency).
  returned: when the verdict is known
  type: float
  sample: 0.88
chats:
  description:
    - Room for chats - C(full_length), and C(typical) ones of C(typical_tokens) tokens.
      C(at_a_time) is C(max_num_seqs), null for vLLM's own.
  returned: when the verdict is known
  type: dict
  sample: {full_length: 0, typical: 9, typical_tokens: 8192, at_a_time: null}
longest_tokens:
  description: The longest chat that fits, up to the model's own limit, if the estimate is right.
  returned: when the verdict is known
  type: int
  sample: 114352
longest_tokens_surely:
  description: The longest chat that fits even if the overhead is underestimated by its error.
  returned: when the verdict is known
  type: int
  sample: 70672
least_gpus:
  description: Smallest number of such GPUs for one engine with which it surely fits. Null where none of 1, 2, 4, 8, 16 does.
  returned: when the verdict is known
  type: int
  sample: 2
memory_needed_mib:
  description: MiB of host memory that an engine on CPUs needs. Null with GPUs.
  returned: when the verdict is known
  type: int
  sample: null
by_gpu:
  description: The same figures for every kind of GPU on which the engine may land.
  returned: always
  type: list
  elements: dict
  sample: []
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _catalog, _fit
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ARGS: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "row": {"type": "dict", "required": True},
    "accelerator": {"type": "str", "choices": ["nvidia", "amd", "cpu"], "default": "nvidia"},
    "gpus": {"type": "list", "elements": "dict", "default": []},
    "gpu_count": {"type": "int", "default": 1},
    "kv_cache_dtype": {"type": "str", "default": "auto"},
    "memory_mib": {"type": "int"},
    "volume_gib": {"type": "float"},
    "others": {"type": "dict", "default": {}},
    "enforce": {"type": "bool", "default": True},
}


def run(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the verdict. Raises ServingError when the row is not one, or when it surely does not fit and that shall be enforced."""
    _catalog.check_row(params["name"], params["row"])
    question = _fit.Question(**{key: value for key, value in params.items() if key != "enforce"})
    return _fit.check(question) if params["enforce"] else _fit.judge(question)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGS, supports_check_mode=True)
    try:
        result = run(module.params)
    except ServingError as exc:
        for note in exc.details.get("notes", []):
            module.warn(note)
        module.fail_json(msg=str(exc), **exc.details)
    for note in [*result["notes"], *([result["refusal"]] if result["refusal"] else [])]:
        module.warn(note)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
