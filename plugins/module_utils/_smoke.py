# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The smoke test of an endpoint, ours or a foreign one: six steps, each of which passes, fails, does not apply, or was not tried.

Answers are judged, and asked for again, as _verify does. For an endpoint that does not serve yet, nothing waits.
"""

from __future__ import annotations

import re
import time
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._openai import OpenAIError
from ansible_collections.llmops.serving.plugins.module_utils._reach import Reach
from ansible_collections.llmops.serving.plugins.module_utils._runtimes import listed_models
from ansible_collections.llmops.serving.plugins.module_utils._text import aligned
from ansible_collections.llmops.serving.plugins.module_utils._verify import NO_PARSER, Verifier, excerpt
from ansible_collections.llmops.serving.plugins.module_utils._wait import NotYetError

PROVIDERS = ("vllm", "ollama", "openai")
REACHABLE, LISTED, COMPLETION, STREAM, TOOL_CALL, METRICS = "reachable", "model listed", "completion", "stream", "tool call", "metrics"
STEPS = (REACHABLE, LISTED, COMPLETION, STREAM, TOOL_CALL, METRICS)
PASSED, FAILED, SKIPPED, NOT_TRIED = "passed", "failed", "skipped", "not tried"
# The checks of Verifier that make up a step.
_STEP_OF = {"completion": COMPLETION, "stream": STREAM, "tool_call": TOOL_CALL, "tool_call_stream": TOOL_CALL}
# What engines say that do not offer tools: vLLM without a parser, Ollama with a model whose template knows none.
_NO_TOOLS = re.compile(rf"{re.escape(NO_PARSER)}|does not support tools")
_SERIES = re.compile(r"^(?:# TYPE )?(vllm(?::|_router_)\w+)", re.MULTILINE)
# Part of a histogram, not a series of its own; and when a series was begun is none at all.
_PART = re.compile(r"_(?:bucket|sum|count)$")
_BEGUN = "_created"
_SHOWN_SERIES = "vllm:num_requests_running"
# Keys of our rows, and the flags of vLLM that they become.
_FLAGS = (
    ("tool_call_parser of the row", "--tool-call-parser of the engine"),
    ("tool_call_parser in the row of the model", "--tool-call-parser of the engine"),
    ("reasoning_parser of the row", "--reasoning-parser of the engine"),
    ("Give the row a greater max_model_len, or one that", "Start the engine with a greater --max-model-len, or a model that"),
    ("in extra_args of the row", "of the engine"),
    ("another tool_call_parser, or another vllm_image", "another --tool-call-parser, or another version of vLLM"),
    ("keep enable_auto_tool_choice on", "start it with --enable-auto-tool-choice"),
)

Step = dict[str, t.Any]


class Smoke:
    """Takes the steps for one model behind *reach*. ``steps`` tells how that went: ``name, status, seconds, found`` of each.

    Without *model*, the first that is listed is asked. *foreign*: others have deployed the endpoint, so an engine that refuses tools does
    not offer them, and messages name flags of vLLM. All requests for answers take *timeout_s* at most, each *request_timeout_s*.
    *tell* gets a phase and a text for people.
    """

    def __init__(
        self,
        reach: Reach,
        model: t.Optional[str] = None,
        provider: str = "vllm",
        tool_calls: bool = True,
        foreign: bool = False,
        max_model_len: t.Optional[int] = None,
        attempts: int = 3,
        request_timeout_s: float = 60.0,
        timeout_s: float = 180.0,
        tell: t.Callable[[str, str], None] = lambda _phase, _text: None,
        now: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.reach = reach
        self.model = model
        self.provider = provider
        self.tool_calls = tool_calls
        self.foreign = foreign
        self.max_model_len = max_model_len
        self.attempts = attempts
        self.request_timeout_s = request_timeout_s
        self.timeout_s = timeout_s
        self.steps: list[Step] = [{"name": name, "status": NOT_TRIED, "seconds": 0.0, "found": ""} for name in STEPS]
        self._tell = tell
        self._now = now
        self._sleep = sleep
        self._start = now()
        self.elapsed_seconds = 0.0

    @property
    def passed(self) -> bool:
        """Whether every step that applies has passed."""
        return all(step["status"] in (PASSED, SKIPPED) for step in self.steps)

    def run(self) -> bool:
        """Take the steps, and return whether all that apply have passed."""
        listed = self._look()
        if listed:
            self._ask()
        if self._step(REACHABLE)["status"] == PASSED:
            self._scrape()
        self.elapsed_seconds = round(self._now() - self._start, 3)
        return self.passed

    def _look(self) -> bool:
        """Take the steps "reachable" and "model listed", and return whether the model can be asked."""
        begun = self._begin(REACHABLE)
        names: t.Optional[list[str]] = None
        refusal = ""
        try:
            with self.reach.client(self.request_timeout_s) as client:
                names, _distinct = listed_models(client, "ollama" if self.provider == "ollama" else "openai")
            self._end(REACHABLE, begun, PASSED, f"{self.reach.endpoint} answers")
        except ServingError as exc:
            status = exc.status if isinstance(exc, OpenAIError) else 0
            if status in (0, 502, 503, 504):
                nobody = "a proxy or router answers, but nothing serves behind it: " if status else ""
                # what is wrong with a key or a name says itself what to do
                advice = f" {self.reach.where_to_look()}" if isinstance(exc, (OpenAIError, NotYetError)) else ""
                self._end(REACHABLE, begun, FAILED, f"{nobody}{_sentence(str(exc))}{advice}")
                return False
            self._end(REACHABLE, begun, PASSED, f"{self.reach.endpoint} answers")
            refusal = f"{self.reach.key_hint()} {exc}" if status in (401, 403) else str(exc)
        begun = self._begin(LISTED)
        if names is None:
            self._end(LISTED, begun, FAILED, refusal)
        elif not names:
            self._end(LISTED, begun, FAILED, f"{self.reach.endpoint} lists no model. Load one.")
        elif self.model and not self._known(names):
            found = f"{self.reach.endpoint} lists {', '.join(names)}, not {self.model}{did_you_mean(self.model, names)}."
            how = "" if self.foreign else ": make install-chat"
            self._end(LISTED, begun, FAILED, f"{found} Ask for one that is listed, or deploy {self.model}{how}")
        else:
            self.model = self.model or names[0]
            self._end(LISTED, begun, PASSED, ", ".join(names))
            return True
        return False

    def _known(self, names: t.Sequence[str]) -> bool:
        return self.model in names or (self.provider == "ollama" and f"{self.model}:latest" in names)

    def _ask(self) -> None:
        """Take the steps "completion", "stream" and "tool call"."""
        if not self.tool_calls:
            self._end(TOOL_CALL, self._now(), SKIPPED, "not applicable: the model has no tool_call_parser")
        verifier = Verifier(
            self.reach,
            str(self.model),
            self.attempts,
            self.request_timeout_s,
            self.timeout_s,
            self.max_model_len,
            lambda phase, text: self._tell(phase, f"{self.model}: {text}"),
            self._now,
            self._sleep,
        )
        failure = ""
        try:
            verifier.verify(self.tool_calls)
        except ServingError as exc:
            failure = str(exc)
        for check in verifier.checks:
            step = self._step(_STEP_OF[check["name"]])
            step["seconds"] = round(step["seconds"] + check["seconds"], 3)
            if check["passed"]:
                step["status"], step["found"] = PASSED, step["found"] or check["found"]
            elif self.foreign and step["name"] == TOOL_CALL and _NO_TOOLS.search(failure):
                step["status"], step["found"] = SKIPPED, f"not offered: {check['found']}"
            else:
                step["status"], step["found"] = FAILED, _for_any_engine(failure) if self.foreign else failure

    def _scrape(self) -> None:
        """Take the step "metrics"."""
        begun = self._begin(METRICS)
        if self.provider == "ollama":
            self._end(METRICS, begun, SKIPPED, "not applicable: Ollama has none")
            return
        try:
            with self.reach.client(self.request_timeout_s) as client:
                page = client.text("/metrics")
            names = series(page)
            trouble = "" if names else f"GET /metrics of {self.reach.endpoint} has no series of vLLM, but {excerpt(page)}"
        except ServingError as exc:
            names, trouble = [], str(exc)
        if names:
            shown = _SHOWN_SERIES if _SHOWN_SERIES in names else names[0]
            self._end(METRICS, begun, PASSED, f"{len(names)} series, such as {shown}")
        elif self.provider == "vllm":
            advice = "Where they are hidden on purpose, ask with provider openai (SMOKE_PROVIDER=openai)."
            self._end(METRICS, begun, FAILED, f"{_sentence(trouble)} {advice}")
        else:
            self._end(METRICS, begun, SKIPPED, "not applicable: there are none of vLLM")

    def _step(self, name: str) -> Step:
        return self.steps[STEPS.index(name)]

    def _begin(self, name: str) -> float:
        self._tell(name, f"{name} ...")
        return self._now()

    def _end(self, name: str, begun: float, status: str, found: str) -> None:
        self._step(name).update(status=status, seconds=round(self._now() - begun, 3), found=found)


def series(page: str) -> list[str]:
    """Return the names of the series of vLLM and its routers in *page*, in the text format of Prometheus, each once and sorted."""
    return sorted({_PART.sub("", name) for name in _SERIES.findall(page) if not name.endswith(_BEGUN)})


def summary(endpoint: str, steps: t.Sequence[Step], elapsed_s: float) -> str:
    """Return one line: how many steps have passed of those that apply, and why others do not."""
    aside = [f"{step['name']} {step['found'].partition(':')[0]}" for step in steps if step["status"] == SKIPPED]
    count = sum(step["status"] == PASSED for step in steps)
    return "; ".join([f"smoke at {endpoint}: {count} of {len(steps) - len(aside)} passed in {elapsed_s:.1f} s", *aside])


def causes(steps: t.Sequence[Step]) -> str:
    """Return why steps have failed, on one line."""
    return " ".join(f"{step['name']}: {_sentence(' '.join(step['found'].split()))}" for step in steps if step["status"] == FAILED)


def table(steps: t.Sequence[Step]) -> list[str]:
    """Return the steps as aligned lines for people."""
    took = [f"{step['seconds']:.1f} s" if step["status"] in (PASSED, FAILED) else "" for step in steps]
    return aligned([(step["name"], step["status"], seconds, step["found"]) for step, seconds in zip(steps, took)], left=(0, 1, 3))


def _for_any_engine(text: str) -> str:
    """Return *text*, which speaks of our rows, in words for an engine that others have started."""
    for ours, theirs in _FLAGS:
        text = text.replace(ours, theirs)
    return text


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."
