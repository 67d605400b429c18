# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the facts: its options, how it fails, and that serving_results takes what it returns."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.llmops.serving.plugins.module_utils import _results
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import serving_facts
from ansible_collections.llmops.serving.tests.unit.plugins.module_utils.test_facts import Cluster, deployed, engine

PARAMS: dict[str, t.Any] = {"namespace": None, "state_dir": None, "stack": "chat", "kubeconfig": None, "context": None}


def start(capsys: pytest.CaptureFixture[str], **args: t.Any) -> dict[str, t.Any]:
    """Run the module as Ansible starts it."""
    with patch_module_args(args), pytest.raises(SystemExit):
        serving_facts.main()
    result: dict[str, t.Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.mark.parametrize("check_mode", [False, True])
def test_what_is_deployed_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str], check_mode: bool) -> None:
    result = start(capsys, state_dir=str(deployed(tmp_path, "vllm-cpu")), stack="mine", _ansible_check_mode=check_mode)
    found = result["deployment"]
    assert (result["changed"], found["platform"], found["model"], found["stack"]) == (False, "local", "smoke", "mine")
    kept = _results.document({"kind": "benchmark", "deployment": found, "runs": [{"probe": "serving_benchmark", "result": {}}]})
    assert kept["deployment"] == found


def test_nothing_deployed_fails_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = start(capsys, state_dir=str(tmp_path))
    assert result["failed"]
    assert result["msg"].startswith(f"Nothing is deployed in {tmp_path}: ")


@pytest.mark.parametrize("args", [{}, {"namespace": "chatbot", "state_dir": "/srv/chat"}])
def test_one_place_has_to_be_named(capsys: pytest.CaptureFixture[str], args: dict[str, str]) -> None:
    assert "namespace" in start(capsys, **args)["msg"]


def test_all_that_is_returned_is_documented(tmp_path: Path) -> None:
    documented = yaml.safe_load(serving_facts.RETURN)["deployment"]["contains"]
    result = serving_facts.run({**PARAMS, "namespace": "chatbot"}, connect=lambda *_options: t.cast("t.Any", Cluster(engine())))
    assert set(result) == {"deployment"}
    assert set(result["deployment"]) == set(documented)
    assert set(serving_facts.run({**PARAMS, "state_dir": str(deployed(tmp_path))})["deployment"]) == set(documented)


def test_advice_asks_the_same_cluster() -> None:
    params = {**PARAMS, "namespace": "chatbot", "kubeconfig": "/my config", "context": "prod"}
    with pytest.raises(ServingError, match="kubectl --kubeconfig '/my config' --context prod -n chatbot get pods"):
        serving_facts.run(params, connect=lambda *_options: t.cast("t.Any", Cluster(engine(ready=False))))
