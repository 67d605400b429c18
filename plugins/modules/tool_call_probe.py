#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure how well a model calls tools."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tool_call_probe
short_description: Measure how well a model calls tools
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Asks a model behind any OpenAI-compatible endpoint a fixed set of questions that offer a tool, judges each answer, and names the stage
    at which it went wrong, with the parsers of vLLM that read what came back as text.
  - Models are not alike from one answer to the next. With O(tries) each case is asked several times, and has a pass rate.
  - The module reports. It fails on the model's account only when O(min_pass_rate) is given. It fails in any case when the key is refused,
    when the endpoint has no such model, and when nobody answers at all.
  - What the endpoint refuses as a whole, such as C(tool_choice) in an engine without a tool parser, is asked once. The cases that
    need it as well are skipped, and have the same verdict. One more request, with C(tool_choice) C(none), then shows how the model
    writes its calls, and so which parser to start the engine with.
  - To prove that a model serves as its row of the catalog says, use M(llmops.serving.router_verify), which stops at the first failure.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.progress, llmops.serving.reach]
attributes:
  check_mode:
    support: full
    description: Nothing is asked; RV(cases) is empty.
  diff_mode:
    support: none
    description: There is nothing to compare, the module changes nothing.
  idempotent:
    support: full
    description: The module changes nothing. Each try makes the model write up to O(max_tokens), mostly far fewer.
options:
  model:
    description: Name of the model, as requests have it.
    type: str
    required: true
  cases:
    description:
      - Which cases to ask. They are asked in the order of this list of choices, a streamed one after its twin that is not streamed.
      - V(auto), V(required) and V(named) want one call of a weather tool, with this C(tool_choice).
      - V(parallel) asks for two cities at once, and wants two calls in one answer.
      - V(nested) wants a call whose arguments have an object, an array of objects and an enum, all as the schema says.
      - V(second_turn) sends the result of the first call back (role C(tool)), and wants an answer in words that tells it.
      - V(no_tool) asks what needs no tool, though one is offered, and wants an answer in words.
      - Names that end in C(_stream) want the same as a stream, whose deltas have to join as clients join them.
    type: list
    elements: str
    choices:
      - auto
      - auto_stream
      - required
      - required_stream
      - named
      - named_stream
      - parallel
      - parallel_stream
      - nested
      - nested_stream
      - second_turn
      - no_tool
      - no_tool_stream
    default:
      - auto
      - auto_stream
      - required
      - required_stream
      - named
      - named_stream
      - parallel
      - parallel_stream
      - nested
      - nested_stream
      - second_turn
      - no_tool
      - no_tool_stream
  tries:
    description:
      - How often each case is asked. Three questions take turns, so up to three tries differ at O(temperature) 0 as well.
      - For more tries than that, raise O(temperature), or the same answers come again.
    type: int
    default: 1
  seed:
    description: Seed of the first try; each further try has the next number. Endpoints that know no C(seed) ignore it.
    type: int
    default: 0
  temperature:
    description: Temperature of all requests.
    type: float
    default: 0
  min_pass_rate:
    description:
      - Which share of its tries a case has to pass, from 0 to 1. The module fails when a case stays below.
      - Without it, the module only reports, and RV(passed) counts the cases of which all tries passed.
    type: float
  max_model_len:
    description:
      - Longest context of the model, in tokens. It bounds how long the answers may be.
      - Without it, answers of 2048 tokens are asked for, and fewer when the engine says that this is too much.
    type: int
  max_tokens:
    description: How many tokens an answer may have. Without it, as O(max_model_len) says. Models that think long need more.
    type: int
  request_timeout:
    description: Seconds after which one HTTP request is given up. Shortened to what is left of O(timeout), but not below one second.
    type: float
    default: 120
  timeout:
    description: For how many seconds all cases together may go on. Those that it leaves out are skipped, and count as failed.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: See how well the model of a deployment calls tools
  llmops.serving.tool_call_probe:
    model: gpt-oss-120b
    service:
      namespace: chatbot
      name: vllm-router
    api_key_secret:
      namespace: chatbot
      name: vllm-api-key
      key: api-key
  register: probe

- name: Show it
  ansible.builtin.debug:
    msg: "{{ probe.table }}"

- name: Fail unless a flaky model calls tools in nine of ten tries
  llmops.serving.tool_call_probe:
    model: qwen3-8b
    url: http://127.0.0.1:8000
    cases: [auto, auto_stream, parallel]
    tries: 10
    temperature: 0.7
    min_pass_rate: 0.9

- name: Find the parser for a model that is served without one
  llmops.serving.tool_call_probe:
    model: smoke
    url: http://127.0.0.1:8000
    cases: [auto]
  register: found
  failed_when: "'hermes' not in found.parsers_that_would_read_it"
"""

RETURN = r"""
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
score:
  description: Share of the tries that passed, from 0 to 1. Tries that were skipped count as failed.
  returned: always
  type: float
  sample: 0.9231
passed:
  description: How many of RV(cases) passed.
  returned: always
  type: int
  sample: 12
cases:
  description: How each case went, in the order of the option O(cases).
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the case.
      returned: always
      type: str
      sample: parallel
    passed:
      description: Whether RV(cases[].pass_rate) reaches O(min_pass_rate); without that, whether all tries passed.
      returned: always
      type: bool
      sample: false
    pass_rate:
      description: Share of the wanted tries that passed, from 0 to 1.
      returned: always
      type: float
      sample: 0.0
    tries:
      description: How many tries were made. Fewer than wanted when the endpoint refused, or the time was up.
      returned: always
      type: int
      sample: 1
    stage:
      description:
        - V(ok) when all tries passed, else at which stage the most telling try failed.
        - V(tool-choice-disabled), V(refused), V(request-failed), V(unreachable) and V(not-asked) are for requests without an answer.
        - V(no-call), V(call-as-text), V(call-in-reasoning), V(wrong-name), V(arguments-not-json), V(arguments-do-not-match),
          V(wrong-finish-reason), V(markup-left), V(too-few-calls) and V(same-call-twice) are for answers that needed a call.
        - V(called-needlessly), V(result-ignored), V(empty), V(answer-in-reasoning) and V(no-finish-reason) are for those that needed words.
        - V(stream-broken), V(reasoning-leaked) and V(cut-off) are for any answer.
      returned: always
      type: str
      sample: too-few-calls
    found:
      description: What was found, the call or the beginning of the answer, or what is wrong with it.
      returned: always
      type: str
      sample: '1 of 2 calls came back ("{"city": "Paris"}")'
    advice:
      description: What may help; empty where nothing is known to.
      returned: always
      type: str
      sample: "Not every model makes several calls at once: take one that does, or expect the second call after the first result."
    parser_hint:
      description: Parsers of vLLM (C(--tool-call-parser)) that read the call that came back as text.
      returned: always
      type: list
      elements: str
      sample: []
    seconds_p50:
      description: Median of the seconds that a try took; none when no answer came.
      returned: always
      type: float
      sample: 1.314
    first_token_p50:
      description: Median of the seconds until the first piece of a streamed answer; none for answers that are not streamed.
      returned: always
      type: float
      sample: 0.121
    skipped:
      description: Whether the case was not asked at all, because what it needs had been refused, or the time was up.
      returned: always
      type: bool
      sample: false
parsers_that_would_read_it:
  description: All of RV(cases[].parser_hint), each once.
  returned: always
  type: list
  elements: str
  sample: [hermes]
verdict:
  description: What came out, in one line for people.
  returned: always
  type: str
  sample: "gpt-oss-120b passed 12 of 13 cases, score 0.92; too-few-calls: parallel."
table:
  description: RV(cases) as aligned lines of text, under a head. Seconds are medians.
  returned: always
  type: list
  elements: str
  sample:
    - "case      passed  first token  seconds  stage          found"
    - 'auto        100%            -     0.84  ok             get_weather({"city": "Paris"})'
    - 'parallel      0%            -     1.31  too-few-calls  1 of 2 calls came back ("{"city": "Paris"}")'
elapsed_seconds:
  description: How long all cases took.
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
from ansible_collections.llmops.serving.plugins.module_utils._tool_probe import CASES, Prober, parser_hints, table, verdict


def run(
    params: t.Mapping[str, t.Any],
    check_mode: bool = False,
    connect: t.Callable[..., Kube] = Kube.connect,
    now: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> dict[str, t.Any]:
    """Ask the cases, and return what the module returns; in check mode, ask nothing.

    Raises ServingError, with the return values as its details, when the endpoint cannot be asked, or a case misses the pass rate.
    """
    check_options(params)
    reach = Reach(params, connected_once(params, connect))
    progress = Progress(params["progress_path"])
    begun = now()
    prober = Prober(
        reach,
        params["model"],
        params["tries"],
        params["seed"],
        params["temperature"],
        params["max_tokens"],
        params["max_model_len"],
        params["request_timeout"],
        params["timeout"],
        params["min_pass_rate"],
        lambda phase, text: progress.tell(phase, f"{params['model']}: {text}"),
        now,
        sleep,
    )
    failure = ""
    if not check_mode:
        try:
            prober.probe(params["cases"])
        except ServingError as exc:
            failure = str(exc)
    told = verdict(params["model"], prober.cases, prober.score)
    missed = next((case for case in prober.cases if not case["passed"]), None)
    if not failure and missed and params["min_pass_rate"] is not None:
        failure = f"{told} {missed['name']}: {missed['found'].rstrip('.')}. {missed['advice']}".rstrip()
    result = {
        "model": params["model"],
        "endpoint": reach.endpoint,
        "score": prober.score,
        "passed": sum(case["passed"] for case in prober.cases),
        "cases": prober.cases,
        "parsers_that_would_read_it": parser_hints(prober.cases),
        "verdict": told,
        "table": table(prober.cases),
        "elapsed_seconds": round(now() - begun, 3),
    }
    if failure:
        raise ServingError(failure, **result)
    return result


def check_options(params: t.Mapping[str, t.Any]) -> None:
    """Raise ServingError for numbers that make no sense."""
    if not params["cases"]:
        raise ServingError("cases is empty. Name a case, or leave the option out to ask all of them.")
    if params["tries"] < 1:
        raise ServingError(f"tries is {params['tries']}. Each case needs one try at least.")
    if params["max_tokens"] is not None and params["max_tokens"] < 1:
        raise ServingError(f"max_tokens is {params['max_tokens']}. An answer needs one token at least.")
    if params["min_pass_rate"] is not None and not 0 <= params["min_pass_rate"] <= 1:
        raise ServingError(f"min_pass_rate is {params['min_pass_rate']:g}. It is a share, from 0 to 1.")


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "model": {"type": "str", "required": True},
            "cases": {"type": "list", "elements": "str", "choices": list(CASES), "default": list(CASES)},
            "tries": {"type": "int", "default": 1},
            "seed": {"type": "int", "default": 0},
            "temperature": {"type": "float", "default": 0},
            "min_pass_rate": {"type": "float", "no_log": False},
            "max_model_len": {"type": "int"},
            "max_tokens": {"type": "int", "no_log": False},
            "request_timeout": {"type": "float", "default": 120},
            "timeout": {"type": "int", "default": 600},
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
