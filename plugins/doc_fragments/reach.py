# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module reaches a router or an engine. Partner: plugins/module_utils/_reach.py, REACH_ARGS."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of the modules that ask an OpenAI-compatible endpoint."""

    DOCUMENTATION = r"""
options:
  url:
    description:
      - URL of the router or engine, without C(/v1).
      - Exactly one of O(url), O(service) and O(pods) is needed.
    type: str
  service:
    description: The Kubernetes Service of the router. A port-forward goes to the newest of its pods that is ready.
    type: dict
    suboptions:
      namespace:
        description: Namespace of the Service.
        type: str
        required: true
      name:
        description: Name of the Service.
        type: str
        required: true
      port:
        description: Port of the Service.
        type: int
        default: 8000
  pods:
    description: Pods to ask directly, past every Service. A port-forward goes to the newest of them that is ready.
    type: dict
    version_added: "0.2.0"
    suboptions:
      namespace:
        description: Namespace of the pods.
        type: str
        required: true
      label_selector:
        description: Label selector that finds the pods, as C(kubectl get pods -l) takes it.
        type: str
        required: true
      port:
        description: Port of the container.
        type: int
        default: 8000
  api_key:
    description:
      - API key of the router.
      - At most one of O(api_key), O(api_key_env), O(api_key_file) and O(api_key_secret) can be given. Without them, requests carry no key.
    type: str
  api_key_env:
    description: Environment variable that holds the API key, where the module runs.
    type: str
    version_added: "0.2.0"
  api_key_file:
    description: File that holds the API key, where the module runs. It is read there, so that the key never passes through Ansible.
    type: path
    version_added: "0.2.0"
  api_key_secret:
    description: Where the API key is kept in the cluster. The module reads it there, so that the key never passes through Ansible.
    type: dict
    suboptions:
      namespace:
        description: Namespace of the Secret.
        type: str
        required: true
      name:
        description: Name of the Secret.
        type: str
        required: true
      key:
        description: Which entry of the Secret's data.
        type: str
        required: true
  validate_certs:
    description: Whether the certificate of an HTTPS O(url) has to be valid.
    type: bool
    default: true
  ca_path:
    description: File with the certificates of the authorities to trust for an HTTPS O(url). Without it, those of the system.
    type: path
notes:
  - With O(url) and without O(api_key_secret), no Python package beside Ansible's own is needed, and the module can run on any host.
"""
