# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""How fast models answer: one or several runtimes times their models times prompts.

A matrix says what is asked, from options of a module or from a file such as ``runtime_matrix.json``. The figures of an answer and what
becomes of several are pure functions on Completions. Seconds are told as milliseconds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube
from ansible_collections.llmops.serving.plugins.module_utils._load_figures import percentile
from ansible_collections.llmops.serving.plugins.module_utils._openai import Completion, OpenAIClient, OpenAIError
from ansible_collections.llmops.serving.plugins.module_utils._reach import Reach
from ansible_collections.llmops.serving.plugins.module_utils._text import aligned

APIS = ("openai", "ollama")
# Where runtimes of these names listen unless somebody says otherwise.
USUAL_URLS = {"vllm": "http://127.0.0.1:8000", "ollama": "http://127.0.0.1:11434"}
ITERATIONS = 5
TIMEOUT_S = 60.0
MAX_TOKENS = 64
# What the smoke models know as well (roles/vllm/files/smoke_model.py).
LATENCY_PROMPT = "Hello, who are you?"
# The first request is told as slow when it took so many times as long as the others.
WARM_UP_FACTOR = 2.0
# Pieces that are less apart came with one another: no engine writes 10,000 tokens a second for one user.
TOGETHER_MS = 0.1
# So many failures in a row, and the rest of the iterations is given up.
MOST_FAILURES = 3
MOST_NAMED = 10

Params = t.Mapping[str, t.Any]
Report = dict[str, t.Any]
Tell = t.Callable[[str, str], None]


class Prompt(t.NamedTuple):
    """What is asked. ``name`` is what results call it."""

    name: str
    text: str
    max_tokens: int = MAX_TOKENS


@dataclasses.dataclass
class Runtime:
    """One endpoint. ``reach`` are options as _reach.REACH_ARGS has them; without ``models``, all that it lists are asked."""

    name: str
    api: str
    reach: dict[str, t.Any]
    models: list[str]
    enabled: bool = True


@dataclasses.dataclass
class Matrix:
    """What is asked of whom. ``unread`` are keys of the file that nothing here reads."""

    runtimes: list[Runtime]
    prompts: list[Prompt]
    iterations: int = ITERATIONS
    timeout_s: float = TIMEOUT_S
    unread: tuple[str, ...] = ()


# --- the matrix -------------------------------------------------------------------------------------------------------------------------

_URL_KEYS = ("url", "base_url", "api_base")
_FILE_API_KEYS = ("api_key", "api_key_env", "api_key_file")
_TEXT_KEYS = (*_URL_KEYS, *_FILE_API_KEYS, "api", "ca_path")
_RUNTIME_KEYS = (*_TEXT_KEYS, "name", "enabled", "models", "validate_certs")
_FILE_KEYS = ("runtimes", "latency_prompt", "prompts", "iterations", "timeout_sec")
_PATHS = re.compile(r"(?:/v1)?(?:/chat/completions|/completions|/models)?/*$")


def make_matrix(params: Params, environ: t.Optional[t.Mapping[str, str]] = None) -> Matrix:
    """Return the matrix of the options *params*: ``runtimes`` or ``config``; ``prompts``, ``iterations`` and ``timeout`` before the file.

    *environ* is the environment that keys may be in (None: that of the process). Raises ServingError for a file that cannot be read, and
    for what cannot be asked.
    """
    environ = os.environ if environ is None else environ
    path = params.get("config")
    file = read_file(path) if path else {}
    where = f"{path}: " if path else ""
    entries = file.get("runtimes") if path else params.get("runtimes")
    if not isinstance(entries, list) or not entries:
        raise ServingError(f"{where}runtimes has to be a list of runtimes, each with a name. There is none.")
    known = [{key: entry.get(key) for key in _RUNTIME_KEYS} if path and isinstance(entry, dict) else entry for entry in entries]
    runtimes = [_runtime(entry, f"{where}runtimes[{index}]", environ) for index, entry in enumerate(known)]
    twice = next((runtime.name for runtime in runtimes if [other.name for other in runtimes].count(runtime.name) > 1), None)
    if twice:
        raise ServingError(f"{where}two runtimes are called {twice}. Give each a name of its own, so that results can be told apart.")
    if not any(runtime.enabled for runtime in runtimes):
        raise ServingError(f"{where}no runtime is enabled. Set enabled: true for one of {', '.join(one.name for one in runtimes)}.")
    iterations = _given(params.get("iterations"), file.get("iterations"), ITERATIONS)
    timeout_s = _given(params.get("timeout"), file.get("timeout_sec"), TIMEOUT_S)
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ServingError(f"{where}iterations is {json.dumps(iterations)}. It has to be a whole number, 1 at least.")
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or timeout_s <= 0:
        raise ServingError(f"{where}the timeout is {json.dumps(timeout_s)}. It has to be a number of seconds above 0.")
    return Matrix(runtimes, _prompts(params, file, where), iterations, float(timeout_s), _unread(file))


def read_file(path: str) -> dict[str, t.Any]:
    """Return the JSON object in the file at *path*. Raises ServingError."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as exc:
        raise ServingError(f"Cannot read the matrix {path}: {exc.strerror or exc}.") from None
    except ValueError as exc:
        raise ServingError(f"The matrix {path} is not JSON: {exc}.") from None
    if not isinstance(document, dict):
        raise ServingError(f'The matrix {path} is not a JSON object like {{"runtimes": [{{"name": "vllm", "models": []}}]}}.')
    return document


def base_url(url: str) -> str:
    """Return *url* without what people copy along: ``/v1``, ``/v1/chat/completions`` and the like."""
    return _PATHS.sub("", url.strip())


def _runtime(entry: t.Any, where: str, environ: t.Mapping[str, str]) -> Runtime:
    """Return a runtime of an option or of a file; *where* it stands is for messages."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise ServingError(f'{where} has to be like {{"name": "vllm", "models": []}}, with a name.')
    name = entry["name"].strip()
    where = f"{where} ({name})"
    for key in _TEXT_KEYS:
        if not isinstance(_given(entry.get(key), ""), str):
            raise ServingError(f"{where}: {key} has to be a text.")
    for key in ("enabled", "validate_certs"):
        if not isinstance(_given(entry.get(key), True), bool):
            raise ServingError(f"{where}: {key} is {json.dumps(entry[key])}. It may be true or false.")
    models = _given(entry.get("models"), [])
    if not isinstance(models, list) or not all(isinstance(model, str) and model for model in models):
        raise ServingError(f"{where}: models has to be a list of names; an empty one asks all that are listed.")
    api = entry.get("api") or ("ollama" if name == "ollama" else "openai")
    if api not in APIS:
        raise ServingError(f"{where}: api is {json.dumps(api)}. It may be {' or '.join(APIS)}.")
    keys = [key for key in _FILE_API_KEYS if entry.get(key)]
    if len(keys) > 1:
        raise ServingError(f"{where}: {' and '.join(keys)} are given. Give one of them.")
    return Runtime(name, api, _reach(entry, name, where, environ), list(dict.fromkeys(models)), bool(_given(entry.get("enabled"), True)))


def _reach(entry: Params, name: str, where: str, environ: t.Mapping[str, str]) -> dict[str, t.Any]:
    """Return how a runtime is reached, as options of Reach."""
    reach = {key: entry.get(key) for key in ("service", "api_key", "api_key_secret", "ca_path")}
    reach["validate_certs"] = _given(entry.get("validate_certs"), True)
    reach["api_key_file"] = os.path.expanduser(entry["api_key_file"]) if entry.get("api_key_file") else None
    url = next((entry[key] for key in _URL_KEYS if entry.get(key)), None) or (None if reach["service"] else USUAL_URLS.get(name))
    if not reach["service"] and not url:
        raise ServingError(f"{where}: it has no url. Only {' and '.join(USUAL_URLS)} have one that is usual.")
    reach["url"] = base_url(url) if url else None
    variable = entry.get("api_key_env")
    if variable and _given(entry.get("enabled"), True):
        if not environ.get(variable):
            raise ServingError(f"{where}: api_key_env names {variable}, which is not set in the environment of the host that asks.")
        reach["api_key"] = environ[variable]
    return reach


def _prompts(params: Params, file: Params, where: str) -> list[Prompt]:
    given = params.get("prompts") or file.get("prompts") or []
    latency = file.get("latency_prompt")
    if not given:
        given = [{"name": "latency", **(latency if isinstance(latency, dict) else {"text": latency or LATENCY_PROMPT})}]
    prompts = []
    for index, entry in enumerate(given):
        entry = {"text": entry} if isinstance(entry, str) else entry
        text = (entry.get("text") or entry.get("prompt")) if isinstance(entry, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ServingError(f'{where}prompt {index + 1} has no text. It has to be like {{"name": "short", "text": "Hello"}}.')
        max_tokens = _given(entry.get("max_tokens"), MAX_TOKENS)
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise ServingError(f"{where}max_tokens of prompt {index + 1} is {json.dumps(max_tokens)}. It has to be 1 at least.")
        prompts.append(Prompt(str(entry.get("name") or f"prompt {index + 1}"), text, max_tokens))
    names = [prompt.name for prompt in prompts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ServingError(f"{where}two prompts are called {twice}. Give each a name of its own.")
    return prompts


def _unread(file: Params) -> tuple[str, ...]:
    """Return the keys of a matrix file that nothing reads, as a person finds them."""
    keys = [str(key) for key in file if key not in _FILE_KEYS]
    for index, entry in enumerate(file.get("runtimes") or []):
        if isinstance(entry, dict):
            keys += [f"runtimes[{index}].{key}" for key in entry if key not in _RUNTIME_KEYS]
    return tuple(keys)


def _given(*values: t.Any) -> t.Any:
    """Return the first of *values* that somebody has given."""
    return next(value for value in values if value is not None)


# --- figures ----------------------------------------------------------------------------------------------------------------------------


def spread(values: t.Sequence[float]) -> t.Optional[dict[str, float]]:
    """Return p50, p95, min and max of *values*; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    found = {"p50": percentile(ordered, 50), "p95": percentile(ordered, 95), "min": ordered[0], "max": ordered[-1]}
    return {name: round(value, 2) for name, value in found.items()}


def gaps_ms(completion: Completion) -> list[float]:
    """Return the time between each piece of a stream and the one before it."""
    times = completion.piece_seconds
    return [(after - before) * 1000 for before, after in zip(times, times[1:])]


def came_together(completion: Completion) -> bool:
    """Whether the pieces of a stream say nothing about when they were written: more than half of them came with the one before."""
    gaps = gaps_ms(completion)
    return sum(gap < TOGETHER_MS for gap in gaps) > len(gaps) / 2


def usage_tokens(completion: Completion) -> t.Optional[int]:
    """Return how many tokens the endpoint says that it has written; None where it does not say."""
    counted = completion.usage.get("completion_tokens")
    return counted if isinstance(counted, int) and counted > 0 else None


def tokens_per_second(completion: Completion, tokens: int) -> t.Optional[float]:
    """Return how fast the answer was written once it had begun; None where it came in one piece, or its pieces came together."""
    if came_together(completion):
        return None
    times = completion.piece_seconds
    seconds = times[-1] - times[0] if times else 0.0
    return (tokens - 1) / seconds if tokens > 1 and seconds > 0 else None


def figures(first: t.Optional[Completion], warm: t.Sequence[Completion]) -> Report:
    """Return what is told of the streams of one model and prompt: the first apart, the others as p50, p95, min and max.

    Tokens are what the endpoint has counted, or pieces where it has not counted those of every answer.
    """
    streams = [*([first] if first else []), *warm]
    counted = bool(streams) and all(usage_tokens(stream) for stream in streams)

    def tokens(stream: Completion) -> int:
        return (counted and usage_tokens(stream)) or len(stream.piece_seconds)

    def rates(some: t.Iterable[Completion]) -> list[float]:
        return [rate for rate in (tokens_per_second(stream, tokens(stream)) for stream in some) if rate is not None]

    ttft = spread([stream.piece_seconds[0] * 1000 for stream in warm])
    report: Report = {
        "first": None,
        "warmed_up": False,
        "ttft_ms": ttft,
        "itl_ms": spread([gap for stream in warm if not came_together(stream) for gap in gaps_ms(stream)]),
        "tokens_per_second": spread(rates(warm)),
        "total_ms": spread([stream.elapsed_seconds * 1000 for stream in warm]),
        "output_tokens": round(percentile(sorted(map(tokens, streams)), 50)) if streams else None,
        "tokens_from": ("usage" if counted else "pieces") if streams else None,
        "came_together": sum(map(came_together, warm)),
    }
    if first:
        gaps, rate = spread([] if came_together(first) else gaps_ms(first)), rates([first])
        report["first"] = {
            "ttft_ms": round(first.piece_seconds[0] * 1000, 2),
            "itl_ms": gaps["p50"] if gaps else None,
            "tokens_per_second": round(rate[0], 2) if rate else None,
            "total_ms": round(first.elapsed_seconds * 1000, 2),
            "output_tokens": tokens(first),
        }
        report["warmed_up"] = bool(ttft and report["first"]["ttft_ms"] > WARM_UP_FACTOR * ttft["p50"])
    return report


# --- asking -----------------------------------------------------------------------------------------------------------------------------


def error_kind(error: ServingError) -> str:
    """Return a stable word for what went wrong."""
    if not isinstance(error, OpenAIError):
        return "unreachable"
    words = {401: "unauthorized", 403: "unauthorized", 404: "not-found", 408: "timeout", 429: "too-many-requests"}
    return words.get(error.status, error.kind)


def is_hopeless(error: OpenAIError) -> bool:
    """Whether the next request of the same kind will surely fail, too: the endpoint refuses it, or nobody is there."""
    if error.status:
        return 400 <= error.status <= 499 and error.status not in (408, 409, 429)
    return error.kind in ("refused", "unknown-host", "tls")


def listed_models(client: OpenAIClient, api: str = "openai") -> tuple[list[str], list[str]]:
    """Return the names that the endpoint lists, and those of them without what shares its weights (``root``) with an earlier one.

    An Ollama that is too old for ``GET /v1/models`` is asked at ``/api/tags``. Raises OpenAIError.
    """
    try:
        entries = client.model_entries()
    except OpenAIError as exc:
        if api != "ollama" or exc.status != 404:
            raise
        tags = client.get("/api/tags").get("models")
        entries = [{"id": tag["name"]} for tag in tags or [] if isinstance(tag, dict) and tag.get("name")]
    names: dict[str, bool] = {}
    roots: set[str] = set()
    for entry in entries:
        # an adapter has a parent, and weights of its own
        root = "" if entry.get("parent") else str(entry.get("root") or "")
        names.setdefault(str(entry["id"]), root not in roots or not root)
        roots.add(root)
    return list(names), [name for name, own in names.items() if own]


class Prober:
    """Asks the runtimes of a matrix, one after the other. *tell* gets a phase and a text for people.

    With a *nonce*, each request begins with it and a number, so that none finds its prompt in a prefix cache. *options* are of the
    cluster: ``kubeconfig`` and ``context``.
    """

    def __init__(
        self,
        matrix: Matrix,
        kube: t.Callable[[], Kube],
        tell: Tell = lambda _phase, _text: None,
        nonce: str = "",
        options: t.Optional[Params] = None,
        now: t.Callable[[], float] = time.monotonic,
    ) -> None:
        self.matrix = matrix
        self._kube = kube
        self._tell = tell
        self._nonce = nonce
        self._options = options or {}
        self._now = now
        self._number = 0
        self._usage = True

    def reports(self, ask: bool = True) -> list[Report]:
        """Return a report of each runtime; without *ask*, of none anything that would have to be asked for."""
        return [self._report(runtime, ask and runtime.enabled) for runtime in self.matrix.runtimes]

    def _report(self, runtime: Runtime, ask: bool) -> Report:
        reach = Reach({**self._options, **runtime.reach}, self._kube)
        report: Report = {
            "name": runtime.name,
            "endpoint": reach.endpoint,
            "api": runtime.api,
            "enabled": runtime.enabled,
            "reachable": False,
            "models_ms": None,
            "models": [],
            "error": "",
            "error_kind": "",
            "results": [],
        }
        if not ask:
            return report
        self._tell(runtime.name, f"{runtime.name}: {reach.endpoint}")
        self._usage = True
        try:
            with reach.client(self.matrix.timeout_s) as client:
                self._look(client, runtime, reach, report)
        except ServingError as exc:
            report["error"], report["error_kind"] = _in_words(exc, reach), error_kind(exc)
        return report

    def _look(self, client: OpenAIClient, runtime: Runtime, reach: Reach, report: Report) -> None:
        """Fill *report*. Raises ServingError for what keeps all models from answering."""
        begun = self._now()
        names: list[str] = []
        wanted = list(runtime.models)
        try:
            names, distinct = listed_models(client, runtime.api)
            report["reachable"], report["models_ms"] = True, round((self._now() - begun) * 1000, 2)
            report["models"] = names
            wanted = wanted or distinct
        except OpenAIError as exc:
            report["reachable"] = exc.status != 0
            if exc.status != 404 or not wanted:
                raise
        if not wanted:
            raise OpenAIError(404, f"GET /v1/models of {client.name} lists no model. Load one, or name one in models.")
        for model in wanted:
            known = {model, f"{model}:latest"} if runtime.api == "ollama" else {model}
            missing = OpenAIError(404, _missing(runtime.name, model, names)) if names and not known & set(names) else None
            for prompt in self.matrix.prompts:
                report["results"].append(self._result(client, runtime, reach, model, prompt, missing))

    def _result(
        self, client: OpenAIClient, runtime: Runtime, reach: Reach, model: str, prompt: Prompt, missing: t.Optional[OpenAIError]
    ) -> Report:
        """Return the figures of one model and prompt."""
        wanted = 1 + self.matrix.iterations
        first: t.Optional[Completion] = None
        warm: list[Completion] = []
        errors = [missing] if missing else []
        asked = in_a_row = 0
        while not missing and asked < wanted:
            asked += 1
            told = f"{runtime.name}, {model}: {prompt.name}, request {asked} of {wanted}"
            if warm:
                told += f", the last began to answer after {warm[-1].piece_seconds[0] * 1000:.0f} ms"
            self._tell(f"{runtime.name} {model} {prompt.name}", told)
            try:
                completion = self._ask(client, model, prompt)
            except OpenAIError as exc:
                errors.append(exc)
                in_a_row += 1
                if is_hopeless(exc) or in_a_row == MOST_FAILURES:
                    break
                continue
            in_a_row = 0
            if first is None:
                first = completion
            else:
                warm.append(completion)
        return {
            "model": model,
            "prompt": prompt.name,
            "ok": not errors,
            "asked": asked,
            "answered": len(warm) + bool(first),
            **figures(first, warm),
            "errors": _counted(errors, reach),
        }

    def _ask(self, client: OpenAIClient, model: str, prompt: Prompt) -> Completion:
        self._number += 1
        text = f"[{self._nonce}-{self._number}] {prompt.text}" if self._nonce else prompt.text
        messages = [{"role": "user", "content": text}]
        usage: dict[str, t.Any] = {"stream_options": {"include_usage": True}} if self._usage else {}
        try:
            completion = client.chat(model, messages, prompt.max_tokens, stream=True, temperature=0, **usage)
        except OpenAIError as exc:
            if not usage or exc.status not in (400, 422) or "stream_options" not in str(exc):
                raise
            self._usage = False
            return self._ask(client, model, prompt)
        if not completion.piece_seconds:
            raise OpenAIError(0, f"{model} of {client.name} answered nothing to the prompt {prompt.name}", "empty-answer")
        return completion


def is_ok(reports: t.Iterable[Report]) -> bool:
    """Whether every enabled runtime could be reached, and every request to it was answered."""
    enabled = [report for report in reports if report["enabled"]]
    return bool(enabled) and all(
        report["reachable"] and not report["error"] and all(result["ok"] for result in report["results"]) for report in enabled
    )


def is_silent(reports: t.Iterable[Report]) -> bool:
    """Whether no model of any runtime has answered anything, so that there is not a single figure."""
    return not any(result["answered"] for report in reports for result in report["results"])


def troubles(reports: t.Iterable[Report]) -> list[str]:
    """Return in words what went wrong, for each runtime, or model and prompt of it."""
    told = []
    for report in reports:
        if report["enabled"] and report["error"]:
            told.append(f"{report['name']}: {'' if report['reachable'] else 'not reachable: '}{report['error']}")
        for result in report["results"]:
            told += [f"{_place(report, result)}: {error['example']}" for error in result["errors"]]
    return told


def _place(report: Report, result: Report) -> str:
    return f"{report['name']}, {result['model']}, {result['prompt']}"


def buffered(reports: t.Iterable[Report]) -> list[str]:
    """Return in words where answers were not streamed on their way."""
    found = [(report, result) for report in reports for result in report["results"] if result["came_together"]]
    return [
        f"{_place(report, result)}: {result['came_together']} of {result['answered']} answers came in clumps, which tell no ITL and no "
        "Tokens/s: something on the way keeps streams back (a proxy that buffers), or the machine is too busy"
        for report, result in found
    ]


def _missing(runtime: str, model: str, names: t.Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{runtime} lists {', '.join(names[:MOST_NAMED])}{more}, not {model}{did_you_mean(model, names)}"


def _in_words(error: ServingError, reach: Reach) -> str:
    """Return *error* with what to do about it, where that is known."""
    advice = {
        "refused": "Nothing listens there: start it, correct the url, or set enabled: false.",
        "unknown-host": "Correct the host in the url.",
        "timeout": "It is busy or loads a model: wait, or set a greater timeout.",
        "unauthorized": reach.key_hint(),
    }.get(error_kind(error), "")
    return f"{str(error).rstrip('.')}. {advice}".rstrip()


def _counted(errors: t.Iterable[OpenAIError], reach: Reach) -> list[Report]:
    """Return how often there was each kind of error, and what the first of it said."""
    kinds: dict[str, Report] = {}
    for error in errors:
        entry = kinds.setdefault(error_kind(error), {"kind": error_kind(error), "count": 0, "example": _in_words(error, reach)})
        entry["count"] += 1
    return list(kinds.values())


# --- for people -------------------------------------------------------------------------------------------------------------------------

_HEAD = (
    *("Runtime", "Model", "Prompt", "First TTFT", "TTFT p50", "p95", "ITL p50", "p95", "Total p50", "p95", "Tokens/s", "Tokens"),
    "Errors",
)
_LEFT = range(3)


def table(reports: t.Sequence[Report]) -> list[str]:
    """Return the reports as aligned lines, times in milliseconds; what could not be measured stands below, in words."""
    slow = any(result["warmed_up"] for report in reports for result in report["results"])
    notes = ["* more than twice as slow as the others: it has warmed up"] if slow else []
    notes += buffered(reports) + troubles(reports)
    notes += [f"{report['name']}: not enabled" for report in reports if not report["enabled"]]
    rows = [_row(report["name"], result) for report in reports for result in report["results"]]
    if not rows:
        return notes
    return [*aligned([_HEAD, *rows], _LEFT), *notes]


def _row(runtime: str, result: Report) -> tuple[str, ...]:
    def both(name: str) -> tuple[str, str]:
        found = result[name]
        return (_number(found["p50"]), _number(found["p95"])) if found else ("-", "-")

    first, rate = result["first"], result["tokens_per_second"]
    count = sum(error["count"] for error in result["errors"])
    return (
        *(runtime, result["model"], result["prompt"]),
        f"{_number(first['ttft_ms'])}{'*' if result['warmed_up'] else ''}" if first else "-",
        *(*both("ttft_ms"), *both("itl_ms"), *both("total_ms")),
        _number(rate["p50"]) if rate else "-",
        str(result["output_tokens"] or "-"),
        f"{count} of {result['asked']}" if result["asked"] else "not asked",
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def summary(reports: t.Sequence[Report]) -> str:
    """Return one line: how many runtimes were reached, and how many models answered."""
    enabled = [report for report in reports if report["enabled"]]
    models = {(report["name"], result["model"]) for report in enabled for result in report["results"]}
    silent = {(report["name"], result["model"]) for report in enabled for result in report["results"] if not result["ok"]}
    reached = sum(report["reachable"] for report in enabled)
    answered = f"{len(models) - len(silent)} of {len(models)} models answered every request"
    return f"{reached} of {len(enabled)} runtimes reached, {answered}"
