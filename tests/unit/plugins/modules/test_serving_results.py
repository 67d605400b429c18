"""Results are kept as files, never twice and never over each other, and compared with earlier ones."""

from __future__ import annotations

import copy
import errno
import json
import os
import stat
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.llmops.serving.plugins.modules import serving_results

FIXTURES = Path(__file__).parents[1] / "module_utils" / "fixtures" / "results"
RECORDED: dict[str, t.Any] = json.loads((FIXTURES / "benchmark.json").read_text())
SUITE: dict[str, t.Any] = json.loads((FIXTURES / "probe-suite.json").read_text())
STEM = "2026-11-21T19-18-49Z-smoke-benchmark"


def benchmark(date: t.Optional[str] = None, model: str = "smoke", ttft: float = 31.2) -> dict[str, t.Any]:
    found = copy.deepcopy(RECORDED)
    found["date"] = date or found["date"]
    found["deployment"]["model"] = model
    found["runs"][0]["result"]["loads"][1]["ttft_ms"]["p50"] = ttft
    return found


class Run:
    """The module, as Ansible starts it, with a folder of its own; what it returned, with what it warned of."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.warned: list[str] = []
        monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: self.warned.append(text))

    def __call__(self, document: dict[str, t.Any], check_mode: bool = False, diff: bool = False, **options: t.Any) -> dict[str, t.Any]:
        self.warned.clear()
        args = {"document": document, "folder": str(self.folder), **options, "_ansible_check_mode": check_mode, "_ansible_diff": diff}
        with patch_module_args(args), pytest.raises(SystemExit):
            serving_results.main()
        result: dict[str, t.Any] = json.loads(self.capsys.readouterr().out)
        return {**result, "warned": list(self.warned)}

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(tmp_path / "deep" / "results", monkeypatch, capsys)


def test_a_result_is_written_for_machines_and_for_people(start: Run) -> None:
    result = start(benchmark())
    assert result["changed"]
    assert start.names() == [f"{STEM}.json", f"{STEM}.md", f"{STEM}.svg"]
    assert result["paths"] == {
        name: str(start.folder / f"{STEM}.{end}") for name, end in (("json", "json"), ("markdown", "md"), ("svg", "svg"))
    }
    assert json.loads(Path(result["paths"]["json"]).read_text()) == RECORDED
    assert Path(result["paths"]["markdown"]).read_text() == (FIXTURES / "benchmark.md").read_text().replace(
        "(benchmark.svg)", f"({STEM}.svg)"
    )
    assert Path(result["paths"]["svg"]).read_text() == (FIXTURES / "benchmark.svg").read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in start.folder.iterdir()} == {0o644}
    assert result["table"][0] == "Benchmark of smoke, 2026-11-21 19:18:49 UTC"
    assert (result["comparison"], result["changes"], result["counts"], result["compared_with"]) == ([], [], None, None)


def test_a_suite_has_no_picture(start: Run) -> None:
    result = start(SUITE)
    assert result["paths"]["svg"] is None
    assert [name.rpartition(".")[2] for name in start.names()] == ["json", "md"]
    assert "![" not in Path(result["paths"]["markdown"]).read_text()


def test_what_is_kept_is_not_written_again(start: Run) -> None:
    first = start(benchmark())
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in start.folder.iterdir()}
    again = start(benchmark(), compare_with="latest")
    assert (again["changed"], again["paths"]) == (False, first["paths"])
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in start.folder.iterdir()} == before
    # it is not compared with itself
    assert again["comparison"] == [f"There is no earlier benchmark of smoke in {start.folder} to compare with."]


def test_an_older_result_is_never_overwritten(start: Run) -> None:
    start(benchmark())
    second = start(benchmark(ttft=99.0))
    third = start(benchmark(ttft=100.0))
    assert [Path(found["paths"]["json"]).name for found in (second, third)] == [f"{STEM}-2.json", f"{STEM}-3.json"]
    assert json.loads((start.folder / f"{STEM}.json").read_text()) == RECORDED
    assert not start(benchmark(ttft=99.0))["changed"]
    (start.folder / f"{STEM}-4.md").write_text("mine")
    assert Path(start(benchmark(ttft=101.0))["paths"]["json"]).name == f"{STEM}-5.json"
    assert (start.folder / f"{STEM}-4.md").read_text() == "mine"


def test_two_that_write_at_once_get_a_file_each(start: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        Path(target).write_text("of somebody else")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert Path(start(benchmark())["paths"]["json"]).name == f"{STEM}-2.json"
    assert (start.folder / f"{STEM}.json").read_text() == "of somebody else"
    assert not [name for name in start.names() if name.startswith(".")]


def test_a_file_system_without_links_will_do(start: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: str, _target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    start(benchmark())
    start(benchmark(ttft=99.0))
    assert [name for name in start.names() if name.endswith("json")] == [f"{STEM}-2.json", f"{STEM}.json"]


def test_two_that_write_at_once_without_links(start: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: str, target: Path) -> None:
        if target.name == f"{STEM}.json":
            target.write_text("of somebody else")
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert Path(start(benchmark())["paths"]["json"]).name == f"{STEM}-2.json"
    assert (start.folder / f"{STEM}.json").read_text() == "of somebody else"


def test_a_document_without_a_date_is_of_now(start: Run) -> None:
    document = benchmark()
    del document["date"]
    result = start(document)
    assert json.loads(Path(result["paths"]["json"]).read_text())["date"] > "2026-01-01"


def test_check_mode_writes_nothing_and_says_the_same(start: Run) -> None:
    check = start(benchmark(), check_mode=True, diff=True)
    assert start.names() == []
    assert "| rate 4/s " in check["diff"]["after"]
    real = start(benchmark(), diff=True)
    assert {**check, "invocation": None} == {**real, "invocation": None}
    assert start(benchmark(), diff=True)["diff"]["after"] == ""
    assert "diff" not in start(benchmark())


def test_secrets_are_not_kept(start: Run) -> None:
    document = benchmark()
    document["deployment"]["flags"] = ["--api-key", "s3cret-value"]
    document["deployment"]["env"] = {"HF_TOKEN": "s3cret-value"}
    document["runs"][0]["settings"]["api_key"] = "s3cret-value"
    result = start(document, diff=True)
    del result["invocation"]
    for text in [json.dumps(result), *(path.read_text() for path in start.folder.iterdir())]:
        assert "s3cret-value" not in text


# --- comparing -------------------------------------------------------------------------------------------------------------------------


def test_latest_is_the_newest_of_the_same_kind_and_model_before(start: Run) -> None:
    for document in (
        benchmark("2026-11-19T00:00:00Z"),
        benchmark("2026-11-20T00:00:00Z", ttft=20.0),
        benchmark("2026-11-21T00:00:00Z", model="other"),
        benchmark("2026-11-30T00:00:00Z", ttft=1.0),
        {**SUITE, "date": "2026-11-21T01:00:00Z"},
    ):
        start(document)
    result = start(benchmark(), compare_with="latest")
    assert result["compared_with"] == str(start.folder / "2026-11-20T00-00-00Z-smoke-benchmark.json")
    assert result["counts"]["worse"] == 1
    worse = next(change for change in result["changes"] if change["verdict"] == "worse")
    words = {"verdict": "worse", "name": "direct rate 4/s: TTFT p50", "old": "20.0 ms", "new": "31.2 ms"}
    assert worse == {**words, "share": 0.56, "noise": 0.1, "p_value": None}
    assert result["comparison"][-1].startswith("1 worse, 0 better, ")
    markdown = Path(result["paths"]["markdown"]).read_text()
    assert "## Compared with an earlier result" in markdown
    assert result["comparison"][-1] in markdown
    assert Path(result["paths"]["svg"]).read_text().count('class="curve p95" points') == 4


def test_an_earlier_result_is_named_by_its_path(start: Run, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(benchmark("2027-01-01T00:00:00Z", model="other")))
    result = start(benchmark(), compare_with=str(path))
    assert result["compared_with"] == str(path)
    assert [change["name"] for change in result["changes"] if change["verdict"] == "differs"] == ["Model"]


def test_what_is_no_result_is_left_out_with_a_warning(start: Run) -> None:
    start.folder.mkdir(parents=True)
    (start.folder / "a-benchmark.json").write_text("{")
    (start.folder / "b-benchmark.json").write_text('{"date": "2026-01-01T00:00:00Z", "kind": "x", "runs": [1]}')
    result = start(benchmark(), compare_with="latest")
    assert not result.get("failed")
    assert [warning.partition("-benchmark.json")[0][-2:] for warning in result["warned"]] == ["/a", "/b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "Cannot read {path}: No such file or directory. Name the JSON file of a kept result, or latest."),
        ("# Benchmark", "{path} is no JSON, so it is no kept result"),
        ("[]", "{path} is no kept result: it has no date."),
        (json.dumps(SUITE), "A benchmark cannot be compared with a probe-suite."),
        (json.dumps({**SUITE, "schema": 7}), "{path} is no kept result: The result has schema 7"),
    ],
)
def test_an_earlier_result_that_cannot_be_used(start: Run, tmp_path: Path, text: t.Optional[str], message: str) -> None:
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    result = start(benchmark(), compare_with=str(path))
    assert result["failed"]
    assert message.format(path=path) in result["msg"]
    assert start.names() == []


def test_a_folder_that_cannot_be_written_to(start: Run) -> None:
    start.folder.parent.mkdir()
    start.folder.write_text("a file")
    result = start(benchmark())
    assert result["failed"]
    assert result["msg"] == f"Cannot write {start.folder}: File exists. Give a folder that this user may write to."


def test_a_wrong_document_is_refused(start: Run) -> None:
    document = benchmark()
    document["runs"][0]["probe"] = "bench"
    assert "value of probe must be one of" in start(document)["msg"]
    assert "document.date" in start({**benchmark(), "date": "yesterday"})["msg"]
    assert start.names() == []


# --- documentation ---------------------------------------------------------------------------------------------------------------------


def test_the_example_and_the_samples_of_the_documentation(start: Run) -> None:
    (task,) = yaml.safe_load(serving_results.EXAMPLES)
    options = task["llmops.serving.serving_results"]
    options["document"]["runs"][0]["result"] = task["vars"]["benchmark"]
    options["document"]["date"] = "2026-11-21T19:18:49Z"
    result = start(**options)
    documented = yaml.safe_load(serving_results.RETURN)
    assert set(result) - {"changed", "invocation", "warned"} == set(documented)
    assert result["table"] == documented["table"]["sample"]
    old = {**options["document"], "date": "2026-11-20T08:00:12Z"}
    old["runs"] = [
        {**old["runs"][0], "result": {"loads": [{**task["vars"]["benchmark"]["loads"][0], "ttft_ms": {"p50": 31.2, "p95": 40.0}}]}}
    ]
    start(old)
    compared = start(
        {**options["document"], "date": "2026-11-21T19:18:50Z"},
        compare_with=str(start.folder / "2026-11-20T08-00-12Z-smoke-benchmark.json"),
    )
    assert compared["comparison"] == documented["comparison"]["sample"]
    assert compared["changes"][0] == documented["changes"]["sample"][0]
    assert compared["counts"] == documented["counts"]["sample"]


def test_options_are_those_of_the_documentation() -> None:
    def names(options: dict[str, t.Any], key: str) -> dict[str, t.Any]:
        return {name: (option["type"], option.get("default"), names(option.get(key) or {}, key)) for name, option in options.items()}

    assert names(serving_results.ARGS, "options") == names(yaml.safe_load(serving_results.DOCUMENTATION)["options"], "suboptions")
