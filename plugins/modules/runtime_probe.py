#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure how fast the models of one or several runtimes answer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: runtime_probe
short_description: Measure how fast the models of one or several runtimes answer
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Asks each runtime for its models, and each model for answers to each prompt, streamed, one request after the other. A runtime is vLLM,
    a router before it, Ollama, or any other endpoint of the OpenAI API.
  - Tells the time to the first token, the time between tokens, tokens per second and the time of the whole answer, each as p50, p95, least
    and greatest of O(iterations).
  - The first request is told apart and is in none of these figures. It is cold only when the runtime has just started (or, with Ollama,
    has not loaded the model yet), which nobody can see from outside. RV(runtimes[].results[].warmed_up) says when it was much slower.
  - One request at a time shows how fast a single user is served. It is no load test.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.progress]
attributes:
  check_mode:
    support: full
    description: Nothing is asked; RV(ok) is false, and no runtime has results.
  diff_mode:
    support: none
    description: There is nothing to compare, the module changes nothing.
  idempotent:
    support: full
    description: The module changes nothing. Each model writes O(iterations) + 1 answers to each prompt.
options:
  runtimes:
    description:
      - What to ask.
      - Exactly one of O(runtimes) and O(config) is needed.
    type: list
    elements: dict
    suboptions:
      name:
        description: What results call it.
        type: str
        required: true
      url:
        description:
          - URL of the runtime. A path such as C(/v1) or C(/v1/chat/completions) at its end does no harm.
          - Without it and without O(runtimes[].service), C(http://127.0.0.1:8000) for a runtime named V(vllm), and C(http://127.0.0.1:11434)
            for V(ollama).
        type: str
      service:
        description:
          - A Kubernetes Service instead. A port-forward goes to the newest of its pods that is ready, and adds a little to all times.
        type: dict
        suboptions:
          namespace:
            description: Namespace of the Service.
            type: str
            required: true
          name:
            description: Name of the Service.
            type: str
            required: true
          port:
            description: Port of the Service.
            type: int
            default: 8000
      api:
        description:
          - What kind of runtime it is. V(ollama) is asked by its OpenAI API, too, but at C(/api/tags) for its models where it is too old
            for C(/v1/models).
          - Without it, V(ollama) for a runtime of that name, else V(openai).
        type: str
        choices: [openai, ollama]
      models:
        description:
          - Models to ask. One that is not listed is reported, and not asked.
          - Without any, all that are listed; of names that share the same weights, such as a model and its alias, the first.
        type: list
        elements: str
        default: []
      enabled:
        description: Whether it is asked at all.
        type: bool
        default: true
      api_key:
        description:
          - API key of the runtime.
          - At most one of O(runtimes[].api_key), O(runtimes[].api_key_env), O(runtimes[].api_key_file) and O(runtimes[].api_key_secret) can
            be given. Without them, requests carry no key.
        type: str
      api_key_env:
        description: Environment variable that holds the API key, where the module runs.
        type: str
      api_key_file:
        description: File that holds the API key, where the module runs.
        type: path
      api_key_secret:
        description: Where the API key is kept in the cluster.
        type: dict
        suboptions:
          namespace:
            description: Namespace of the Secret.
            type: str
            required: true
          name:
            description: Name of the Secret.
            type: str
            required: true
          key:
            description: Which entry of the Secret's data.
            type: str
            required: true
      validate_certs:
        description: Whether the certificate of an HTTPS O(runtimes[].url) has to be valid.
        type: bool
        default: true
      ca_path:
        description: File with the certificates of the authorities to trust. Without it, those of the system.
        type: path
  config:
    description:
      - Path of a matrix in JSON, where the module runs, with the keys C(latency_prompt), C(iterations), C(timeout_sec) and C(runtimes).
      - A runtime there has C(name), C(enabled), C(models), C(url) (or C(base_url), C(api_base)), C(api), C(api_key_env), C(api_key_file),
        C(api_key), C(validate_certs) and C(ca_path), with the meaning that they have in O(runtimes). Keys that nothing reads are warned of.
      - C(latency_prompt) is a text, or an object with C(text) and C(max_tokens). C(prompts) may stand in its place, as in O(prompts).
      - O(prompts), O(iterations) and O(timeout) come before what the file says.
    type: path
  prompts:
    description: What to ask. Without it, one short question named V(latency).
    type: list
    elements: dict
    suboptions:
      name:
        description: What results call it.
        type: str
        required: true
      text:
        description: The words of the user.
        type: str
        required: true
      max_tokens:
        description: How many tokens the answer may have.
        type: int
        default: 64
  iterations:
    description: How many requests are measured for each model and prompt, beside the first. Without it, what the matrix says, or 5.
    type: int
  timeout:
    description: Seconds after which one request is given up. Without it, what the matrix says, or 60.
    type: float
  vary_prompts:
    description:
      - Whether each request begins with words of its own. A prompt that was asked before is in the prefix cache of the engine, which makes
        the time to the first token of a long prompt much shorter than a new one would have it.
    type: bool
    default: false
  fail_when:
    description:
      - When the module fails.
      - V(nothing_answered) is for a matrix in which not every runtime always runs. What does not answer then is a result, and a failure
        only when there is not a single figure.
      - V(not_ok) is for a pipeline in which everything has to answer.
    type: str
    choices: [nothing_answered, not_ok, never]
    default: nothing_answered
notes:
  - A runtime with O(runtimes[].url) and without O(runtimes[].api_key_secret) needs no Python package beside Ansible's own.
  - A prompt that makes a model think is answered from its first thought on; thoughts count as tokens.
"""

EXAMPLES = r"""
- name: Compare vLLM and Ollama on this machine
  llmops.serving.runtime_probe:
    runtimes:
      - name: vllm
      - name: ollama
        models: ["llama3.1:latest"]
  register: probe

- name: Show it
  ansible.builtin.debug:
    var: probe.table

- name: Ask what a matrix names, and fail unless everything answers
  llmops.serving.runtime_probe:
    config: runtime_matrix.json
    fail_when: not_ok

- name: Measure a deployment on Kubernetes with a short and a long prompt
  llmops.serving.runtime_probe:
    runtimes:
      - name: chat
        service:
          namespace: chatbot
          name: vllm-router
        api_key_secret:
          namespace: chatbot
          name: vllm-secrets
          key: VLLM_API_KEY
    prompts:
      - name: short
        text: Say hello in one sentence.
      - name: long
        text: "{{ lookup('ansible.builtin.file', 'report.txt') }}"
        max_tokens: 256
    vary_prompts: true
    iterations: 20
"""

RETURN = r"""
ok:
  description: Whether every enabled runtime could be reached, and every request to it was answered.
  returned: always
  type: bool
  sample: true
summary:
  description: One line for people.
  returned: always
  type: str
  sample: 2 of 2 runtimes reached, 3 of 3 models answered every request
table:
  description: The figures as aligned lines for people, and below them what went wrong. Times are milliseconds.
  returned: always
  type: list
  elements: str
  sample:
    - "Runtime  Model  Prompt   First TTFT  TTFT p50   p95  ITL p50  p95  Total p50  p95  Tokens/s  Tokens  Errors"
    - "vllm     smoke  latency        312*      11.9  14.2      6.1  7.0        165  171       163      26  0 of 6"
    - "* more than twice as slow as the others: it has warmed up"
runtimes:
  description: Each runtime, in the order in which they were given.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      returned: always
      type: str
      sample: vllm
    endpoint:
      description: Where it was asked.
      returned: always
      type: str
      sample: http://127.0.0.1:8000
    api:
      description: V(openai) or V(ollama).
      returned: always
      type: str
      sample: openai
    enabled:
      description: Whether it was to be asked.
      returned: always
      type: bool
      sample: true
    reachable:
      description: Whether an API answered C(GET /v1/models), be it with a refusal.
      returned: always
      type: bool
      sample: true
    models_ms:
      description: How long that took (ms). None when it gave no list.
      returned: always
      type: float
      sample: 3.41
    models:
      description: The models that it lists.
      returned: always
      type: list
      elements: str
      sample: [smoke, chat]
    error:
      description: What kept all models from being asked, and what to do about it. Empty otherwise.
      returned: always
      type: str
      sample: ''
    error_kind:
      description:
        - A stable word for it. V(refused), V(unknown-host), V(tls), V(unreachable), V(timeout), V(broke-off), V(bad-answer),
          V(unauthorized), V(not-found), V(too-many-requests), or C(status-) and the HTTP status.
      returned: always
      type: str
      sample: ''
    results:
      description: The figures of each model and prompt.
      returned: always
      type: list
      elements: dict
      contains:
        model:
          description: The model.
          returned: always
          type: str
          sample: smoke
        prompt:
          description: Name of the prompt.
          returned: always
          type: str
          sample: latency
        ok:
          description: Whether every request was answered.
          returned: always
          type: bool
          sample: true
        asked:
          description: How many requests were made. 0 for a model that is not listed, fewer than wanted after failures that will not heal.
          returned: always
          type: int
          sample: 6
        answered:
          description: How many of them were answered.
          returned: always
          type: int
          sample: 6
        first:
          description:
            - The first request that was answered, which is in none of the figures below. C(ttft_ms), C(itl_ms) (the p50 of its pieces),
              C(tokens_per_second), C(total_ms) and C(output_tokens).
            - None when no request was answered.
          returned: always
          type: dict
          sample: {ttft_ms: 312.0, itl_ms: 6.2, tokens_per_second: 161.2, total_ms: 470.1, output_tokens: 26}
        warmed_up:
          description: Whether the first token of the first request took more than twice as long as the p50 of the others.
          returned: always
          type: bool
          sample: true
        ttft_ms:
          description:
            - Time to the first piece of the answer, be it a thought. C(p50), C(p95), C(min) and C(max).
            - None when nothing was measured.
          returned: always
          type: dict
          sample: {p50: 11.9, p95: 14.2, min: 11.2, max: 14.6}
        itl_ms:
          description:
            - Time between two pieces of the answer, over all pieces of all requests. None when answers came in one piece, or together.
            - Mostly a piece is a token. With speculative decoding, a piece has several.
          returned: always
          type: dict
          sample: {p50: 6.1, p95: 7.0, min: 5.2, max: 9.9}
        came_together:
          description:
            - How many answers came in clumps, most of their pieces less than 0.1 ms apart. They are in neither C(itl_ms) nor
              C(tokens_per_second). Something on the way keeps streams back, or the machine is too busy.
          returned: always
          type: int
          sample: 0
        tokens_per_second:
          description: How fast answers were written once they had begun, so without the time to the first token.
          returned: always
          type: dict
          sample: {p50: 163.0, p95: 166.9, min: 158.8, max: 167.2}
        total_ms:
          description: Time of the whole answer.
          returned: always
          type: dict
          sample: {p50: 165.0, p95: 171.0, min: 163.4, max: 172.3}
        output_tokens:
          description: How many tokens an answer had, the p50. None when nothing was answered.
          returned: always
          type: int
          sample: 26
        tokens_from:
          description: V(usage) when the runtime has counted them in every answer, V(pieces) when the pieces of the streams were counted.
          returned: always
          type: str
          sample: usage
        errors:
          description: What went wrong, by kind. C(kind) is one of the words of RV(runtimes[].error_kind), or V(empty-answer).
          returned: always
          type: list
          elements: dict
          sample:
            - kind: timeout
              count: 1
              example: POST /v1/chat/completions of http://127.0.0.1:8000 got no whole answer within 60 s.
"""

import secrets
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube, connected_once
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress
from ansible_collections.llmops.serving.plugins.module_utils._reach import API_KEYS, REACH_ARGS
from ansible_collections.llmops.serving.plugins.module_utils._runtimes import (
    APIS,
    MAX_TOKENS,
    Prober,
    is_ok,
    is_silent,
    make_matrix,
    summary,
    table,
    troubles,
)

# So many causes stand in the message of a failure; all are in the table.
MOST_CAUSES = 3


def run(
    params: t.Mapping[str, t.Any],
    check_mode: bool = False,
    connect: t.Callable[..., Kube] = Kube.connect,
    hide: t.Callable[[str], object] = lambda _secret: None,
) -> dict[str, t.Any]:
    """Ask the runtimes, and return what the module returns; in check mode, ask nothing. *hide* is called with each key that was read.

    Raises ServingError for a matrix that cannot be asked and, with the return values as its details, where O(fail_when) wants it.
    """
    matrix = make_matrix(params)
    for runtime in matrix.runtimes:
        if runtime.reach["api_key"]:
            hide(runtime.reach["api_key"])
    progress = Progress(params["progress_path"])
    nonce = secrets.token_hex(3) if params["vary_prompts"] else ""
    prober = Prober(matrix, connected_once(params, connect), progress.tell, nonce, {name: params[name] for name in KUBERNETES_ARGS})
    reports = prober.reports(ask=not check_mode)
    result = {
        "ok": is_ok(reports) and not check_mode,
        "summary": "nothing was asked (check mode)" if check_mode else summary(reports),
        "table": [] if check_mode else table(reports),
        "runtimes": reports,
        "unread": list(matrix.unread),
    }
    if check_mode:
        return result
    fails = is_silent(reports) if params["fail_when"] == "nothing_answered" else not result["ok"]
    if fails and params["fail_when"] != "never":
        causes = troubles(reports)
        more = f" And {len(causes) - MOST_CAUSES} more." if len(causes) > MOST_CAUSES else ""
        raise ServingError(f"{summary(reports)}. {' '.join(causes[:MOST_CAUSES])}{more}", **result)
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "runtimes": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    **{name: spec for name, spec in REACH_ARGS.items() if name != "pods"},
                    "api": {"type": "str", "choices": list(APIS)},
                    "models": {"type": "list", "elements": "str", "default": []},
                    "enabled": {"type": "bool", "default": True},
                },
                "mutually_exclusive": [("url", "service"), API_KEYS],
            },
            "config": {"type": "path"},
            "prompts": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "text": {"type": "str", "required": True},
                    "max_tokens": {"type": "int", "default": MAX_TOKENS, "no_log": False},
                },
            },
            "iterations": {"type": "int"},
            "timeout": {"type": "float"},
            "vary_prompts": {"type": "bool", "default": False},
            "fail_when": {"type": "str", "choices": ["nothing_answered", "not_ok", "never"], "default": "nothing_answered"},
            **PROGRESS_ARGS,
            **KUBERNETES_ARGS,
        },
        mutually_exclusive=[("runtimes", "config")],
        required_one_of=[("runtimes", "config")],
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode, hide=module.no_log_values.add)
    except ServingError as exc:
        exc.details.pop("unread", None)
        module.fail_json(msg=str(exc), **exc.details)
    for key in result.pop("unread"):
        module.warn(f"{module.params['config']}: nothing reads {key}.")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
