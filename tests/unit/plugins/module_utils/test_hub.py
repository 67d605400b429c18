# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a repository is the weights, and how large they are. Reading itself: tests/unit/plugins/modules/test_model_info.py."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._hub import index_size, loaded_files


def test_the_size_in_an_index() -> None:
    files = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    assert index_size({"metadata": {"total_size": 15231233024}, "weight_map": files}) == 15231233024
    assert index_size({"metadata": {"total_size": 1.5e10}, "weight_map": files}) == 15_000_000_000


@pytest.mark.parametrize(
    "index",
    [
        None,
        [],
        {},
        {"metadata": {"total_size": 5}},
        {"metadata": {"total_size": 5}, "weight_map": {}},
        {"metadata": {"total_size": 5}, "weight_map": {"a": "pytorch_model.bin"}},
        {"metadata": {"total_size": 5}, "weight_map": {"a": "original/model.safetensors"}},
        {"metadata": {}, "weight_map": {"a": "model.safetensors"}},
        {"metadata": {"total_size": 0}, "weight_map": {"a": "model.safetensors"}},
        {"metadata": {"total_size": True}, "weight_map": {"a": "model.safetensors"}},
        {"metadata": {"total_size": float("inf")}, "weight_map": {"a": "model.safetensors"}},
    ],
)
def test_an_index_that_does_not_tell_what_vllm_loads(index: t.Any) -> None:
    assert index_size(index) is None


def test_files_that_vllm_loads() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert loaded_files(["config.json", *shards, "original/model.safetensors", "model.bin"]) == shards
    assert loaded_files([*shards, "consolidated.safetensors"]) == ["consolidated.safetensors"]
