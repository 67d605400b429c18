#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let the routers see the new engines, or the old ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: switch_traffic
short_description: Let routers see the new engines, or the old ones
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - While a Deployment is held between two generations of engines, changes which of them get the requests, by the label
    C(serving.llmops/routed) of their pods. Nothing is started or ended.
  - The pods that are to be seen are let in before the others are hidden, so that routers have one of them at any time.
  - The new pods are those of the Deployment's newest ReplicaSet. Pods that end or have ended do not count.
  - Nothing is changed where there are no pods on the side that is asked for.
attributes:
  check_mode:
    description: Can run in check mode and tell what would happen.
    support: full
  diff_mode:
    description: Does not show differences; RV(routed) and RV(hidden) say it all.
    support: none
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
options:
  namespace:
    description: Namespace of the engines.
    type: str
    required: true
  engine:
    description: Name of the Deployment of the engines.
    type: str
    required: true
  to:
    description:
      - V(new) hides the old pods. At least one new pod has to be ready.
      - V(old) hides the new pods, and those that an interrupted switch to yet another plan has left.
      - V(all) hides none.
    type: str
    choices: [new, old, all]
    required: true
extends_documentation_fragment:
  - llmops.serving.kubernetes
"""

EXAMPLES = r"""
- name: Requests go to the new engines
  llmops.serving.switch_traffic:
    namespace: chatbot
    engine: vllm-backend
    to: new
"""

RETURN = r"""
routed:
  description: Names of the pods that routers see now. In check mode, those that they would.
  returned: success
  type: list
  elements: str
  sample: [vllm-backend-5b8794bfb8-7dbd9]
hidden:
  description: Names of the pods that are hidden from them.
  returned: success
  type: list
  elements: str
  sample: [vllm-backend-6d6489b798-8w88z]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _switch
from ansible_collections.llmops.serving.plugins.module_utils._apply import KINDS, PODS
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube, Object, is_ready, selector_text

NEW = "new"
OLD = "old"
ALL = "all"

ARGS: dict[str, t.Any] = {
    **KUBERNETES_ARGS,
    "namespace": {"type": "str", "required": True},
    "engine": {"type": "str", "required": True},
    "to": {"type": "str", "choices": [NEW, OLD, ALL], "required": True},
}


def run(kube: Kube, params: t.Mapping[str, t.Any], check_mode: bool = False) -> dict[str, t.Any]:
    """Turn the labels round, and return what the module returns. Raises ServingError."""
    namespace, name, to = params["namespace"], params["engine"], params["to"]
    deployment = kube.get(KINDS["Deployment"].path(namespace, name))
    if deployment is None:
        raise ServingError(f"There is no Deployment {name} in namespace {namespace}. Look: kubectl -n {namespace} get deployments")
    replica_sets = _switch.replica_sets_of(kube, namespace, deployment)
    pods = list(kube.list(PODS.path(namespace), label_selector=selector_text(deployment["spec"]["selector"]["matchLabels"])))
    new, old = _switch.newest(deployment, replica_sets, pods)
    left = _switch.never_committed(deployment, replica_sets, pods)
    shown, hidden = sides(to, new, old, left)
    if not shown or (to == NEW and not any(map(is_ready, shown))):
        found = f"{len(new)} of the new engines, {sum(map(is_ready, new))} of them ready, and {len(old)} of the old ones"
        raise ServingError(
            f"Requests cannot go to the {to} engines of {namespace}/{name}: there are {found}. "
            f"Nothing was changed. Look: kubectl -n {namespace} get pods"
        )
    changes = [pod for pod in shown if not _switch.is_routed(pod)] + [pod for pod in hidden if _switch.is_routed(pod)]
    if not check_mode:
        shown = [pod for pod in shown if _switch.is_routed(pod) or _switch.route(kube, namespace, pod, True)]
        if not shown:
            raise ServingError(f"The {to} engines of {namespace}/{name} have just ended. The others keep the requests. Run again.")
        hidden = [pod for pod in hidden if not _switch.is_routed(pod) or _switch.route(kube, namespace, pod, False)]
    return {"changed": bool(changes), "routed": _names(shown), "hidden": _names(hidden)}


def sides(to: str, new: list[Object], old: list[Object], left: list[Object]) -> tuple[list[Object], list[Object]]:
    """Return the pods that routers are to see, and those to hide; *left* are those of *old* that were never committed."""
    if to == ALL:
        return [*new, *old], []
    if to == NEW:
        return new, old
    names = _names(left)
    return [pod for pod in old if pod["metadata"]["name"] not in names], [*new, *left]


def _names(pods: t.Iterable[Object]) -> list[str]:
    return sorted(pod["metadata"]["name"] for pod in pods)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGS, supports_check_mode=True)
    try:
        result = run(Kube.connect(module.params["kubeconfig"], module.params["context"]), module.params, module.check_mode)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
