# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Results of probes and benchmarks as they are kept: one document, its figures by name, and its tables.

A document is ``{"schema", "kind", "date", "deployment", "runs"}``. A run is ``{"probe", "name", "settings", "result"}``: *probe* is the
module that measured and *result* what it returned, *name* tells runs of one probe apart (direct, through a router), *settings* are the
options that a comparison has to know of. Runs of the same probe and name are repetitions of each other.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
import statistics
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError, did_you_mean
from ansible_collections.llmops.serving.plugins.module_utils._text import aligned, one_line, padded

SCHEMA = 1
BENCHMARK, PROBE_SUITE = "benchmark", "probe-suite"
KINDS = (BENCHMARK, PROBE_SUITE)
LOAD, TOOLS, RUNTIMES = "serving_benchmark", "tool_call_probe", "runtime_probe"
PROBES = (LOAD, TOOLS, RUNTIMES)
LOWER, HIGHER = "lower", "higher"
# A 95th percentile of fewer answers than this is hardly more than the slowest of them; it is shown, and not compared.
LEAST_ANSWERS_P95 = 20
# The words for what is known of a deployment, in the order in which they are shown.
DEPLOYMENT = {
    "model": "Model",
    "stack": "Stack",
    "platform": "Platform",
    "engines": "Engines",
    "node": "Node",
    "cpu": "CPU",
    "gpu": "GPU",
    "vllm_version": "vLLM",
    "torch_version": "PyTorch",
    "environment": "Environment",
    "image": "Image",
    "image_digest": "Image digest",
    "router": "Router",
    "flags": "Flags",
}
TIMES = {"ttft_ms": "TTFT", "itl_ms": "ITL", "e2e_ms": "E2E"}
GOODPUT = "goodput.requests_per_s"
# What names a prompt of runtime_probe.
PLACE = ("runtime", "model", "prompt")
MASK = "***"

Document = dict[str, t.Any]
Map = t.Mapping[str, t.Any]

# --- the document ----------------------------------------------------------------------------------------------------------------------

# What Ansible adds to the result of a module, and lines that are made from the rest.
_NO_FINDINGS = ("invocation", "changed", "warnings", "deprecations", "ansible_facts", "diff", "exception", "table", "progress")
_RUN_KEYS = ("probe", "name", "settings", "result")
_DOCUMENT_KEYS = ("schema", "kind", "date", "deployment", "runs")


def document(given: Map, now: t.Optional[datetime.datetime] = None) -> Document:
    """Return *given* as it is kept: checked, complete and without secrets. A date that is missing becomes *now* (default: the time of day).

    Raises ServingError for what is no such document.
    """
    for key in given:
        if key not in _DOCUMENT_KEYS:
            raise ServingError(f"document.{key}: no such key{did_you_mean(str(key), _DOCUMENT_KEYS)}. It has {', '.join(_DOCUMENT_KEYS)}.")
    schema = given.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise ServingError(f"The result has schema {schema}, and this release reads {SCHEMA}. Use the release that wrote it.")
    kind = given.get("kind")
    if kind not in KINDS:
        raise ServingError(f'document.kind: "{kind}" is not one of {", ".join(KINDS)}.')
    deployment, runs = given.get("deployment") or {}, given.get("runs")
    if not isinstance(deployment, t.Mapping):
        raise ServingError(f"document.deployment has to be a dictionary such as {{model: smoke, gpu: NVIDIA L4}}, not {deployment!r}.")
    if not isinstance(runs, (list, tuple)) or not runs:
        raise ServingError("document.runs: there is no run, so there is nothing to keep. Give the results of the probes.")
    moment = _moment(given["date"]) if given.get("date") else now or datetime.datetime.now(datetime.timezone.utc)
    return {
        "schema": SCHEMA,
        "kind": kind,
        "date": moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "deployment": masked({**dict.fromkeys(DEPLOYMENT), **deployment, "flags": _flags(deployment)}),
        "runs": [_run(number, run) for number, run in enumerate(runs)],
    }


def _run(number: int, run: t.Any) -> Document:
    where = f"document.runs[{number}]"
    if not isinstance(run, t.Mapping) or not isinstance(run.get("result"), t.Mapping):
        raise ServingError(f"{where} has to be a dictionary with probe and result, and result what the module returned.")
    for key in run:
        if key not in _RUN_KEYS:
            raise ServingError(f"{where}.{key}: no such key{did_you_mean(str(key), _RUN_KEYS)}. A run has {', '.join(_RUN_KEYS)}.")
    if run.get("probe") not in PROBES:
        raise ServingError(f'{where}.probe: "{run.get("probe")}" is not one of {", ".join(PROBES)}.')
    result = {key: value for key, value in run["result"].items() if key not in _NO_FINDINGS and not str(key).startswith("_ansible")}
    if not result.get("failed"):
        result.pop("failed", None)
    _check_findings(where, result)
    name = str(run.get("name") or (result.get("model") if run["probe"] == TOOLS else "") or "")
    return {"probe": run["probe"], "name": name, "settings": masked(dict(run.get("settings") or {})), "result": masked(result)}


def _check_findings(where: str, result: Map) -> None:
    """Raise ServingError where *result* is not what a probe returns."""
    for key, inner in (("loads", ""), ("cases", ""), ("runtimes", "results")):
        entries = result.get(key) or []
        if isinstance(entries, (list, tuple)):
            entries = [*entries, *(each for entry in entries if isinstance(entry, t.Mapping) for each in entry.get(inner) or [])]
        if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, t.Mapping) for entry in entries):
            raise ServingError(f"{where}.result.{key} has to be a list of dictionaries, as the module returns it.")


def _moment(text: t.Any) -> datetime.datetime:
    """Return the point in time that ISO 8601 *text* names. One without a time zone is UTC."""
    try:
        moment = datetime.datetime.fromisoformat(re.sub(r"Z$", "+00:00", str(text)))
    except ValueError:
        raise ServingError(f'document.date: "{text}" is no time such as 2026-11-21T19:18:49Z.') from None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)


def _flags(deployment: Map) -> list[str]:
    flags = deployment.get("flags") or []
    return flags.split() if isinstance(flags, str) else [str(flag) for flag in flags]


def file_name(found: Document) -> str:
    """Return the name under which *found* is kept; names sort by date: ``2026-11-21T19-18-49Z-smoke-benchmark.json``."""
    return f"{found['date'].replace(':', '-')}-{_slug(subject(found))}-{found['kind']}.json"


def subject(found: Document) -> str:
    """Return the model that *found* is about; ``models`` when there are several, or none has a name."""
    if found["deployment"].get("model"):
        return str(found["deployment"]["model"])
    names = {str(run["result"].get("model") or "") for run in found["runs"]}
    return names.pop() if len(names) == 1 and "" not in names else "models"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:60] or "models"


# --- secrets ---------------------------------------------------------------------------------------------------------------------------

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORD = re.compile(r"(?:key|keys|token|secrets?|passwords?|passwd|passphrase|credentials?|authorization|cookie)$")
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|\S+)"
_SECRET_TEXTS = (
    (re.compile(r"\b(?:hf_\w{8,}|sk-[\w-]{16,})"), MASK),
    (re.compile(r"(?i)(\bBearer )[^\s\"',]+"), rf"\1{MASK}"),
    (re.compile(rf"(?i)(--[\w-]*(?:key|token|secret|password)[ =]){_VALUE}"), rf"\1{MASK}"),
    (re.compile(rf"(\b[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD)(?:_[A-Z0-9_]*)?=){_VALUE}"), rf"\1{MASK}"),
    (re.compile(r"(?i)([?&][\w-]*(?:key|token|secret|password)=)[^&\s]+"), rf"\1{MASK}"),
    (re.compile(r"(?i)(\"[\w-]*(?:key|token|secret|password)\"\s*:\s*\")[^\"]+"), rf"\1{MASK}"),
    (re.compile(r"(?<=://)[^/\s@]+@"), f"{MASK}@"),
)


def masked(value: t.Any, name: str = "") -> t.Any:
    """Return *value*, known as *name*, as JSON can hold it and with ``***`` for what may be a secret.

    That is what an option, a variable or a key is set to whose name has key, token, secret or password for a word, and what looks like a
    key wherever it stands. Numbers of tokens are none.
    """
    if isinstance(value, t.Mapping):
        # a variable as Kubernetes has it: {name: HF_TOKEN, value: ...}
        variable = str(value.get("name") or "") if "value" in value else ""
        return {str(key): masked(item, variable if key == "value" and variable else str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        words = list(value)
        return _masked_flags(words, name) if all(isinstance(word, str) for word in words) else [masked(word, name) for word in words]
    if isinstance(value, bool) or value is None:
        return value
    if _is_secret(name, value):
        return MASK
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) else None
    return _masked_text(str(value))


def _masked_flags(words: t.Sequence[str], name: str) -> list[str]:
    """Return the arguments of a command, or another list of texts, masked. What follows ``--api-key`` up to the next option is secret."""
    result, flag = [], name
    for word in words:
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            result.append(f"{option}={MASK}" if equals and _is_secret(option, value) else _masked_text(word))
            flag = name if equals else option
        else:
            result.append(MASK if _is_secret(flag, word) else _masked_text(word))
    return result


def _is_secret(name: str, value: t.Any) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    found = [word for word in words if _SECRET_WORD.search(word)]
    if not found or value == "":
        return False
    # --long-prefill-token-threshold 1024
    return found != ["token"] or re.fullmatch(r"[\d.]+", str(value)) is None


def _masked_text(text: str) -> str:
    for pattern, mask in _SECRET_TEXTS:
        text = pattern.sub(mask, text)
    return text


# --- figures ---------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure. *value* is the median of *samples*, one for each repetition. *answers*: how many answers one sample rests on.

    *direction* says whether lower or higher is better. Shares of success have *passed* and *tried*, over all repetitions. *over* names
    what a total was taken over: totals over different things are not comparable.
    """

    value: float
    unit: str
    direction: str
    samples: tuple[float, ...] = ()
    answers: int = 1
    passed: t.Optional[int] = None
    tried: t.Optional[int] = None
    over: str = ""

    @property
    def spread(self) -> t.Optional[float]:
        """The median distance of the samples from their median, as a share of it. None without repetitions."""
        if len(self.samples) < 2 or not self.value:
            return None
        return statistics.median(abs(sample - self.value) for sample in self.samples) / abs(self.value)


@dataclasses.dataclass(frozen=True)
class Series:
    """One thing that was measured, with what each repetition found: a load, a case, or a prompt for a model of a runtime."""

    probe: str
    label: str
    title: str
    entries: tuple[Map, ...]

    def samples(self, path: str) -> tuple[float, ...]:
        """Return the numbers at *path* (``ttft_ms.p50``), one for each repetition that has it."""
        found = [number(entry, path) for entry in self.entries]
        return tuple(value for value in found if value is not None)

    def median(self, path: str) -> t.Optional[float]:
        """Return the median over the repetitions; None when none has it."""
        samples = self.samples(path)
        return statistics.median(samples) if samples else None

    def total(self, path: str) -> int:
        """Return the sum over the repetitions."""
        return round(sum(self.samples(path)))


def number(entry: t.Any, path: str) -> t.Optional[float]:
    """Return the number at *path* of nested dictionaries; None where there is none."""
    for key in path.split("."):
        entry = entry.get(key) if isinstance(entry, t.Mapping) else None
    return float(entry) if isinstance(entry, (int, float)) and not isinstance(entry, bool) and math.isfinite(entry) else None


def loads(found: Document) -> list[Series]:
    """Return the loads of *found*, those of one run name together, in the order of what was offered."""
    gathered = _gathered(found, LOAD, lambda result: result.get("loads") or [], load_title)
    labels = list(dict.fromkeys(series.label for series in gathered))
    return sorted(gathered, key=lambda series: (labels.index(series.label), offered(series.entries[0])))


def load_title(entry: Map) -> str:
    """Return what a load is called: its name, or what was offered."""
    if entry.get("name"):
        return str(entry["name"])
    rate, concurrency = number(entry, "rate"), number(entry, "concurrency")
    if rate is not None:
        return f"rate {rate:g}/s"
    return f"concurrency {concurrency:g}" if concurrency is not None else "load"


def offered(entry: Map) -> tuple[float, float]:
    """Return what loads are sorted by: the rate, then the concurrency. A load without a rate takes what it gets, and comes last."""
    rate, concurrency = number(entry, "rate"), number(entry, "concurrency")
    return (math.inf if rate is None else rate, math.inf if concurrency is None else concurrency)


def cases(found: Document) -> list[Series]:
    """Return the cases of the tool call probes, those of one model together, in the order in which they were asked."""
    return _gathered(found, TOOLS, _cases, lambda case: str(case.get("name")))


def prompts(found: Document) -> list[Series]:
    """Return what was asked of each model of each runtime. An entry has ``runtime`` beside what was measured."""
    return _gathered(found, RUNTIMES, _prompts, lambda entry: _joined(*(str(entry.get(key) or "") for key in PLACE)))


def runtimes(found: Document) -> list[Series]:
    """Return the runtimes that are enabled with what was found out about each, whether they answered or not."""
    return _gathered(found, RUNTIMES, _enabled, lambda runtime: str(runtime.get("name")))


def _cases(result: Map) -> list[Map]:
    """Return the cases, each with the number of tries that was wanted: of some fewer were made, and those count as failed."""
    asked = result.get("cases") or []
    wanted = max([1, *(round(number(case, "tries") or 0) for case in asked)])
    return [{**case, "wanted": wanted} for case in asked]


def _enabled(result: Map) -> list[Map]:
    return [runtime for runtime in result.get("runtimes") or [] if runtime.get("enabled", True)]


def _prompts(result: Map) -> t.Iterator[Map]:
    for runtime in _enabled(result):
        for entry in runtime.get("results") or []:
            yield {**entry, "runtime": runtime.get("name")}


def _gathered(
    found: Document, probe: str, entries_of: t.Callable[[Map], t.Iterable[Map]], title_of: t.Callable[[Map], str]
) -> list[Series]:
    """Return the entries of all runs of *probe*; those of the same run name and title are repetitions of each other."""
    gathered: dict[tuple[str, str], list[Map]] = {}
    for run in found["runs"]:
        if run["probe"] == probe:
            for entry in entries_of(run["result"]):
                gathered.setdefault((run["name"], title_of(entry)), []).append(entry)
    return [Series(probe, label, title, tuple(entries)) for (label, title), entries in gathered.items()]


def labels(found: Document) -> dict[str, list[str]]:
    """Return the names of the runs of each probe."""
    return {probe: list(dict.fromkeys(run["name"] for run in found["runs"] if run["probe"] == probe)) for probe in PROBES}


def metrics(found: Document, bare: t.Container[str] = ()) -> dict[str, Metric]:
    """Return every figure that is worth a comparison, by a name for people. The names of runs of the probes in *bare* are left out."""
    result: dict[str, Metric] = {}

    def add(series: Series, what: str, metric: t.Optional[Metric]) -> None:
        if metric is not None:
            result[f"{_joined('' if series.probe in bare else series.label, series.title)}: {what}"] = metric

    for load in loads(found):
        answers = load.total("completed") // len(load.entries)
        add(load, "requests answered", _share(load.total("completed"), load.total("requests")))
        add(load, "requests/s", _figure(load, "request_throughput", "/s", HIGHER, answers))
        add(load, "output tokens/s", _figure(load, "output_token_throughput", "/s", HIGHER, answers))
        goodput = _figure(load, GOODPUT, "/s", HIGHER, answers)
        add(load, "goodput", goodput and dataclasses.replace(goodput, over=objective(load)))
        for key, words in TIMES.items():
            add(load, f"{words} p50", _figure(load, f"{key}.p50", "ms", LOWER, answers))
            add(load, f"{words} p95", _figure(load, f"{key}.p95", "ms", LOWER, answers) if answers >= LEAST_ANSWERS_P95 else None)
    by_model: dict[str, list[Series]] = {}
    for case in cases(found):
        by_model.setdefault(case.label, []).append(case)
        passed, tried = passes(case)
        add(case, "passed", _share(passed, tried))
        if not case.entries[0].get("skipped"):
            answers = tried // len(case.entries)
            add(case, "p50", _figure(case, "seconds_p50", "s", LOWER, answers))
            add(case, "first token p50", _figure(case, "first_token_p50", "s", LOWER, answers))
    for label, asked in by_model.items():
        counts = [passes(case) for case in asked]
        total = _share(sum(passed for passed, _tried in counts), sum(tried for _passed, tried in counts))
        everything = Series(TOOLS, label, "all cases", ())
        add(everything, "passed", total and dataclasses.replace(total, over=", ".join(sorted(case.title for case in asked))))
    for runtime in runtimes(found):
        reached = sum(bool(entry.get("reachable")) for entry in runtime.entries)
        add(runtime, "reachable", _share(reached, len(runtime.entries)))
    for prompt in prompts(found):
        answered, asked_for = answers_of(prompt)
        answers = answered // len(prompt.entries) - 1  # the first stands apart
        add(prompt, "requests answered", _share(answered, asked_for))
        for path, words, unit, direction in (
            ("ttft_ms.p50", "TTFT p50", "ms", LOWER),
            ("itl_ms.p50", "ITL p50", "ms", LOWER),
            ("tokens_per_second.p50", "tokens/s p50", "/s", HIGHER),
            ("total_ms.p50", "total p50", "ms", LOWER),
        ):
            add(prompt, words, _figure(prompt, path, unit, direction, answers))
    return result


def _figure(series: Series, path: str, unit: str, direction: str, answers: int) -> t.Optional[Metric]:
    samples = series.samples(path)
    return Metric(statistics.median(samples), unit, direction, samples, max(1, answers)) if samples else None


def _share(passed: int, tried: int) -> t.Optional[Metric]:
    passed = min(passed, tried)
    return Metric(passed / tried, "", HIGHER, answers=tried, passed=passed, tried=tried) if tried else None


def objective(load: Series) -> str:
    """Return in words what an answer had to keep to; empty where nothing was asked of it."""
    goodput = load.entries[0].get("goodput")
    return shown(goodput.get("objective") or "") if isinstance(goodput, t.Mapping) else ""


def passes(case: Series) -> tuple[int, int]:
    """Return how many tries of *case* passed, and how many were wanted."""
    passed = sum(round(entry["wanted"] * (number(entry, "pass_rate") or 0)) for entry in case.entries)
    return passed, sum(entry["wanted"] for entry in case.entries)


def answers_of(prompt: Series) -> tuple[int, int]:
    """Return how many requests of *prompt* were answered, and how many were sent. One that could not be sent is one without an answer."""
    asked = sum(max(1, round(number(entry, "asked") or 0)) for entry in prompt.entries)
    return prompt.total("answered"), asked


def errors_of(entry: Map) -> list[tuple[str, int, str]]:
    """Return the errors of a load or of a prompt: kind, how often, and an example."""
    errors = entry.get("errors") or []
    if isinstance(errors, t.Mapping):
        errors = [{**error, "kind": kind} for kind, error in errors.items()]
    return [(str(error.get("kind")), round(number(error, "count") or 0), str(error.get("example") or "")) for error in errors]


def limited(load: Series) -> str:
    """Return why the client, and not the server, was the bottleneck of *load*; empty where it was not, or nobody looked."""
    for entry in load.entries:
        client = entry.get("client")
        if isinstance(client, t.Mapping) and client.get("limited"):
            return str(client.get("why") or "it was busy all the time")
    return ""


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


# --- tables ----------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Section:
    """A table with a title and notes below; *rows* have as many cells as *head*, the first column is text.

    *advice* stands in the page only: at the terminal it is in the last lines.
    """

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]
    left: int = 1
    advice: t.Sequence[str] = ()


_NONE = "-"


def table(found: Document) -> list[str]:
    """Return *found* as aligned lines for a terminal."""
    lines = [one_line(text) for text in (headline(found), _about(found)) if text]
    for section in sections(found):
        lines += ["", *([one_line(section.title)] if section.title else []), *aligned([section.head, *section.rows], range(section.left))]
        lines += [f"! {one_line(note)}" for note in section.notes]
    return lines


def markdown(found: Document, compared: t.Sequence[str] = (), plot: str = "") -> str:
    """Return *found* as Markdown whose source reads like the page.

    *compared*: the lines of a comparison with an earlier result. *plot*: path of a picture, from the Markdown's folder.
    """
    lines = [f"# {_cell(headline(found))}", ""]
    lines += _markdown_table(("Condition", "Value"), _conditions(found), left=2)
    flags = found["deployment"].get("flags") or []
    if flags:
        lines += ["", "Flags of the engine:", "", *_fence("\n".join(_by_option(flags)))]
    if plot:
        lines += ["", f"![Latency against load]({plot})"]
    for section in sections(found):
        lines += ["", f"## {_cell(section.title or 'Load')}", "", *_markdown_table(section.head, section.rows, section.left)]
        notes = [*section.notes, *section.advice]
        lines += ["", *[f"- {_cell(note)}" for note in notes]] if notes else []
    if compared:
        lines += ["", "## Compared with an earlier result", "", *_fence("\n".join(compared))]
    return "\n".join(lines) + "\n"


def headline(found: Document) -> str:
    """Return what *found* is, in one line."""
    date = found["date"].replace("T", " ").replace("Z", " UTC")
    return f"{found['kind'].capitalize().replace('-', ' ')} of {subject(found)}, {date}"


def _about(found: Document) -> str:
    """Return the most important conditions in one line."""
    deployment = found["deployment"]
    named = (("platform", ""), ("gpu", ""), ("vllm_version", "vLLM "), ("image", ""), ("router", "router "))
    return ", ".join(f"{before}{deployment[key]}" for key, before in named if deployment.get(key))


def _conditions(found: Document) -> list[tuple[str, ...]]:
    """Return the rows of the table of conditions: of the deployment, and the settings of the runs."""
    deployment = found["deployment"]
    rows = [(DEPLOYMENT.get(key, key), shown(value)) for key, value in deployment.items() if key != "flags" and value not in (None, "", [])]
    settings = {}
    for run in found["runs"]:
        for key, value in run["settings"].items():
            settings[_joined(run["name"] or run["probe"], key)] = shown(value)
    return [*rows, *settings.items()]


def shown(value: t.Any) -> str:
    """Return a condition in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, t.Mapping):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def sections(found: Document) -> list[Section]:
    """Return the tables of *found*, without their layout."""
    failed: list[tuple[str, ...]] = [
        (_joined(run["probe"], run["name"]), str(run["result"].get("msg") or "it does not say why"))
        for run in found["runs"]
        if run["result"].get("failed")
    ]
    measured = [*_load_sections(found), *_case_sections(found), *_prompt_sections(found)]
    return [*measured, *([Section("Failed", ("Run", "Why"), failed, [], left=2)] if failed else [])]


def _load_sections(found: Document) -> list[Section]:
    times = [f"{words} {share} ms" for words in TIMES.values() for share in ("p50", "p95")]
    head = ("Load", "Requests/s", "Tokens/s", *times, "Goodput/s", "Errors %")
    by_label: dict[str, list[Series]] = {}
    for load in loads(found):
        by_label.setdefault(load.label, []).append(load)
    return [Section(label, head, [_load_row(load) for load in group], _load_notes(group)) for label, group in by_label.items()]


def _load_row(load: Series) -> tuple[str, ...]:
    paths = [f"{key}.{share}" for key in TIMES for share in ("p50", "p95")]
    requests = load.total("requests")
    errors = 100 * (1 - load.total("completed") / requests) if requests else load.median("error_rate")
    values = [load.median(path) for path in ("request_throughput", "output_token_throughput", *paths, GOODPUT)]
    return (load.title, *map(figure, values), figure(errors))


def _load_notes(group: t.Sequence[Series]) -> list[str]:
    repeated = max(len(load.entries) for load in group)
    notes = [f"Each figure is the median of up to {repeated} repetitions."] if repeated > 1 else []
    notes += [f"{load.title}: the client was the bottleneck: {why}" for load in group for why in [limited(load)] if why]
    return notes + _error_notes(group)


def _error_notes(group: t.Iterable[Series]) -> list[str]:
    notes = []
    for series in group:
        counts: dict[str, int] = {}
        examples: dict[str, str] = {}
        for entry in series.entries:
            for kind, count, example in errors_of(entry):
                counts[kind] = counts.get(kind, 0) + count
                examples.setdefault(kind, example)
        for kind, count in counts.items():
            notes.append(f"{series.title}: {count} x {kind}" + (f", such as: {examples[kind]}" if examples[kind] else ""))
    return notes


def _case_sections(found: Document) -> list[Section]:
    by_model: dict[str, list[Series]] = {}
    for case in cases(found):
        by_model.setdefault(case.label, []).append(case)
    result = []
    for label, group in by_model.items():
        rows, notes, good, all_tries = [], [], 0, 0
        advice: dict[str, None] = {}
        for case in group:
            passed, tried = passes(case)
            good, all_tries = good + passed, all_tries + tried
            trouble = next((entry for entry in case.entries if not entry.get("passed")), None)
            stage = str((trouble or {}).get("stage") or "")
            seconds = [case.median("seconds_p50"), case.median("first_token_p50")]
            rows.append((case.title, stage or "passed", f"{passed} of {tried}", *map(figure, seconds)))
            if trouble and trouble.get("found") and not trouble.get("skipped"):
                notes.append(f"{case.title}: {trouble['found']}")
            if trouble and trouble.get("advice"):
                advice[f"{stage}: {trouble['advice']}"] = None
        head = ("Case", "Result", "Passed", "Seconds p50", "First token p50 s")
        result.append(
            Section(f"Tool calls{f' of {label}' if label else ''}: {good} of {all_tries} passed", head, rows, notes, 2, list(advice))
        )
    return result


def _prompt_sections(found: Document) -> list[Section]:
    asked, seen = prompts(found), runtimes(found)
    if not seen:
        return []
    columns = {
        "TTFT p50 ms": "ttft_ms.p50",
        "TTFT p95 ms": "ttft_ms.p95",
        "ITL p50 ms": "itl_ms.p50",
        "ITL p95 ms": "itl_ms.p95",
        "Tokens/s p50": "tokens_per_second.p50",
        "Total p50 ms": "total_ms.p50",
        "Total p95 ms": "total_ms.p95",
        "First TTFT ms": "first.ttft_ms",
    }
    rows = []
    for prompt in asked:
        answered, sent = answers_of(prompt)
        names = tuple(str(prompt.entries[0].get(key)) for key in PLACE)
        rows.append((*names, *(figure(prompt.median(path)) for path in columns.values()), f"{answered} of {sent}"))
    notes = [
        f"{runtime.title}: {'' if entry.get('reachable') else 'not reachable: '}{entry['error']}"
        for runtime in seen
        for entry in runtime.entries[-1:]
        if entry.get("error")
    ]
    for prompt in asked:
        clumps = sum(int(entry.get("came_together") or 0) for entry in prompt.entries)
        if clumps:
            notes.append(f"{prompt.title}: {clumps} of {answers_of(prompt)[0]} answers came in clumps, which tell no ITL and no Tokens/s")
    return [Section("Runtimes", ("Runtime", "Model", "Prompt", *columns, "Answered"), rows, [*notes, *_error_notes(asked)], left=3)]


def figure(value: t.Optional[float]) -> str:
    """Return *value* with about three digits; a dash where there is none."""
    if value is None:
        return _NONE
    size = abs(value)
    digits = next((digits for least, digits in ((99.95, 0), (9.995, 1), (0.9995, 2)) if size >= least), 3 if size else 0)
    return f"{value:.{digits}f}"


def _markdown_table(head: t.Sequence[str], rows: t.Sequence[t.Sequence[str]], left: int = 1) -> list[str]:
    cells = [[_cell(cell) for cell in row] for row in [head, *rows]]
    widths = [max(3, *map(len, column)) for column in zip(*cells)]
    rule = ["-" * width if place < left else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    lines = [[padded(cell, width, place < left) for place, (cell, width) in enumerate(zip(row, widths))] for row in cells]
    return [f"| {' | '.join(row)} |" for row in [lines[0], rule, *lines[1:]]]


def _cell(text: str) -> str:
    """Return *text* as it may stand in a line or in a table of Markdown, where ``<`` and ``|`` would be read as markup."""
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")


def _fence(text: str) -> list[str]:
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return [f"{fence}text", text, fence]


def _by_option(flags: t.Sequence[str]) -> list[str]:
    """Return one line for each option with its values."""
    return [" ".join(word for word in (name, value) if word) for name, value in options(flags)]


def options(flags: t.Sequence[str]) -> list[tuple[str, str]]:
    """Return the options of a command with their values as text: ``[("serve", ""), ("--max-model-len", "8192")]``."""
    result: list[tuple[str, str]] = []
    for flag in flags:
        name, equals, value = flag.partition("=")
        if flag.startswith("-") and not re.fullmatch(r"-[\d.]+", flag):
            result.append((name, value) if equals else (flag, ""))
        elif result:
            result[-1] = (result[-1][0], _joined(result[-1][1], flag))
        else:
            result.append((flag, ""))
    return result
