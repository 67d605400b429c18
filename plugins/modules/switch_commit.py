#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remember a plan that was verified, as the one to go back to."""

from __future__ import annotations

DOCUMENTATION = r"""
module: switch_commit
short_description: Remember what was verified, to go back to it
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Keeps the plan that was verified last, and all weights that were ever put onto the volume, in a ConfigMap beside the engines, or in
    the file C(last-good.json) of the state folder of a machine.
  - It holds references to secrets, never their values.
  - What M(llmops.serving.kubernetes_apply) prunes, this record is not among.
notes:
  - A record that cannot be read counts as none, and is written anew. One of a newer version of this collection is left alone.
  - All but the manifests can be read by C(kubectl get configmap -o yaml).
attributes:
  check_mode:
    description: Can run in check mode, also where there is no namespace or state folder yet.
    support: full
  diff_mode:
    description: Shows model, digest, strategy and weights before and after, not the manifests.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
options:
  namespace:
    description: Namespace of the engines. Exactly one of this and O(state_dir) is needed.
    type: str
  name:
    description: Name of the ConfigMap. Needed with O(namespace).
    type: str
  stack:
    description: The stack, for the label C(app.kubernetes.io/instance). The ConfigMap of another stack is left alone.
    type: str
  state_dir:
    description: State folder of the programs of this machine. It has to be there.
    type: path
  backend:
    description: Whose record it is. Each backend of a state folder has a file of its own. Used with O(state_dir).
    type: str
    choices: [vllm, ollama]
    default: vllm
    version_added: "0.3.0"
  state:
    description:
      - V(present) writes the record.
      - V(absent) forgets the plan. What is known of weights stays, unless O(forget_weights), because they outlive it.
    type: str
    choices: [present, absent]
    default: present
  model:
    description:
      - Name of the model's row.
      - Without it, the plan stays as it is, and only weights are added or forgotten.
    type: str
  digest:
    description: Digest of the plan, as M(llmops.serving.switch_plan) returned it. Needed with O(model).
    type: str
  strategy:
    description: How it came there. Needed with O(model).
    type: str
    choices: [surge, recreate]
  manifests:
    description: The final manifests, as M(llmops.serving.switch_plan) returned them. Needed with O(model) and O(namespace).
    type: list
    elements: dict
  programs:
    description: The programs of a machine. Needed with O(model) and O(state_dir).
    type: list
    elements: dict
  verify:
    description: How it was verified, for whoever does so again.
    type: dict
    default: {}
  weights:
    description:
      - Weights that are on the volume now, each by its path or name below the data folder, with its row (C(model)) and size (C(gib)).
      - They are added to those known. Since when they are known is noted as C(since).
      - Those that are known as weights of O(model) stay so, also where another row, which was tried and failed, has the same.
    type: dict
    default: {}
  weights_removed:
    description: Names of weights that are there no more.
    type: list
    elements: str
    default: []
  forget_weights:
    description: Remove the record as a whole. Used with O(state=absent).
    type: bool
    default: false
extends_documentation_fragment:
  - llmops.serving.kubernetes
"""

EXAMPLES = r"""
- name: Remember what was verified
  llmops.serving.switch_commit:
    namespace: chatbot
    name: vllm-state
    stack: chat
    model: qwen3-8b
    digest: "{{ switch.digest }}"
    strategy: "{{ switch.strategy }}"
    manifests: "{{ switch.manifests }}"
    weights:
      models--Qwen--Qwen3-8B: {model: qwen3-8b, gib: 15.26}

- name: Forget weights that were removed from the volume
  llmops.serving.switch_commit:
    namespace: chatbot
    name: vllm-state
    weights_removed: [models--Qwen--Qwen3-8B]
"""

RETURN = r"""
model:
  description: The model of the record. Empty where it knows of weights only.
  returned: success
  type: str
  sample: qwen3-8b
committed_at:
  description: When it was committed, in UTC. It stays the same until another plan is.
  returned: success
  type: str
  sample: "2026-11-21T16:06:00Z"
weights:
  description: All weights known.
  returned: success
  type: dict
  sample:
    models--Qwen--Qwen3-8B: {model: qwen3-8b, gib: 15.26, since: "2026-11-20T09:00:00Z"}
"""

import json
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _switch
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube
from ansible_collections.llmops.serving.plugins.module_utils._switch import ConfigMapStore, FileStore, Record

ARGS: dict[str, t.Any] = {
    **KUBERNETES_ARGS,
    "namespace": {"type": "str"},
    "name": {"type": "str"},
    "stack": {"type": "str"},
    "state_dir": {"type": "path"},
    "backend": {"type": "str", "choices": list(_switch.BACKENDS), "default": _switch.BACKENDS[0]},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "model": {"type": "str"},
    "digest": {"type": "str"},
    "strategy": {"type": "str", "choices": list(_switch.STRATEGIES)},
    "manifests": {"type": "list", "elements": "dict"},
    "programs": {"type": "list", "elements": "dict"},
    "verify": {"type": "dict", "default": {}},
    "weights": {"type": "dict", "default": {}},
    "weights_removed": {"type": "list", "elements": "str", "default": []},
    "forget_weights": {"type": "bool", "default": False},
}


def run(
    params: t.Mapping[str, t.Any],
    check_mode: bool = False,
    connect: t.Callable[..., Kube] = Kube.connect,
    now: t.Callable[[], float] = time.time,
) -> dict[str, t.Any]:
    """Write or remove the record, and return what the module returns, ``diff`` and ``trouble`` (a warning) included."""
    store: _switch.Store
    if params["state_dir"]:
        store = FileStore(params["state_dir"], params["backend"])
    else:
        kube = connect(params["kubeconfig"], params["context"])
        store = ConfigMapStore(kube, params["namespace"], params["name"], params["stack"])
    data = store.load()
    if params["state"] == "absent" and params["forget_weights"]:
        before, trouble, after = Record(), "", None
    else:
        before, trouble = _switch.from_data(data, store.where)
        after = wanted(params, before, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now())))
    if after is None:
        changed = data is not None
        change = store.delete
    else:
        record = after
        changed = bool(trouble) or record != before

        def change() -> None:
            store.write(record)

    if changed and not check_mode:
        change()
    left = after or Record()
    diff = {"before": _shown(None if data is None else before), "after": _shown(after)}
    titles = {"before_header": store.where, "after_header": store.where}
    return {
        "changed": changed,
        "model": left.model,
        "committed_at": left.committed_at,
        "weights": dict(left.weights),
        "diff": {**diff, **titles},
        "trouble": trouble,
    }


def wanted(params: t.Mapping[str, t.Any], before: Record, now: str) -> t.Optional[Record]:
    """Return the record that is to be, None for none."""
    served = {name for name, entry in before.weights.items() if params["model"] and entry.get("model") == params["model"]}
    # another row that failed may have the same weights; they stay those of the plan that serves from them
    added = {name: {**entry, "model": params["model"]} if name in served else entry for name, entry in params["weights"].items()}
    weights = _switch.known_weights(before.weights, added, params["weights_removed"], now)
    if params["state"] == "absent":
        return Record(weights=weights) if weights else None
    if params["model"] is None:
        return before._replace(weights=weights) if weights or before.is_good else None
    option = "programs" if params["state_dir"] else "manifests"
    if params[option] is None:
        raise ServingError(f"{option} is missing: the plan of {params['model']} cannot be remembered without.")
    plan = {"model": params["model"], "digest": params["digest"], "strategy": params["strategy"], "verify": params["verify"]}
    record = before._replace(**plan, manifests=params[option], weights=weights)
    return record if _is_same_plan(record, before) else record._replace(committed_at=now)


def _is_same_plan(record: Record, before: Record) -> bool:
    """Whether both are one plan, however the cluster came there."""
    return (record.model, record.digest, record.verify) == (before.model, before.digest, before.verify)


def _shown(record: t.Optional[Record]) -> str:
    return "" if record is None else json.dumps(record.shown(), sort_keys=True, indent=2) + "\n"


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec=ARGS,
        mutually_exclusive=[("namespace", "state_dir")],
        required_one_of=[("namespace", "state_dir")],
        required_together=[("model", "digest", "strategy")],
        required_by={"namespace": "name"},
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode, Kube.connect)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    trouble = result.pop("trouble")
    if trouble:
        module.warn(trouble)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
