# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What got better or worse between two kept results, beyond noise, and which conditions differ.

A time or a throughput differs when its medians are further apart than the noise: three times the median deviation of the repetitions, and
no less than 5 % where both results have three of them, 10 % where they do not, 30 % where a figure rests on few answers. A share of
answers that passed differs by Fisher's exact test, or when all passed once and none does now.
"""

from __future__ import annotations

import math
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils import _results
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._results import Document, Metric, Series
from ansible_collections.llmops.serving.plugins.module_utils._text import aligned

DIFFERS, DOUBTFUL, WORSE, BETTER, SAME, ONLY_OLD, ONLY_NEW = "differs", "doubtful", "worse", "better", "same", "only old", "only new"

DEVIATIONS = 3
REPETITIONS = 3
NOISE_REPEATED = 0.05
NOISE = 0.10
# A figure that rests on fewer answers than this, such as the time of one probe, is hardly ever the same twice.
FEW_ANSWERS = 10
NOISE_FEW = 0.30
SIGNIFICANT = 0.05
# Prompts and answers whose length differs by more than this share are another load.
SAME_TOKENS = 0.05

UNKNOWN = "not known"


class Change(t.NamedTuple):
    """What is to be said of a condition or a figure. *old* and *new* are in words.

    *share*: by how much a figure changed (0.5: half as much again), *noise*: how much may be chance; shares, None where they have no
    meaning. *p_value*: how likely a difference of pass rates is by chance.
    """

    verdict: str
    name: str
    old: str
    new: str
    share: t.Optional[float] = None
    noise: t.Optional[float] = None
    p_value: t.Optional[float] = None


def compare(old: Document, new: Document) -> list[Change]:
    """Return what differs in the conditions, then every figure, the worst first, then what only one of the two results has.

    Raises ServingError for results of different kinds.
    """
    if old["kind"] != new["kind"]:
        raise ServingError(f"A {new['kind']} cannot be compared with a {old['kind']}. Name a result of the same kind.")
    # two models, or two ways to one, are compared with each other where there is no doubt which is meant
    one = {probe for probe in _results.PROBES if _is_one_each(probe, old, new)}
    before, after = _results.metrics(old, one), _results.metrics(new, one)
    judged = [(_judged(name, before[name], after[name]), before[name], after[name]) for name in before if _comparable(name, before, after)]
    judged.sort(key=lambda found: _badness(*found), reverse=True)
    return [
        *_conditions(old, new, one),
        *[Change(DOUBTFUL, name, *words) for name, words in _doubts(old, new, one).items()],
        *[change for change, _old, _new in judged],
        *[Change(ONLY_OLD, name, _shown(before[name]), "") for name in before if name not in after],
        *[Change(ONLY_NEW, name, "", _shown(after[name])) for name in after if name not in before],
    ]


def comparison(old: Document, new: Document) -> list[str]:
    """Return what compare finds as lines for people. What is within noise is only counted."""
    return lines(old, compare(old, new))


def lines(old: Document, changes: t.Sequence[Change]) -> list[str]:
    """Return *changes* since *old* as lines, the last of them with the counts."""
    judged = [change for change in changes if change.verdict in (WORSE, BETTER)]
    figures = aligned([(f"{change.old} -> {change.new}", *_reason(change)) for change in judged], range(3))
    rows = [(change.verdict, change.name, f"{change.old} -> {change.new}") for change in changes if change.verdict == DIFFERS]
    rows += [(change.verdict, change.name, _doubt(change)) for change in changes if change.verdict == DOUBTFUL]
    rows += [(change.verdict, change.name, figure) for change, figure in zip(judged, figures)]
    for verdict in (ONLY_OLD, ONLY_NEW):
        counts: dict[str, int] = {}
        for change in changes:
            if change.verdict == verdict:
                group = change.name.rpartition(": ")[0]
                counts[group] = counts.get(group, 0) + 1
        rows += [(verdict, group, f"{count} figure{'' if count == 1 else 's'}") for group, count in counts.items()]
    found = counted(changes)
    total = f"{found[WORSE]} worse, {found[BETTER]} better, {found[SAME]} within noise"
    return [f"Against {_results.headline(old)}:", *aligned(rows, range(3)), total] if rows else [total]


def counted(changes: t.Iterable[Change]) -> dict[str, int]:
    """Return how many figures are worse, better and the same."""
    verdicts = [change.verdict for change in changes]
    return {verdict: verdicts.count(verdict) for verdict in (WORSE, BETTER, SAME)}


def fisher(passed_a: int, tried_a: int, passed_b: int, tried_b: int) -> float:
    """Return how likely two shares are at least as far apart as these when nothing differs: Fisher's exact test, two-sided."""
    passed, tried = passed_a + passed_b, tried_a + tried_b
    log_all = _log_choose(tried, passed)

    def likelihood(in_a: int) -> float:
        return math.exp(_log_choose(tried_a, in_a) + _log_choose(tried_b, passed - in_a) - log_all)

    found = likelihood(passed_a) * (1 + 1e-7)
    possible = range(max(0, passed - tried_b), min(passed, tried_a) + 1)
    return min(1.0, sum(chance for chance in map(likelihood, possible) if chance <= found))


def noise(old: Metric, new: Metric) -> float:
    """Return by which share two figures may differ by chance."""
    if len(old.samples) >= REPETITIONS and len(new.samples) >= REPETITIONS:
        least = NOISE_REPEATED
    else:
        least = NOISE_FEW if min(old.answers, new.answers) < FEW_ANSWERS else NOISE
    return max(least, DEVIATIONS * max(old.spread or 0.0, new.spread or 0.0))


def _log_choose(count: int, chosen: int) -> float:
    return math.lgamma(count + 1) - math.lgamma(chosen + 1) - math.lgamma(count - chosen + 1)


# --- figures ---------------------------------------------------------------------------------------------------------------------------


def _comparable(name: str, before: t.Mapping[str, Metric], after: t.Mapping[str, Metric]) -> bool:
    """Whether both results have the figure, over the same things: a total over other cases says nothing."""
    return name in after and before[name].over == after[name].over


def _judged(name: str, old: Metric, new: Metric) -> Change:
    words = (name, _shown(old), _shown(new))
    if old.tried is not None and new.tried is not None:
        p_value = fisher(old.passed or 0, old.tried, new.passed or 0, new.tried)
        differs = p_value < SIGNIFICANT or {old.value, new.value} == {0.0, 1.0}
        return Change(_verdict(differs, old, new), *words, p_value=round(p_value, 4))
    chance = noise(old, new)
    # the same limit for twice as much and for half as much, so that it does not matter which result is the old one
    differs = _distance(old.value, new.value) > math.log1p(chance) + 1e-9
    share = new.value / old.value - 1 if old.value else None
    return Change(_verdict(differs, old, new), *words, share=None if share is None else round(share, 4), noise=round(chance, 4))


def _verdict(differs: bool, old: Metric, new: Metric) -> str:
    if not differs:
        return SAME
    return BETTER if (new.value > old.value) == (new.direction == _results.HIGHER) else WORSE


def _distance(one: float, other: float) -> float:
    """Return how far two figures, none of them negative, are apart on a logarithmic scale."""
    if one == other:
        return 0.0
    return abs(math.log(one / other)) if one > 0 and other > 0 else math.inf


def _badness(change: Change, old: Metric, new: Metric) -> tuple[int, float]:
    """Return what changes are sorted by: answers that fail weigh more than those that are late."""
    if change.verdict == SAME:
        return (0, 0.0)
    sign = 1 if change.verdict == WORSE else -1
    if old.tried is not None:
        return (sign * 2, sign * abs(new.value - old.value))
    return (sign, sign * _distance(old.value, new.value))


def _shown(metric: Metric) -> str:
    if metric.tried is not None:
        return f"{metric.passed} of {metric.tried}"
    unit = metric.unit if metric.unit.startswith("/") else f" {metric.unit}"
    return f"{_results.figure(metric.value)}{unit}"


def _doubt(change: Change) -> str:
    if change.old == change.new:
        return f"the client was the bottleneck (old and new: {change.old})"
    told = "; ".join(f"{when}: {why}" for when, why in (("old", change.old), ("new", change.new)) if why)
    return f"the client was the bottleneck ({told})"


def _reason(change: Change) -> tuple[str, str]:
    """Return by how much a figure changed, and what would be noise."""
    share = "" if change.share is None else f"{100 * change.share:+.0f} %"
    if change.noise is not None:
        return (share, f"(noise up to {100 * change.noise:.0f} %)")
    return (share, "" if change.p_value is None else f"(by chance: p = {change.p_value:.2g})")


# --- conditions ------------------------------------------------------------------------------------------------------------------------


def _is_one_each(probe: str, old: Document, new: Document) -> bool:
    before, after = _results.labels(old)[probe], _results.labels(new)[probe]
    return len(before) == len(after) == 1 and before != after


def _conditions(old: Document, new: Document, one: t.Container[str]) -> t.Iterator[Change]:
    """Yield what differs beside the figures: the deployment, the flags of the engine, and what was asked for."""
    before, after = old["deployment"], new["deployment"]
    for key in [*before, *(key for key in after if key not in before)]:
        if key != "flags":
            yield from _differs(_results.DEPLOYMENT.get(key, key), before.get(key), after.get(key))
    flags, new_flags = _flags(before), _flags(after)
    for name in [*flags, *(name for name in new_flags if name not in flags)]:
        yield from _differs(f"Flag {name}", flags.get(name, "not set"), new_flags.get(name, "not set"))
    for probe in _results.PROBES:
        if probe in one:
            yield from _differs(f"Run of {probe}", *(found[probe][0] for found in (_results.labels(old), _results.labels(new))))
    settings, new_settings = _settings(old, one), _settings(new, one)
    for name in settings:
        for key in [*settings[name], *(key for key in new_settings.get(name, {}) if key not in settings[name])]:
            if name in new_settings:
                yield from _differs(f"{name} {key}", settings[name].get(key), new_settings[name].get(key))
    loads, new_loads = ({_name(load, one): load for load in _results.loads(found)} for found in (old, new))
    yield from _differs("Objective of the goodput", _objectives(loads.values()), _objectives(new_loads.values()))
    for name in loads:
        if name in new_loads:
            yield from _differs(f"Load {name}", _offered(loads[name]), _offered(new_loads[name]))
            tokens, new_tokens = _tokens(loads[name]), _tokens(new_loads[name])
            if any(_distance(*pair) > math.log1p(SAME_TOKENS) for pair in zip(tokens.values(), new_tokens.values())):
                yield from _differs(f"Tokens of {name}", tokens, new_tokens)


def _differs(name: str, old: t.Any, new: t.Any) -> t.Iterator[Change]:
    before, after = (UNKNOWN if value in (None, "", []) else _results.shown(value) for value in (old, new))
    if before != after:
        yield Change(DIFFERS, name, before, after)


def _flags(deployment: t.Mapping[str, t.Any]) -> dict[str, str]:
    """Return the flags by name; one that has no value is set."""
    return {name: value or "set" for name, value in _results.options(deployment.get("flags") or [])}


def _settings(found: Document, one: t.Container[str]) -> dict[str, dict[str, t.Any]]:
    """Return the settings of the runs by their name, or by the probe where they need none. Of repetitions the last decides."""
    return {(run["name"] if run["probe"] not in one else "") or run["probe"]: run["settings"] for run in found["runs"]}


def _offered(load: Series) -> str:
    """Return what *load* offered, whatever it is called."""
    return _results.load_title({key: value for key, value in load.entries[0].items() if key in ("rate", "concurrency")})


def _objectives(loads: t.Iterable[Series]) -> str:
    return "; ".join(dict.fromkeys(_results.objective(load) for load in loads))


def _tokens(load: Series) -> dict[str, int]:
    """Return the tokens of a prompt and of an answer, as they were counted."""
    completed = max(1, load.total("completed"))
    return {"prompt": round(load.total("input_tokens") / completed), "answer": round(load.total("output_tokens") / completed)}


def _name(load: Series, one: t.Container[str]) -> str:
    return " ".join(word for word in ("" if load.probe in one else load.label, load.title) if word)


def _doubts(old: Document, new: Document, one: t.Container[str]) -> dict[str, tuple[str, str]]:
    """Return the loads at which the client was the bottleneck, with the reason in the old and in the new result."""
    before = {_name(load, one): _results.limited(load) for load in _results.loads(old)}
    after = {_name(load, one): _results.limited(load) for load in _results.loads(new)}
    found = {name: (before.get(name, ""), after.get(name, "")) for name in [*before, *after]}
    return {name: reasons for name, reasons in found.items() if any(reasons)}
