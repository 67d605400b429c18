#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Smoke-test any endpoint of the OpenAI API in six steps."""

from __future__ import annotations

DOCUMENTATION = r"""
module: endpoint_check
short_description: Smoke-test any endpoint of the OpenAI API in six steps
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - "Takes six steps, and tells how each went: the endpoint can be reached, lists the model, gives a completion, streams one, calls a tool
    (whole and streamed), and has metrics. C(make verify) shows them."
  - A step that does not apply is skipped and fails nothing. A step that needs one that has failed is not tried.
  - The module fails when a step has failed, and returns all of them nevertheless.
  - For an endpoint that does not serve yet, it does not wait; that is what M(llmops.serving.router_wait) is for. Answers are judged as
    M(llmops.serving.router_verify) does, each with O(attempts) tries.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.progress, llmops.serving.reach]
attributes:
  check_mode:
    support: full
    description: Nothing is asked; RV(passed) is false, and no step is tried.
  diff_mode:
    support: none
    description: There is nothing to compare, the module changes nothing.
  idempotent:
    support: full
    description: The module changes nothing. The model writes up to four answers, mostly short ones.
options:
  model:
    description: Name of the model, as requests have it. Without it, the first that is listed.
    type: str
  provider:
    description:
      - What serves. V(vllm) is an engine of vLLM or a router before it, and has to have metrics.
      - V(ollama) has none. V(openai) is anything else; its metrics are looked at only if they are those of vLLM.
    type: str
    choices: [vllm, ollama, openai]
    default: vllm
  tool_calls:
    description: Whether the model has to call a tool that a request offers (C(tool_choice) C(auto)), whole and streamed.
    type: bool
    default: true
  foreign:
    description:
      - Whether others have deployed the endpoint. An engine that refuses tools, because it has no parser for them, then does not offer
        them, and the step is skipped. Messages then name flags of vLLM in place of keys of a row.
    type: bool
    default: false
  max_model_len:
    description: Longest context of the model, in tokens. It bounds how long the answers may be.
    type: int
  attempts:
    description: How often each answer may be tried.
    type: int
    default: 3
  request_timeout:
    description: Seconds after which one HTTP request is given up.
    type: float
    default: 60
  timeout:
    description: For how many seconds all answers together may be waited for.
    type: int
    default: 180
"""

EXAMPLES = r"""
- name: Smoke-test the chat's endpoint
  llmops.serving.endpoint_check:
    model: gpt-oss-120b
    service:
      namespace: chatbot
      name: vllm-router
    api_key_secret:
      namespace: chatbot
      name: vllm-secrets
      key: VLLM_API_KEY

- name: Smoke-test an Ollama, whichever model it has
  llmops.serving.endpoint_check:
    url: http://127.0.0.1:11434
    provider: ollama
    foreign: true
  register: smoke

- name: Show how it went
  ansible.builtin.debug:
    var: smoke.table
"""

RETURN = r"""
passed:
  description: Whether every step that applies has passed.
  returned: always
  type: bool
  sample: true
model:
  description: The model that was asked.
  returned: always
  type: str
  sample: smoke
endpoint:
  description: Where the model was reached, a URL, C(service NAMESPACE/NAME:PORT) or C(pods NAMESPACE/SELECTOR:PORT).
  returned: always
  type: str
  sample: http://127.0.0.1:8000
steps:
  description: The six steps, in order.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: V(reachable), V(model listed), V(completion), V(stream), V(tool call) or V(metrics).
      returned: always
      type: str
      sample: tool call
    status:
      description: V(passed), V(failed), V(skipped) when it does not apply, or V(not tried).
      returned: always
      type: str
      sample: passed
    seconds:
      description: How long it took.
      returned: always
      type: float
      sample: 0.612
    found:
      description: What was found, or what is wrong and what to do about it.
      returned: always
      type: str
      sample: 'get_weather({"city": "Paris"})'
summary:
  description: One line for people.
  returned: always
  type: str
  sample: "smoke at http://127.0.0.1:8000: 6 of 6 passed in 3.2 s"
table:
  description: The steps as aligned lines for people.
  returned: always
  type: list
  elements: str
  sample:
    - "reachable     passed   0.0 s  http://127.0.0.1:8000 answers"
    - "model listed  passed   0.0 s  smoke, chat"
elapsed_seconds:
  description: How long all steps took.
  returned: always
  type: float
  sample: 3.2
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
from ansible_collections.llmops.serving.plugins.module_utils._smoke import PROVIDERS, Smoke, causes, summary, table


def run(
    params: t.Mapping[str, t.Any],
    check_mode: bool = False,
    connect: t.Callable[..., Kube] = Kube.connect,
    now: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> dict[str, t.Any]:
    """Take the steps, and return what the module returns; in check mode, ask nothing.

    Raises ServingError, with the return values as its details, when a step fails.
    """
    if params["attempts"] < 1:
        raise ServingError(f"attempts is {params['attempts']}. Each answer needs one attempt at least.")
    reach = Reach(params, connected_once(params, connect))
    smoke = Smoke(
        reach,
        params["model"],
        params["provider"],
        params["tool_calls"],
        params["foreign"],
        params["max_model_len"],
        params["attempts"],
        params["request_timeout"],
        params["timeout"],
        Progress(params["progress_path"]).tell,
        now,
        sleep,
    )
    passed = not check_mode and smoke.run()
    line = summary(reach.endpoint, smoke.steps, smoke.elapsed_seconds)
    if check_mode:
        line = f"smoke at {reach.endpoint}: nothing was asked (check mode)"
    result = {
        "passed": passed,
        "model": smoke.model or "",
        "endpoint": reach.endpoint,
        "steps": smoke.steps,
        "summary": line,
        "table": table(smoke.steps),
        "elapsed_seconds": smoke.elapsed_seconds,
    }
    if not passed and not check_mode:
        raise ServingError(f"{line}. {causes(smoke.steps)}", **result)
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "model": {"type": "str"},
            "provider": {"type": "str", "choices": list(PROVIDERS), "default": "vllm"},
            "tool_calls": {"type": "bool", "default": True},
            "foreign": {"type": "bool", "default": False},
            "max_model_len": {"type": "int"},
            "attempts": {"type": "int", "default": 3},
            "request_timeout": {"type": "float", "default": 60},
            "timeout": {"type": "int", "default": 180},
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
