#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare a plan with the one that was verified last, and choose how to get from one to the other."""

from __future__ import annotations

DOCUMENTATION = r"""
module: switch_plan
short_description: Choose how running engines are replaced by others
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Reads what M(llmops.serving.switch_commit) has remembered, and what runs. Says whether engines have to be replaced, and how.
  - "Surge: the new engines start beside the old ones, are verified, and only then get the requests. Every new engine needs a node that
    may take it, and that has its CPU, memory and GPUs free beside all pods there, the old engines included. With a volume that one node
    can mount (C(ReadWriteOnce)), this has to be the node of the old engines."
  - "Recreate: the old engines end first."
  - Where nothing changes this costs two requests. Nodes and pods are listed only where there is something to decide.
  - On one machine (O(state_dir)) it is always recreate, because the router's engines are fixed at its start.
extends_documentation_fragment:
  - llmops.serving.kubernetes
  - llmops.serving.read_only
options:
  namespace:
    description: Namespace of the engines. Exactly one of this and O(state_dir) is needed.
    type: str
  name:
    description: Name of the ConfigMap with the record. Needed with O(namespace).
    type: str
  engine:
    description: Name of the Deployment of the engines. Needed with O(namespace).
    type: str
  manifests:
    description: All manifests of the plan, as M(llmops.serving.kubernetes_apply) takes them. Needed with O(namespace).
    type: list
    elements: dict
  access_mode:
    description: Access mode of the volume that the engines mount.
    type: str
    choices: [ReadWriteOnce, ReadWriteMany, ReadWriteOncePod]
    default: ReadWriteOnce
  state_dir:
    description: State folder of the programs of this machine.
    type: path
  backend:
    description: Whose record it is. Each backend of a state folder has a file of its own. Used with O(state_dir).
    type: str
    choices: [vllm, ollama]
    default: vllm
    version_added: "0.3.0"
  programs:
    description: All programs of the plan, as M(llmops.serving.supervisor_apply) takes them. Needed with O(state_dir).
    type: list
    elements: dict
  strategy:
    description:
      - V(auto) takes surge where there is room, recreate otherwise.
      - V(surge) fails where there is no room, and names what is short.
    type: str
    choices: [auto, surge, recreate]
    default: auto
"""

EXAMPLES = r"""
- name: Compare with what was verified last
  llmops.serving.switch_plan:
    namespace: chatbot
    name: vllm-state
    engine: vllm-backend
    manifests: "{{ manifests }}"
  register: switch

- name: Go back to the old engines where a switch to yet another plan was interrupted
  llmops.serving.switch_traffic:
    namespace: chatbot
    engine: vllm-backend
    to: old
  when: switch.unfinished

- name: Start the new engines, beside the old ones where there is room
  llmops.serving.kubernetes_apply:
    namespace: chatbot
    owner: {instance: chat, component: vllm}
    manifests: "{{ switch.held_manifests or switch.manifests }}"
"""

RETURN = r"""
needed:
  description: Whether engines run, and others are to take their place.
  returned: success
  type: bool
  sample: true
committed:
  description: Whether this very plan is what was verified last, and what is applied still. With O(state_dir), the former.
  returned: success
  type: bool
  sample: false
unfinished:
  description:
    - Whether a surge to another plan was interrupted. Requests may go to its engines, so turn them back before anything is applied, by
      M(llmops.serving.switch_traffic) with C(to=old).
    - A surge to this very plan goes on where it was interrupted.
  returned: success
  type: bool
  sample: false
digest:
  description: Digest of the plan.
  returned: success
  type: str
  sample: 6e0c1f4b8a2d
strategy:
  description: V(surge) or V(recreate). Where nothing is to be switched, that of the record, or else that of what runs or of the manifest.
  returned: success
  type: str
  sample: recreate
why:
  description: Why it is this strategy, or why nothing is to be switched.
  returned: success
  type: str
  sample: "recreate: node gpu-1 has 0 of 1 nvidia.com/gpu free beside the old engine"
manifests:
  description: O(manifests) with this strategy. They are what is to be applied in the end.
  returned: success
  type: list
  elements: dict
  sample: []
held_manifests:
  description: What is to be applied first on a surge. Empty on anything else.
  returned: success
  type: list
  elements: dict
  sample: []
last_good:
  description: What was verified last. Null where nothing was, or where it cannot be read any more.
  returned: success
  type: dict
  sample:
    model: qwen3-8b
    digest: 0a1b2c3d4e5f
    strategy: recreate
    committed_at: "2026-11-21T16:06:00Z"
    manifests: []
    verify: {}
  contains:
    model:
      description: Name of the model's row.
      type: str
      sample: qwen3-8b
    digest:
      description: Digest of the plan.
      type: str
      sample: 0a1b2c3d4e5f
    strategy:
      description: V(surge) or V(recreate).
      type: str
      sample: recreate
    committed_at:
      description: When it was committed, in UTC.
      type: str
      sample: "2026-11-21T16:06:00Z"
    manifests:
      description: Its manifests. With O(state_dir) these are its C(programs) instead.
      type: list
      elements: dict
      sample: []
    verify:
      description: How it was verified.
      type: dict
      sample: {}
way_back:
  description:
    - What is to be applied when this plan fails - the manifests of RV(last_good), which get their room by RV(strategy). With O(state_dir)
      its programs.
  returned: success
  type: list
  elements: dict
  sample: []
weights:
  description: All weights that were ever put onto the volume, by their path or name below the data folder.
  returned: success
  type: dict
  sample:
    models--Qwen--Qwen3-8B: {model: qwen3-8b, gib: 15.26, since: "2026-11-20T09:00:00Z"}
requests:
  description: Number of requests made to the Kubernetes API.
  returned: success
  type: int
  sample: 2
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _switch
from ansible_collections.llmops.serving.plugins.module_utils._apply import KINDS, annotations_of
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import HOLDING
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube, KubeError, Object
from ansible_collections.llmops.serving.plugins.module_utils._switch import AUTO, RECREATE, SURGE, Choice, ConfigMapStore, FileStore, Record

ARGS: dict[str, t.Any] = {
    **KUBERNETES_ARGS,
    "namespace": {"type": "str"},
    "name": {"type": "str"},
    "engine": {"type": "str"},
    "manifests": {"type": "list", "elements": "dict"},
    "access_mode": {"type": "str", "choices": ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"], "default": "ReadWriteOnce"},
    "state_dir": {"type": "path"},
    "backend": {"type": "str", "choices": list(_switch.BACKENDS), "default": _switch.BACKENDS[0]},
    "programs": {"type": "list", "elements": "dict"},
    "strategy": {"type": "str", "choices": [AUTO, *_switch.STRATEGIES], "default": AUTO},
}

ONE_MACHINE = {
    "vllm": "on one machine the router's engines are fixed at its start",
    "ollama": "one server at a time has the memory",
}


class Plan:
    """A plan for a cluster, beside what runs there and what was verified last. The constructor stores, ``run`` asks."""

    def __init__(self, kube: Kube, params: t.Mapping[str, t.Any]) -> None:
        self.kube = kube
        self.params = params
        self.namespace: str = params["namespace"]
        self.name: str = params["engine"]
        self.wanted: list[Object] = params["manifests"]
        self.live: t.Optional[Object] = None

    def run(self) -> dict[str, t.Any]:
        """Return the result of the module."""
        _switch.engine_of(self.wanted, self.name)
        self.digest = _switch.digest(self.wanted)
        store = ConfigMapStore(self.kube, self.namespace, self.params["name"])
        self.record, trouble = _switch.from_data(store.load(), store.where)
        self.live = self.kube.get(KINDS["Deployment"].path(self.namespace, self.name))
        same = self.record.is_good and self.record.digest == self.digest
        held, runs = _switch.is_held(self.live), bool(((self.live or {}).get("status") or {}).get("replicas"))
        applied = self._applied() == self.digest
        # what is held, and not this plan, is undone by applying what was verified last
        needed = runs and (applied or not same if held else not applied)
        choice, beside = self._choose(held, applied) if needed else (self._as_it_is(same, held, runs), False)
        return {
            "changed": False,
            "needed": needed,
            "committed": same and applied and not held,
            "unfinished": held and not applied,
            "digest": self.digest,
            "strategy": choice.strategy,
            "why": choice.why,
            "manifests": _switch.with_strategy(self.wanted, self.name, choice.strategy),
            "held_manifests": _switch.held(self.wanted, self.name) if beside else [],
            **told(self.record, "manifests"),
            # a strategy that has room for both only once the engines of this plan have ended would wait for ever
            "way_back": _switch.with_strategy(self.record.manifests, self.name, choice.strategy) if self.record.is_good else [],
            "requests": len(self.kube.sent),
            "trouble": trouble,
        }

    def _applied(self) -> str:
        """Return the digest of the plan that the live Deployment belongs to, empty where none is known."""
        return "" if self.live is None else annotations_of(self.live).get(_switch.PLAN, "")

    def _as_it_is(self, same: bool, held: bool, runs: bool) -> Choice:
        """Return the strategy that changes nothing where nothing is to be switched."""
        if same:
            return Choice(self.record.strategy, "an interrupted switch is undone" if held else "this plan is what was verified last")
        if runs and self.live is not None:
            return Choice(_switch.strategy_of(self.live), "it runs already")
        if self.record.is_good:
            return Choice(self.record.strategy, "no engine runs")
        return Choice(_switch.strategy_of(self.live or _switch.engine_of(self.wanted, self.name)), "no engine runs")

    def _choose(self, held: bool, applied: bool) -> tuple[Choice, bool]:
        """Return how the engines that run are replaced, and whether the new ones are held beside them."""
        if held and applied:
            return Choice(SURGE, f"{SURGE}: goes on where an earlier run was interrupted"), True
        known = self.record.is_good and self._applied() == self.record.digest and not held
        stays = _switch.only_beside(self.record.manifests, self.wanted, self.name) if known else ""
        if stays:
            return Choice(self.record.strategy, stays), False
        choice = self._decide(held)
        return choice, choice.strategy == SURGE

    def _decide(self, held: bool) -> Choice:
        wanted, engine = self.params["strategy"], _switch.engine_of(self.wanted, self.name)
        if wanted == RECREATE:
            return _switch.decide(wanted, engine, self.params["access_mode"], (), (), {})
        try:
            nodes = list(self.kube.list("/api/v1/nodes", missing_ok=False))
            pods = list(self.kube.list("/api/v1/pods", field_selector=HOLDING, missing_ok=False))
        except KubeError as exc:
            if exc.status != 403:
                raise
            unknown = "nodes and pods of the cluster may not be listed (403)"
            # a surge without room harms nobody: the new engines wait, and the old ones serve
            return Choice(SURGE, f"{SURGE}: as asked; {unknown}") if wanted == SURGE else Choice(RECREATE, f"{RECREATE}: {unknown}")
        live = t.cast("Object", self.live)
        if held:
            pods, left = self._without_leftovers(live, pods)
            if not left:
                reason = "an interrupted switch has left no engine that was verified"
                if wanted == SURGE:
                    raise ServingError(f"vllm_switch_strategy is surge, but {reason}. Set vllm_switch_strategy: auto. Nothing was changed.")
                return Choice(RECREATE, f"{RECREATE}: {reason}")
        engine = {**engine, "metadata": {**engine["metadata"], "namespace": self.namespace}}
        return _switch.decide(wanted, engine, self.params["access_mode"], nodes, pods, live["spec"]["selector"]["matchLabels"])

    def _without_leftovers(self, live: Object, pods: list[Object]) -> tuple[list[Object], bool]:
        """Return *pods* without those that were never committed, which end when another plan is applied, and whether others are left."""
        replica_sets = _switch.replica_sets_of(self.kube, self.namespace, live)
        own = [pod for pod in pods if pod["metadata"]["namespace"] == self.namespace]
        new, old = _switch.newest(live, replica_sets, own)
        doomed = {pod["metadata"]["uid"] for pod in [*new, *_switch.never_committed(live, replica_sets, own)]}
        left = any(pod["metadata"]["uid"] not in doomed for pod in old)
        return [pod for pod in pods if pod["metadata"]["uid"] not in doomed], left


def on_machine(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the result of the module for the programs of one machine."""
    reason = ONE_MACHINE[params["backend"]]
    if params["strategy"] == SURGE:
        raise ServingError(f"vllm_switch_strategy is surge, but {reason}. Set vllm_switch_strategy: auto. Nothing was changed.")
    store = FileStore(params["state_dir"], params["backend"])
    record, trouble = _switch.from_data(store.load(), store.where)
    digest = _switch.programs_digest(params["programs"])
    same = record.is_good and record.digest == digest
    why = f"{RECREATE}: {reason}" if not same else "this plan is what was verified last"
    return {
        "changed": False,
        "needed": record.is_good and not same,
        "committed": same,
        "unfinished": False,
        "digest": digest,
        "strategy": RECREATE,
        "why": why,
        "manifests": [],
        "held_manifests": [],
        **told(record, "programs"),
        "way_back": list(record.manifests) if record.is_good else [],
        "requests": 0,
        "trouble": trouble,
    }


def told(record: Record, key: str) -> dict[str, t.Any]:
    """Return what the module says of *record*; its manifests are called *key*."""
    good = {name: getattr(record, name) for name in ("model", "digest", "strategy", "committed_at", "verify")}
    return {"last_good": {**good, key: list(record.manifests)} if record.is_good else None, "weights": dict(record.weights)}


def run(params: t.Mapping[str, t.Any], connect: t.Callable[..., Kube] = Kube.connect) -> dict[str, t.Any]:
    """Return what the module returns, and in ``trouble`` what people are to be warned of. Raises ServingError."""
    if params["state_dir"]:
        return on_machine(params)
    return Plan(connect(params["kubeconfig"], params["context"]), params).run()


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec=ARGS,
        mutually_exclusive=[("namespace", "state_dir")],
        required_one_of=[("namespace", "state_dir")],
        required_by={"namespace": ("name", "engine", "manifests"), "state_dir": "programs"},
        supports_check_mode=True,
    )
    try:
        result = run(module.params, Kube.connect)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    trouble = result.pop("trouble")
    if trouble:
        module.warn(trouble)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
