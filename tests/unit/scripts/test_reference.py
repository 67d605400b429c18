"""docs/reference.md is what the specs and the plugins say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_page_is_up_to_date(reference, capsys):
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_check_fails_on_another_page_and_leaves_it(reference, tmp_path, monkeypatch, capsys):
    page = tmp_path / "reference.md"
    page.write_text("old")
    monkeypatch.setattr(reference, "TARGET", page)
    assert reference.main(["--check"]) == 1
    assert "make docs" in capsys.readouterr().err
    assert page.read_text() == "old"


def test_without_check_the_page_is_written(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "TARGET", tmp_path / "reference.md")
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


def test_every_variable_has_a_row(reference):
    page = reference.render()
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for name in yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]:
            assert f"\n| `{name}` | " in page, name


def test_options_of_fragments_and_of_suboptions_have_rows(reference):
    section = reference.plugin(ROOT / "plugins" / "modules" / "router_wait.py")
    assert "\n| `kubeconfig` | path |" in section
    assert "\n| `service.namespace` | str |" in section


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("V(0) turns O(source=host) off, see C(a | b).", r"`0` turns `source=host` off, see `a \| b`."),
        (["One\n  line.", "Two: E(HOME)."], "One line. Two: `HOME`."),
        (
            "As RV(llmops.serving.gpu_memory_check#module:eligible) of P(llmops.serving.vllm#role).",
            "As `eligible` of `llmops.serving.vllm`.",
        ),
        (r"V(a\)b) (aside)", "`a)b` (aside)"),
        (None, ""),
    ],
)
def test_markup_becomes_markdown(reference, markup, expected):
    assert reference.markdown(markup) == expected
