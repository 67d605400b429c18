# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/parser-matrix.md: which parser reads which model's tool calls and thoughts, as declared and as tried.

Declared: the parsers that vLLM registers (tests/parsers/registry-VERSION.json). Tried: recorded outputs through these parsers
(tests/parsers/results.json), both made by tests/parsers/run_parsers.py in the engine's image; and kept results of tool_call_probe.

usage: scripts/parser_matrix.py [--check] [--results DIR]    (--check writes nothing and fails when the page is not up to date)
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import typing as t
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "parser-matrix.md"
CATALOG = ROOT / "roles" / "vllm" / "vars" / "models.yml"
PARSERS = ROOT / "tests" / "parsers"
# Results of make probe-suite that are worth a place in the page.
PROBES = PARSERS / "probes"

PASSED, LIMIT = "passed", "limit"
MODES = {"whole": "Whole", "token": "Token by token", "pieces": "In pieces", "at_once": "All at once"}
# What guides name for a family of models, and what this collection makes of it.
ADVICE = (
    ("Qwen 2.5, Hermes", "hermes", "as the catalog has it"),
    ("QwQ", "hermes", "as the catalog has it; its thoughts want `deepseek_r1`"),
    ("Qwen3", "hermes", "as the catalog has it; its thoughts want `qwen3`"),
    ("Qwen3 Coder", "qwen3_coder", "as the catalog has it"),
    ("Llama 3.1 and later", "llama3_json", "as the catalog has it, with vLLM's chat template for JSON calls"),
    ("Llama 4", "llama4_json", "the catalog takes `llama4_pythonic`: vLLM's chat template for Llama 4 asks for calls in Python"),
    ("Mistral", "mistral", "as the catalog has it, where the tokenizer has a mark for calls"),
    ("Mixtral", "mistral", "no parser: the tokenizer of Mixtral 8x7B v0.1 has no mark for calls, so vLLM does not start with it"),
    ("DeepSeek-V3", "deepseek_v3", "as the catalog has it, with vLLM's chat template for it"),
    ("gpt-oss", "openai", "as the catalog has it; vLLM refuses every other for this model"),
)
HEAD = """# Parsers

Which parser reads the tool calls and thoughts of which model. This page is made by `make docs` from

- what vLLM {version} declares: its registries, as `tests/parsers/registry-{version}.json` holds them;
- what was tried: recorded outputs of each family of models (`tests/parsers/recordings/`, our own writing) through the real classes of
  vLLM {tried}, without weights, as `tests/parsers/results.json` holds it;
- what was measured: results of `tool_call_probe` against engines that ran;
- the catalog, `roles/vllm/vars/models.yml`.

A recording goes as it does in an engine: tokens, vLLM's detokenizer, the parser that vLLM makes of both flags. Once whole, as for a
request without `stream`, and then streamed, the pieces joined as a client joins them: token by token, in pieces of two to seven tokens
that begin at every place (speculative decoding, a busy server), and all at once. Texts, names and arguments have to be right to the
letter; only white space around texts does not count. A **limit** is something that this version of vLLM gets wrong, in pieces at some
places of the cut at least; it is listed below the table.
"""
TRY = """
## Try it

In the engine's image, or by any Python that has vLLM:

```sh
python3 tests/parsers/run_parsers.py                                            # a table; exit code 1 when a recording failed
python3 tests/parsers/run_parsers.py --output tests/parsers/results.json        # what this page is made from
python3 tests/parsers/run_parsers.py --registry tests/parsers/registry-{version}.json
```

`tests/cluster/test_parsers.py` does so in a pod of the image that is tested. A new version of vLLM: run both, then `make docs`, and look at
the diff. A family of your own is a new file in `tests/parsers/recordings/`.
"""

Doc = dict[str, t.Any]


class Sources(t.NamedTuple):
    """Everything that the page is made from."""

    registry: Doc
    results: Doc
    families: dict[str, Doc]
    rows: dict[str, Doc]
    probes: list[Doc]


def load(probes: Path) -> Sources:
    """Read the sources, kept results from the folder *probes* (which may be missing)."""
    registries = sorted(PARSERS.glob("registry-*.json"), key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
    recordings = sorted((PARSERS / "recordings").glob("*.yml"))
    return Sources(
        registry=json.loads(registries[-1].read_text(encoding="utf-8")),
        results=json.loads((PARSERS / "results.json").read_text(encoding="utf-8")),
        families={path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in recordings},
        rows=yaml.safe_load(CATALOG.read_text(encoding="utf-8"))["vllm_models"],
        probes=[json.loads(path.read_text(encoding="utf-8")) for path in sorted(probes.glob("*.json"))],
    )


def code(text: t.Optional[str]) -> str:
    """Return *text* as code, "" for None."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def plain(text: t.Any) -> str:
    """Return *text* as one line that may stand in a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: t.Sequence[str], rows: t.Iterable[t.Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows]) + "\n"


def pair(source: t.Mapping[str, t.Any]) -> tuple[t.Optional[str], t.Optional[str]]:
    """Return the parsers that a family or a row names."""
    return source.get("tool_call_parser"), source.get("reasoning_parser")


def counted(cells: t.Sequence[t.Mapping[str, str]]) -> str:
    """Return how many of *cells* passed, with the limits."""
    limits = sum(cell["status"] == LIMIT for cell in cells)
    words = f"{sum(cell['status'] == PASSED for cell in cells)} of {len(cells)}"
    return words + (f", {limits} limit{'s' if limits > 1 else ''}" if limits else "")


def overview(sources: Sources) -> t.Iterator[list[str]]:
    """Yield a line for each family: its parsers, the rows that use them, and how many recordings passed, whole and streamed."""
    for name, family in sources.families.items():
        rows = ", ".join(code(row) for row, spec in sources.rows.items() if pair(spec) == pair(family))
        found = sources.results["families"].get(name, {"not_run": "there is no result yet"})
        if "recordings" in found:
            modes = list(found["recordings"].values())
            tried = [counted([cells[mode] for cells in modes if mode in cells]) for mode in MODES]
        else:
            why = "not run: " + plain(found["not_run"]) if "not_run" in found else "refused: " + plain(found["refused"])
            tried = [why, *[""] * (len(MODES) - 1)]
        yield [plain(family["family"]), code(family.get("tool_call_parser")), code(family.get("reasoning_parser")), rows, *tried]


def recordings(sources: Sources) -> t.Iterator[str]:
    """Yield a section for each family: what became of each recording, and its limits."""
    for name, family in sources.families.items():
        found = sources.results["families"].get(name, {})
        if "recordings" not in found:
            continue
        flags = " ".join(f"--{key.replace('_', '-')} {family[key]}" for key in ("tool_call_parser", "reasoning_parser") if family.get(key))
        yield f"### {family['family']}\n\n`{flags}`: {', '.join(code(kind) for kind in found['classes'])}.\n"
        lines = [
            [recording.replace("_", " "), *(cells.get(mode, {}).get("status", "") for mode in MODES)]
            for recording, cells in found["recordings"].items()
        ]
        yield table(["Recording", *MODES.values()], lines)
        notes = [f"- {absent.replace('_', ' ')}: none, since {plain(why)}." for absent, why in (family.get("absent") or {}).items()]
        for recording, spec in family["recordings"].items():
            by_reason: dict[str, list[str]] = {}
            for mode, reason in (spec.get("limits") or {}).items():
                by_reason.setdefault(plain(reason), []).append(MODES[mode].lower())
            notes += [f"- {recording.replace('_', ' ')}, {', '.join(modes)}: {reason}." for reason, modes in by_reason.items()]
        if notes:
            yield "\n".join(notes) + "\n"


def flag(flags: t.Sequence[str], name: str) -> str:
    """Return the value of the flag *name*, "" where it is not given."""
    for index, word in enumerate(flags):
        if word == name and index + 1 < len(flags):
            return flags[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def measured(sources: Sources) -> t.Iterator[list[str]]:
    """Yield a line for each run of tool_call_probe among the kept results."""
    for document in sorted(sources.probes, key=lambda found: str((found.get("deployment") or {}).get("model"))):
        deployment = document.get("deployment") or {}
        for run in document.get("runs") or []:
            if run.get("probe") != "tool_call_probe":
                continue
            result = run["result"]
            cases = result.get("cases") or []
            failed: dict[str, list[str]] = {}
            for case in cases:
                if not case["passed"]:
                    failed.setdefault(case.get("stage") or "failed", []).append(case["name"])
            told = [f"{stage}: {'all' if len(names) == len(cases) else ', '.join(names)}" for stage, names in failed.items()]
            parser = flag(deployment.get("flags") or [], "--tool-call-parser")
            enabled = "--enable-auto-tool-choice" in (deployment.get("flags") or [])
            yield [
                plain(result.get("model") or deployment.get("model") or ""),
                f"{code(parser)}{'' if enabled else ', not enabled'}" if parser else "none",
                plain(deployment.get("vllm_version") or ""),
                str(document.get("date", ""))[:10],
                f"{100 * float(result['score']):.0f} %" if result.get("score") is not None else "",
                f"{sum(bool(case['passed']) for case in cases)} of {len(cases)}",
                plain("; ".join(told)),
            ]


def declared(sources: Sources, kind: str) -> t.Iterator[list[str]]:
    """Yield a line for each parser of *kind* (tool_call_parser, reasoning_parser): class, other names, families tried, rows."""
    classes: dict[str, str] = sources.registry[f"{kind}s"]
    for name, class_name in classes.items():
        others = ", ".join(code(other) for other, same in classes.items() if same == class_name and other != name)
        tried = ", ".join(plain(family["family"]) for family in sources.families.values() if family.get(kind) == name)
        rows = sum(row.get(kind) == name for row in sources.rows.values())
        yield [code(name), code(class_name), others, tried, str(rows) if rows else ""]


def render(sources: Sources) -> str:
    """Return the page."""
    version = sources.registry["vllm"]
    parts = [HEAD.format(version=version, tried=sources.results["vllm"])]
    parts.append("## Parsers of the catalog\n\nHow many recordings passed in each way.\n")
    parts.append(table(["Models", "Tool parser", "Reasoning parser", "Rows", *MODES.values()], overview(sources)))
    bare = ", ".join(code(row) for row, spec in sources.rows.items() if pair(spec) == (None, None))
    parts.append(f"Without parsers: {bare}. Requests with automatic tool choice are refused there.\n")
    parts.append("## Recordings\n")
    parts += recordings(sources)
    parts.append("## Measured on engines\n")
    lines = list(measured(sources))
    if lines:
        parts.append(table(["Model", "Tool parser", "vLLM", "Date", "Score", "Cases passed", "Cases that failed"], lines))
    else:
        parts.append("No result is kept yet: results of `tool_call_probe` that are put into `tests/parsers/probes/` stand here.\n")
    parts.append("## What guides recommend\n")
    parts.append(table(["Models", "Tool parser", "Here"], ([models, code(parser), words] for models, parser, words in ADVICE)))
    for kind, title in (("tool_call_parser", "Tool parsers"), ("reasoning_parser", "Reasoning parsers")):
        parts.append(f"## {title} of vLLM {version}\n")
        parts.append(table(["Name", "Class", "Same class", "Recorded models", "Rows"], declared(sources, kind)))
    return "\n".join(parts) + TRY.format(version=version)


def main(arguments: t.Optional[t.Sequence[str]] = None) -> int:
    """Write the page, or with --check compare it. Return the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/parser-matrix.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is not up to date")
    parser.add_argument("--results", type=Path, default=PROBES, help="folder of kept results of tool_call_probe")
    options = parser.parse_args(arguments)
    page = render(load(options.results))
    if not options.check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        print(f"{PAGE.name} is not what the registry, the recordings, the results and the catalog say. Run: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
