"""After uninstalling: nothing runs, and nothing that a user has is lost."""

from __future__ import annotations

import chat

NAMESPACE = "molecule-default"
testinfra_hosts = ["local://"]


def test_nothing_runs(host):
    for kind in ("deployments", "pods", "services", "jobs", "roles", "rolebindings", "servicemonitors"):
        assert chat.names(NAMESPACE, kind) == set(), kind


def test_volumes_and_secrets_are_kept():
    assert chat.names(NAMESPACE, "persistentvolumeclaims") == {"vllm-models", "open-webui"}
    assert {"vllm-secrets", "open-webui"} <= chat.names(NAMESPACE, "secrets")
    assert len(chat.secret(NAMESPACE, "open-webui", "WEBUI_ADMIN_PASSWORD")) >= 32
