#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a registry which digest the tag of an image names."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_digest
short_description: Ask a registry which digest the tag of an image names
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Asks by the OCI distribution API, anonymously or with a login, with the flow of tokens that Docker Hub and others want. No program is
    needed for it, and nothing is pulled.
  - Of an image for several platforms it returns the digest of the index, by which every node finds its own, and that of one platform.
  - Manifests are hashed here. What is not what its digest says is an error.
  - A registry that breaks off is asked again, with growing pauses.
extends_documentation_fragment: [llmops.serving.read_only]
options:
  image:
    description: The image by tag or digest, as V(vllm/vllm-openai:v0.32.0) or V(registry.example.com:5000/vllm@sha256:...).
    type: str
    required: true
  registry:
    description: Registry that is asked in place of the image's own, perhaps with a path, as V(registry.example.com:5000/mirror).
    type: str
    default: ""
  mirrors:
    description:
      - Registries that are asked before, in this order. The first that has the image counts.
      - Each is a host, perhaps with a port and a path, and perhaps behind V(https://) or V(http://).
      - The login in O(username) is not for them; one in O(auth_file) is.
    type: list
    elements: str
    default: []
  platform:
    description: Operating system and architecture, perhaps with a variant, as V(linux/arm64/v8).
    type: str
    default: linux/amd64
  username:
    description: User of the registry.
    type: str
  password:
    description: Password or access token of O(username).
    type: str
  auth_file:
    description: Path of a docker C(config.json) that C(docker login) has written. O(username) wins over it. Helpers of it are not asked.
    type: path
  ca_path:
    description: Path of a PEM file with the authority of the registry's certificate, in addition to those of the system.
    type: path
  insecure:
    description: Let a registry speak plain HTTP. One on this machine always may. Certificates are checked nevertheless.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for an answer.
    type: float
    default: 15
  retries:
    description: How often a registry is asked again that does not answer, breaks off, or has an error of its own.
    type: int
    default: 3
"""

EXAMPLES = r"""
- name: Which digest does the tag name today?
  llmops.serving.image_digest:
    image: vllm/vllm-openai:v0.32.0
  register: engine
  delegate_to: localhost

- name: The same for an image of a private registry with an authority of its own
  llmops.serving.image_digest:
    image: registry.example.com:5000/vllm-router:0.1.17
    username: reader
    password: "{{ vault_registry_password }}"
    ca_path: /etc/ssl/certs/example-ca.pem
  delegate_to: localhost
"""

RETURN = r"""
image:
  description: The image by the registry that has answered, with its tag and digest.
  returned: success
  type: str
  sample: docker.io/vllm/vllm-openai:v0.32.0@sha256:6f8d0c1d0d5f6ab1fd8e4c2c46c1fd0ac2f5d8ab29a6c9b7a24c3c0e6a0ce1f5
digest:
  description: Digest of what the tag names, which is the index of an image for several platforms.
  returned: success
  type: str
  sample: sha256:6f8d0c1d0d5f6ab1fd8e4c2c46c1fd0ac2f5d8ab29a6c9b7a24c3c0e6a0ce1f5
manifest_digest:
  description: Digest of the image of RV(platform). It is RV(digest) where the image is for one platform.
  returned: success
  type: str
  sample: sha256:0b7a1c52d9f0de4c1bd8e7f2a5c3f0a9c7d1e6f84b2a93d5c0e1f2a3b4c5d6e7
platform:
  description: Platform of the image.
  returned: success
  type: str
  sample: linux/amd64
platforms:
  description: Platforms that there are. Empty where an image for one platform does not tell.
  returned: success
  type: list
  elements: str
  sample: [linux/amd64, linux/arm64]
size_bytes:
  description: Size of what a node pulls for RV(platform), compressed.
  returned: success
  type: int
  sample: 10846375936
media_type:
  description: Media type of what the tag names.
  returned: success
  type: str
  sample: application/vnd.oci.image.index.v1+json
registry:
  description: Host that has answered.
  returned: success
  type: str
  sample: registry-1.docker.io
requests:
  description: How many requests were sent, those for tokens included.
  returned: success
  type: int
  sample: 4
tried:
  description: What each of the registries said.
  returned: when none has the image
  type: list
  elements: str
  sample: ["mirror.example.com: no answer within 15 s (4 times)"]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _images, _registry
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "image": {"type": "str", "required": True},
    "registry": {"type": "str", "default": ""},
    "mirrors": {"type": "list", "elements": "str", "default": []},
    "platform": {"type": "str", "default": "linux/amd64"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "auth_file": {"type": "path"},
    "ca_path": {"type": "path"},
    "insecure": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 15},
    "retries": {"type": "int", "default": 3},
}


def run(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return what the registry says of the image. Raises ServingError."""
    if params["platform"].count("/") not in (1, 2):
        raise ServingError(f'platform: "{params["platform"]}" is none. It looks like linux/amd64.')
    image = _images.parse(_images.in_registry(params["image"], params["registry"]))
    if not image.tag and not image.digest:
        image = image._replace(tag="latest")
    own = _registry.place_of(image.host, "image")
    login = _registry.Login(params["username"], params["password"] or "") if params["username"] else None
    mirrors = [_registry.place_of(mirror, "llm_registry_mirrors") for mirror in params["mirrors"]]
    places = [*(_with_login(place, None, params) for place in mirrors), _with_login(own, login, params)]
    registries = [
        _registry.Registry(place, params["ca_path"], params["insecure"], params["timeout"], max(0, params["retries"])) for place in places
    ]
    paths = [f"{place.prefix}/{image.path}".lstrip("/") for place in places]
    found, registry = _registry.resolve(registries, paths, image, params["platform"])
    tag = f":{image.tag}" if image.tag else ""
    host = _images.DOCKER_HUB if registry.host == _registry.HUB_HOST else registry.host
    return {
        "changed": False,
        "image": f"{host}/{paths[registries.index(registry)]}{tag}@{found.digest}",
        **found._asdict(),
        "registry": registry.host,
        "requests": sum(each.requests for each in registries),
    }


def _with_login(place: _registry.Place, login: t.Optional[_registry.Login], params: t.Mapping[str, t.Any]) -> _registry.Place:
    """Return *place* with who may read there."""
    if login is None and params["auth_file"]:
        login = _registry.login_of(params["auth_file"], place.host)
    return place._replace(login=login)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, required_by={"password": ["username"]}, supports_check_mode=True)
    try:
        result = run(module.params)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
