#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that the Docker of a host can serve."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_check
short_description: Check that the Docker of a host can serve
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Says what is missing before anything is changed - Docker itself, the right to use it, a version that is new enough, the NVIDIA
    Container Toolkit, the program C(docker), the library C(requests) that C(community.docker) needs, and the disk for images.
  - Tells which images have to be pulled, and which ports of the host the deployment's own containers have.
  - It asks Docker's API over its socket, with nothing but Python.
  - The service of Podman speaks the same API, and is taken for models without a GPU.
attributes:
  check_mode:
    support: full
    description: Changes nothing, with or without it.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: Changes nothing.
options:
  docker_host:
    description: Socket of Docker, as C(unix:///path).
    type: str
    default: unix:///var/run/docker.sock
  gpus:
    description: Whether containers will ask for NVIDIA GPUs.
    type: bool
    default: false
  images:
    description: The images that are wanted.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Reference of the image.
        type: str
        required: true
      mib:
        description: What it takes on disk (MiB), roughly. Counted while it is not there.
        type: int
        default: 0
  pull:
    description: When images are pulled. With V(Never) all have to be there, with V(Always) all of them are told as missing.
    type: str
    choices: [IfNotPresent, Always, Never]
    default: IfNotPresent
  containers:
    description: Names of the deployment's containers.
    type: list
    elements: str
    default: []
  network:
    description: Name of the network that they are in.
    type: str
"""

EXAMPLES = r"""
- name: See whether a container with a GPU can be had
  llmops.serving.docker_check:
    gpus: true
    images:
      - {name: "vllm/vllm-openai:v0.32.0", mib: 30000}
  register: docker
"""

RETURN = r"""
engine:
  description: What serves the API, for people.
  returned: success
  type: str
  sample: Docker 28.2.2
api_version:
  description: Version of the API.
  returned: success
  type: str
  sample: "1.50"
root_dir:
  description: Folder of images and containers.
  returned: success
  type: str
  sample: /var/lib/docker
missing_images:
  description: Those of O(images) that have to be pulled.
  returned: success
  type: list
  elements: str
  sample: ["vllm/vllm-openai:v0.32.0"]
missing_mib:
  description: What they take on disk, roughly.
  returned: success
  type: int
  sample: 30000
ports:
  description: Ports of the host on which O(containers) listen.
  returned: success
  type: list
  elements: int
  sample: [8000]
network_usable:
  description: Whether containers can be compared with O(network). False in check mode only, where nothing makes one that is missing.
  returned: success
  type: bool
  sample: true
"""

import importlib.util
import os
import sys
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _docker
from ansible_collections.llmops.serving.plugins.module_utils._docker import Docker
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ALWAYS = "Always"
ROOT_ADVICE = (
    "llm_platform: docker needs root on the host, because the containers' users own files there, and this run is another user. Set "
    "ansible_become: true for it in the inventory."
)


def run(
    params: t.Mapping[str, t.Any],
    check_mode: bool = False,
    connect: t.Callable[[str], Docker] = Docker,
    user: t.Callable[[], int] = os.geteuid,
    has_requests: t.Optional[bool] = None,
) -> dict[str, t.Any]:
    """Return what the module returns. Raises ServingError for the first thing that stands in the way."""
    docker = connect(params["docker_host"])
    version, info = docker.get("/version"), docker.get("/info")
    engine = _docker.engine(version, info)
    _docker.check_engine(engine, params["gpus"])
    if user():
        raise ServingError(ROOT_ADVICE)
    found = importlib.util.find_spec("requests") is not None if has_requests is None else has_requests
    _docker.check_programs(engine.kind, found, sys.executable)
    images = [_docker.Image(image["name"], image["mib"], docker.image(image["name"])) for image in params["images"]]
    missing = _docker.check_images(images, engine.architecture, params["pull"])
    missing_mib = sum(image.mib for image in missing)
    if missing:
        _docker.check_disk(engine.root_dir, missing_mib, [image.name for image in missing])
    return {
        "changed": False,
        "engine": engine.title,
        "api_version": engine.api_version,
        "root_dir": engine.root_dir,
        "missing_images": [image.name for image in (images if params["pull"] == ALWAYS else missing)],
        "missing_mib": missing_mib,
        "network_usable": not check_mode or not params["network"] or docker.network(params["network"]) is not None,
        "ports": _docker.published_ports(map(docker.container, params["containers"])),
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "default": _docker.SOCKET},
            "gpus": {"type": "bool", "default": False},
            "images": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": {"type": "str", "required": True}, "mib": {"type": "int", "default": 0}},
            },
            "pull": {"type": "str", "choices": ["IfNotPresent", ALWAYS, _docker.NEVER], "default": "IfNotPresent"},
            "containers": {"type": "list", "elements": "str", "default": []},
            "network": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
