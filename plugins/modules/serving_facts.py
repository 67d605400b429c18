#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell what is deployed, for results that are kept."""

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_facts
short_description: Tell what is deployed, for results that are kept
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Looks at the engine that runs, and not at what an inventory says. On Kubernetes that is the newest ready pod to which the routers send
    requests, and its node; on this machine the launch scripts and virtual environments in the state folder.
  - Returns it in the form that M(llmops.serving.serving_results) takes as C(document.deployment).
  - What cannot be found out is null, such as the GPU when this user may not look at nodes. Where nothing is deployed, the module fails.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.read_only]
options:
  namespace:
    description:
      - Namespace of the stack.
      - Exactly one of O(namespace), O(state_dir) and O(docker_host) is needed.
    type: str
  state_dir:
    description: State folder of the deployment on this machine.
    type: path
  docker_host:
    description: Socket of the Docker that keeps the containers of the deployment on this machine, as C(unix:///path).
    type: str
    version_added: "0.2.0"
  stack:
    description: Name of the stack, the label C(app.kubernetes.io/instance) of its objects.
    type: str
    default: chat
notes:
  - With O(state_dir), no Python package beside Ansible's own is needed.
seealso:
  - module: llmops.serving.serving_results
"""

EXAMPLES = r"""
- name: Find out what is deployed
  llmops.serving.serving_facts:
    namespace: chatbot
  register: found

- name: Measure it
  llmops.serving.serving_benchmark:
    model: "{{ found.deployment.model }}"
    url: http://router.example.com
    concurrency: 4
  register: benchmark

- name: Keep both
  delegate_to: localhost
  llmops.serving.serving_results:
    document:
      kind: benchmark
      deployment: "{{ found.deployment }}"
      runs:
        - probe: serving_benchmark
          result: "{{ benchmark }}"
"""

RETURN = r"""
deployment:
  description: What is deployed. Null, or an empty list, stands for what could not be found out, or what the platform does not have.
  returned: success
  type: dict
  contains:
    model:
      description: The name by which the engine serves its model.
      returned: success
      type: str
      sample: gpt-oss-120b
    stack:
      description: The option O(stack).
      returned: success
      type: str
      sample: chat
    platform:
      description: V(kubernetes) or V(local).
      returned: success
      type: str
      sample: kubernetes
    gpu:
      description: The GPUs of one engine.
      returned: success
      type: str
      sample: 2 x NVIDIA-A100-SXM4-80GB
    vllm_version:
      description: What the engine says at C(GET /version). Where it does not answer, on this machine what is installed.
      returned: success
      type: str
      sample: 0.32.0
    image:
      description: Image of the engine. Null on this machine.
      returned: success
      type: str
      sample: vllm/vllm-openai:v0.32.0
    image_digest:
      description: Digest of the image that runs, as the node knows it. Null on this machine.
      returned: success
      type: str
      sample: sha256:d623253f2ba246378421c9642e20885e65257f38418ff26d48c81aea1702521b
    router:
      description: Which router stands before it.
      returned: success
      type: str
      sample: production-stack (lmcache/lmstack-router:v0.1.12)
    flags:
      description: Arguments of the engine, behind C(vllm serve).
      returned: success
      type: list
      elements: str
      sample: [/data/models/gpt-oss-120b, --served-model-name, gpt-oss-120b, --max-model-len, "65536"]
    engines:
      description: How many engines are ready.
      returned: success
      type: int
      sample: 1
    node:
      description: Where the engine runs.
      returned: success
      type: str
      sample: gpu-a
    cpu:
      description: The CPUs there. On Kubernetes only their number and kind are known.
      returned: success
      type: str
      sample: 16 x amd64
    environment:
      description: Name of the virtual environment, with the digest of its lock. Null on Kubernetes.
      returned: success
      type: str
      sample: vllm-cpu-0123abcd
    torch_version:
      description: Version of PyTorch in that environment. Null on Kubernetes.
      returned: success
      type: str
      sample: 2.13.0+cpu
"""

import platform
import shlex
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils._docker import Docker
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._facts import cluster_facts, container_facts, host_facts
from ansible_collections.llmops.serving.plugins.module_utils._gpu import WSL_FOLDER
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube

if t.TYPE_CHECKING:
    from ansible_collections.llmops.serving.plugins.module_utils._gpu import Ask


def run(
    params: t.Mapping[str, t.Any], ask: t.Optional[Ask] = None, connect: t.Callable[..., Kube] = Kube.connect, host: str = ""
) -> dict[str, t.Any]:
    """Look, and return what the module returns. *ask* runs nvidia-smi; it is None where there is none.

    Raises ServingError when nothing is deployed.
    """
    if params.get("docker_host"):
        return {"deployment": container_facts(Docker(params["docker_host"]), params["stack"], ask, host or platform.node())}
    if params["state_dir"]:
        return {"deployment": host_facts(Path(params["state_dir"]), params["stack"], ask, host or platform.node())}
    kube = connect(params["kubeconfig"], params["context"])
    flags = {"--kubeconfig": params["kubeconfig"], "--context": params["context"], "-n": params["namespace"]}
    look = " ".join(["kubectl", *(f"{flag} {shlex.quote(value)}" for flag, value in flags.items() if value)])
    return {"deployment": cluster_facts(kube, params["namespace"], params["stack"], look)}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "namespace": {"type": "str"},
            "state_dir": {"type": "path"},
            "docker_host": {"type": "str"},
            "stack": {"type": "str", "default": "chat"},
            **KUBERNETES_ARGS,
        },
        mutually_exclusive=[("namespace", "state_dir", "docker_host")],
        required_one_of=[("namespace", "state_dir", "docker_host")],
        supports_check_mode=True,
    )
    binary = module.get_bin_path("nvidia-smi", opt_dirs=[WSL_FOLDER]) if module.params["state_dir"] else None

    def ask(*arguments: str) -> tuple[int, str, str]:
        code, out, err = module.run_command([binary, *arguments], environ_update={"LC_ALL": "C"})
        return code, out, err

    try:
        result = run(module.params, ask if binary else None)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
