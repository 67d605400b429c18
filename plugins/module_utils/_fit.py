# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Whether a row of the model table fits, in words: what is there, what is missing, and what would fit instead."""

from __future__ import annotations

import collections
import dataclasses
import math
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _capacity, _catalog
from ansible_collections.llmops.serving.plugins.module_utils._capacity import (
    DOES_NOT_FIT,
    FITS,
    UNKNOWN,
    WITHIN_ERROR,
    Fit,
    Gpu,
    Row,
    Serving,
)
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import GB, MIB, sold_gb

# What a lean engine is: little is set aside for a batch, and nearly all of the GPU is taken.
LEAN_UTILIZATION, LEAN_BATCH, LEAN_SEQUENCES = 0.95, 2048, 16
# A context that is worth proposing.
SHORTEST_TOKENS = 4096
# Compile caches, tokenizers and the like beside the weights on the volume.
CACHES_GIB = 3


@dataclasses.dataclass(frozen=True)
class Question:
    """What is to be judged.

    *gpus*: as gpu_memory_check returns ``eligible``; the engine may land on any of them. Empty: nobody looked, or CPUs serve.
    *memory_mib*: what an engine on CPUs may use. *volume_gib*: size of the volume for the weights. None: unknown.
    *others*: the rows that may be proposed instead, by name.
    """

    name: str
    row: Row
    accelerator: str = "nvidia"
    gpus: t.Sequence[t.Mapping[str, t.Any]] = ()
    gpu_count: int = 1
    kv_cache_dtype: str = "auto"
    memory_mib: t.Optional[int] = None
    volume_gib: t.Optional[float] = None
    others: t.Mapping[str, Row] = dataclasses.field(default_factory=dict)

    def changed(self, **keys: t.Any) -> Question:
        """Return the question for the row with *keys*; None takes one away."""
        return dataclasses.replace(self, row=_catalog.merge(self.row, keys))


# What is proposed, and the question that results when it is done.
Proposal = tuple[str, Question]


def judge(question: Question) -> dict[str, t.Any]:
    """Return the verdict with its numbers, a summary in one line, what would fit instead, and notes.

    ``refusal`` is the message for somebody who wants to deploy this, None where nothing surely fails.
    """
    notes = _licence_notes(question)
    volume = _volume_refusal(question)
    missing = _catalog.missing_facts(dict(question.row))
    if missing or (question.accelerator != "cpu" and not _kinds(question.gpus)):
        why = f"its row lacks {', '.join(missing)}" if missing else "the memory of the GPUs is not known"
        summary = f"Whether {question.name} fits is not known: {why}."
        return {"verdict": UNKNOWN, "summary": summary, "advice": [], "notes": notes, "refusal": volume, "by_gpu": []}
    serving = Serving.of_row(question.row, question.kv_cache_dtype)
    fits = _fits(question)
    worst = min(fits, key=lambda fit: (_capacity.VERDICTS.index(fit.verdict), fit.concurrency))
    advice = [] if worst.verdict == FITS else _advice(question, worst, fits)
    if serving.unknown_flags:
        notes.append(f"{question.name}: the figures leave out {', '.join(serving.unknown_flags)}, so it may need more memory, or less.")
    finding = _finding(question, worst)
    refusal = volume
    if worst.verdict == DOES_NOT_FIT:
        notes += [volume] if volume else []
        refusal = f"{finding} {_in_words(advice)} vllm_fit_check: false deploys it all the same."
    elif worst.verdict == WITHIN_ERROR:
        notes.append(f"{finding} {_in_words(advice)}")
    return {
        **worst.report(),
        "summary": finding,
        "least_gpus": worst.gpu and _capacity.least_gpus(question.row, serving, worst.gpu),
        "memory_needed_mib": _capacity.cpu_memory_mib(question.row) if question.accelerator == "cpu" else None,
        "advice": advice,
        "notes": notes,
        "refusal": refusal,
        "by_gpu": [fit.report() for fit in fits if fit.gpu],
    }


def check(question: Question) -> dict[str, t.Any]:
    """Return what judge does; raise ServingError with it as details when the deployment would surely fail."""
    result = judge(question)
    if result["refusal"]:
        raise ServingError(result["refusal"], **result)
    return result


def _fits(question: Question) -> list[Fit]:
    serving = Serving.of_row(question.row, question.kv_cache_dtype)
    if question.accelerator == "cpu":
        return [_capacity.fit_cpu(question.row, serving, question.memory_mib)]
    return [_capacity.fit_gpu(question.row, serving, gpu, max(1, question.gpu_count)) for gpu in _kinds(question.gpus)]


def _passes(question: Question) -> bool:
    fits = _fits(question)
    return bool(fits) and all(fit.verdict == FITS for fit in fits)


def _kinds(gpus: t.Sequence[t.Mapping[str, t.Any]]) -> list[Gpu]:
    """Return the different kinds among *gpus*, each once."""
    kinds = {
        (gpu.get("product"), gpu["memory_mib"]): Gpu(gpu.get("product") or "GPU", gpu["memory_mib"], gpu.get("compute_capability"))
        for gpu in gpus
        if gpu.get("memory_mib")
    }
    return list(kinds.values())


def _finding(question: Question, fit: Fit) -> str:
    """Return the verdict in one sentence, with the numbers behind it."""
    memory, length = fit.memory, fit.serving.max_model_len
    where = f"{fit.count} x {fit.gpu.product}" if fit.gpu else "CPUs"
    each = " on each" if fit.count > 1 else ""
    if fit.verdict == FITS:
        sizes = f"weights {_gib(memory.weights)}, KV cache {_gib(memory.kv_cache)}{each}"
        return f"{question.name} fits on {where}: {sizes}, room for {chats(fit)}."
    judged = f"{question.name} {'may not fit' if fit.verdict == WITHIN_ERROR else 'does not fit'} on {where}"
    overhead = f"about {_gib(memory.overhead)} (give or take {_gib(memory.error)})"
    one = f"and a chat of {length:,} tokens needs {_gib(fit.request_bytes)}"
    if not fit.serving.kv_cache_memory_bytes:
        share = f"{_gib(memory.budget)}{each} (gpu_memory_utilization {fit.serving.gpu_memory_utilization:g})"
        left = f"{_gib(memory.kv_cache)} is left for the KV cache, {one}"
        if memory.kv_cache <= 0:
            left = f"that is {_gib(-memory.kv_cache)} too much, {one} of KV cache besides"
        return f"{judged}: of {share}, weights take {_gib(memory.weights)} and overhead {overhead}; {left}."
    cache = f"KV cache of {_gib(memory.kv_cache)} (kv_cache_memory_bytes)"
    if fit.longest < length:
        return f"{judged}: the {cache} holds one chat of at most {fit.longest:,} tokens, {one}."
    needed = f"weights of {_gib(memory.weights)}, overhead of {overhead} and the {cache} need {_gib(memory.budget)}{each}"
    return f"{judged}: {needed}, and there is {_gib(memory.total)}."


def chats(fit: Fit) -> str:
    """Return for how many chats there is room: of full length, and of a typical one."""
    length, count = fit.serving.max_model_len, int(fit.concurrency)
    full = f"{count} chat{'' if count == 1 else 's'} of {length:,} tokens at a time"
    return full if length <= _capacity.TYPICAL_TOKENS else f"{full}, or {fit.typical} of {_capacity.TYPICAL_TOKENS:,}"


def _advice(question: Question, worst: Fit, fits: t.Sequence[Fit]) -> list[str]:
    """Return what would surely fit, the smallest change first."""
    proposals = _cpu_proposals(question, worst) if worst.gpu is None else _gpu_proposals(question, fits)
    return [text for text, changed in proposals if _passes(changed)]


def _gpu_proposals(question: Question, fits: t.Sequence[Fit]) -> t.Iterator[Proposal]:
    yield from _keep_off(question, fits)
    row = question.row
    lean = {
        "gpu_memory_utilization": max(row.get("gpu_memory_utilization", 0), LEAN_UTILIZATION),
        "max_num_batched_tokens": min(row.get("max_num_batched_tokens", LEAN_BATCH), LEAN_BATCH),
        "max_num_seqs": min(row.get("max_num_seqs", LEAN_SEQUENCES), LEAN_SEQUENCES),
        "kv_cache_memory_bytes": None,
    }
    lean = {key: value for key, value in lean.items() if row.get(key) != value}
    if lean:
        lean.update(_shorter(question.changed(**lean)))
        yield _of_row(question, lean)
    shorter = _shorter(question)
    if shorter:
        yield _of_row(question, shorter)
    yield from _more_gpus(question)
    other = _other_row(question)
    if other:
        yield f"vllm_model_name: {other}", dataclasses.replace(question, name=other, row=question.others[other], kv_cache_dtype="auto")


def _cpu_proposals(question: Question, worst: Fit) -> t.Iterator[Proposal]:
    roomy = question
    if worst.longest < worst.serving.max_model_len:
        if worst.longest:
            yield _of_row(question, {"max_model_len": worst.longest})
        needed = worst.request_bytes + _capacity.cache_of(question.row, worst.serving, None).block_bytes
        text, roomy = _of_row(question, {"kv_cache_memory_bytes": math.ceil(needed / MIB) * MIB})
        yield text, roomy
    if question.memory_mib is not None and _capacity.cpu_memory_mib(roomy.row) > question.memory_mib:
        limit_gib = math.ceil(_capacity.cpu_memory_mib(roomy.row) / 1024)
        also = "" if roomy is question else f" with {text}"
        yield f"vllm_memory_limit: {limit_gib}Gi{also}", dataclasses.replace(roomy, memory_mib=limit_gib * 1024)


def _of_row(question: Question, keys: t.Mapping[str, t.Any]) -> Proposal:
    words = ", ".join(f"{key}: {'null' if value is None else value}" for key, value in keys.items())
    return f"vllm_model_configs.{question.name}: {{{words}}}", question.changed(**keys)


def _shorter(question: Question) -> dict[str, int]:
    """Return the length with which it surely fits on every kind of GPU; nothing where none is needed, or none is worth proposing."""
    fits = _fits(question)
    length = min(fit.longest_surely for fit in fits)
    return {"max_model_len": length} if SHORTEST_TOKENS <= length < fits[0].serving.max_model_len else {}


def _keep_off(question: Question, fits: t.Sequence[Fit]) -> t.Iterator[Proposal]:
    """Propose a minimum of memory that only those GPUs have on which it fits, where there is one."""
    too_small = max((fit.gpu for fit in fits if fit.gpu and fit.verdict != FITS), key=lambda gpu: gpu.memory_mib)
    larger = [gpu for gpu in question.gpus if (gpu.get("memory_mib") or 0) > too_small.memory_mib]
    least_mib = min((gpu["memory_mib"] for gpu in larger), default=0)
    for gigabytes in (sold_gb(least_mib), least_mib * MIB // GB):
        if too_small.memory_mib * MIB < gigabytes * GB <= least_mib * MIB:
            yield f"llm_min_gpu_memory_gb: {gigabytes} (keeps it off the {too_small.product})", dataclasses.replace(question, gpus=larger)
            return


def _more_gpus(question: Question) -> t.Iterator[Proposal]:
    """Propose the smallest number of GPUs, of those that one node has, with which it surely fits."""
    on_node: t.Counter[t.Any] = collections.Counter()
    for gpu in question.gpus:
        on_node[gpu.get("node")] += int(gpu.get("count") or 0)
    for count in _catalog.GPU_COUNTS:
        enough = [gpu for gpu in question.gpus if on_node[gpu.get("node")] >= count]
        more = dataclasses.replace(question, gpu_count=count, gpus=enough)
        if count > question.gpu_count and _catalog.splits(question.row, count) and _passes(more):
            # the row's own number would contradict vllm_gpu_count
            own = "tensor_parallel_size" in question.row
            yield f"vllm_model_configs.{question.name}: {{tensor_parallel_size: {count}}}" if own else f"vllm_gpu_count: {count}", more
            return


def _other_row(question: Question) -> t.Optional[str]:
    """Return the row of the table that surely fits in its place, one that thinks if this one does, and the largest of those."""
    able = [name for name, row in question.others.items() if name != question.name and _may_replace(question, name, row)]
    thinks = bool(question.row.get("reasoning_parser"))

    def likeness(name: str) -> tuple[bool, float]:
        row = question.others[name]
        return bool(row.get("reasoning_parser")) == thinks, float(row.get("parameters_b", 0))

    return max(able, key=likeness, default=None)


def _may_replace(question: Question, name: str, row: Row) -> bool:
    """Whether *row* can be served on the same GPUs with nothing else changed."""
    if row.get("source") == "smoke" or row.get("unservable") or _catalog.missing_facts(dict(row)):
        return False
    if not row.get("production_use", True) or (row.get("gated") and not question.row.get("gated")):
        return False
    if question.row.get("tool_call_parser") and not row.get("tool_call_parser"):
        return False
    if row.get("tensor_parallel_size") not in (None, question.gpu_count):
        return False
    other = dataclasses.replace(question, name=name, row=row, kv_cache_dtype="auto")
    if _volume_refusal(other) or any(_lacks(gpu, row) for gpu in _kinds(question.gpus)):
        return False
    # without vllm_gpu_count, the number of GPUs is that of the row
    counts = {question.gpu_count, row.get("tensor_parallel_size", 1)}
    return all(_catalog.splits(row, count) and _passes(dataclasses.replace(other, gpu_count=count)) for count in counts)


def _lacks(gpu: Gpu, row: Row) -> bool:
    """Whether *gpu* is older, or smaller, than *row* asks for."""
    if gpu.memory_mib * MIB < row.get("min_gpu_memory_gb", 0) * GB:
        return True
    least, found = row.get("min_compute_capability"), gpu.compute_capability
    return bool(least and found) and _catalog.capability_tuple(str(found)) < _catalog.capability_tuple(str(least))


def _in_words(advice: t.Sequence[str]) -> str:
    return f"What would fit: {'; or '.join(advice)}." if advice else "Nothing near it would fit: take larger GPUs, or a smaller model."


def _volume_refusal(question: Question) -> t.Optional[str]:
    """Return why the weights cannot be stored, None where they can or where nobody knows."""
    weights = question.row.get("weights_gib")
    if question.volume_gib is None or not weights or weights + CACHES_GIB <= question.volume_gib:
        return None
    enough = math.ceil((weights + CACHES_GIB) * 1.1 / 10) * 10
    return (
        f"The volume of {question.volume_gib:g} GiB cannot hold {question.name}: weights {weights:g} GiB, and {CACHES_GIB} GiB for caches. "
        f"Set vllm_storage_size: {enough}Gi, and more when it has to hold other models, too."
    )


def _licence_notes(question: Question) -> list[str]:
    row = question.row
    if row.get("production_use", True):
        return []
    return [f"{question.name}: its licence ({row.get('license', 'see its card')}) does not allow production or commercial use."]


def _gib(size: float) -> str:
    return f"{size / MIB:.0f} MiB" if size < 1024 * MIB else f"{size / MIB / 1024:.1f} GiB"
