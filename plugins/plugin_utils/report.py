# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What `make install-chat` would do, as data for machines and as lines for people.

It is made from what the modules returned in check mode; nothing is asked here.
"""

from __future__ import annotations

import math
import re
import shlex
import typing as t

import yaml
from ansible_collections.llmops.serving.plugins.module_utils._plan import DOWNLOAD_MIB_PER_S, LOAD_MIB_PER_S, START_S

Result = t.Mapping[str, t.Any]
Report = dict[str, t.Any]

BAR_WIDTH = 48
MOST_DETAILS = 4
UNCHANGED = ("unchanged", "skipped", "none")

_SERVED_NAME = re.compile(r"(?:--served-model-name[\s'\"-]+|serving\.llmops/model: |LLMOPS_SERVING_MODEL=)([\w.:/-]+)")
# Where a detail of a manifest stands is clear without these words.
_PLACES = re.compile(r"^(spec\.)?(template\.)?((spec|metadata)\.)?((initContainers|containers)\.[^.]+\.)?")


def make_report(
    plan: Result,
    gpus: Result,
    guard: Result,
    fit: Result,
    switch: Result,
    applied: t.Mapping[str, Result],
    weights_there: bool,
    endpoint: t.Optional[Result] = None,
    idle: str = "",
    notes: t.Sequence[str] = (),
) -> Report:
    """Return the report.

    *plan*: the serving plan. *gpus*, *guard*, *fit*, *switch*: results of gpu_memory_check, gpu_runtime_guard, model_fit and switch_plan;
    empty where they were not run.
    *applied*: results of kubernetes_apply or supervisor_apply by component, and of python_environment under ``installed`` and
    ``page_installed``. *weights_there*: whether the weights are known to be on this machine. *notes*: further warnings.
    *endpoint*, where others serve: ``summary`` and ``refusal`` of what asked it. *idle*: the model of engines of ours that run beside it.
    """
    if plan.get("remote"):
        return _remote_report(plan, applied, endpoint or {}, idle)
    found = [change for name in ("vllm", "open-webui") for change in _changes(applied.get(name) or {})]
    changes = list({change["object"]: change for change in found}.values())  # both know the namespace
    engine = next((change for change in changes if change["name"] == _engine_name(plan)), None)
    running = _running_model(applied.get("vllm") or {}) if engine else plan["model"]["name"]
    if engine and engine["action"] in ("created", "added"):
        running = None
    model = plan["model"]
    same_weights = engine is None or (running == model["name"] and not any(d.startswith("model ") for d in engine["details"]))
    hub = plan["fit"]["row"].get("source", "hub") == "hub" and not str(plan["fit"]["row"]["model"]).startswith("/")
    download_gib = 0.0 if weights_there or same_weights or not hub else float(model["weights_gib"] or 0)
    strategy = switch.get("strategy") or ("recreate" if _is_recreated(plan) else "surge")
    refusals = [words for words in (guard.get("msg"), gpus.get("msg"), fit.get("refusal")) if words]
    return {
        "platform": plan["platform"],
        "stack": plan["stack"],
        "model": {"name": model["name"], "source": plan["fit"]["row"]["model"], "running": running, "license": model["license"]},
        "together": plan.get("together"),
        "gpus": {
            "per_engine": plan["gpu_check"]["gpus_per_node"] if plan["accelerator"] != "cpu" else 0,
            "replicas": plan["gpu_check"]["replicas"],
            "candidates": _candidates(gpus),
        },
        "fit": {key: fit[key] for key in _FIT_KEYS if key in fit},
        "download_gib": download_gib,
        "install_mib": _install_mib(applied),
        "changes": [{key: value for key, value in change.items() if key != "name"} for change in changes],
        "restarts": [change["object"] for change in changes if change["restarts"]],
        "switch": {"strategy": strategy, "why": switch["why"]} if switch.get("needed") else None,
        "gap": _gap(plan, engine, strategy, 0.0 if plan.get("prefetch") else download_gib),
        "unused_weights": _unused_weights(plan, switch),
        "stops": list(guard.get("stopped", [])),
        "deletes": [change["object"] for change in changes if change["action"] in ("deleted", "removed")],
        "warnings": [*fit.get("notes", []), *_left_alone(applied), *notes],
        "refusals": refusals,
        "changed": any(result.get("changed") for result in [guard, *applied.values()]),
    }


def _remote_report(plan: Result, applied: t.Mapping[str, Result], endpoint: Result, idle: str) -> Report:
    """Return the report where others serve: the same keys, of which most have nothing to tell."""
    changes = _changes(applied.get("open-webui") or {})
    model = plan["model"]
    return {
        "platform": plan["platform"],
        "stack": plan["stack"],
        "model": {"name": model["name"], "source": model["source"], "running": model["name"], "license": model["license"]},
        "endpoint": {
            "url": plan["endpoint"]["url"],
            "summary": endpoint.get("summary", "").removeprefix("smoke at "),
            "idle": idle or None,
        },
        "gpus": {"per_engine": 0, "replicas": 0, "candidates": []},
        "fit": {},
        "download_gib": 0.0,
        "install_mib": _install_mib(applied),
        "changes": [{key: value for key, value in change.items() if key != "name"} for change in changes],
        "restarts": [change["object"] for change in changes if change["restarts"]],
        "switch": None,
        "gap": None,
        "unused_weights": [],
        "stops": [],
        "deletes": [change["object"] for change in changes if change["action"] in ("deleted", "removed")],
        "warnings": _left_alone(applied),
        "refusals": [endpoint["refusal"]] if endpoint.get("refusal") else [],
        "changed": any(result.get("changed") for result in applied.values()),
    }


def lines(report: Report) -> list[str]:
    """Return *report* as a short text: a label, and what belongs to it, on each line; at last what to do, unless it would be refused."""
    model, fit = report["model"], report["fit"]
    rows: list[tuple[str, str]] = []
    now = "not running yet" if model["running"] is None else "runs already" if model["running"] == model["name"] else None
    if report.get("together") and not report["together"]["has_engine"]:
        now = "on other hosts"
    endpoint = report.get("endpoint")
    if endpoint:
        rows.append(("Model", f"{model['name']}, which others serve"))
        rows.append(("Endpoint", endpoint["summary"] or endpoint["url"]))
        rows += [("Idle", f"{endpoint['idle']} of ours still runs here, and nothing would use it")] if endpoint["idle"] else []
    else:
        rows.append(("Model", f"{model['name']} ({now or 'now: ' + model['running']})"))
        rows.append(("GPUs", _gpu_words(report)))
        rows += [("Router", _router_words(report["together"]))] if report.get("together") else []
    if fit.get("memory_gib"):
        rows += [("Memory", text) for text in _memory_words(fit)]
        rows.append(("Room", _room_words(fit)))
    elif fit:
        rows.append(("Memory", fit["summary"]))
    rows.append(("Download", _download_words(report)))
    rows += [("Changes", text) for text in _change_words(report)] or [("Changes", "nothing: all is as the inventory says")]
    if report["restarts"]:
        rows.append(("Restarts", ", ".join(report["restarts"])))
    if report["stops"]:
        rows.append(("Stops", f"{', '.join(report['stops'])}, whose GPUs the engine takes; its volumes stay"))
    if report["switch"]:
        rows.append(("Switch", report["switch"]["why"]))
    if report["gap"]:
        minutes = math.ceil(report["gap"]["seconds"] / 60)
        rows.append(("Gap", f"up to {minutes} min without answers: {report['gap']['reason']}"))
    if report["unused_weights"]:
        unused = ", ".join(f"{entry['model']}{_gib_words(entry['gib'])}" for entry in report["unused_weights"])
        rows.append(("Unused", f"weights of {unused}; make prune-models removes them"))
    rows.append(("Deletes", ", ".join(report["deletes"]) or "nothing; volumes, chats and secrets stay"))
    rows += [("Warning", text) for text in report["warnings"]]
    labels = [label if at == 0 or rows[at - 1][0] != label else "" for at, (label, _text) in enumerate(rows)]
    table = [f"{label:<9} {text}".rstrip() for label, (_label, text) in zip(labels, rows)]
    if report["refusals"]:
        return table
    return [*table, "Nothing was changed. make install-chat does this." if report["changed"] else "Nothing is to be done."]


def pruned_lines(pruned: Result, check: bool = False) -> dict[str, str]:
    """Return what prune_models.py did, as texts by label. *check*: it removed nothing, but tells what it would."""
    unused = [model for model in pruned["models"] if not model["kept"]]
    return {
        "Would remove" if check else "Removed": _weights_words(unused) or "nothing: all weights are in use",
        "Kept": _weights_words([model for model in pruned["models"] if model["kept"]]) or "nothing",
        "Would free" if check else "Freed": _size_words(pruned["freed_bytes"]),
    }


def _weights_words(models: t.Sequence[Result]) -> str:
    return ", ".join(f"{model['title']} ({_size_words(model['bytes'])})" for model in models)


def _size_words(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


_FIT_KEYS = (
    "verdict",
    "summary",
    "product",
    "gpu_count",
    "memory_gib",
    "max_model_len",
    "request_gib",
    "kv_cache_tokens",
    "concurrency",
    "chats",
    "longest_tokens",
    "longest_tokens_surely",
    "least_gpus",
    "memory_needed_mib",
    "advice",
)


# --- what would change -------------------------------------------------------------------------------------------------------------


def _changes(result: Result) -> list[dict[str, t.Any]]:
    """Return what happens to each object of a cluster, or program of a machine, that does not stay as it is."""
    texts = {entry["before_header"]: (entry["before"], entry["after"]) for entry in result.get("diff", [])}
    changes = []
    for item in [*result.get("results", []), *result.get("programs", [])]:
        if item["action"] in UNCHANGED:
            continue
        title = f"{item['kind']}/{item['name']}" if "kind" in item else item["name"]
        before, after = next((pair for header, pair in texts.items() if header == title or header.endswith(f"/{title}")), ("", ""))
        details, restarts = _compared(before, after) if before and after else ([], False)
        changes.append(
            {
                "name": item["name"],
                "object": title,
                "action": item["action"],
                "restarts": item["action"] == "restarted" or (item.get("kind") == "Deployment" and restarts),
                "details": details,
            }
        )
    return changes


def _compared(before: str, after: str) -> tuple[list[str], bool]:
    """Return what differs between two manifests or scripts, in words, and whether pods would be made anew."""
    documents = [_document(text) for text in (before, after)]
    details = [_PLACES.sub("", detail) for detail in _differences("", *documents)]
    templates = [(document.get("spec") or {}).get("template") if isinstance(document, dict) else None for document in documents]
    return details, templates[0] != templates[1]


def _document(text: str) -> t.Any:
    """Return a manifest as data, and of a program's script its environment and its command line."""
    if not text.startswith("#!"):
        return yaml.safe_load(text)
    lines = [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.startswith(("export ", "exec "))]
    environment = dict(words[1].partition("=")[::2] for words in lines if words[0] == "export")
    return {"env": environment, "command": next((words[1:] for words in lines if words[0] == "exec"), [])}


def _differences(path: str, before: t.Any, after: t.Any) -> t.Iterator[str]:
    if before == after:
        return
    before, after = _by_name(before), _by_name(after)
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _differences(f"{path}.{key}" if path else str(key), before.get(key), after.get(key))
        return
    yield f"{path.replace('args.', '').replace('command.', '')} {_short(before)} -> {_short(after)}"


def _by_name(value: t.Any) -> t.Any:
    """Return a list as a mapping: of objects by their name, of a command line by its flags, with what stands before them."""
    if not isinstance(value, list) or not value:
        return value
    if all(isinstance(item, dict) and "name" in item for item in value):
        return {item["name"]: item.get("value", item) for item in value}
    words = [str(word) for word in value]
    at = next((at for at, word in enumerate(words) if word.startswith("--")), None)
    if at is None:
        return value
    named = _program(words[:at])
    flag = ""
    for word in words[at:]:
        if word.startswith("--"):
            flag = word
            named[flag] = "on"
        else:
            named[flag] = word if named[flag] == "on" else f"{named[flag]} {word}"
    return named


def _program(words: list[str]) -> dict[str, str]:
    """Return what stands before the flags: the model behind ``serve``, which is all that a container's arguments have, and the program."""
    *program, last = words or [""]
    serves = program[-1:] == ["serve"] or not (program or "/bin/" in last)
    named = {"program": " ".join(program)} if serves else {"program": " ".join(words)}
    return {**named, "model": last} if serves else named


def _short(value: t.Any) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _engine_name(plan: Result) -> str:
    return str(plan["names"]["engine"] if "names" in plan else plan["engine"]["name"])


def _running_model(result: Result) -> t.Optional[str]:
    """Return the row that is served now, as the manifest or script before the change says."""
    found = (_SERVED_NAME.search(entry["before"]) for entry in result.get("diff", []))
    return next((match[1] for match in found if match), None)


def _is_recreated(plan: Result) -> bool:
    return bool(plan["engine"].get("strategy", {}).get("type") != "RollingUpdate")


def _unused_weights(plan: Result, switch: Result) -> list[dict[str, t.Any]]:
    """Return the weights that neither this plan nor the one that was verified last serves from."""
    served = {plan["model"]["name"], (switch.get("last_good") or {}).get("model")}
    known: t.Mapping[str, t.Any] = switch.get("weights") or {}
    return [
        {"name": name, "model": entry["model"], "gib": entry.get("gib")}
        for name, entry in sorted(known.items())
        if name not in plan.get("weights", {}) and entry["model"] not in served
    ]


def _gib_words(gib: t.Optional[float]) -> str:
    return f" ({gib:g} GiB)" if gib else ""


def _gap(plan: Result, engine: t.Optional[Result], strategy: str, download_gib: float) -> t.Optional[dict[str, t.Any]]:
    """Return how long nothing would answer, None for not at all. The rates are those of the startup budget, on the safe side."""
    if engine is None or not engine["restarts"] or strategy == "surge":
        return None
    weights_mib = float(plan["model"]["weights_gib"] or 0) * 1024
    seconds = START_S + download_gib * 1024 / DOWNLOAD_MIB_PER_S + weights_mib / LOAD_MIB_PER_S
    reason = "the engine has to give its memory back before its successor can start"
    if download_gib:
        reason += f", which downloads {download_gib:g} GiB first"
    return {"seconds": round(seconds), "reason": reason}


def _candidates(gpus: Result) -> list[dict[str, t.Any]]:
    fits = set(gpus.get("fits") or [])
    keys = ("node", "product", "memory_gb", "free")
    return [{key: gpu.get(key) for key in keys} for gpu in gpus.get("eligible") or [] if gpu.get("node") in fits]


def _install_mib(applied: t.Mapping[str, Result]) -> int:
    """MiB of programs that would be downloaded onto this machine."""
    environments = [env for name in ("installed", "page_installed") for env in applied.get(name, {}).get("environments", [])]
    # both ask for what keeps them running
    return sum({env["path"]: env["download_mib"] for env in environments}.values())


def _left_alone(applied: t.Mapping[str, Result]) -> list[str]:
    # a task that was skipped says so in the same word: true
    lists = [result["skipped"] for result in applied.values() if isinstance(result.get("skipped"), list)]
    skipped = [entry for entries in lists for entry in entries]
    return [f"{entry['kind']}/{entry['name']} is left out: {entry['reason']}" for entry in skipped]


# --- words -------------------------------------------------------------------------------------------------------------------------


def _router_words(together: Result) -> str:
    """Return where the router of several hosts is, and what it leads to."""
    if not together["has_router"]:
        return f"on {together['router']}, which leads to this engine"
    return f"here, in front of the engines on {', '.join(together['engines'])}"


def _gpu_words(report: Report) -> str:
    gpus = report["gpus"]
    if report.get("together") and not report["together"]["has_engine"]:
        return "none: the engines are on other hosts"
    if not gpus["per_engine"]:
        return "none: the engine computes on CPUs"
    each = "" if gpus["replicas"] == 1 else f" for each of {gpus['replicas']} engines"
    nodes = [f"{gpu['node']} ({gpu['free']} free of {gpu['product']})" for gpu in gpus["candidates"]]
    more = f" and {len(nodes) - 3} more nodes" if len(nodes) > 3 else ""
    where = ", ".join(nodes[:3]) + more if nodes else "nobody has looked" if not report["refusals"] else "not there now"
    return f"{gpus['per_engine']}{each}: {where}"


def _memory_words(fit: Result) -> list[str]:
    memory = fit["memory_gib"]
    parts = [("weights", "#"), ("kv_cache", "="), ("overhead", "~"), ("left", ".")]
    whole = max(sum(memory[name] for name, _sign in parts), memory["total"], 0.01)
    gauge = "".join(sign * round(memory[name] / whole * BAR_WIDTH) for name, sign in parts)
    numbers = (
        f"# weights {memory['weights']:.1f}  = KV cache {memory['kv_cache']:.1f}  "
        f"~ overhead {memory['overhead']:.1f} (give or take {memory['overhead_error']:.1f})  . left {memory['left']:.1f} GiB"
    )
    where = f"on each {fit['product']}" if fit.get("product") else "of this machine's memory"
    return [f"[{gauge[:BAR_WIDTH]:<{BAR_WIDTH}}] {memory['total']:.1f} GiB {where}", numbers]


def _room_words(fit: Result) -> str:
    chats = fit["chats"]
    full = f"{_count(chats['full_length'], 'chat')} of {fit['max_model_len']:,} tokens at a time"
    typical = "" if chats["typical_tokens"] >= fit["max_model_len"] else f", or {chats['typical']} of {chats['typical_tokens']:,}"
    answers = f"; {chats['at_a_time']} are answered at a time, others wait" if chats["at_a_time"] else ""
    return full + typical + answers


def _download_words(report: Report) -> str:
    unless = ", unless the volume has them already" if report["platform"] == "kubernetes" else ""
    parts = [f"{report['download_gib']:g} GiB of weights{unless}"] if report["download_gib"] else []
    parts += [f"{report['install_mib']} MiB of programs"] if report["install_mib"] else []
    return " and ".join(parts) or "nothing"


def _change_words(report: Report) -> list[str]:
    words = []
    made = [change["object"] for change in report["changes"] if change["action"] in ("created", "added")]
    if made:
        words.append(f"{_count(len(made), 'new object')}: {', '.join(made)}")
    for change in report["changes"]:
        if change["object"] in made:
            continue
        shown = change["details"][:MOST_DETAILS]
        more = len(change["details"]) - len(shown)
        details = f": {'; '.join(shown)}{f'; and {more} more' if more else ''}" if shown else ""
        words.append(f"{change['object']} {change['action']}{details}")
    return words


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
