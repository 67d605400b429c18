#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the results of probes and benchmarks, and compare them with earlier ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_results
short_description: Keep the results of probes and benchmarks, and compare them with earlier ones
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Writes a result as JSON for machines, as Markdown for people, and, when it has loads, as a picture of latency against load (SVG).
  - Says what got better or worse than in an earlier result, beyond noise, and names first which conditions differ.
  - "A time or a throughput counts as other when its medians differ by more than the noise: three times the median deviation of the
    repetitions. It is never taken as less than 5 % where both results have three repetitions, 10 % where they do not, and 30 % where a
    figure rests on fewer than ten answers."
  - A share of answers that passed counts as other by Fisher's exact test (p below 0.05), or when all passed once and none does now.
  - It runs where the results are kept, so C(delegate_to=localhost).
  - What may be a secret is replaced by C(***) - the value of every option, variable or key with key, token, secret or password in its
    name, and what looks like a key. Prompts and answers are kept as they are.
attributes:
  check_mode:
    support: full
    description: Compares, says which files would be written, and writes none.
  diff_mode:
    support: full
    description: Shows the Markdown of a result that is new.
  idempotent:
    support: partial
    description: A result that is kept already, with its date, is not written again. Without a date every result is a new one.
options:
  document:
    description: The result.
    type: dict
    required: true
    suboptions:
      kind:
        description: What it is.
        type: str
        choices: [benchmark, probe-suite]
        required: true
      date:
        description: When it was measured, as C(2026-11-21T19:18:49Z). A time without a zone is UTC. The default is now.
        type: str
      schema:
        description: Version of the form of the document. There is only one.
        type: int
        default: 1
      deployment:
        description:
          - What was measured - C(model), C(stack), C(platform), C(gpu), C(vllm_version), C(image), C(image_digest), C(router), and
            C(flags), the arguments of the engine. What is not known may be missing. Other keys are kept, and compared, too.
        type: dict
        default: {}
      runs:
        description: The results of the modules. Those with the same probe and name are repetitions of each other.
        type: list
        elements: dict
        required: true
        suboptions:
          probe:
            description: The module that measured.
            type: str
            choices: [serving_benchmark, tool_call_probe, runtime_probe]
            required: true
          name:
            description: What tells runs of one probe apart, such as C(direct) and C(router). A tool_call_probe has its model as default.
            type: str
          settings:
            description: Options that a comparison has to know of, such as C(input_tokens). Where they differ, the comparison says so.
            type: dict
            default: {}
          result:
            description: What the module returned.
            type: dict
            required: true
  folder:
    description: Where results are kept. It is made when it is missing.
    type: path
    default: results
  compare_with:
    description:
      - Path of the JSON file of an earlier result.
      - V(latest) is the newest one in O(folder), of the same kind and model, that is not younger than this one.
      - Without it nothing is compared.
    type: path
"""

EXAMPLES = r"""
- name: Keep what was measured, and compare it with the benchmark before
  delegate_to: localhost
  llmops.serving.serving_results:
    document:
      kind: benchmark
      deployment:
        model: smoke
        gpu: NVIDIA L4
        vllm_version: 0.32.0
        flags: [--max-model-len, "8192"]
      runs:
        - probe: serving_benchmark
          settings: {input_tokens: 512, output_tokens: 128}
          result: "{{ benchmark }}"
    compare_with: latest
  vars:
    benchmark:
      loads:
        - rate: 8
          requests: 400
          completed: 400
          request_throughput: 7.9
          output_token_throughput: 1011.0
          ttft_ms: {p50: 31.2, p95: 58.0}
          itl_ms: {p50: 8.1, p95: 11.9}
          e2e_ms: {p50: 1063.0, p95: 1490.0}
"""

RETURN = r"""
paths:
  description: The files of the result; in check mode, those that would be written. C(svg) is null where there are no loads.
  returned: always
  type: dict
  sample:
    json: results/2026-11-21T19-18-49Z-smoke-benchmark.json
    markdown: results/2026-11-21T19-18-49Z-smoke-benchmark.md
    svg: results/2026-11-21T19-18-49Z-smoke-benchmark.svg
table:
  description: The result as aligned lines for a terminal.
  returned: always
  type: list
  elements: str
  sample:
    - Benchmark of smoke, 2026-11-21 19:18:49 UTC
    - NVIDIA L4, vLLM 0.32.0
    - ""
    - Load      Requests/s  Tokens/s  TTFT p50 ms  TTFT p95 ms  ITL p50 ms  ITL p95 ms  E2E p50 ms  E2E p95 ms  Goodput/s  Errors %
    - rate 8/s        7.90      1011         31.2         58.0        8.10        11.9        1063        1490          -         0
compared_with:
  description: Path of the earlier result. Null when there is none, or none was asked for.
  returned: always
  type: str
  sample: results/2026-11-20T08-00-12Z-smoke-benchmark.json
comparison:
  description: What differs, as lines for people, the worst first. The last one counts.
  returned: always
  type: list
  elements: str
  sample:
    - "Against Benchmark of smoke, 2026-11-20 08:00:12 UTC:"
    - "worse  rate 8/s: TTFT p95  40.0 ms -> 58.0 ms  +45 %  (noise up to 10 %)"
    - 1 worse, 0 better, 8 within noise
changes:
  description:
    - What differs in the conditions, then every figure, the worst first, then what only one of the results has.
    - C(verdict) is C(differs) for a condition, C(doubtful) where the client was the bottleneck, C(worse), C(better) or C(same) for a
      figure, C(only old) or C(only new). C(share) is by how much a figure changed and C(noise) by how much it may by chance.
      C(p_value) is how likely a difference of passes is by chance.
  returned: always
  type: list
  elements: dict
  sample:
    - {verdict: worse, name: "rate 8/s: TTFT p95", old: 40.0 ms, new: 58.0 ms, share: 0.45, noise: 0.1, p_value: null}
counts:
  description: How many figures are worse, better and the same. Null when nothing was compared.
  returned: always
  type: dict
  sample: {worse: 1, better: 0, same: 8}
"""

import contextlib
import errno
import json
import os
import tempfile
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _comparison, _plot, _results
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ARGS: dict[str, t.Any] = {
    "document": {
        "type": "dict",
        "required": True,
        "options": {
            "kind": {"type": "str", "choices": list(_results.KINDS), "required": True},
            "date": {"type": "str"},
            "schema": {"type": "int", "default": _results.SCHEMA},
            "deployment": {"type": "dict", "default": {}},
            "runs": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "probe": {"type": "str", "choices": list(_results.PROBES), "required": True},
                    "name": {"type": "str"},
                    "settings": {"type": "dict", "default": {}},
                    "result": {"type": "dict", "required": True},
                },
            },
        },
    },
    "folder": {"type": "path", "default": "results"},
    "compare_with": {"type": "path"},
}
LATEST = "latest"
MODE = 0o644
# What a file system says that has no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Files(t.NamedTuple):
    """The files of one result. The Markdown and the picture carry the name of the JSON."""

    json: Path
    markdown: Path
    svg: Path

    @classmethod
    def of(cls, path: Path) -> Files:
        """Return the files that belong to the JSON at *path*."""
        return cls(path, path.with_name(f"{path.stem}.md"), path.with_name(f"{path.stem}.svg"))


def run(params: t.Mapping[str, t.Any], check_mode: bool, warn: t.Callable[[str], None]) -> dict[str, t.Any]:
    """Compare, write unless in *check_mode*, and return the result of the module."""
    found = _results.document(params["document"])
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    folder = Path(params["folder"])
    there = _kept(folder, found, text)
    earlier, old = _earlier(params["compare_with"], folder, found, there and there.json, warn)
    changes: list[_comparison.Change] = []
    comparison: list[str] = []
    if old:
        changes = _comparison.compare(old, found)
        comparison = _comparison.lines(old, changes)
    elif params["compare_with"]:
        comparison = [f"There is no earlier {found['kind']} of {_results.subject(found)} in {folder} to compare with."]
    svg = _plot.latency_against_load(found, [old] if old else []) if _plot.can_draw(found) else None
    files = there or _free(folder, found)

    def markdown() -> str:
        return _results.markdown(found, comparison if old else (), files.svg.name if svg else "")

    if not there and not check_mode:
        try:
            files = _keep(files, folder, found, text)
            _write(files.markdown, markdown())
            if svg:
                _write(files.svg, svg)
        except OSError as exc:
            where = exc.filename or folder
            raise ServingError(f"Cannot write {where}: {exc.strerror}. Give a folder that this user may write to.") from exc
    return {
        "changed": not there,
        "paths": {"json": str(files.json), "markdown": str(files.markdown), "svg": str(files.svg) if svg else None},
        "table": _results.table(found),
        "compared_with": str(earlier) if earlier else None,
        "comparison": comparison,
        "changes": [change._asdict() for change in changes],
        "counts": _comparison.counted(changes) if old else None,
        "diff": {"before": "", "after": "" if there else markdown(), "after_header": str(files.markdown)},
    }


# --- earlier results -------------------------------------------------------------------------------------------------------------------


def read(path: Path) -> _results.Document:
    """Return the result that is kept at *path*. Raises ServingError when there is none."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ServingError(f"Cannot read {path}: {exc.strerror}. Name the JSON file of a kept result, or latest.") from exc
    except ValueError as exc:
        raise ServingError(f"{path} is no JSON, so it is no kept result: {exc}. Name the JSON file, not the Markdown.") from exc
    if not isinstance(given, dict) or not given.get("date"):
        raise ServingError(f"{path} is no kept result: it has no date.")
    try:
        return _results.document(given)
    except ServingError as exc:
        raise ServingError(f"{path} is no kept result: {exc}") from exc


def _earlier(
    asked: t.Optional[str], folder: Path, found: _results.Document, itself: t.Optional[Path], warn: t.Callable[[str], None]
) -> tuple[t.Optional[Path], t.Optional[_results.Document]]:
    """Return the result to compare with, and where it is kept; None for both when there is none."""
    if not asked:
        return None, None
    if asked != LATEST:
        return Path(asked), read(Path(asked))
    candidates = []
    for path in sorted(folder.glob(f"*-{found['kind']}*.json")):
        if path == itself:
            continue
        try:
            old = read(path)
        except ServingError as exc:
            warn(f"{exc} It was left out.")
            continue
        if old["kind"] == found["kind"] and _results.subject(old) == _results.subject(found) and old["date"] <= found["date"]:
            candidates.append((old["date"], path.stat().st_mtime, path, old))
    newest = max(candidates, key=lambda candidate: candidate[:3], default=None)
    return (newest[2], newest[3]) if newest else (None, None)


# --- files -----------------------------------------------------------------------------------------------------------------------------


def _names(folder: Path, found: _results.Document) -> t.Iterator[Files]:
    """Yield the files that *found* may have: its own name, and others for a second result of the same second."""
    first = folder / _results.file_name(found)
    yield Files.of(first)
    for number in range(2, 1000):
        yield Files.of(first.with_name(f"{first.stem}-{number}.json"))


def _kept(folder: Path, found: _results.Document, text: str) -> t.Optional[Files]:
    """Return the files of *found* when it is kept already, None when it is not."""
    for files in _names(folder, found):
        try:
            if files.json.read_text(encoding="utf-8") == text:
                return files
        except (OSError, ValueError):
            return None
    return None


def _free(folder: Path, found: _results.Document) -> Files:
    """Return the first files of which none is there."""
    for files in _names(folder, found):
        if not any(map(os.path.lexists, files)):
            return files
    raise ServingError(f"{folder} has too many results of {found['date']}. Give another folder.")


def _keep(files: Files, folder: Path, found: _results.Document, text: str) -> Files:
    """Write the JSON, under the next free name when somebody has just taken that of *files*, and return the files it has now."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            _write(files.json, text, only_new=True)
            return files
        except FileExistsError:
            files = _free(folder, found)


def _write(path: Path, text: str, only_new: bool = False) -> None:
    """Write a file as a whole: whoever looks finds all of it or nothing. Raises FileExistsError for *only_new* when it is there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", "replace"))
            os.fchmod(file.fileno(), MODE)
        if only_new:
            try:
                os.link(name, path)
                return
            except OSError as exc:
                if exc.errno not in _NO_LINKS:
                    raise
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGS, supports_check_mode=True)
    try:
        result = run(module.params, module.check_mode, module.warn)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
