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
  - Reads the records of vLLM and of Ollama of one stack, and looks at their Deployments or, on a host, at their programs.
  - It returns all that is needed to go back to the one that was verified last, or to remove the one that is not wanted any more.
  - At most one has a plan to go back to. M(llmops.serving.switch_commit) forgets the other's once a switch is verified.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.read_only]
options:
  namespace:
    description: Namespace of the stack. Exactly one of this and O(supervised) is needed.
    type: str
  instance:
    description: The stack, the label C(app.kubernetes.io/instance) of its objects.
    type: str
    default: chat
  supervised:
    description:
      - Programs of this host, as M(llmops.serving.supervisor_apply), M(llmops.serving.systemd_apply) or Docker keeps them running.
    type: dict
    suboptions:
      by:
        description: What keeps them running.
        type: str
        choices: [supervisord, systemd, docker]
        default: supervisord
      suffix:
        description: What the names of units have beside those of programs, as O(supervised.by=systemd) was given it.
        type: str
        default: ""
      docker_host:
        description: Socket of Docker, with O(supervised.by=docker).
        type: str
        default: unix:///var/run/docker.sock
      state_dir:
        description: Folder of the deployment.
        type: path
        required: true
  address:
    description: Where the programs of this host are reached. Used with O(supervised).
    type: str
    default: 127.0.0.1
"""

EXAMPLES = r"""
- name: See which backend serves
  llmops.serving.backend_info:
    namespace: chatbot
  register: found

- name: See it on a host
  llmops.serving.backend_info:
    supervised: {by: systemd, state_dir: /opt/llmops-serving/chat}

- name: Tell
  ansible.builtin.debug:
    msg: "{{ found.backends.ollama.title }} serves: {{ found.backends.ollama.serves }}"
"""

RETURN = r"""
backends:
  description:
    - What is known of C(vllm) and of C(ollama).
    - On a host, C(programs) and C(state_dir) stand in place of the Deployment and its namespace, and C(last_good) has C(programs), C(url)
      and C(api_key_file). C(kept) are the programs that are there, C(wants_pods) says that there is any, C(serves) that all of them run.
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

import os
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _backends, _host, _switch
from ansible_collections.llmops.serving.plugins.module_utils._apply import KINDS
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube
from ansible_collections.llmops.serving.plugins.module_utils._stack import stack_suffix
from ansible_collections.llmops.serving.plugins.module_utils._supervised import KEEPERS, SUPERVISED_OPTIONS
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import NotRunningError


def run(params: t.Mapping[str, t.Any], connect: t.Callable[..., Kube] = Kube.connect) -> dict[str, t.Any]:
    """Return what the module returns, and in ``troubles`` what people are to be warned of. Raises ServingError."""
    if params["supervised"]:
        return on_host(params)
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


def on_host(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the same of the programs of this host."""
    asked = params["supervised"]
    state_dir = os.path.abspath(asked["state_dir"])
    # units are told apart by their suffix, which keepers put behind a name; containers have it in their names
    suffix = stack_suffix(params["instance"]) if asked["by"] == "docker" else ""
    ports = _host.read_ports(Path(state_dir) / "ports.json")
    backends, troubles = {}, []
    for backend in _backends.BACKENDS:
        where = _backends.place_on_host(backend, params["instance"], state_dir, suffix)
        store = _switch.FileStore(state_dir, backend)
        record, trouble = _switch.from_data(store.load(), store.where)
        troubles += [trouble] if trouble else []
        try:
            infos = KEEPERS[asked["by"]]({**asked, "programs": where["programs"]}).processes()
        except NotRunningError:
            infos = []
        backends[backend] = _backends.told_on_host(where, record, infos, params["address"], ports)
    return {"backends": backends, "troubles": troubles}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "namespace": {"type": "str"},
            "instance": {"type": "str", "default": "chat"},
            "supervised": {"type": "dict", "options": SUPERVISED_OPTIONS},
            "address": {"type": "str", "default": "127.0.0.1"},
            **KUBERNETES_ARGS,
        },
        mutually_exclusive=[("namespace", "supervised")],
        required_one_of=[("namespace", "supervised")],
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
