# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/reference.md from the roles' argument specs and the documentation of modules and filters.

usage: scripts/reference.py [--check]    (--check writes nothing and fails when the file is not up to date)
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
TARGET = ROOT / "docs" / "reference.md"
COLLECTION = "llmops.serving"
HEAD = """# Reference

Every variable of the roles, and every option and return value of the modules and filters.
This page is made by `make docs` from `roles/*/meta/argument_specs.yml` and from the documentation in `plugins/`. Change it there.
"""

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
    """Return the whole page."""
    roles = [role(path.parents[1]) for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))]
    modules = [plugin(path) for path in sorted(ROOT.glob("plugins/modules/[!_]*.py"))]
    filters = [plugin(path) for path in sorted(ROOT.glob("plugins/filter/[!_]*.py"))]
    return "\n".join([HEAD, "## Roles\n", *roles, "## Modules\n", *modules, "## Filters\n", *filters])


def main(arguments: t.Optional[t.Sequence[str]] = None) -> int:
    """Write the page, or with --check compare it. Return the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/reference.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file is not up to date")
    page = render()
    if not parser.parse_args(arguments).check:
        TARGET.write_text(page, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
        print(f"{TARGET.name} is not what the specs and the plugins say. Run: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
