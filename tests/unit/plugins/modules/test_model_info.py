# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading models from a hub in miniature: an HTTP server that has files, redirects and refusals, and records who asked for what."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import model_info

TOKEN = "hf_0123456789abcdef"
MODEL = "Qwen/Qwen3-8B"
FILES = f"/{MODEL}/resolve/main"
CONFIG = f"{FILES}/config.json"
INDEX = f"{FILES}/model.safetensors.index.json"
SINGLE = f"{FILES}/model.safetensors"
API = f"/api/models/{MODEL}/revision/main?blobs=true"

QWEN = json.loads((Path(__file__).parents[1] / "module_utils" / "fixtures" / "hub" / "Qwen3-8B.json").read_text())
INDEX_OF_TWO = {
    "metadata": {"total_size": 16_381_470_720},
    "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
}


class Page(t.NamedTuple):
    """What the server answers for one path."""

    status: int = 200
    body: bytes = b""
    headers: t.Mapping[str, str] = {}


class Asked(t.NamedTuple):
    """What a client asked."""

    method: str
    path: str
    authorization: t.Optional[str]


def document(data: t.Any) -> Page:
    return Page(body=json.dumps(data).encode())


def moved(to: str, status: int = 307, **headers: str) -> Page:
    return Page(status, headers={"Location": to, **{name.replace("_", "-"): value for name, value in headers.items()}})


def refused(status: int, code: str = "") -> Page:
    """Refuse as the hub does, quoting what was asked."""
    return Page(status, b"Bearer " + TOKEN.encode(), {"X-Error-Code": code} if code else {})


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: t.Any) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        hub = t.cast(StubHub, self.server)
        hub.asked.append(Asked(self.command, self.path, self.headers["Authorization"]))
        page = hub.pages.get(self.path, hub.otherwise)
        if page is None:
            hub.closing.wait()
            self.close_connection = True
            return
        headers = {"Content-Length": str(len(page.body)), **page.headers}
        self.send_response(page.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(page.body)
        if len(page.body) < int(headers["Content-Length"]):
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()


class StubHub(http.server.ThreadingHTTPServer):
    """The server. A page that is None is never answered."""

    daemon_threads = True

    def __init__(self, **pages: Page) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, t.Optional[Page]] = dict(pages)
        self.otherwise: t.Optional[Page] = Page(404, headers={"X-Error-Code": "EntryNotFound"})
        self.asked: list[Asked] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def lines(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]

    @property
    def tokens(self) -> set[t.Optional[str]]:
        return {asked.authorization for asked in self.asked}

    def __enter__(self) -> StubHub:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_args: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def hub() -> t.Iterator[StubHub]:
    """A hub that has the model in two shards."""
    with StubHub() as server:
        server.pages.update({CONFIG: document(QWEN), INDEX: document(INDEX_OF_TWO)})
        yield server


@pytest.fixture
def elsewhere() -> t.Iterator[StubHub]:
    """Another host, where the hub keeps its large files."""
    with StubHub() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def run(hub: t.Optional[StubHub] = None, **params: t.Any) -> dict[str, t.Any]:
    defaults = {
        "model": MODEL,
        "title": "mine",
        "revision": "main",
        "hf_endpoint": hub.url if hub else "http://127.0.0.1:9",
        "hf_token": None,
        "timeout": 5.0,
    }
    return model_info.run({**defaults, **params})


def failure(hub: t.Optional[StubHub] = None, **params: t.Any) -> str:
    with pytest.raises(ServingError) as caught:
        run(hub, **params)
    message = str(caught.value)
    assert "\n" not in message
    assert TOKEN not in message
    return message


# -- a hub -------------------------------------------------------------------------------------------------------------


def test_two_requests_tell_all(hub: StubHub) -> None:
    result = run(hub)
    assert result == {
        "changed": False,
        "row": {
            "architecture": "Qwen3ForCausalLM",
            "weights_gib": 15.26,
            "weights_format": "bf16",
            "vocab_size": 151936,
            "num_attention_heads": 32,
            "num_kv_heads": 8,
            "head_dim": 128,
            "layers": {"full": 36},
            "max_context": 40960,
        },
        "notes": [],
        "source": f"{hub.url}{CONFIG}",
        "requests": 2,
    }
    assert hub.lines == [f"GET {CONFIG}", f"GET {INDEX}"]
    assert hub.tokens == {None}


def test_the_token_goes_to_the_hub(hub: StubHub) -> None:
    run(hub, hf_token=TOKEN)
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_revision_and_a_mirror_below_a_path(hub: StubHub) -> None:
    files = f"/mirror/{MODEL}/resolve/refs%2Fpr%2F1"
    hub.pages = {f"{files}/config.json": document(QWEN), f"{files}/model.safetensors.index.json": document(INDEX_OF_TWO)}
    assert run(hub, hf_endpoint=f"{hub.url}/mirror/", revision="refs/pr/1")["row"]["weights_gib"] == 15.26


def test_answers_may_be_compressed(hub: StubHub) -> None:
    hub.pages[CONFIG] = Page(body=gzip.compress(json.dumps(QWEN).encode()), headers={"Content-Encoding": "gzip"})
    assert run(hub)["row"]["layers"] == {"full": 36}
    hub.pages[CONFIG] = Page(body=b"{}", headers={"Content-Encoding": "gzip"})
    assert "incorrect header check" in failure(hub)


def test_one_file_is_measured_without_being_followed(hub: StubHub, elsewhere: StubHub) -> None:
    hub.pages.pop(INDEX)
    hub.pages[SINGLE] = moved(f"{elsewhere.url}/blob", 302, X_Linked_Size="988097824")
    result = run(hub, hf_token=TOKEN)
    assert (result["row"]["weights_gib"], result["requests"]) == (0.92, 3)
    assert hub.lines[2] == f"HEAD {SINGLE}"
    assert elsewhere.asked == []


def test_a_mirror_tells_the_length_only(hub: StubHub, elsewhere: StubHub) -> None:
    hub.pages.pop(INDEX)
    hub.pages[SINGLE] = moved(f"{elsewhere.url}/blob", 302)
    elsewhere.pages["/blob"] = Page(headers={"Content-Length": "988097824"})
    result = run(hub, hf_token=TOKEN)
    assert (result["row"]["weights_gib"], result["requests"]) == (0.92, 4)
    assert elsewhere.asked == [Asked("HEAD", "/blob", None)]


def test_a_model_that_was_renamed_is_found_with_the_token(hub: StubHub) -> None:
    for name in ("config.json", "model.safetensors.index.json"):
        hub.pages[f"/Qwen/Old/resolve/main/{name}"] = moved(f"{FILES}/{name}", X_Linked_Size="571")
    assert run(hub, model="Qwen/Old", hf_token=TOKEN)["requests"] == 4
    assert hub.tokens == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_another_host_does_not_see_the_token(hub: StubHub, elsewhere: StubHub, status: int) -> None:
    hub.pages[CONFIG] = moved(f"{elsewhere.url}/blob", status)
    elsewhere.pages["/blob"] = document(QWEN)
    assert run(hub, hf_token=TOKEN)["row"]["layers"] == {"full": 36}
    assert elsewhere.tokens == {None}
    assert hub.tokens == {f"Bearer {TOKEN}"}


# -- weights that no index tells ---------------------------------------------------------------------------------------


def listing(*names: str, size: t.Optional[int] = 2**30, **more: t.Any) -> Page:
    siblings = [{"rfilename": name, **({"size": size} if size else {})} for name in names]
    return document({"id": MODEL, "siblings": siblings, **more})


def test_the_listing_of_files_is_the_last_resort(hub: StubHub) -> None:
    hub.pages.pop(INDEX)
    names = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "original/model.safetensors"]
    hub.pages[API] = listing(*names, safetensors={"parameters": {"BF16": 8190735360}, "total": 8190735360})
    result = run(hub)
    assert (result["row"]["weights_gib"], result["row"]["parameters_b"]) == (2.0, 8.19)
    assert hub.lines == [f"GET {CONFIG}", f"GET {INDEX}", f"HEAD {SINGLE}", f"GET {API}"]


@pytest.mark.parametrize("index", [document({"metadata": {}, "weight_map": {"a": "x.safetensors"}}), Page(body=b"<html>")])
def test_an_index_without_a_size_leads_to_the_listing(hub: StubHub, index: Page) -> None:
    hub.pages.update({INDEX: index, API: listing("x.safetensors")})
    result = run(hub)
    assert (result["row"]["weights_gib"], result["requests"]) == (1.0, 3)
    hub.pages.pop(API)
    why = "model.safetensors.index.json does not tell it, and the hub does not list its files"
    assert run(hub)["notes"] == [f"weights_gib is left out: {why}."]


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (listing("config.json", "pytorch_model.bin"), "the repository has no safetensors, only .bin"),
        (listing("config.json", "q4.gguf", "x.bin"), "the repository has no safetensors, only .bin and .gguf"),
        (listing("config.json"), "the repository has no safetensors"),
        (listing("model-1.safetensors", size=None), "URL does not tell the sizes of its files"),
        (Page(404), "URL has neither model.safetensors.index.json nor model.safetensors, and the hub does not list its files"),
        (Page(body=b"<html>"), "URL has neither model.safetensors.index.json nor model.safetensors, and the hub does not list its files"),
    ],
)
def test_weights_that_cannot_be_measured_are_left_out(hub: StubHub, page: Page, why: str) -> None:
    hub.pages.pop(INDEX)
    hub.pages[API] = page
    result = run(hub)
    assert "weights_gib" not in result["row"]
    assert result["row"]["layers"] == {"full": 36}
    assert result["notes"] == [f"weights_gib is left out: {why.replace('URL', hub.url)}."]


def test_an_unknown_layout_is_told_with_the_facts_that_are_known(hub: StubHub) -> None:
    hub.pages[CONFIG] = document({**QWEN, "layer_types": ["something_new"] * 36})
    result = run(hub)
    assert result["row"]["weights_gib"] == 15.26
    assert "layers" not in result["row"]
    assert result["notes"] == ["layers is left out: something_new is a kind of layer that is not known here."]


# -- refusals ----------------------------------------------------------------------------------------------------------

SPELLING = "Check the spelling of vllm_model_configs.mine.model (owner/name; case counts)"


@pytest.mark.parametrize(
    ("page", "token", "message"),
    [
        (refused(404, "RepoNotFound"), TOKEN, f"URL has no model {MODEL}, or the token in hf_token may not see it. {SPELLING}."),
        (refused(404), None, f"URL has no model {MODEL}. {SPELLING}; a private model needs hf_token."),
        (
            refused(401, "RepoNotFound"),
            None,
            f"URL shows {MODEL} to nobody without a token: it is gated, private, or misspelt. {SPELLING}, and set hf_token.",
        ),
        (
            refused(404, "RevisionNotFound"),
            None,
            f'{MODEL} has no revision "main". Set vllm_model_configs.mine.revision to a branch, tag or commit of it.',
        ),
        (
            refused(404, "EntryNotFound"),
            None,
            f"{MODEL} has no config.json, so it is not in the format of transformers. If vLLM can serve it: add the facts to "
            "vllm_model_configs.mine (see its card), or waive the check with vllm_fit_check: false.",
        ),
        (
            refused(401, "GatedRepo"),
            None,
            f"{MODEL} is gated, and there is no token. Accept its licence at URL/{MODEL}, then set hf_token or export HF_TOKEN.",
        ),
        (refused(401), TOKEN, "URL does not accept the token in hf_token: it is wrong or has expired. Make a new one with read access."),
        (
            refused(403, "GatedRepo"),
            TOKEN,
            f"the token in hf_token has no access to {MODEL}. Accept its licence at URL/{MODEL} with the same account; "
            "a fine-grained token also has to allow reading gated repositories.",
        ),
        (refused(403), None, f"URL refuses {MODEL} (403). Set hf_token, or check the mirror in vllm_hf_endpoint."),
        (refused(429), None, "URL answers 429, too many requests from this address. Set hf_token, or try again in some minutes."),
        (
            refused(502),
            None,
            f"URL answered 502 for {MODEL}. Try again later, or set a mirror in vllm_hf_endpoint; or add the facts to "
            "vllm_model_configs.mine (see its card), or waive the check with vllm_fit_check: false.",
        ),
    ],
)
def test_what_the_hub_refuses(hub: StubHub, page: Page, token: t.Optional[str], message: str) -> None:
    hub.pages[CONFIG] = page
    assert failure(hub, hf_token=token) == "mine: " + message.replace("URL", hub.url)
    assert len(hub.asked) == 1


def test_weights_may_be_refused_where_the_config_is_not(hub: StubHub) -> None:
    hub.pages[INDEX] = refused(403, "GatedRepo")
    assert "has no access to" in failure(hub, hf_token=TOKEN)


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"[1]", b"", b"\xff", b"[" * 100_000])
def test_a_page_instead_of_a_config(hub: StubHub, body: bytes) -> None:
    hub.pages[CONFIG] = Page(body=body)
    assert failure(hub) == (f"mine: {hub.url}{CONFIG} is not a JSON object. A mirror or a proxy may have answered with a page of its own.")


# -- a hub that is not there -------------------------------------------------------------------------------------------

OFFLINE = (
    "The catalog's models need no hub. Set a mirror in vllm_hf_endpoint; or add the facts to vllm_model_configs.mine (see its card), "
    "or waive the check with vllm_fit_check: false."
)


def test_nobody_listens() -> None:
    with StubHub() as closed:
        url = closed.url
    message = failure(hf_endpoint=url)
    assert message == f"mine: {url} cannot be reached, so the facts of {MODEL} cannot be read: Connection refused. {OFFLINE}"


def test_no_such_host() -> None:
    message = failure(hf_endpoint="http://hub.invalid")
    assert message.startswith(f"mine: http://hub.invalid cannot be reached, so the facts of {MODEL} cannot be read: ")
    assert message.endswith(OFFLINE)


@pytest.mark.parametrize("path", [CONFIG, INDEX])
def test_a_hub_that_says_nothing(hub: StubHub, path: str) -> None:
    hub.pages[path] = None
    assert "cannot be read: no answer within 0.2 s. The catalog's" in failure(hub, timeout=0.2)


def test_an_answer_that_breaks_off(hub: StubHub) -> None:
    hub.pages[CONFIG] = Page(body=b'{"model', headers={"Content-Length": "4000"})
    assert "cannot be read: the answer broke off. The" in failure(hub)


@pytest.mark.parametrize(
    ("to", "whither"), [(CONFIG, "127.0.0.1"), ("ftp://files.invalid/x", "files.invalid"), ("file:///etc/passwd", "nowhere")]
)
def test_redirects_that_lead_nowhere(hub: StubHub, to: str, whither: str) -> None:
    hub.pages[CONFIG] = moved(to)
    message = failure(hub)
    assert message.endswith(OFFLINE)
    assert f": its redirects do not end well, the last leads to {whither}. The" in message
    assert len(hub.asked) <= 6


def test_the_password_of_a_mirror_is_not_told() -> None:
    with StubHub() as closed:
        port = closed.server_address[1]
    message = failure(hf_endpoint=f"http://me:secret@127.0.0.1:{port}")
    assert message.startswith(f"mine: http://127.0.0.1:{port} cannot be reached")
    assert "secret" not in message


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model": "llama3:8b"}, '"llama3:8b" is neither a Hugging Face id (owner/name) nor an absolute path.'),
        ({"model": "../../etc/passwd"}, '"../../etc/passwd" is neither a Hugging Face id'),
        ({"hf_endpoint": "huggingface.co"}, 'vllm_hf_endpoint: "huggingface.co" is not a URL like https://huggingface.co.'),
        ({"hf_endpoint": "file:///etc"}, 'vllm_hf_endpoint: "file:///etc" is not a URL'),
        ({"hf_endpoint": f"http://{'a' * 70}.example"}, "cannot be reached, so the facts"),
        ({"hf_token": f"{TOKEN}\n"}, "hf_token has a blank, a line break or another character"),
    ],
)
def test_what_cannot_be_asked(params: dict[str, t.Any], message: str) -> None:
    assert message in failure(**params)


# -- a folder ----------------------------------------------------------------------------------------------------------


class Folder:
    """A folder with a model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("config.json", QWEN)

    def write(self, name: str, content: t.Any) -> None:
        (self.path / name).write_text(content if isinstance(content, str) else json.dumps(content))

    def sized(self, name: str, mib: int) -> None:
        with open(self.path / name, "wb") as file:
            file.truncate(mib * 2**20)

    def run(self) -> dict[str, t.Any]:
        return run(model=str(self.path))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_folder_needs_no_hub(folder: Folder) -> None:
    folder.sized("model.safetensors", 3072)
    result = folder.run()
    assert (result["row"]["weights_gib"], result["row"]["layers"]) == (3.0, {"full": 36})
    assert (result["source"], result["requests"], result["notes"]) == (str(folder.path), 0, [])


def test_only_what_the_index_names_is_loaded(folder: Folder) -> None:
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "extra.safetensors"):
        folder.sized(name, 1024)
    folder.write("model.safetensors.index.json", INDEX_OF_TWO)
    assert folder.run()["row"]["weights_gib"] == 2.0
    (folder.path / "model-00002-of-00002.safetensors").unlink()
    assert failure(model=str(folder.path)) == (
        f"mine: {folder.path} lacks model-00002-of-00002.safetensors, which its model.safetensors.index.json names: "
        "vLLM would not start. Copy the model anew."
    )


@pytest.mark.parametrize("index", ["{}", "[]", "broken"])
def test_an_index_that_says_nothing_is_passed_over(folder: Folder, index: str) -> None:
    folder.sized("model.safetensors", 1024)
    folder.write("model.safetensors.index.json", index)
    assert folder.run()["row"]["weights_gib"] == 1.0


def test_mistrals_own_file_is_what_vllm_loads(folder: Folder) -> None:
    folder.sized("consolidated.safetensors", 1024)
    folder.sized("model.safetensors", 2048)
    assert folder.run()["row"]["weights_gib"] == 1.0


def test_a_folder_without_safetensors(folder: Folder) -> None:
    folder.sized("model.gguf", 1)
    assert folder.run()["notes"] == ["weights_gib is left out: the folder has no safetensors, only .gguf."]


def test_a_folder_that_cannot_be_read(folder: Folder) -> None:
    (folder.path / "model.safetensors").symlink_to(folder.path / "gone")
    advice = (
        "No such file or directory. Set vllm_model_configs.mine.model to the folder that holds config.json and the weights; "
        "or add the facts to vllm_model_configs.mine (see its card), or waive the check with vllm_fit_check: false."
    )
    assert failure(model=str(folder.path)) == f"mine: {folder.path}/model.safetensors cannot be read: {advice}"
    (folder.path / "config.json").unlink()
    assert failure(model=str(folder.path)) == f"mine: {folder.path}/config.json cannot be read: {advice}"


def test_a_config_in_a_folder_that_is_none(folder: Folder) -> None:
    folder.sized("model.safetensors", 1)
    folder.write("config.json", "broken")
    assert failure(model=str(folder.path)).startswith(f"mine: {folder.path}/config.json is not a JSON object.")


# -- as a module -------------------------------------------------------------------------------------------------------


def test_main_returns_what_its_documentation_names_and_no_token(
    hub: StubHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.pages.update({INDEX: Page(404), API: listing("model.gguf")})
    warnings: list[str] = []
    monkeypatch.setattr(model_info.AnsibleModule, "warn", staticmethod(warnings.append))
    options = {"model": MODEL, "hf_endpoint": hub.url, "hf_token": TOKEN, "_ansible_check_mode": True, "_ansible_verbosity": 4}
    with patch_module_args(options), pytest.raises(SystemExit):
        model_info.main()
    output = capsys.readouterr().out
    answer = json.loads(output)
    assert TOKEN not in output
    assert {"row", "notes", "source", "requests"} <= set(answer)
    assert answer["changed"] is False
    assert warnings == [f"{MODEL}: weights_gib is left out: the repository has no safetensors, only .gguf."]


def test_main_fails_with_one_message(hub: StubHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.pages[CONFIG] = refused(403, "GatedRepo")
    options = {"model": MODEL, "title": "mine", "hf_endpoint": hub.url, "hf_token": TOKEN, "_ansible_verbosity": 4}
    with patch_module_args(options), pytest.raises(SystemExit):
        model_info.main()
    output = capsys.readouterr().out
    answer = json.loads(output)
    assert answer["failed"]
    assert answer["msg"].startswith(f"mine: the token in hf_token has no access to {MODEL}.")
    assert TOKEN not in output
