#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell which backends a stack has, and which of them was verified last."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backend_info
short_description: Which backend serves, and which was verified last
version_added: "0.3.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Reads the records of vLLM and of Ollama of one stack, and looks at their Deployments.
  - It returns all that is needed to go back to the one that was verified last, or to remove the one that is not wanted any more.
  - At most one has a plan to go back to. M(llmops.serving.switch_commit) forgets the other's once a switch is verified.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.read_only]
options:
  namespace:
    description: Namespace of the stack.
    type: str
    required: true
  instance:
    description: The stack, the label C(app.kubernetes.io/instance) of its objects.
    type: str
    default: chat
"""

EXAMPLES = r"""
- name: See which backend serves
  llmops.serving.backend_info:
    namespace: chatbot
  register: found

- name: Tell
  ansible.builtin.debug:
    msg: "{{ found.backends.ollama.title }} serves: {{ found.backends.ollama.serves }}"
"""

RETURN = r"""
backends:
  description: What is known of C(vllm) and of C(ollama).
  returned: success
  type: dict
  sample:
    ollama:
      backend: ollama
      title: Ollama
      namespace: chatbot
      deployment: ollama
      state: ollama-state
      owner: {instance: chat, component: ollama}
      kinds: [Namespace, PersistentVolumeClaim, Service, Deployment]
      optional_kinds: []
      service: {namespace: chatbot, name: ollama, port: 11434}
      wants_pods: true
      serves: true
      weights: {}
      last_good:
        model: gpt-oss:20b
        digest: 0a1b2c3d4e5f
        committed_at: "2026-11-21T16:06:00Z"
        verify: {}
        manifests: []
        api_key_secret: null
        wait_timeout: 900
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _backends, _switch
from ansible_collections.llmops.serving.plugins.module_utils._apply import KINDS
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube


def run(params: t.Mapping[str, t.Any], connect: t.Callable[..., Kube] = Kube.connect) -> dict[str, t.Any]:
    """Return what the module returns, and in ``troubles`` what people are to be warned of. Raises ServingError."""
    kube = connect(params["kubeconfig"], params["context"])
    namespace = params["namespace"]
    backends, troubles = {}, []
    for backend in _backends.BACKENDS:
        where = _backends.place(backend, params["instance"], namespace)
        store = _switch.ConfigMapStore(kube, namespace, where["state"])
        record, trouble = _switch.from_data(store.load(), store.where)
        troubles += [trouble] if trouble else []
        backends[backend] = _backends.told(where, record, kube.get(KINDS["Deployment"].path(namespace, where["deployment"])))
    return {"backends": backends, "troubles": troubles}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "namespace": {"type": "str", "required": True},
            "instance": {"type": "str", "default": "chat"},
            **KUBERNETES_ARGS,
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, Kube.connect)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    for trouble in result.pop("troubles"):
        module.warn(trouble)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
