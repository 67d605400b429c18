"""After the uninstall: nothing runs, and what the user has is there."""

from __future__ import annotations

import local

testinfra_hosts = ["local://"]


def test_nothing_runs():
    assert local.processes() == []
    assert not (local.STATE / "supervisord.sock").exists()


def test_chats_models_and_secrets_are_kept():
    assert (local.STATE / "open-webui/data/webui.db").stat().st_size > 0
    assert list((local.STATE / "huggingface/hub/models--acme--tiny/snapshots").glob("*/config.json"))
    assert (local.STATE / "secrets/vllm/VLLM_API_KEY").exists()
