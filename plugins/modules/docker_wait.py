#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until containers answer, or say why one of them does not."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_wait
short_description: Wait until containers of this host answer
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Waits until each container answers at its URL.
  - A container that ends before, or that Docker starts again and again, is not waited for; the message has the decisive line of its log.
  - Unlike C(state=healthy) of M(community.docker.docker_container), which waits for a health check that nobody tells the reason of.
extends_documentation_fragment: [llmops.serving.progress]
attributes:
  check_mode:
    description: Does not wait.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
options:
  docker_host:
    description: Socket of Docker, as C(unix:///path).
    type: str
    default: unix:///var/run/docker.sock
  ready_urls:
    description: For each container the URL (C(http://...)) that answers with a status below 400 when it is ready.
    type: dict
    required: true
  wait_timeout:
    description: For how many seconds to wait.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Wait for the page
  llmops.serving.docker_wait:
    ready_urls: {open-webui: "http://127.0.0.1:8080/ready"}
"""

RETURN = r"""
ready:
  description: Whether all of them answer. False in check mode only.
  returned: success
  type: bool
  sample: true
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils._component import until_ready
from ansible_collections.llmops.serving.plugins.module_utils._docker import SOCKET, Containers, Docker
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress


def run(params: t.Mapping[str, t.Any], check_mode: bool = False, connect: t.Callable[[str], Docker] = Docker) -> dict[str, t.Any]:
    """Wait, and return what the module returns. Raises ServingError."""
    if not check_mode:
        urls = params["ready_urls"]
        until_ready(Containers(connect(params["docker_host"]), urls), urls, params["wait_timeout"], Progress(params["progress_path"]))
    return {"changed": False, "ready": not check_mode}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "default": SOCKET},
            "ready_urls": {"type": "dict", "required": True},
            "wait_timeout": {"type": "int", "default": 300},
            **PROGRESS_ARGS,
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
