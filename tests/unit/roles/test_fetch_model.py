# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetching a model: which files, and that they arrive whole whatever the hub, the network or a kill does."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import huggingface_hub
import pytest
from ansible_collections.llmops.serving.tests.unit import stub_hub
from ansible_collections.llmops.serving.tests.unit.stub_hub import Repository, StubHub

SCRIPT = Path(__file__).parents[3] / "roles/vllm/files/fetch_model.py"
spec = importlib.util.spec_from_file_location("fetch_model", SCRIPT)
fetch_model = importlib.util.module_from_spec(spec)
sys.modules["fetch_model"] = fetch_model
spec.loader.exec_module(fetch_model)

MODEL = "acme/tiny"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
FIRST, SECOND = bytes(range(256)) * 4096, b"second shard" * 50_000
INDEX = {"metadata": {}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
FILES: dict[str, t.Union[bytes, Path]] = {
    "config.json": b'{"model_type": "tiny"}',
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    SHARDS[0]: FIRST,
    SHARDS[1]: SECOND,
    "consolidated.safetensors": b"the same once more",
    "README.md": b"read me",
    "modeling_tiny.py": b"print()",
    "1_Pooling/config.json": b"{}",
}
WANTED = {"config.json", "model.safetensors.index.json", *SHARDS, "1_Pooling/config.json"}


def command(hub_url: str, home: Path, *options: str, **environ: str) -> tuple[list[str], dict[str, str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    env = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": hub_url, "NO_PROXY": "127.0.0.1", **environ}
    return [sys.executable, str(SCRIPT), "--model", MODEL, "--pause", "0.05", *options], env


def fetch(hub_url: str, home: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    argv, env = command(hub_url, home, *options, **environ)
    run = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in run.stdout + run.stderr
    return run


def last_error(run: subprocess.CompletedProcess[str]) -> str:
    return run.stderr.strip().splitlines()[-1]


def snapshot(home: Path, repo: Repository) -> dict[str, bytes]:
    folder = home / "hub/models--acme--tiny/snapshots" / repo.commit
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(home: Path) -> list[str]:
    return [path.name for path in home.rglob("*.incomplete")]


@pytest.fixture
def repo() -> Repository:
    return Repository(MODEL, FILES, revisions=("main", "v1"))


@pytest.fixture
def hub(repo: Repository) -> t.Iterator[StubHub]:
    with StubHub(repo) as hub:
        yield hub


# --- which files


def paths(names: t.Iterable[str], load_format: str = "auto", remote_code: bool = False, indexed: t.Any = None) -> set[str]:
    files = [fetch_model.File(name, 10) for name in names]
    return {file.path for file in fetch_model.chosen(files, load_format, remote_code, indexed)}


def test_what_stands_beside_the_weights() -> None:
    beside = {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tokenizer.model.v3",
        "chat_template.jinja", "additional_chat_templates/rag.jinja", "qwen.tiktoken", "merges.txt", "vocab.json", "spiece.model",
        "tekken.json", "params.json", "preprocessor_config.json", "modules.json", "1_Pooling/config.json",
    }  # fmt: skip
    never = {
        "README.md", "LICENSE", ".gitattributes", "assets/figure.png", "logo.svg", "trainer_state.json", "training_args.bin",
        "optimizer.pt", "optimizer.json", "rng_state_0.pth", "checkpoint-500/config.json", "original/params.json",
        "original/tokenizer.model",
        "metal/model.bin", "onnx/config.json", "onnx/model.onnx", "gguf/config.json", "model-Q4_K_M.gguf", "tf_model.h5",
        "flax_model.msgpack", "model.ckpt", "modeling_acme.py", "deep/tokenization_acme.py", ".eval_results/mmlu.json",
        "original/model--00001-of-00007.safetensors",
    }  # fmt: skip
    assert paths(beside | never | {"model.safetensors"}) == beside | {"model.safetensors"}


def test_python_files_come_only_with_remote_code() -> None:
    code = {"modeling_acme.py", "deep/tokenization_acme.py"}
    assert paths(code | {"original/old.py", "model.safetensors"}, remote_code=True) == code | {"model.safetensors"}


def test_a_large_file_in_a_subfolder_is_left_out() -> None:
    files = [fetch_model.File("model.safetensors", 10), fetch_model.File("data/all.json", 2**30), fetch_model.File("tokenizer.json", 2**30)]
    assert [file.path for file in fetch_model.chosen(files, "auto", False)] == ["model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize(
    ("load_format", "there", "weights"),
    [
        ("auto", {*SHARDS, "consolidated.safetensors", "pytorch_model.bin"}, {*SHARDS}),
        ("mistral", {*SHARDS, "consolidated.safetensors", "pytorch_model.bin"}, {"consolidated.safetensors"}),
        ("mistral", {*SHARDS}, set()),
        ("auto", {"consolidated-00001-of-00001.safetensors", "other.safetensors"}, {"consolidated-00001-of-00001.safetensors"}),
        ("auto", {"weights.safetensors", "pytorch_model.bin"}, {"weights.safetensors"}),
        ("auto", {"pytorch_model.bin", "training_args.bin", "old.pt"}, {"pytorch_model.bin"}),
        ("auto", {"model.pt", "optimizer.pt", "scheduler.pt"}, {"model.pt"}),
        ("safetensors", {"pytorch_model.bin"}, set()),
        ("pt", {"model.safetensors", "model.pt"}, {"model.pt"}),
        ("npcache", {"model.safetensors", "pytorch_model.bin"}, {"pytorch_model.bin"}),
        ("auto", {"model.safetensors", "variant/model.safetensors"}, {"model.safetensors"}),
        ("pt", {"model.pt", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"}, {"model.pt", "2_Dense/model.safetensors"}),
        ("auto", {"model.safetensors", "2_Dense/pytorch_model.bin"}, {"model.safetensors", "2_Dense/pytorch_model.bin"}),
        ("auto", set(), set()),
    ],
)  # fmt: skip
def test_which_weights(load_format: str, there: set[str], weights: set[str]) -> None:
    assert paths(there, load_format) == weights


def test_only_what_the_index_names_is_loaded() -> None:
    assert paths({*SHARDS, "model-merged.safetensors"}, indexed={*SHARDS}) == {*SHARDS}


# --- the whole way


def test_the_engine_finds_the_model_without_a_network(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    run = fetch(hub.url, tmp_path, "--revision", "v1")
    assert run.returncode == 0, run.stderr
    size = sum(len(FILES[path]) for path in WANTED)
    assert run.stdout.splitlines()[0] == f"weights: 0.0 of {size / 2**20:.1f} MiB"
    assert run.stdout.splitlines()[-1] == (
        f"weights of {MODEL} are complete: {size / 2**20:.1f} MiB in {len(WANTED)} files (commit {repo.commit[:7]})"
    )
    assert snapshot(tmp_path, repo) == {path: FILES[path] for path in WANTED}
    assert leftovers(tmp_path) == []
    # as vLLM's get_model_path asks
    found = huggingface_hub.snapshot_download(MODEL, revision="v1", cache_dir=tmp_path / "hub", local_files_only=True, ignore_patterns="*")
    assert Path(found, "config.json").read_bytes() == FILES["config.json"]
    cached = huggingface_hub.try_to_load_from_cache(MODEL, SHARDS[0], cache_dir=tmp_path / "hub", revision="v1")
    assert Path(str(cached)).resolve().name == repo.files[SHARDS[0]].sha256
    assert Path(str(cached)).is_symlink()


def test_huggingface_hub_takes_what_lies_there_for_its_own(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    assert fetch(hub.url, tmp_path).returncode == 0
    sent = dict(hub.sent)
    huggingface_hub.snapshot_download(MODEL, cache_dir=tmp_path / "hub", endpoint=hub.url, allow_patterns=sorted(WANTED), token=False)
    assert hub.sent == sent


def test_a_commit_needs_no_ref(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    assert fetch(hub.url, tmp_path, "--revision", repo.commit).returncode == 0
    found = huggingface_hub.snapshot_download(
        MODEL, revision=repo.commit, cache_dir=tmp_path / "hub", local_files_only=True, ignore_patterns="*"
    )
    assert Path(found).name == repo.commit


def test_what_is_there_is_not_asked_for_again(repo: Repository, tmp_path: Path) -> None:
    with StubHub(repo) as hub:
        first = fetch(hub.url, tmp_path)
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 0
    assert "the hub is not asked" in run.stdout
    assert run.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    marker = json.loads((tmp_path / "llmops-serving/models--acme--tiny@main.json").read_text())
    assert marker["commit"] == repo.commit
    assert marker["files"] == {path: len(FILES[path]) for path in WANTED}
    assert marker["total_bytes"] == sum(marker["files"].values())


def test_a_lost_ref_is_written_again_without_the_hub(repo: Repository, tmp_path: Path) -> None:
    with StubHub(repo) as hub:
        fetch(hub.url, tmp_path)
    ref = tmp_path / "hub/models--acme--tiny/refs/main"
    ref.unlink()
    assert fetch(hub.url, tmp_path).returncode == 0
    assert ref.read_text() == repo.commit


def test_a_file_that_is_gone_is_fetched_again(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    fetch(hub.url, tmp_path)
    (tmp_path / "hub/models--acme--tiny/blobs" / repo.files["config.json"].blob_id).unlink()
    hub.sent.clear()
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 0, run.stderr
    assert hub.sent == {"config.json": len(FILES["config.json"])}
    assert snapshot(tmp_path, repo) == {path: FILES[path] for path in WANTED}


def test_a_file_that_is_short_is_fetched_again(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    fetch(hub.url, tmp_path)
    with (tmp_path / "hub/models--acme--tiny/blobs" / repo.files[SHARDS[1]].sha256).open("r+b") as file:
        file.truncate(100)
    hub.sent.clear()
    run = fetch(hub.url, tmp_path)
    assert f"{SHARDS[1]} is wrong (100 bytes instead of {len(SECOND)}); fetching it once more" in run.stdout
    assert run.returncode == 0, run.stderr
    assert hub.sent == {SHARDS[1]: len(SECOND)}
    assert snapshot(tmp_path, repo) == {path: FILES[path] for path in WANTED}


def test_another_load_format_is_another_set_of_files(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    fetch(hub.url, tmp_path)
    run = fetch(hub.url, tmp_path, "--load-format", "mistral", "--remote-code")
    assert run.returncode == 0, run.stderr
    assert {"consolidated.safetensors", "modeling_tiny.py"} < set(snapshot(tmp_path, repo))


def test_a_mirror_that_only_knows_the_tree(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    hub.tells_blobs = False
    assert fetch(hub.url, tmp_path).returncode == 0
    assert snapshot(tmp_path, repo) == {path: FILES[path] for path in WANTED}


def test_the_token_goes_to_the_hub_and_nowhere_else(tmp_path: Path) -> None:
    repo = Repository(MODEL, FILES, token="hf_secret")
    with StubHub(repo, cdn=True) as hub:
        run = fetch(hub.url, tmp_path, HF_TOKEN="hf_secret\n")
    assert run.returncode == 0, run.stderr
    assert snapshot(tmp_path, repo) == {path: FILES[path] for path in WANTED}
    to_cdn = [request for request in hub.requests if request.is_cdn]
    assert len(to_cdn) == len(SHARDS)
    assert not any(request.has_token for request in to_cdn)
    assert all(request.has_token for request in hub.requests if not request.is_cdn)
    kept = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.json"))
    assert "hf_secret" not in run.stdout + run.stderr + kept


def test_the_token_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hf_secret\n")
    with StubHub(Repository(MODEL, FILES, token="hf_secret")) as hub:
        assert fetch(hub.url, tmp_path, HF_TOKEN_PATH=str(tmp_path / "secret")).returncode == 0


# --- kills and broken connections


def begun(hub: StubHub, home: Path) -> subprocess.Popen[str]:
    """Return a run that has received the half of the first shard and waits for the rest."""
    hub.fail(SHARDS[0], stub_hub.stalls(len(FIRST) // 2))
    argv, env = command(hub.url, home)
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert hub.stalled.wait(30)
    part = home / "hub/models--acme--tiny/blobs" / f"{hub.repositories[MODEL].files[SHARDS[0]].sha256}.llmops.incomplete"
    while part.stat().st_size < len(FIRST) // 2 or (home / "hub/models--acme--tiny/snapshots").is_dir() is False:
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_after_a_kill_the_next_run_goes_on_where_it_was(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    process = begun(hub, tmp_path)
    process.kill()
    process.communicate(timeout=30)
    hub.sent.clear()
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 0, run.stderr
    assert hub.sent[SHARDS[0]] == len(FIRST) - len(FIRST) // 2
    assert snapshot(tmp_path, repo) == {path: FILES[path] for path in WANTED}
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_a_signal_ends_it_at_once_and_keeps_what_is_there(
    hub: StubHub, tmp_path: Path, number: int, code: int, name: str
) -> None:  # fmt: skip
    process = begun(hub, tmp_path)
    process.send_signal(number)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err == f"ended by {name}; what has arrived is kept\n"
    assert f"{hub.repositories[MODEL].files[SHARDS[0]].sha256}.llmops.incomplete" in leftovers(tmp_path)


def test_a_connection_that_breaks_off_is_taken_up_again(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    hub.fail(SHARDS[0], stub_hub.breaks_off(300_000), stub_hub.breaks_off(300_000))
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 0, run.stderr
    assert "the connection to the hub broke off (" in run.stdout
    assert hub.sent[SHARDS[0]] == len(FIRST)
    assert [r.range for r in hub.requests if r.path.endswith(SHARDS[0])] == [
        None, f"bytes=300000-{len(FIRST) - 1}", f"bytes=600000-{len(FIRST) - 1}",
    ]  # fmt: skip


def test_a_mirror_that_knows_no_ranges(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    hub.fail(SHARDS[0], stub_hub.breaks_off(300_000), stub_hub.ignores_range())
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 0, run.stderr
    assert "is wrong" not in run.stdout
    assert snapshot(tmp_path, repo)[SHARDS[0]] == FIRST


def test_two_at_a_time_fetch_each_byte_once(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    first = begun(hub, tmp_path)
    argv, env = command(hub.url, tmp_path)
    second = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert second.stdout.readline().startswith("weights: ")
    time.sleep(0.4)
    assert [request.path for request in hub.requests if request.path.endswith(SHARDS[0])] == [f"/{MODEL}/resolve/{repo.commit}/{SHARDS[0]}"]
    hub.go_on.set()
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "are complete" in out
    assert hub.sent == {path: len(FILES[path]) for path in WANTED}
    assert snapshot(tmp_path, repo) == {path: FILES[path] for path in WANTED}


def test_two_that_write_at_once_where_locks_are_ignored(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    """The second begins where the first is, is faster, and puts the file into place under its hands."""

    class Loose:
        def __init__(self, _path: str) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_exc: object) -> None: ...

    first = begun(hub, tmp_path)
    store = fetch_model.Store(MODEL, {"HF_HOME": str(tmp_path)})
    client = fetch_model.Hub(hub.url, "")
    client.lock = Loose
    judge = fetch_model.Judge(MODEL, "main", hub.url, False, tmp_path)
    stop = threading.Event()
    fetching = fetch_model.Fetch(client, store, repo.commit, judge, fetch_model.Patience(5, stop), stop)
    fetching.one(next(file for file in client.files(MODEL, "main")[1] if file.path == SHARDS[0]))
    hub.go_on.set()
    _out, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert snapshot(tmp_path, repo) == {path: FILES[path] for path in WANTED}
    assert leftovers(tmp_path) == []


# --- what arrives is checked


@pytest.mark.parametrize("path", [SHARDS[0], "config.json"])
def test_wrong_bytes_are_fetched_once_more(hub: StubHub, repo: Repository, tmp_path: Path, path: str) -> None:
    hub.fail(path, stub_hub.wrong_bytes())
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 0, run.stderr
    assert f"{path} is wrong (its checksum is " in run.stdout
    assert snapshot(tmp_path, repo) == {path: FILES[path] for path in WANTED}


def test_bytes_that_stay_wrong_are_named_and_not_kept(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    hub.fail(SHARDS[1], stub_hub.wrong_bytes(), stub_hub.wrong_bytes())
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 3
    assert last_error(run).startswith(f"{SHARDS[1]} of {MODEL} came wrong twice (its checksum is ")
    assert not list(tmp_path.rglob(f"{repo.files[SHARDS[1]].sha256}*[!k]"))
    assert not list(tmp_path.rglob("llmops-serving"))


def test_a_damaged_file_of_another_program_is_found(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    blob = tmp_path / "hub/models--acme--tiny/blobs" / repo.files[SHARDS[0]].sha256
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"?" * len(FIRST))
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 0, run.stderr
    assert snapshot(tmp_path, repo)[SHARDS[0]] == FIRST


# --- what cannot be mended by waiting


@pytest.mark.parametrize(
    ("options", "environ", "repository", "words"),
    [
        ({}, {}, {"gated": True}, "acme/tiny is gated: accept its licence at {hub}/acme/tiny, then give hf_token of that account"),
        ({}, {"HF_TOKEN": "hf_bad"}, {}, "{hub} does not accept hf_token (401): it is wrong or has expired"),
        ({}, {}, {"token": "hf_good"}, "{hub} shows acme/tiny to nobody without hf_token (401): it is gated, private or misspelt"),
        ({"--model": "a/b"}, {"HF_TOKEN": "hf_good"}, {"token": "hf_good"}, "{hub} has no model a/b, or hf_token may not see it (404)"),
        ({"--revision": "v9"}, {}, {}, 'acme/tiny has no revision "v9" at {hub}'),
        ({"--revision": "../up"}, {}, {}, '"../up" is no revision: it has to be a branch, a tag or a commit'),
        ({"--model": "a/b/c"}, {}, {}, '"a/b/c" is no model of a hub: it has to be owner/name'),
        ({"--load-format": "pt"}, {}, {}, "acme/tiny has no weights that vLLM loads: neither safetensors nor *.bin or *.pt"),
        ({"--title": "row"}, {"HF_TOKEN": "hf_ bad"}, {},
         "row: the token in HF_TOKEN has a blank, a line break or another character that no token has"),
    ],
)  # fmt: skip
def test_what_waiting_cannot_mend(
    tmp_path: Path, options: dict[str, str], environ: dict[str, str], repository: dict[str, t.Any], words: str
) -> None:
    with StubHub(Repository(MODEL, FILES, **repository)) as hub:
        run = fetch(hub.url, tmp_path, *(part for option in options.items() for part in option), **environ)
        assert last_error(run) == words.format(hub=hub.url)
    assert run.returncode == 3
    assert environ.get("HF_TOKEN", "none") not in run.stdout + run.stderr


def test_a_page_instead_of_an_answer(hub: StubHub, tmp_path: Path) -> None:
    hub.fail("api", stub_hub.page("<html>please log in</html>"))
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 3
    assert last_error(run).startswith(f"{hub.url} does not answer as a hub does.")


def test_no_room_is_known_before_the_first_byte(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    repo.files[SHARDS[0]].size = 10**18
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 3
    assert last_error(run).startswith(f"{MODEL} needs 9406")
    assert " free" in last_error(run)
    assert not {*SHARDS} & set(hub.sent)


def test_room() -> None:
    assert fetch_model.no_room(100 * 2**30, 101 * 2**30, "/data") == ""
    assert fetch_model.no_room(60 * 2**30, 12 * 2**30, "/data") == "needs 60.6 GiB more, /data has 12.0 GiB free"


def test_an_index_that_names_what_is_not_there(tmp_path: Path) -> None:
    with StubHub(Repository(MODEL, {path: content for path, content in FILES.items() if path != SHARDS[1]})) as hub:
        run = fetch(hub.url, tmp_path)
    assert run.returncode == 3
    assert last_error(run) == f"{MODEL} lacks {SHARDS[1]}, which its model.safetensors.index.json names: vLLM would not start"
    assert SHARDS[0] not in hub.sent


def test_a_disk_that_cannot_be_written(hub: StubHub) -> None:
    run = fetch(hub.url, Path("/proc/none"))
    assert run.returncode in (1, 3)
    assert "/proc/none" in last_error(run)


# --- what may heal


def test_too_many_requests_are_told_and_waited_for(hub: StubHub, repo: Repository, tmp_path: Path) -> None:
    hub.fail("api", stub_hub.status(429, retry_after="0"))
    hub.fail(SHARDS[0], stub_hub.status(503), stub_hub.status(500))
    run = fetch(hub.url, tmp_path)
    assert run.returncode == 0, run.stderr
    assert "the hub answers 429 (too many requests); trying again in 0 s" in run.stdout.splitlines()
    assert "the hub answers 503 (service unavailable); trying again in 0 s" in run.stdout.splitlines()
    assert "the hub answers 500 (internal server error); trying again in 0 s" in run.stdout.splitlines()


def test_trouble_that_stays_ends_it(hub: StubHub, tmp_path: Path) -> None:
    hub.fail("api", *[stub_hub.status(503)] * 50)
    run = fetch(hub.url, tmp_path, "--retry-minutes", "0.005")
    assert run.returncode == 1
    assert last_error(run) == "the hub answers 503 (service unavailable); 0 s of it is borne. What has arrived is kept"
    assert 2 <= len(hub.requests) < 50


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    with StubHub() as hub:
        url = hub.url
    run = fetch(url, tmp_path, "--retry-minutes", "0.003", "--title", "tiny")
    assert run.returncode == 1
    assert "the hub cannot be reached (Connection refused); trying again in 0 s" in run.stdout
    assert last_error(run).startswith("tiny: the hub cannot be reached (Connection refused); ")


class Clock:
    """A clock, and an event that nobody sets: to wait for it moves the clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False


def patience(clock: Clock, lines: list[str]) -> t.Any:
    return fetch_model.Patience(900, clock, tell=lines.append, clock=clock)


def test_pauses_grow_and_begin_anew_with_a_new_byte() -> None:
    clock, lines = Clock(), []
    waiting = patience(clock, lines)
    for _time in range(6):
        waiting.wait("trouble")
    assert clock.waits == [5, 10, 20, 40, 60, 60]
    waiting.progress()
    waiting.wait("trouble")
    assert clock.waits[-1] == 5
    assert lines[1] == "trouble; trying again in 10 s"


def test_the_hub_may_ask_for_a_longer_pause() -> None:
    clock, lines = Clock(), []
    patience(clock, lines).wait("the hub answers 429 (too many requests)", 20)
    assert lines == ["the hub answers 429 (too many requests); trying again in 20 s"]
    with pytest.raises(fetch_model.FetchError, match=r"^busy and asks to wait 1 h 0 min; 15 min of it is borne"):
        patience(clock, lines).wait("busy", 3600)


def test_patience_ends() -> None:
    clock, lines = Clock(), []
    waiting = patience(clock, lines)
    with pytest.raises(fetch_model.FetchError, match="15 min of it is borne") as failed:
        list(iter(lambda: waiting.wait("trouble"), "never"))
    assert failed.value.code == 1
    assert 840 <= sum(clock.waits) <= 900


def test_connections_that_fail_together_tell_it_once() -> None:
    clock, lines = Clock(), []
    waiting = patience(clock, lines)
    clock.wait = lambda seconds: clock.waits.append(seconds) or False
    waiting.wait("trouble")
    clock.now += 2
    waiting.wait("trouble")
    assert lines == ["trouble; trying again in 5 s"]
    assert clock.waits == [5, 3]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "20"}, 20),
        ({"retry-after": "Thu, 01 Jan 1970 00:02:00 GMT"}, 20),
        ({"retry-after": "soon"}, 0),
        ({"ratelimit": '"api";r=0;t=55'}, 55),
        ({"ratelimit": '"api";r=9;t=55'}, 0),
    ],
)
def test_the_pause_that_is_asked_for(headers: dict[str, str], seconds: float) -> None:
    assert fetch_model.asked_pause(headers, now=100) == seconds


# --- what is said


def test_lines_of_progress() -> None:
    gib = 2**30
    meter = fetch_model.Meter(int(60.8 * gib))
    assert meter.line("weights", 0, 0) == "weights: 0.0 of 60.8 GiB"
    assert meter.line("weights", 5 * gib, 50) == "weights: 5.0 of 60.8 GiB, 102 MiB/s, 9 min 18 s left"
    for second in range(55, 90, 5):
        line = meter.line("weights", 5 * gib + (second - 50) * 2**20, second)
    # of the last half minute only
    assert ", 1 MiB/s, " in line
    assert meter.line("checking", int(60.8 * gib), 90).startswith("checking: 60.8 of 60.8 GiB, ")
    assert fetch_model.Meter(2**20).line("weights", 2**19, 0) == "weights: 0.5 of 1.0 MiB"


def test_no_time_is_promised_when_nothing_comes() -> None:
    meter = fetch_model.Meter(2**30)
    meter.line("weights", 5, 0)
    assert meter.line("weights", 5, 5) == "weights: 0.0 of 1.0 GiB, 0 MiB/s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (450, "7 min 30 s"), (3600, "1 h 0 min"), (5000, "1 h 23 min")]
)
def test_times(seconds: float, text: str) -> None:
    assert fetch_model.time_text(seconds) == text


# --- the stub as a program


def test_the_stub_serves_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    for path, content in FILES.items():
        (folder / path).write_bytes(content)
    argv = [sys.executable, stub_hub.__file__, "--port", "0", "--folder", str(folder), "--repo", MODEL, "--bind", "127.0.0.1"]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert "8 files" in server.stdout.readline()
        url = server.stdout.readline().split()[-1]
        assert fetch(url, tmp_path / "home").returncode == 0
        assert fetch(url, tmp_path / "home").returncode == 0
    finally:
        server.terminate()
        server.communicate(timeout=30)
