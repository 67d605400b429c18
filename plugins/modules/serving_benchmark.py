#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure how fast a model serves under load."""

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_benchmark
short_description: Measure how fast a model serves under load
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Sends streamed requests to an OpenAI-compatible endpoint, at a rate (open loop) or from so many callers (closed loop), and returns
    throughput, latencies, goodput and errors. With O(loads), it goes through several loads, one after the other.
  - Time to first token (TTFT), inter-token latency (ITL), time per output token (TPOT) and end-to-end latency are those of
    C(vllm bench serve), so that figures of both can be laid side by side. Tokens are counted by the server.
  - One process makes all of the load. It notes how busy it is, how late its event loop wakes up and how late it sends, and says so in
    RV(loads[].client) when it was itself the bottleneck.
  - A signal (SIGINT, SIGTERM) ends it; the module then fails, with what was measured so far among its return values.
  - Proxies of the environment are not used, redirects not followed.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.progress, llmops.serving.reach]
attributes:
  check_mode:
    support: full
    description: Nothing is asked; RV(loads) and RV(table) are empty.
  diff_mode:
    support: none
    description: There is nothing to compare, the module changes nothing.
  idempotent:
    support: full
    description: The module changes nothing. It keeps the engines busy, and fills their caches of prefixes.
options:
  model:
    description: Name of the model, as requests have it.
    type: str
    required: true
  api:
    description: Whether to ask C(/v1/completions) or C(/v1/chat/completions).
    type: str
    choices: [completions, chat]
    default: completions
  rate:
    description:
      - Requests per second, sent by a schedule whatever comes back.
      - Exactly one of O(rate), O(concurrency) and O(loads) is needed.
    type: float
  concurrency:
    description: How many callers there are, each of which sends its next request when the answer to the last is whole.
    type: int
  loads:
    description: Several loads, one after the other.
    type: list
    elements: dict
    suboptions:
      name:
        description: What the load is called in the results. By default C(rate 8/s) or C(concurrency 4).
        type: str
      rate:
        description: As O(rate). Each entry has a rate or a concurrency.
        type: float
      concurrency:
        description: As O(concurrency).
        type: int
      requests:
        description: As O(requests). An entry with neither bound has those at the top.
        type: int
      duration_s:
        description: As O(duration_s).
        type: float
  requests:
    description: How many requests are sent in a load at most. 100 where neither this nor O(duration_s) is given.
    type: int
  duration_s:
    description: Seconds after which a load sends nothing more. What is under way then may end, within O(request_timeout).
    type: float
  burstiness:
    description:
      - How steady the schedule of O(rate) is. With 1, requests arrive as by a Poisson process. Less makes bursts, more is steadier;
        V(.inf) is constant.
    type: float
    default: 1
  warmup_requests:
    description:
      - How many requests are made before each load, and not counted.
      - When all of those before the first load fail, the module fails at once.
    type: int
    default: 1
  max_in_flight:
    description:
      - How many requests may be under way at once with a O(rate). What is due beyond waits, and RV(loads[].client.held_back) counts it.
    type: int
    default: 512
  request_timeout:
    description: Seconds after which a request is dropped, and counted as an error.
    type: float
    default: 120
  prompts:
    description:
      - What to ask, each a text or a list of messages (with O(api=chat)), one after the other and from the beginning again.
      - Without them, prompts are made up, of O(input_tokens) tokens each.
    type: list
    elements: raw
    default: []
  input_tokens:
    description:
      - Length of a made-up prompt, as the server counts it, with special tokens and those of the chat template.
      - vLLM is asked once how it counts (C(/tokenize)). Without that, a word is taken for a token, and RV(lengths) says V(estimated).
    type: int
    default: 128
  output_tokens:
    description: The most tokens that the model may write in an answer. It writes that many with O(ignore_eos).
    type: int
    default: 64
  ignore_eos:
    description:
      - Whether answers go on to O(output_tokens) even when the model would stop.
      - By default so for made-up prompts where the server is vLLM, seen by its C(/tokenize).
    type: bool
  shared_prefix_share:
    description:
      - Share of a made-up prompt, from its beginning, that all prompts of a session have in common; without O(sessions), all prompts.
    type: float
    default: 0
  sessions:
    description: How many sessions there are. Requests belong to them in turn, and tell theirs in O(session_header). None with 0.
    type: int
    default: 0
  session_header:
    description: The header that carries the session, as routers with session affinity read it.
    type: str
    default: x-session-id
  extra_body:
    description: Further fields of each request, such as C(temperature).
    type: dict
    default: {}
  objective:
    description: What a good request keeps to, in milliseconds. With it, RV(loads[].goodput) counts the requests that do.
    type: dict
    suboptions:
      ttft_ms:
        description: Time to first token.
        type: float
      itl_ms:
        description: Inter-token latency, the 95th percentile of the gaps of the request.
        type: float
      tpot_ms:
        description: Time per output token, the mean of the request after its first.
        type: float
      e2e_ms:
        description: From the sending of the request to its last token.
        type: float
  seed:
    description:
      - Makes schedule and made-up prompts the same in each run. The engine's cache of prefixes then knows the prompts of an earlier run.
      - Without it, a new one is taken, which RV(seed) tells.
    type: int
notes:
  - With O(service) and O(pods), all of the load goes through a port-forward in the same process, which slows it down. For figures that
    count, give a O(url).
seealso:
  - module: llmops.serving.router_verify
"""

EXAMPLES = r"""
- name: Find the rate that the engine keeps up with
  llmops.serving.serving_benchmark:
    url: http://127.0.0.1:8000
    model: smoke
    input_tokens: 512
    output_tokens: 128
    duration_s: 60
    loads:
      - {rate: 1}
      - {rate: 4}
      - {rate: 16}
    objective:
      ttft_ms: 500
      itl_ms: 50
  register: benchmark

- name: Show the table
  ansible.builtin.debug:
    var: benchmark.table

- name: Ask with 16 callers in 8 sessions, whose prompts begin alike, through the router
  llmops.serving.serving_benchmark:
    url: http://router.example.com
    model: gpt-oss-120b
    api: chat
    api_key: "{{ vllm_api_key }}"
    concurrency: 16
    requests: 400
    sessions: 8
    shared_prefix_share: 0.75
"""

RETURN = r"""
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
seed:
  description: With which seed schedule and prompts can be had again.
  returned: always
  type: int
  sample: 1203985
lengths:
  description: How the length of the prompts is known, V(counted) by the server, V(estimated), or V(given) with O(prompts).
  returned: always
  type: str
  sample: counted
ignore_eos:
  description: Whether answers went on to O(output_tokens).
  returned: always
  type: bool
  sample: true
stopped_by:
  description: The signal that ended it; empty when none did.
  returned: always
  type: str
  sample: ''
table:
  description: The figures as lines for people.
  returned: always
  type: list
  elements: str
  sample:
    - "load      requests  failed  req/s  tok/s   in/out  ttft p50   p95  itl p50   p95  e2e p50  p95 ms"
    - "rate 4/s       240       0   3.98    510  512/128      31.2  58.4      6.1   8.3      806    1040"
loads:
  description: The loads, in order. Only completed requests count in throughputs and latencies.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: What the load is called.
      returned: always
      type: str
      sample: rate 4/s
    rate:
      description: Requests per second that were asked for; null in a closed loop.
      returned: always
      type: float
      sample: 4.0
    concurrency:
      description: The callers; null in an open loop.
      returned: always
      type: int
      sample: null
    requests:
      description: How many requests have ended.
      returned: always
      type: int
      sample: 240
    completed:
      description: How many came back whole.
      returned: always
      type: int
      sample: 240
    failed:
      description: How many did not.
      returned: always
      type: int
      sample: 0
    unfinished:
      description: How many were under way when a signal ended the load. They count nowhere else.
      returned: always
      type: int
      sample: 0
    errors:
      description: How often each kind of error was seen, C(status NNN), C(timeout), C(connection) or C(broken stream), with an example.
      returned: always
      type: dict
      sample: {"status 503": {"count": 2, "example": "no engine is ready"}}
    error_rate:
      description: Failed requests as a share of all.
      returned: always
      type: float
      sample: 0.0
    duration_s:
      description: From the beginning of the load to the end of its last request.
      returned: always
      type: float
      sample: 60.31
    request_throughput:
      description: Completed requests per second.
      returned: always
      type: float
      sample: 3.98
    output_token_throughput:
      description: Tokens of answers per second.
      returned: always
      type: float
      sample: 509.4
    total_token_throughput:
      description: Tokens of prompts and answers per second.
      returned: always
      type: float
      sample: 2547.0
    input_tokens:
      description: Tokens of the prompts of all completed requests, as the server has counted them.
      returned: always
      type: int
      sample: 122880
    output_tokens:
      description: Tokens of their answers.
      returned: always
      type: int
      sample: 30720
    without_usage:
      description: For how many of them the server has not told its count. The chunks of the answer are counted then.
      returned: always
      type: int
      sample: 0
    ttft_ms:
      description: Time to first token, from the sending of the request.
      returned: always
      type: dict
      sample: {"mean": 33.9, "p50": 31.2, "p90": 50.1, "p95": 58.4, "p99": 81.0, "max": 92.3}
    itl_ms:
      description: Time between two chunks of an answer.
      returned: always
      type: dict
      sample: {"mean": 6.3, "p50": 6.1, "p90": 7.9, "p95": 8.3, "p99": 12.5, "max": 40.2}
    tpot_ms:
      description: Time per token of an answer after its first, a figure a request.
      returned: always
      type: dict
      sample: {"mean": 6.3, "p50": 6.2, "p90": 7.4, "p95": 7.9, "p99": 8.8, "max": 9.1}
    e2e_ms:
      description: From the sending of the request to the last token.
      returned: always
      type: dict
      sample: {"mean": 834.0, "p50": 806.0, "p90": 990.0, "p95": 1040.0, "p99": 1130.0, "max": 1180.0}
    goodput:
      description: The completed requests that keep to O(objective); null without one.
      returned: always
      type: dict
      sample: {"objective": {"ttft_ms": 500.0, "itl_ms": 50.0}, "requests": 238, "requests_per_s": 3.95, "share": 0.9917}
    peak_in_flight:
      description: The most requests that were under way at once.
      returned: always
      type: int
      sample: 7
    client:
      description: How the process that made the load has fared.
      returned: always
      type: dict
      contains:
        cpu_share:
          description: How much of one core it used.
          returned: always
          type: float
          sample: 0.083
        loop_lag_ms_p99:
          description: How late its event loop woke up.
          returned: always
          type: float
          sample: 1.2
        send_lag_ms_p99:
          description: How late requests were sent; null in a closed loop.
          returned: always
          type: float
          sample: 1.1
        held_back:
          description: How many requests waited for O(max_in_flight).
          returned: always
          type: int
          sample: 0
        unsent:
          description: How many of these were never sent, because the time was over.
          returned: always
          type: int
          sample: 0
        connections:
          description: How many connections were opened.
          returned: always
          type: int
          sample: 6
        repeated:
          description: How many requests were sent again, because the server had closed the idle connection they went out on.
          returned: always
          type: int
          sample: 0
        limited:
          description: Whether the client was the bottleneck. The figures then say more about it than about the server.
          returned: always
          type: bool
          sample: false
        why:
          description: Why so; empty when it was not.
          returned: always
          type: str
          sample: ''
"""

import dataclasses
import random
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube, connected_once
from ansible_collections.llmops.serving.plugins.module_utils._load import (
    FirstRequestError,
    Load,
    Report,
    Settings,
    check,
    loads_of,
    measure,
)
from ansible_collections.llmops.serving.plugins.module_utils._load_figures import Result, table
from ansible_collections.llmops.serving.plugins.module_utils._load_http import Endpoint
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress
from ansible_collections.llmops.serving.plugins.module_utils._reach import (
    REACH_ARGS,
    REACH_MUTUALLY_EXCLUSIVE,
    REACH_REQUIRED_ONE_OF,
    Reach,
)

SAME_NAMES = [field.name for field in dataclasses.fields(Settings) if field.name not in ("objective", "seed")]


def run(
    params: t.Mapping[str, t.Any],
    check_mode: bool = False,
    connect: t.Callable[..., Kube] = Kube.connect,
    now: t.Callable[[], float] = time.perf_counter,
) -> dict[str, t.Any]:
    """Make the loads, and return what the module returns; in check mode, ask nothing.

    Raises ServingError, with the return values as its details, when no request was completed, or a signal has ended it.
    """
    loads = loads_of(params)
    seed = params["seed"] if params["seed"] is not None else random.SystemRandom().randrange(2**31)
    objective = {name: limit for name, limit in (params["objective"] or {}).items() if limit is not None}
    settings = Settings(**{name: params[name] for name in SAME_NAMES}, objective=objective, seed=seed)
    check(settings)
    reach = Reach(params, connected_once(params, connect))
    progress = Progress(params["progress_path"])
    report = Report()
    if not check_mode:
        try:
            with reach.client(settings.request_timeout) as client:
                report = measure(Endpoint.of(client, reach.api_key()), settings, loads, progress.tell, now)
        except FirstRequestError as exc:
            hint = reach.key_hint() if exc.kind in ("status 401", "status 403") else reach.where_to_look()
            raise ServingError(f"{exc}. {hint}") from None
    told = [_told(load, result) for load, result in report.loads]
    result = {
        "model": settings.model,
        "endpoint": reach.endpoint,
        "seed": seed,
        "lengths": report.lengths,
        "ignore_eos": report.ignore_eos,
        "stopped_by": report.stopped_by,
        "table": table(told),
        "loads": told,
    }
    if report.stopped_by:
        raise ServingError(f"{report.stopped_by} ended the benchmark {_where(loads, told)}. What was measured is in loads.", **result)
    if told and not any(load["completed"] for load in told):
        kind, found = next(iter(told[0]["errors"].items()), ("nothing was sent", {"example": "-"}))
        raise ServingError(f"No request was completed ({kind}): {found['example']}. {reach.where_to_look()}", **result)
    return result


def _told(load: Load, result: Result) -> dict[str, t.Any]:
    return {"name": load.name, "rate": load.rate, "concurrency": load.concurrency, **dataclasses.asdict(result)}


def _where(loads: t.Sequence[Load], told: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    if not told:
        return "before its first load"
    return f"in load {len(told)} of {len(loads)}, after {told[-1]['requests']} requests of it"


def main() -> None:
    """Run as an Ansible module."""
    bounds: dict[str, t.Any] = {
        "rate": {"type": "float"},
        "concurrency": {"type": "int"},
        "requests": {"type": "int"},
        "duration_s": {"type": "float"},
    }
    module = AnsibleModule(
        argument_spec={
            "model": {"type": "str", "required": True},
            "api": {"type": "str", "choices": ["completions", "chat"], "default": "completions"},
            **bounds,
            "loads": {"type": "list", "elements": "dict", "options": {"name": {"type": "str"}, **bounds}},
            "burstiness": {"type": "float", "default": 1},
            "warmup_requests": {"type": "int", "default": 1},
            "max_in_flight": {"type": "int", "default": 512},
            "request_timeout": {"type": "float", "default": 120},
            "prompts": {"type": "list", "elements": "raw", "default": []},
            "input_tokens": {"type": "int", "default": 128, "no_log": False},
            "output_tokens": {"type": "int", "default": 64, "no_log": False},
            "ignore_eos": {"type": "bool"},
            "shared_prefix_share": {"type": "float", "default": 0},
            "sessions": {"type": "int", "default": 0},
            "session_header": {"type": "str", "default": "x-session-id"},
            "extra_body": {"type": "dict", "default": {}},
            "objective": {
                "type": "dict",
                "options": {name: {"type": "float"} for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms")},
            },
            "seed": {"type": "int"},
            **REACH_ARGS,
            **PROGRESS_ARGS,
            **KUBERNETES_ARGS,
        },
        mutually_exclusive=[("rate", "concurrency", "loads"), *REACH_MUTUALLY_EXCLUSIVE],
        required_one_of=[("rate", "concurrency", "loads"), *REACH_REQUIRED_ONE_OF],
        supports_check_mode=True,
    )
    try:
        result = run(module.params, check_mode=module.check_mode)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
