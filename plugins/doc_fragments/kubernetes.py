# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module reaches a cluster. Partner: plugins/module_utils/_kube.py, KUBERNETES_ARGS."""

from __future__ import annotations


class ModuleDocFragment:
    """Options and requirements of the modules that ask a Kubernetes API."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Path of the kubeconfig file.
      - Without it, E(KUBECONFIG), then C(~/.kube/config), then the service account of the pod that this runs in.
    type: path
  context:
    description:
      - Context of the kubeconfig. Without it, the kubeconfig's current context.
    type: str
requirements:
  - kubernetes >= 30 (Python package, where the module runs)
"""
