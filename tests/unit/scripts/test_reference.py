"""docs/reference.md is what the specs and the plugins say, docs/catalog.md what the catalog says."""

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


def test_the_committed_pages_are_up_to_date(reference, capsys):
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_check_fails_on_another_page_and_leaves_it(reference, tmp_path, monkeypatch, capsys):
    page = tmp_path / "reference.md"
    page.write_text("old")
    monkeypatch.setattr(reference, "PAGES", {page: lambda: "new"})
    assert reference.main(["--check"]) == 1
    assert "make docs" in capsys.readouterr().err
    assert page.read_text() == "old"


def test_without_check_every_page_is_written(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "PAGES", {tmp_path / path.name: make for path, make in reference.PAGES.items()})
    assert reference.main([]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"reference.md", "catalog.md"}
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


CATALOG = yaml.safe_load((ROOT / "roles/vllm/vars/models.yml").read_text())["vllm_models"]


def cells(reference, name, **changes):
    return dict(zip(reference.CATALOG_COLUMNS, reference.catalog_row(name, {**CATALOG[name], **changes})))


def test_every_model_of_the_catalog_has_a_row(reference):
    page = reference.catalog()
    for name in CATALOG:
        assert f"\n| `{name}` | " in page, name


def test_a_row_of_the_catalog_in_words(reference):
    assert cells(reference, "gpt-oss-120b") == {
        "Name": "`gpt-oss-120b`",
        "Model": "[openai/gpt-oss-120b](https://huggingface.co/openai/gpt-oss-120b)",
        "Parameters (B)": "116.83 (5.1)",
        "Weights (GiB)": "60.77",
        "Context": "131072",
        "KV cache (KiB/token)": "72",
        "Layers by attention": "18 full, 18 sliding window of 128, with sinks",
        "Tool parser": "`openai`",
        "Reasoning parser": "`openai_gptoss`",
        "Gated": "",
        "Licence": "Apache-2.0",
        "Least GPU": "1 x 80 GB",
        "CPU memory": "",
        "Note": "",
    }


@pytest.mark.parametrize(
    ("name", "column", "text"),
    [
        ("llama-4-scout-17b-16e-instruct", "Layers by attention", "12 full, 36 chunks of 8192"),
        ("llama-4-scout-17b-16e-instruct", "Least GPU", "4 x 80 GB"),
        ("llama-4-scout-17b-16e-instruct", "Gated", "yes"),
        ("deepseek-v3", "Layers by attention", "61 MLA"),
        ("qwen-qwq-32b", "Context", "40960 (32768)"),
        ("codestral-22b-v0.1", "Licence", "**MNPL-0.1**"),
        ("qwen2.5-1.5b-instruct", "CPU memory", "8Gi"),
        ("smoke", "Model", "smoke"),
        ("smoke", "Least GPU", "any"),
    ],
)
def test_a_cell_of_the_catalog(reference, name, column, text):
    assert cells(reference, name)[column] == text


def test_what_is_refused_says_so(reference):
    assert cells(reference, "smoke", unservable="it is | broken.")["Note"] == "Refused: it is \\| broken."


def test_the_worked_numbers_say_what_does_not_fit(reference):
    rows = [dict(zip(reference.WORKED_COLUMNS, cells)) for cells in reference.worked(CATALOG)]
    by_case = {(row["Row"], row["GPUs"], row["KV cache"]): row for row in rows}
    alone = by_case["`gpt-oss-120b`", "1 x H100 80 GB", "bfloat16"]
    assert "does not fit" in alone["With vLLM's defaults"]
    assert "fit)" not in alone["As the row serves"]
    assert ("`gpt-oss-120b`", "1 x A100 80 GB", "fp8") not in by_case
    assert len(by_case) == len(rows) == 2 * 3 * 2 * 2 - 2
