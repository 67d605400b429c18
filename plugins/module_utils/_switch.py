# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""A change of the model as a transaction: what was verified last, how the new engines get their room, and where requests go meanwhile.

``surge``: the Deployment of the engines is applied *held*. Its new pods have to be ready for a year before they count as available, so
Kubernetes starts them beside the old ones and goes no further. They are hidden from the routers by a label, verified, and only then
the labels are turned round. The final manifests, which hold nothing, then let Kubernetes end the old pods.
``recreate``: the old pods end, then the new ones start.

The way back, while held, are final manifests too, those of the last good plan: Kubernetes ends the new pods and leaves the old ones as
they are. Held manifests are no way back: under them the old pods would not be available either, and Kubernetes would go no further.

Partners: plugins/modules/switch_plan.py, switch_commit.py and switch_traffic.py.
"""

from __future__ import annotations

import base64
import binascii
import collections
import contextlib
import copy
import gzip
import hashlib
import json
import math
import os
import tempfile
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._apply import (
    INSTANCE,
    KINDS,
    MANAGED_BY,
    MANAGER,
    PART_OF,
    PODS,
    annotations_of,
    is_dying,
    labels_of,
)
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import RESOURCES, node_gpus, placement_obstacle, pod_total
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, KubeError, Object, is_ready, selector_text
from ansible_collections.llmops.serving.plugins.module_utils._quantity import quantity_bytes
from ansible_collections.llmops.serving.plugins.module_utils._rollout import pods_of

AUTO, SURGE, RECREATE = "auto", "surge", "recreate"
STRATEGIES = (SURGE, RECREATE)

# Routers see the pods on which it is "true".
ROUTED = "serving.llmops/routed"
# On the Deployment of the engines: the digest of the plan that it belongs to.
PLAN = "serving.llmops/plan"
HASH = "pod-template-hash"

HOLD_S = 365 * 86400
STRATEGY_SPECS: dict[str, Object] = {
    SURGE: {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 0}},
    RECREATE: {"type": "Recreate"},
}

FORMAT = 1
STATE_FILE = "last-good.json"
# Backends that have a record, the first one that of the file without a name behind it.
BACKENDS = ("vllm", "ollama")
STATE = "vllm-state"
MOST_NODES = 3
GIB = 2**30


# --- manifests -------------------------------------------------------------------------------------------------------------------------


def digest(manifests: t.Iterable[Object]) -> str:
    """Return 12 hex digits of what the engines and their router are: template and replicas of each Deployment.

    How a Deployment gets there (its strategy, minReadySeconds, progressDeadlineSeconds) does not count, the order of keys neither.
    """
    parts = {}
    for manifest in manifests:
        if manifest.get("kind") == "Deployment":
            spec = manifest.get("spec") or {}
            parts[manifest["metadata"]["name"]] = [spec.get("template"), spec.get("replicas", 1)]
    return _hash(parts)


def programs_digest(programs: t.Iterable[Object]) -> str:
    """Return 12 hex digits of the programs of one machine, all that is in them."""
    return _hash({str(program.get("name")): program for program in programs})


def _hash(value: t.Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def engine_of(manifests: t.Iterable[Object], name: str) -> Object:
    """Return the Deployment called *name*; raise ServingError where there is none."""
    manifests = list(manifests)
    found = _find(manifests, name)
    if found is None:
        others = sorted(manifest["metadata"]["name"] for manifest in manifests if manifest.get("kind") == "Deployment")
        raise ServingError(f"The manifests have no Deployment {name}, the engine's; Deployments there: {', '.join(others) or 'none'}.")
    return found


def with_strategy(manifests: t.Sequence[Object], engine_name: str, strategy: str) -> list[Object]:
    """Return copies of *manifests*, final ones: the engine's Deployment replaces its pods by *strategy*, and holds nothing.

    It also gets the digest of the plan, by which a later run knows what has been applied.
    """
    copies = copy.deepcopy(list(manifests))
    engine = engine_of(copies, engine_name)
    engine["spec"]["strategy"] = copy.deepcopy(STRATEGY_SPECS[strategy])
    engine["metadata"]["annotations"] = {**annotations_of(engine), PLAN: digest(copies)}
    return copies


def held(manifests: t.Sequence[Object], engine_name: str) -> list[Object]:
    """Return copies of *manifests* whose engines start beside the old ones, and go no further until final manifests are applied."""
    copies = with_strategy(manifests, engine_name, SURGE)
    # the deadline has to be later
    engine_of(copies, engine_name)["spec"].update(minReadySeconds=HOLD_S, progressDeadlineSeconds=HOLD_S + 1)
    return copies


def is_held(document: t.Optional[Object]) -> bool:
    """Whether a Deployment or ReplicaSet waits to be let on; its pods then were never committed."""
    return bool(((document or {}).get("spec") or {}).get("minReadySeconds", 0) >= HOLD_S)


def strategy_of(deployment: Object) -> str:
    """Return by which strategy *deployment* replaces its pods, in this collection's word."""
    strategy = (deployment.get("spec") or {}).get("strategy") or {}
    return RECREATE if strategy.get("type") == "Recreate" else SURGE


def only_beside(before: t.Iterable[Object], after: t.Iterable[Object], engine_name: str) -> str:
    """Return in words what changes where no engine has to make room for another: its template is the same. Empty where one has to."""
    old, new = _find(before, engine_name), _find(after, engine_name)
    if old is None or new is None or old["spec"].get("template") != new["spec"].get("template"):
        return ""
    counts = [document["spec"].get("replicas", 1) for document in (old, new)]
    return "the engines stay as they are" if counts[0] == counts[1] else f"the engines stay as they are, {counts[1]} instead of {counts[0]}"


def _find(manifests: t.Iterable[Object], name: str) -> t.Optional[Object]:
    return next((m for m in manifests if m.get("kind") == "Deployment" and m["metadata"]["name"] == name), None)


# --- surge or recreate -----------------------------------------------------------------------------------------------------------------


class Choice(t.NamedTuple):
    """How the engines are replaced, and why so, in words that begin with the strategy."""

    strategy: str
    why: str


class Site(t.NamedTuple):
    """A node, and for how many new engines it has room beside all that runs there; ``short`` says of what it has too little."""

    node: str
    obstacle: str
    room: int
    short: str


def decide(
    wanted: str,
    engine: Object,
    access_mode: str,
    nodes: t.Iterable[Object],
    pods: t.Iterable[Object],
    own_selector: t.Mapping[str, str],
) -> Choice:
    """Return how the engines that run are replaced by those of the Deployment *engine*.

    *pods* are those of all namespaces that are bound to a node and not finished. Those of *engine*'s namespace that have the labels
    *own_selector* are the old engines; one that is on its way out already makes room by itself. Raises ServingError, with the numbers,
    where *wanted* is surge and that cannot be.
    """
    if wanted == RECREATE:
        return Choice(RECREATE, f"{RECREATE}: as vllm_switch_strategy says")
    possible, reason = _judge(engine, access_mode, list(nodes), list(pods), own_selector)
    if possible:
        return Choice(SURGE, f"{SURGE}: {reason}")
    if wanted == SURGE:
        raise ServingError(
            f"vllm_switch_strategy is surge, but {reason}. Make room, or set vllm_switch_strategy: auto, which ends the old engines first "
            "where both cannot run. Nothing was changed."
        )
    return Choice(RECREATE, f"{RECREATE}: {reason}")


def _judge(
    engine: Object, access_mode: str, nodes: list[Object], pods: list[Object], own_selector: t.Mapping[str, str]
) -> tuple[bool, str]:
    """Return whether old and new engines can run beside each other, and why (not)."""
    if access_mode == "ReadWriteOncePod":
        return False, "one pod at a time may use the volume (ReadWriteOncePod)"
    replicas = engine["spec"].get("replicas", 1)
    pods = [pod for pod in pods if not (is_dying(pod) and _is_own(pod, engine, own_selector))]
    old = [pod for pod in pods if _is_own(pod, engine, own_selector)]
    one_node = access_mode != "ReadWriteMany"
    candidates = nodes
    if one_node and old:
        holders = {pod["spec"]["nodeName"] for pod in old}
        candidates = [node for node in nodes if node["metadata"]["name"] in holders]
        if not candidates:
            return False, f"node {min(holders)}, where the volume is, is not there"
    spec = engine["spec"]["template"]["spec"]
    on_node: dict[str, list[Object]] = {}
    for pod in pods:
        on_node.setdefault(pod["spec"].get("nodeName") or "", []).append(pod)
    spread = not one_node and sum(not placement_obstacle(node, spec) for node in candidates) > 1
    sites = [_site(node, spec, on_node.get(node["metadata"]["name"], []), 1 if spread else replicas) for node in candidates]
    room = max((site.room for site in sites), default=0) if one_node else sum(site.room for site in sites)
    if room >= replicas:
        return True, f"{_names([site.node for site in _filled(sites, replicas, one_node)])} room for old and new"
    there = " (its volume is mounted there)" if len(sites) < len(nodes) else ""
    return False, _lack(sites, replicas, room, len(old)) + there


def _is_own(pod: Object, engine: Object, own_selector: t.Mapping[str, str]) -> bool:
    namespace = engine["metadata"].get("namespace")
    return namespace in (None, pod["metadata"].get("namespace")) and own_selector.items() <= labels_of(pod).items()


def _site(node: Object, spec: Object, pods: t.Iterable[Object], replicas: int) -> Site:
    """Judge one node for *replicas* pods with *spec*, *pods* being those that are there."""
    name = node["metadata"]["name"]
    asked = _requests(spec)
    obstacle = placement_obstacle(node, spec) or _shared_cards(node, asked)
    if obstacle:
        return Site(name, obstacle, 0, "")
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    free = {resource: _amount(resource, allocatable.get(resource, 0)) for resource in asked}
    for pod in pods:
        for resource, amount in _requests(pod["spec"]).items():
            if resource in free:
                free[resource] -= amount
    free = {resource: max(0, amount) for resource, amount in free.items()}
    room = min((free[resource] // amount for resource, amount in asked.items()), default=replicas)
    needed = {resource: amount * replicas for resource, amount in asked.items()}
    lacks = [_lacks(resource, free[resource], amount) for resource, amount in needed.items() if free[resource] < amount]
    return Site(name, "", room, " and ".join(lacks))


def _shared_cards(node: Object, asked: t.Mapping[str, int]) -> str:
    """Return why GPUs that are free by their number need not have free memory."""
    for accelerator, resource in RESOURCES.items():
        rows = node_gpus(node, accelerator, ()) if resource in asked else ()
        if any(gpus.resource == resource and gpus.sharing == "time-slicing" for gpus in rows):
            return "its GPUs are shared by time-slicing, so old and new may get the same card"
    return ""


def _requests(spec: Object) -> t.Counter[str]:
    """Return what a pod asks for: cpu in thousandths, memory in bytes, all else in pieces, and one of the pods that a node may have."""
    overhead = {resource: _amount(resource, amount) for resource, amount in (spec.get("overhead") or {}).items()}
    total = pod_total(spec, _container_requests) + collections.Counter(overhead)
    total["pods"] = 1
    return total


def _container_requests(container: Object) -> t.Counter[str]:
    resources = container.get("resources") or {}
    # the API server fills in requests from limits; a manifest has not been there yet
    given = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return collections.Counter({resource: _amount(resource, amount) for resource, amount in given.items()})


def _amount(resource: str, quantity: t.Any) -> int:
    try:
        amount = quantity_bytes(quantity)
    except (KeyError, ValueError):
        raise ServingError(f"{resource}: {quantity} is not a quantity. Write it like 500m, 4 or 16Gi.") from None
    return math.ceil(round(amount * 1000, 3) if resource == "cpu" else amount)


def _lacks(resource: str, free: int, needed: int) -> str:
    if resource == "cpu":
        return f"{free / 1000:g} of {needed / 1000:g} cpu"
    if resource in ("memory", "ephemeral-storage") or resource.startswith("hugepages-"):
        return f"{free / GIB:.1f} of {needed / GIB:.1f} GiB {resource}"
    return f"{free} of {needed} {resource}"


def _lack(sites: t.Sequence[Site], replicas: int, room: int, old: int) -> str:
    """Return why there is no room, the most hopeful nodes first."""
    beside = f"beside the old engine{'s' if old > 1 else ''}"
    ordered = sorted(sites, key=lambda site: (bool(site.obstacle), -site.room, site.node))
    if not ordered:
        return "the cluster has no node"
    if all(site.room and not site.short for site in ordered):
        return f"there is room for {room} of {replicas} new engines {beside}"
    phrases = [
        f"node {site.node} cannot take one ({site.obstacle})" if site.obstacle else f"node {site.node} has {site.short} free {beside}"
        for site in ordered[:MOST_NODES]
        if site.obstacle or site.short
    ]
    more = f" and {len(ordered) - MOST_NODES} more nodes do not help" if len(ordered) > MOST_NODES else ""
    count = f"there is room for {room} of {replicas} new engines: " if len(ordered) > 1 and replicas > 1 else ""
    return f"{count}{', '.join(phrases)}{more}"


def _filled(sites: t.Iterable[Site], replicas: int, one_node: bool) -> list[Site]:
    """Return the nodes that take the new engines, as few as need be."""
    ordered = sorted(sites, key=lambda site: (-site.room, site.node))
    if one_node:
        return ordered[:1]
    chosen: list[Site] = []
    for site in ordered:
        if sum(other.room for other in chosen) >= replicas:
            break
        chosen.append(site)
    return chosen


def _names(nodes: t.Sequence[str]) -> str:
    if len(nodes) == 1:
        return f"node {nodes[0]} has"
    return f"nodes {', '.join(nodes[:-1])} and {nodes[-1]} have" if len(nodes) <= MOST_NODES else f"{len(nodes)} nodes together have"


# --- what is remembered ----------------------------------------------------------------------------------------------------------------


class Record(t.NamedTuple):
    """What was verified last, and all weights that were ever put onto the volume.

    ``manifests`` are the final ones, or the programs of a machine. ``verify`` is how it was verified, for whoever does so again.
    ``weights`` has for each path or name below the data folder ``{"model": row, "gib": size, "since": time}``.
    A record without a digest knows of weights only. ``committed_at`` is in UTC, as ``2026-11-21T16:06:00Z``.
    """

    model: str = ""
    digest: str = ""
    strategy: str = ""
    committed_at: str = ""
    manifests: t.Sequence[Object] = ()
    verify: t.Mapping[str, t.Any] = {}
    weights: t.Mapping[str, t.Any] = {}

    @property
    def is_good(self) -> bool:
        """Whether there is a plan to go back to."""
        return bool(self.digest)

    def to_data(self) -> dict[str, str]:
        """Return the record as texts under keys, all but the manifests to be read by people."""
        data = {"version": str(FORMAT), "weights": _text(self.weights)}
        if self.is_good:
            # in their own order: that of a program's environment is that of its script
            packed = gzip.compress(json.dumps(list(self.manifests)).encode(), mtime=0)
            data.update(
                model=self.model,
                digest=self.digest,
                strategy=self.strategy,
                committed_at=self.committed_at,
                verify=_text(self.verify),
                manifests=base64.b64encode(packed).decode(),
            )
        return data

    def shown(self) -> dict[str, t.Any]:
        """Return what ``--diff`` shows of the record."""
        return {"model": self.model, "digest": self.digest, "strategy": self.strategy, "weights": self.weights}


def _text(value: t.Any) -> str:
    return json.dumps(value, sort_keys=True, indent=1)


class Remembered(t.NamedTuple):
    """A record as it was found; ``trouble`` says in a sentence what of it cannot be read."""

    record: Record
    trouble: str = ""


def from_data(data: t.Optional[t.Mapping[str, t.Any]], where: str) -> Remembered:
    """Return the record in *data*, as ``Record.to_data`` wrote it; *where* it was found is for messages.

    One that cannot be read counts as none, and as much as possible of its weights is kept: a damaged note must not keep a model from
    being served. One that a newer version of this collection wrote raises ServingError: it must not be overwritten.
    """
    if data is None:
        return Remembered(Record())
    version = str(data.get("version"))
    if version.isdecimal() and int(version) > FORMAT:
        raise ServingError(
            f"{where} was written by a newer version of this collection (format {version}, this one reads {FORMAT}). Update "
            "the collection, or delete it; then there is nothing to go back to until the next commit."
        )
    weights, troubles = _read_weights(data.get("weights"))
    record = Record(weights=weights)
    if data.get("digest"):
        try:
            record = _read_good(data, weights)
        except (KeyError, TypeError, ValueError, EOFError, OSError, binascii.Error) as exc:
            troubles.append(f"the plan ({type(exc).__name__})")
    elif version != str(FORMAT):
        troubles.append("what it is")
    trouble = f"{where} does not tell any more {' and '.join(troubles)}; it counts as unknown and is written anew" if troubles else ""
    return Remembered(record, trouble)


def _read_weights(text: t.Any) -> tuple[dict[str, t.Any], list[str]]:
    try:
        weights = json.loads(text or "{}")
    except (TypeError, ValueError):
        weights = None
    if not isinstance(weights, dict) or not all(isinstance(entry, dict) for entry in weights.values()):
        return {}, ["which weights are there"]
    return weights, []


def _read_good(data: t.Mapping[str, t.Any], weights: t.Mapping[str, t.Any]) -> Record:
    manifests = json.loads(gzip.decompress(base64.b64decode(data["manifests"], validate=True)))
    verify = json.loads(data["verify"])
    texts = [data[key] for key in ("model", "digest", "strategy", "committed_at")]
    whole = isinstance(manifests, list) and all(isinstance(manifest, dict) for manifest in manifests) and isinstance(verify, dict)
    if not whole or data["strategy"] not in STRATEGIES or not all(isinstance(text, str) for text in texts):
        raise ValueError
    model, own_digest, strategy, committed_at = texts
    return Record(model, own_digest, strategy, committed_at, manifests, verify, weights)


def known_weights(
    before: t.Mapping[str, t.Any], added: t.Mapping[str, t.Any], removed: t.Iterable[str], now: str
) -> dict[str, dict[str, t.Any]]:
    """Return *before* without *removed* and with *added*, each with the time ``since`` when it is known."""
    weights = {name: dict(entry) for name, entry in before.items()}
    for name in removed:
        weights.pop(name, None)
    for name, entry in added.items():
        weights[name] = {"since": now, **weights.get(name, {}), **entry}
    return weights


class ConfigMapStore:
    """The record in a ConfigMap. It is not among what kubernetes_apply prunes: it is part of nothing but itself."""

    def __init__(self, kube: Kube, namespace: str, name: str, stack: t.Optional[str] = None) -> None:
        self.kube = kube
        self.namespace = namespace
        self.name = name
        self.stack = stack
        self.path = KINDS["ConfigMap"].path(namespace, name)
        self.where = f"The ConfigMap {namespace}/{name}"

    def load(self) -> t.Optional[dict[str, t.Any]]:
        """Return the record's data, None where there is none. Raises ServingError where the ConfigMap is somebody else's."""
        live = self.kube.get(self.path)
        if live is not None:
            labels = labels_of(live)
            if labels.get(MANAGED_BY) != MANAGER or labels.get(PART_OF) != STATE or self.stack not in (None, labels.get(INSTANCE)):
                raise ServingError(f"{self.where} is not the record of this stack, so it is left alone. Rename it, then run again.")
            self.stack = labels.get(INSTANCE)
        return None if live is None else live.get("data") or {}

    def write(self, record: Record) -> None:
        """Write the record, and make the ConfigMap if need be."""
        labels = {MANAGED_BY: MANAGER, PART_OF: STATE, **({INSTANCE: self.stack} if self.stack else {})}
        metadata = {"name": self.name, "namespace": self.namespace, "labels": labels}
        self.kube.apply(self.path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": record.to_data()}, MANAGER)

    def delete(self) -> None:
        """Delete the ConfigMap."""
        self.kube.delete(self.path)


class FileStore:
    """The record in a file of the state folder, which its user alone can read."""

    def __init__(self, state_dir: str, backend: str = BACKENDS[0]) -> None:
        name, extension = os.path.splitext(STATE_FILE)
        file = STATE_FILE if backend == BACKENDS[0] else f"{name}-{backend}{extension}"
        self.path = os.path.join(os.path.abspath(state_dir), file)
        self.where = self.path

    def load(self) -> t.Optional[dict[str, t.Any]]:
        """Return the record's data, None where there is none. Raises ServingError where the file may not be read."""
        try:
            with open(self.path, encoding="utf-8") as file:
                data = json.load(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise ServingError(f"Cannot read {self.path}: {exc.strerror}. Give this user the right to, or remove it.") from None
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}

    def write(self, record: Record) -> None:
        """Write the file as a whole: whoever reads it meets the old record or the new one."""
        try:
            handle, name = tempfile.mkstemp(dir=os.path.dirname(self.path), prefix=f".{os.path.basename(self.path)}.")  # for its user only
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(record.to_data(), file, indent=1)
                    file.write("\n")
                os.replace(name, self.path)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as exc:
            raise ServingError(f"Cannot write {self.path}: {exc.strerror}. Free some space, or give this user the right to.") from None

    def delete(self) -> None:
        """Remove the file."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self.path)


Store = t.Union[ConfigMapStore, FileStore]


# --- traffic ---------------------------------------------------------------------------------------------------------------------------


def replica_sets_of(kube: Kube, namespace: str, deployment: Object) -> list[Object]:
    """Read the ReplicaSets that have the labels of *deployment*."""
    path = f"/apis/apps/v1/namespaces/{namespace}/replicasets"
    return list(kube.list(path, label_selector=selector_text(deployment["spec"]["selector"]["matchLabels"])))


def newest(deployment: Object, replica_sets: t.Iterable[Object], pods: t.Iterable[Object]) -> tuple[list[Object], list[Object]]:
    """Return the pods of the newest generation of *deployment*, and those of older ones; pods that end or have ended are neither.

    The newest ReplicaSet is the one with the Deployment's template, as for Kubernetes itself. Revisions would not do: the Deployment
    notes its own later than the rest of its status, and with Recreate there is none of the new template while the old pods end.
    """
    generation = _newest_set(deployment, replica_sets)
    living = [pod for pod in pods_of(deployment, pods) if is_living(pod)]
    name = generation["metadata"]["name"] if generation else None
    return [pod for pod in living if _set_name(pod) == name], [pod for pod in living if _set_name(pod) != name]


def never_committed(deployment: Object, replica_sets: t.Iterable[Object], pods: t.Iterable[Object]) -> list[Object]:
    """Return those of *pods* that an interrupted switch has left: held, and not of the newest generation."""
    replica_sets = list(replica_sets)
    names = {document["metadata"]["name"] for document in replica_sets if is_held(document)}
    return [pod for pod in newest(deployment, replica_sets, pods)[1] if _set_name(pod) in names]


def is_living(pod: Object) -> bool:
    """Whether *pod* is neither on its way out nor finished."""
    return not is_dying(pod) and (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded")


def is_routed(pod: Object) -> bool:
    """Whether routers see *pod*."""
    return labels_of(pod).get(ROUTED) == "true"


def route(kube: Kube, namespace: str, pod: Object, visible: bool) -> bool:
    """Let routers see *pod*, or hide it from them. Returns whether it is still there. Its ReplicaSet does not look at this label."""
    body = {"metadata": {"labels": {ROUTED: str(visible).lower()}}}
    try:
        kube.patch(PODS.path(namespace, pod["metadata"]["name"]), body)
    except KubeError as exc:
        if exc.status != 404:
            raise
        return False
    return True


def hide_new(kube: Kube, namespace: str, deployment: Object, pods: t.Iterable[Object]) -> list[str]:
    """Hide from the routers the pods of the newest generation of *deployment*, and return the names of those hidden now.

    To be called while the new engines of a held Deployment start, with all its pods: those that are not ready yet are hidden before
    they are. One that became ready unseen is hidden only while routers have a ready old one: they never see two models, and never
    none. Costs requests only where there is something to hide.
    """
    living = [pod for pod in pods_of(deployment, pods) if is_living(pod) and is_routed(pod)]
    if all(map(is_ready, living)) and len({_set_name(pod) for pod in living}) < 2:
        return []
    new, old = newest(deployment, replica_sets_of(kube, namespace, deployment), living)
    served = any(map(is_ready, old))
    doomed = [pod for pod in new if served or not is_ready(pod)]
    return [pod["metadata"]["name"] for pod in doomed if route(kube, namespace, pod, False)]


def _newest_set(deployment: Object, replica_sets: t.Iterable[Object]) -> t.Optional[Object]:
    """Return the ReplicaSet of the current template, None while the cluster has not made it; of several the oldest, as Kubernetes does."""
    uid, name = deployment["metadata"].get("uid"), deployment["metadata"]["name"]
    own = [
        document
        for document in replica_sets
        if any(owner.get("uid") == uid and owner["name"] == name for owner in document["metadata"].get("ownerReferences") or [])
        and _template(document) == _template(deployment)
    ]
    return min(own, key=lambda document: str(document["metadata"].get("creationTimestamp")), default=None)


def _template(document: Object) -> Object:
    """Return the pod template of a Deployment or ReplicaSet, without the label that tells ReplicaSets apart."""
    template = (document.get("spec") or {}).get("template") or {}
    metadata = template.get("metadata") or {}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH}
    return {**template, "metadata": {**metadata, "labels": labels}}


def _set_name(pod: Object) -> str:
    owners = pod["metadata"].get("ownerReferences") or []
    return next((str(owner["name"]) for owner in owners if owner.get("kind") == "ReplicaSet"), "")
