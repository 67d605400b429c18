#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prove by real requests that a model serves as its row says."""

from __future__ import annotations

DOCUMENTATION = r"""
module: router_verify
short_description: Prove by real requests that a model serves as its row says
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Asks the model for a completion, whole and streamed; with O(tool_calls) for a tool call, whole and streamed; with O(reasoning) for an
    answer that needs a thought. Each of O(aliases) has to be listed and to answer.
  - An engine can answer well while its tool calls come back as text, or its thoughts stand in the answer, because a parser does not fit
    the model. The message then names what was seen and, where it is known, the parser that reads it.
  - Models are not alike from one answer to the next, so each check has O(attempts) with different words, the first with temperature 0,
    and passes with the first success. The module fails with the first check that does not pass.
  - Refused connections, the statuses 429, 502, 503 and 504, and pods that are not ready may heal, and are asked again until O(timeout).
    What a request is refused for (400, 401, 403) fails at once.
  - Wait for the model first, with M(llmops.serving.router_wait).
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.progress, llmops.serving.reach]
attributes:
  check_mode:
    support: full
    description: Nothing is asked; RV(verified) is false and RV(checks) is empty.
  diff_mode:
    support: none
    description: There is nothing to compare, the module changes nothing.
  idempotent:
    support: full
    description: The module changes nothing. Each check makes the model write up to 2048 tokens an attempt, mostly far fewer.
options:
  model:
    description: Name of the model, as requests have it.
    type: str
    required: true
  aliases:
    description: Further names of the model. Each has to be in C(GET /v1/models), and to answer one completion.
    type: list
    elements: str
    default: []
  tool_calls:
    description: Whether the model has to call a tool that a request offers (C(tool_choice) C(auto)), whole and streamed.
    type: bool
    default: false
  reasoning:
    description:
      - Whether the thoughts of the model have to come apart from its answer, in the field C(reasoning).
      - A model that answers without thinking passes, as long as no mark of a thought is left in its answer.
    type: bool
    default: false
  max_model_len:
    description:
      - Longest context of the model, in tokens. It bounds how long the answers may be.
      - Without it, answers of 2048 tokens are asked for, and fewer when the engine says that this is too much.
    type: int
  attempts:
    description: How often each check may be tried.
    type: int
    default: 3
  request_timeout:
    description: Seconds after which one HTTP request is given up. Shortened to what is left of O(timeout), but not below one second.
    type: float
    default: 120
  timeout:
    description: For how many seconds all checks together may go on.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Prove that the model answers, calls tools and thinks
  llmops.serving.router_verify:
    model: gpt-oss-120b
    service:
      namespace: chatbot
      name: vllm-router
    api_key_secret:
      namespace: chatbot
      name: vllm-api-key
      key: api-key
    tool_calls: true
    reasoning: true

- name: Ask the newest engine directly, before the router leads anybody there
  llmops.serving.router_verify:
    model: smoke
    pods:
      namespace: chatbot
      label_selector: app.kubernetes.io/instance=vllm,app.kubernetes.io/component=vllm
    api_key: "{{ vllm_api_key }}"
    tool_calls: true

- name: Prove that a router on this host serves the model under both of its names
  llmops.serving.router_verify:
    model: smoke
    url: http://127.0.0.1:8000
    aliases: [chat]
"""

RETURN = r"""
verified:
  description: Whether all checks have passed.
  returned: always
  type: bool
  sample: true
model:
  description: The model that was asked.
  returned: always
  type: str
  sample: gpt-oss-120b
endpoint:
  description: Where the model was reached, a URL, C(service NAMESPACE/NAME:PORT) or C(pods NAMESPACE/SELECTOR:PORT).
  returned: always
  type: str
  sample: service chatbot/vllm-router:8000
checks:
  description: What was checked, in order; after a failure, the last is the one that failed.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: V(completion), V(stream), V(alias NAME), V(tool_call), V(tool_call_stream) or V(reasoning).
      returned: always
      type: str
      sample: tool_call
    passed:
      description: Whether an attempt succeeded.
      returned: always
      type: bool
      sample: true
    attempts:
      description: How many attempts were made.
      returned: always
      type: int
      sample: 1
    seconds:
      description: How long the check took.
      returned: always
      type: float
      sample: 2.314
    found:
      description: What was found, the beginning of the answer or what is wrong with it.
      returned: always
      type: str
      sample: 'get_weather({"city": "Paris"})'
elapsed_seconds:
  description: How long all checks took.
  returned: always
  type: float
  sample: 11.7
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube, connected_once
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress
from ansible_collections.llmops.serving.plugins.module_utils._reach import (
    REACH_ARGS,
    REACH_MUTUALLY_EXCLUSIVE,
    REACH_REQUIRED_ONE_OF,
    Reach,
)
from ansible_collections.llmops.serving.plugins.module_utils._verify import Verifier


def run(
    params: t.Mapping[str, t.Any],
    check_mode: bool = False,
    connect: t.Callable[..., Kube] = Kube.connect,
    now: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> dict[str, t.Any]:
    """Make the checks, and return what the module returns; in check mode, ask nothing.

    Raises ServingError, with the return values as its details, when a check does not pass.
    """
    if params["attempts"] < 1:
        raise ServingError(f"attempts is {params['attempts']}. Each check needs one attempt at least.")
    reach = Reach(params, connected_once(params, connect))
    progress = Progress(params["progress_path"])
    begun = now()
    verifier = Verifier(
        reach,
        params["model"],
        params["attempts"],
        params["request_timeout"],
        params["timeout"],
        params["max_model_len"],
        lambda phase, text: progress.tell(phase, f"{params['model']}: {text}"),
        now,
        sleep,
    )
    failure = ""
    if not check_mode:
        try:
            verifier.verify(params["tool_calls"], params["reasoning"], params["aliases"])
        except ServingError as exc:
            failure = str(exc)
    result = {
        "verified": not failure and not check_mode,
        "model": params["model"],
        "endpoint": reach.endpoint,
        "checks": verifier.checks,
        "elapsed_seconds": round(now() - begun, 3),
    }
    if failure:
        raise ServingError(failure, **result)
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "model": {"type": "str", "required": True},
            "aliases": {"type": "list", "elements": "str", "default": []},
            "tool_calls": {"type": "bool", "default": False},
            "reasoning": {"type": "bool", "default": False},
            "max_model_len": {"type": "int"},
            "attempts": {"type": "int", "default": 3},
            "request_timeout": {"type": "float", "default": 120},
            "timeout": {"type": "int", "default": 300},
            **REACH_ARGS,
            **PROGRESS_ARGS,
            **KUBERNETES_ARGS,
        },
        mutually_exclusive=REACH_MUTUALLY_EXCLUSIVE,
        required_one_of=REACH_REQUIRED_ONE_OF,
        supports_check_mode=True,
    )
    try:
        result = run(module.params, check_mode=module.check_mode)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
