# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start a real engine with the smoke models and each of some parsers, ask it all cases of tool_call_probe, and keep what was found.

usage: scripts/parser_probes.py --python PATH smoke=FOLDER smoke-json=FOLDER

PATH is a Python that has vLLM, FOLDER a trained model: both lie in the state folder of an installation on this machine (docs/local.md).
Results go to tests/parsers/probes/, from where `make docs` takes them into docs/parser-matrix.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / ".venv/collections"), str(ROOT / "molecule/shared")]
import engine  # noqa: E402
from ansible_collections.llmops.serving.plugins.module_utils import _results  # noqa: E402

PROBES = ROOT / "tests/parsers/probes"
AUTO = "--enable-auto-tool-choice"
# The row's own parser first, then those of other families, none, and one that is named but not enabled.
PARSERS = {
    "smoke": ("hermes", "llama3_json", "pythonic", None, "hermes, not enabled"),
    "smoke-json": ("llama3_json", "hermes", "pythonic", None, "llama3_json, not enabled"),
}


def flags_of(parser: t.Optional[str]) -> list[str]:
    """Return the flags of an engine with *parser*."""
    if parser is None:
        return []
    name, _comma, disabled = parser.partition(", ")
    return ["--tool-call-parser", name] if disabled else [AUTO, "--tool-call-parser", name]


def module(arguments: dict[str, t.Any]) -> dict[str, t.Any]:
    """Run tool_call_probe as Ansible does."""
    done = subprocess.run(
        [sys.executable, "-m", "ansible_collections.llmops.serving.plugins.modules.tool_call_probe"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env={**os.environ, "PYTHONPATH": str(ROOT / ".venv/collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    result: dict[str, t.Any] = json.loads(done.stdout or "{}")
    if not result.get("cases"):
        raise SystemExit(f"tool_call_probe failed: {result.get('msg') or done.stderr}")
    return result


def probed(python: str, model: str, folder: Path, parser: t.Optional[str], tries: int) -> dict[str, t.Any]:
    """Return the document of one engine."""
    flags = flags_of(parser)
    version = subprocess.run(
        [python, "-c", "import importlib.metadata; print(importlib.metadata.version('vllm'))"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as name, engine.running(python, folder, model, flags, Path(name) / "log") as url:
        result = module({"url": url, "model": model, "tries": tries})
    deployment = {"model": model, "platform": "local", "vllm_version": version, "flags": flags}
    run = {"probe": "tool_call_probe", "name": model, "settings": {"tries": tries}, "result": result}
    return _results.document({"kind": "probe-suite", "deployment": deployment, "runs": [run]})


def main() -> None:
    """Probe, and write a file an engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="ROW=FOLDER")
    parser.add_argument("--python", required=True)
    parser.add_argument("--tries", type=int, default=3)
    options = parser.parse_args()
    PROBES.mkdir(exist_ok=True)
    for entry in options.models:
        model, _equals, folder = entry.partition("=")
        for name in PARSERS[model]:
            document = probed(options.python, model, Path(folder), name, options.tries)
            path = PROBES / f"{model}-{(name or 'none').replace(', ', '-').replace(' ', '-')}.json"
            path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            print(document["runs"][0]["result"]["verdict"], flush=True)


if __name__ == "__main__":
    main()
