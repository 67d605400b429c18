# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/reference.md from the roles' argument specs and the documentation of plugins, docs/catalog.md from the catalog.

usage: scripts/reference.py [--check]    (--check writes nothing and fails when a file is not up to date)
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import typing as t
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / ".venv" / "collections"))

from ansible_collections.llmops.serving.plugins.module_utils import _capacity, _catalog  # noqa: E402
from ansible_collections.llmops.serving.plugins.module_utils._capacity import Fit, Gpu, Serving  # noqa: E402

CATALOG = ROOT / "roles" / "vllm" / "vars" / "models.yml"
COLLECTION = "llmops.serving"
HEAD = """# Reference

Every variable of the roles, and every option and return value of the modules, filters and lookups.
This page is made by `make docs` from `roles/*/meta/argument_specs.yml` and from the documentation in `plugins/`. Change it there.
"""
CATALOG_HEAD = """# Catalog

Every model that `vllm_model_name` may name. This page is made by `make docs` from `roles/vllm/vars/models.yml`.
[models.md](models.md) says how to change a row or add one, [capacity.md](capacity.md) how many chats fit on which GPU.

- Parameters are billions, those that a token uses in parentheses. Weights are GiB as they are downloaded.
- Context is what the model can hold, in tokens, and in parentheses what the row serves, where that is less.
- KV cache is KiB for each token of a chat, over all layers, in 16 bit. Layers with a sliding window stop growing at its end.
- The GPU is the smallest that the row allows, by the memory that it is sold with. Rows with host memory run on CPUs, too.
- A licence in bold forbids production. Gated models want a token: see [kubernetes.md](kubernetes.md#gated-models).
"""
CATALOG_COLUMNS = [
    *("Name", "Model", "Parameters (B)", "Weights (GiB)", "Context", "KV cache (KiB/token)", "Layers by attention"),
    *("Tool parser", "Reasoning parser", "Gated", "Licence", "Least GPU", "CPU memory", "Note"),
]
WORKED_HEAD = """
## Room on GPUs

What `make plan` says of the two large rows: chats of full length at a time, and of 8,192 tokens, in parentheses the verdict where it is
not "fits". First as the row serves, then with vLLM's own defaults (92 % of the GPU, its batch and number of sequences for that GPU).
The overhead of an engine is an estimate, see [capacity.md](capacity.md); fp8 stands only where vLLM 0.32 starts with it.
"""
WORKED_COLUMNS = ["Row", "GPUs", "KV cache", "Weights, GiB a GPU", "As the row serves", "With vLLM's defaults", "Longest chat then"]
WORKED_ROWS = ("gpt-oss-120b", "qwen-qwq-32b")
WORKED_GPUS = {
    "A100 80 GB": Gpu("NVIDIA-A100-SXM4-80GB", 81920, "8.0"),
    "H100 80 GB": Gpu("NVIDIA-H100-80GB-HBM3", 81559, "9.0"),
    "H200 141 GB": Gpu("NVIDIA-H200", 143771, "9.0"),
}
CHOICES = ("gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs")

Doc = dict[str, t.Any]

_MARKUP = re.compile(r"\b(?:RV|[BCEIMOPV])\(((?:\\.|[^\\)])*)\)")
_QUALIFIER = re.compile(r"^[\w.]+#\w+:?")


def markdown(text: t.Union[str, t.Sequence[str], None]) -> str:
    """Return a description (a paragraph, or a list of them) as one Markdown line that may stand in a table."""
    paragraphs = [text] if isinstance(text, str) else list(text or [])
    line = " ".join(" ".join(str(paragraph).split()) for paragraph in paragraphs)
    return _MARKUP.sub(_code, line).replace("|", "\\|")


def _code(match: re.Match[str]) -> str:
    """Return what stands in O(), V(), C() and the like as code, for P() and a qualified O() or RV() the name alone."""
    words = re.sub(r"\\(.)", r"\1", match[1])
    if match[0].startswith("P("):
        words = words.split("#")[0]
    return f"`{_QUALIFIER.sub('', words)}`"


def value(data: t.Any) -> str:
    """Return a default or sample as code, an empty string for None."""
    if data is None:
        return ""
    text = data if isinstance(data, str) and data else json.dumps(data, default=str)
    return f"`{' '.join(text.split())}`".replace("|", "\\|")


def kind(option: Doc) -> str:
    """Return the type of an option, with that of its elements."""
    return f"{option.get('type', 'str')} of {option['elements']}" if "elements" in option else str(option.get("type", "str"))


def options_rows(options: t.Mapping[str, Doc], prefix: str = "") -> t.Iterator[list[str]]:
    """Yield name, type, default and meaning of each option, those of its suboptions below it."""
    for name, option in options.items():
        notes = ["Required."] if option.get("required") else []
        if option.get("choices"):
            notes.append(f"One of {', '.join(value(choice) for choice in option['choices'])}.")
        if option.get("no_log"):
            notes.append("Never shown.")
        yield [f"`{prefix}{name}`", kind(option), value(option.get("default")), " ".join([markdown(option.get("description")), *notes])]
        yield from options_rows(option.get("suboptions") or option.get("options") or {}, f"{prefix}{name}.")


def return_rows(values: t.Mapping[str, Doc], prefix: str = "", returned: str = "") -> t.Iterator[list[str]]:
    """Yield name, type, condition and meaning of each return value, those that it contains below it."""
    for name, entry in values.items():
        when = str(entry.get("returned", returned))
        yield [f"`{prefix}{name}`", kind(entry), markdown(when), markdown(entry.get("description"))]
        yield from return_rows(entry.get("contains") or {}, f"{prefix}{name}.", when)


def table(head: t.Sequence[str], rows: t.Iterable[t.Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def constants(path: Path) -> dict[str, t.Any]:
    """Return DOCUMENTATION and RETURN of a Python file, parsed as YAML, without importing it."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in ("DOCUMENTATION", "RETURN"):
            found[node.targets[0].id] = yaml.safe_load(ast.literal_eval(node.value))
    return found


def plugin(path: Path) -> str:
    """Return the section of a module or filter, the options of its documentation fragments included."""
    found = constants(path)
    doc: Doc = found["DOCUMENTATION"]
    options: dict[str, Doc] = dict(doc.get("options") or {})
    fragments = doc.get("extends_documentation_fragment") or []
    for fragment in [fragments] if isinstance(fragments, str) else fragments:
        options.update(constants(ROOT / "plugins" / "doc_fragments" / f"{fragment.split('.')[-1]}.py")["DOCUMENTATION"]["options"])
    parts = [f"### {COLLECTION}.{path.stem}\n", f"{markdown(doc['short_description'])}. {markdown(doc['description'])}\n"]
    parts += [f"- {markdown(note)}" for note in doc.get("notes") or []]
    parts += [""] if doc.get("notes") else []
    parts.append(table(["Option", "Type", "Default", "Meaning"], options_rows(options)))
    parts.append(table(["Return value", "Type", "Returned", "Meaning"], return_rows(found["RETURN"], returned="always")))
    return "\n".join(parts)


def role(path: Path) -> str:
    """Return the section of a role: its entry points, and its variables, which all entry points share."""
    specs: dict[str, Doc] = yaml.safe_load((path / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    parts = [f"### {COLLECTION}.{path.name}\n"]
    for name, spec in specs.items():
        parts.append(f"- Entry point `{name}`: {markdown(spec['short_description'])}. {markdown(spec['description'])}")
    return "\n".join([*parts, "", table(["Variable", "Type", "Default", "Meaning"], options_rows(specs["main"]["options"]))])


def render() -> str:
    """Return the page of all variables, options and return values."""
    roles = [role(path.parents[1]) for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))]
    modules = [plugin(path) for path in sorted(ROOT.glob("plugins/modules/[!_]*.py"))]
    filters = [plugin(path) for path in sorted(ROOT.glob("plugins/filter/[!_]*.py"))]
    lookups = [plugin(path) for path in sorted(ROOT.glob("plugins/lookup/[!_]*.py"))]
    parts = {"Roles": roles, "Modules": modules, "Filters": filters, "Lookups": lookups}
    return "\n".join([HEAD, *(line for title, part in parts.items() for line in (f"## {title}\n", *part))])


def attention(row: Doc) -> str:
    """Return the kinds of attention of a row in words, with the number of layers of each."""
    words = {
        "sliding_window": f"sliding window of {row.get('sliding_window')}",
        "chunked": f"chunks of {row.get('attention_chunk_size')}",
        "mla": "MLA",
    }
    kinds = [f"{count} {words.get(kind, kind)}" for kind, count in row["layers"].items()]
    return ", ".join([*kinds, "with sinks"] if row.get("attention_sinks") else kinds)


def catalog_row(name: str, row: Doc) -> list[str]:
    """Return the cells of a row of the catalog."""
    active, served, least = row.get("active_parameters_b"), row["max_model_len"], row["min_gpu_memory_gb"]
    return [
        value(name),
        row["model"] if row.get("source") == "smoke" else f"[{row['model']}](https://huggingface.co/{row['model']})",
        f"{row['parameters_b']:g}" + (f" ({active:g})" if active else ""),
        f"{row['weights_gib']:.2f}",
        f"{row['max_context']}" + (f" ({served})" if served < row["max_context"] else ""),
        f"{round(_capacity.kib_per_token(row), 1):g}",
        attention(row),
        value(row.get("tool_call_parser")),
        value(row.get("reasoning_parser")),
        "yes" if row.get("gated") else "",
        row["license"] if row.get("production_use", True) else f"**{row['license']}**",
        f"{row.get('tensor_parallel_size', 1)} x {least:g} GB" if least else "any",
        str(row.get("memory_request", "")),
        f"Refused: {markdown(row['unservable'])}" if "unservable" in row else "",
    ]


def room(fit: Fit) -> str:
    """Return for how many chats there is room, and the verdict where it is not that all is well."""
    words = f"{fit.concurrency:.2f}, or {fit.typical}" if fit.concurrency > 0 else "none"
    return words if fit.verdict == _capacity.FITS else f"{words} ({fit.verdict.replace('_', ' ')})"


def worked(rows: t.Mapping[str, Doc]) -> t.Iterator[list[str]]:
    """Yield the cells of the worked numbers."""
    for name in WORKED_ROWS:
        row = rows[name]
        plain = {key: value for key, value in row.items() if key not in CHOICES}
        for title, gpu in WORKED_GPUS.items():
            for count in (1, 2):
                for dtype in ("bfloat16", "fp8"):
                    if dtype == "fp8" and not _catalog.supports_fp8_kv_cache(row, gpu.compute_capability):
                        continue
                    fits = [_capacity.fit_gpu(kind, Serving.of_row(kind, dtype), gpu, count) for kind in (row, plain)]
                    weights = f"{fits[0].memory.weights / 2**30:.1f}"
                    yield [value(name), f"{count} x {title}", dtype, weights, room(fits[0]), room(fits[1]), f"{fits[1].longest:,}"]


def catalog() -> str:
    """Return the page of all rows of the catalog."""
    rows: dict[str, Doc] = yaml.safe_load(CATALOG.read_text(encoding="utf-8"))["vllm_models"]
    table_of_rows = table(CATALOG_COLUMNS, (catalog_row(name, row) for name, row in rows.items()))
    return "\n".join([CATALOG_HEAD, table_of_rows, WORKED_HEAD.lstrip("\n"), table(WORKED_COLUMNS, worked(rows))])


PAGES: dict[Path, t.Callable[[], str]] = {ROOT / "docs" / "reference.md": render, ROOT / "docs" / "catalog.md": catalog}


def main(arguments: t.Optional[t.Sequence[str]] = None) -> int:
    """Write the pages, or with --check compare them. Return the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/reference.md and docs/catalog.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not up to date")
    check = parser.parse_args(arguments).check
    stale = []
    for target, make in PAGES.items():
        page = make()
        if not check:
            target.write_text(page, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != page:
            stale.append(target.name)
    for name in stale:
        print(f"{name} is not what the specs, the plugins and the catalog say. Run: make docs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
