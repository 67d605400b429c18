# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""make client-config: what is written where, that the examples really run, and that keys stay where they are."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.tests.playbooks import playing
from ansible_collections.llmops.serving.tests.playbooks.playing import KEY
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

SETTINGS = {"README.md", "env.sh", "endpoint.env", "chat.sh", "chat.py", "chat_openai.py", "runtime_matrix.json", "open-webui.env"}
SETTINGS |= {"victor/profiles.yaml", "archi/config.yaml", "picoclaw/config.json", "picoclaw/config.legacy.json"}
HOLDING = {"env.sh", "endpoint.env", "open-webui.env", "victor/profiles.yaml", "archi/config.yaml", "picoclaw/config.legacy.json"}
HOLDING |= {"api-key", "picoclaw/api.key"}


def answers(body: t.Any) -> stub.Reply:
    """Call a tool that is offered, then tell its result; without tools, greet."""
    last, stream = body["messages"][-1], body.get("stream", False)
    if last["role"] == "tool":
        return stub.answer(f"The tool says: {last['content']}", stream=stream)
    if "tools" in body:
        return stub.answer("", "tool_calls", stream, tool_calls=[stub.call("get_weather", {"city": "Paris"})])
    return stub.answer("Hello from the stub!", stream=stream)


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI(models=[stub.models("smoke", "chat")], chat=[stub.by_request(answers)], api_key=KEY) as running:
        running.scripts["/metrics"] = [stub.page("# TYPE vllm:num_requests_running gauge\n")]
        yield running


@pytest.fixture
def deployed(server: stub.StubOpenAI, tmp_path: Path) -> Path:
    """The state folder of an installation on this machine, whose router is the stub."""
    return playing.deployed(tmp_path, server.server_address[1])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the command is given."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def write(state_dir: t.Union[Path, str], home: Path, *arguments: str, **variables: t.Any) -> playing.Played:
    return playing.play("client_config.yml", *arguments, folder=home, llm_state_dir=state_dir, **variables)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def run(*command: t.Union[str, Path], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a written file in an environment that knows nothing of the endpoint."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "OPENAI_", "SMOKE_"))}
    return subprocess.run(
        command, env={**kept, **environ, "NO_PROXY": "127.0.0.1"}, capture_output=True, text=True, check=False, timeout=60
    )


def test_files_are_written_where_the_command_was_given(server: stub.StubOpenAI, deployed: Path, home: Path) -> None:
    code, words, output = write(deployed, home)
    folder = home / "client-config"
    assert code == 0, output
    assert names(home) == {f"client-config/{name}" for name in SETTINGS}
    assert words[0].startswith(f"Written  {folder}: README.md, env.sh, ")
    assert words[1] == f"Model    smoke at {server.url}/v1, also as chat"
    assert words[2] == f"Key      in no file; it is taken from $VLLM_API_KEY, or printed by: cat {deployed}/secrets/vllm/VLLM_API_KEY"
    assert words[-1] == f"Try      {folder}/chat.sh, or read {folder}/README.md"
    assert {name for name in SETTINGS if KEY in (folder / name).read_text()} == set()
    assert {name: mode(folder / name) for name in SETTINGS} == {name: 0o755 if name.startswith("chat") else 0o644 for name in SETTINGS}
    assert KEY not in output
    assert not server.requests  # nothing is asked


def test_a_second_run_changes_nothing_and_says_so(deployed: Path, home: Path) -> None:
    write(deployed, home)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    code, words, output = write(deployed, home)
    assert code == 0
    assert "changed=0" in output
    assert words[0] == f"Files  {home}/client-config: 12, all as they should be"
    assert words[-1] == "Nothing was changed: all is as the inventory says."
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_check_mode_writes_nothing_and_a_diff_has_no_key(deployed: Path, home: Path) -> None:
    code, words, output = write(deployed, home, "--check", "--diff", client_config_with_key=True)
    assert code == 0, output
    assert words[0].startswith(f"Would write  {home}/client-config: ")
    assert names(home) == set()
    assert "+export VLLM_API_KEY=***" in output
    assert KEY not in output


def test_keys_stand_in_files_only_where_asked_and_leave_them_again(deployed: Path, home: Path) -> None:
    folder = home / "client-config"
    write(deployed, home)
    code, words, output = write(deployed, home, "--diff", client_config_with_key=True)
    assert code == 0, output
    assert {name for name in names(folder) if KEY in (folder / name).read_text()} == HOLDING
    assert {mode(folder / name) for name in HOLDING} == {0o600}
    assert {name: mode(folder / name) for name in names(folder) - HOLDING} == {
        name: 0o755 if name.startswith("chat") else 0o644 for name in names(folder) - HOLDING
    }
    assert "in the files, which only you can read" in "\n".join(words)
    assert KEY not in output

    # another key, then none: neither is seen in a diff
    (deployed / "secrets/vllm/VLLM_API_KEY").write_text("sk-another-0123456789")
    _code, _words, output = write(deployed, home, "--diff", client_config_with_key=True)
    assert (folder / "api-key").read_text() == "sk-another-0123456789\n"
    assert KEY not in output
    assert "sk-another-0123456789" not in output
    code, words, output = write(deployed, home, "--diff")
    assert code == 0
    assert names(folder) == SETTINGS
    assert words[1] == f"Removed  {folder}: api-key, picoclaw/api.key"
    assert {name for name in SETTINGS if "sk-another-0123456789" in (folder / name).read_text()} == set()
    assert {mode(folder / name) for name in HOLDING & SETTINGS} == {0o644}
    assert "sk-another-0123456789" not in output


@pytest.mark.parametrize("with_key", [False, True])
def test_the_examples_run(server: stub.StubOpenAI, deployed: Path, home: Path, with_key: bool) -> None:
    write(deployed, home, client_config_with_key=with_key)
    folder = home / "client-config"
    if with_key:  # they need nothing else: the folder may be taken to another machine
        shutil.rmtree(deployed)
        folder = folder.rename(home / "elsewhere")

    answer = run(folder / "chat.sh")
    assert json.loads(answer.stdout)["choices"][0]["message"]["content"] == "Hello from the stub!", answer.stderr
    assert [model["id"] for model in json.loads(run(folder / "chat.sh", "models").stdout)["data"]] == ["smoke", "chat"]
    called = json.loads(run(folder / "chat.sh", "tools").stdout)["choices"][0]["message"]["tool_calls"][0]["function"]
    assert called == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert run(folder / "chat.sh", "stream").stdout.startswith('data: {"choices": [')
    assert run(folder / "chat.sh", "sing").returncode == 2

    said = run(sys.executable, folder / "chat.py", "What", "now?")
    assert (said.stdout, said.stderr) == ("Hello from the stub!\n", "")
    assert server.requests[-1].body["messages"] == [{"role": "user", "content": "What now?"}]
    assert {request.body["model"] for request in server.requests if request.body} == {"smoke"}
    assert {request.authorization for request in server.requests} == {f"Bearer {KEY}"}


def test_the_example_for_the_client_of_openai_runs(deployed: Path, home: Path) -> None:
    pytest.importorskip("openai")
    write(deployed, home)
    said = run(sys.executable, home / "client-config/chat_openai.py")
    assert said.stdout.splitlines() == [
        "Hello from the stub!",
        'get_weather({"city": "Paris"}) -> It is sunny, 21 C.',
        "The tool says: It is sunny, 21 C.",
    ], said.stderr


def test_an_example_that_fails_says_why(server: stub.StubOpenAI, deployed: Path, home: Path) -> None:
    write(deployed, home)
    folder = home / "client-config"
    for example in ([folder / "chat.sh"], [sys.executable, folder / "chat.py"]):
        refused = run(*example, VLLM_API_KEY="sk-wrong")
        assert refused.returncode != 0
        assert "401" in refused.stdout + refused.stderr
        assert "Traceback" not in refused.stderr
    (deployed / "secrets/vllm/VLLM_API_KEY").unlink()
    keyless = run(sys.executable, folder / "chat.py")
    assert keyless.stderr.endswith(f"No API key: nothing was printed by cat {deployed}/secrets/vllm/VLLM_API_KEY\n")
    assert run(folder / "chat.sh").returncode != 0


def test_make_verify_and_make_probe_suite_take_what_was_written(server: stub.StubOpenAI, deployed: Path, home: Path) -> None:
    write(deployed, home)
    script = '. "$1/env.sh"; env -0'
    given = run("sh", "-c", script, "sh", home / "client-config").stdout
    environ = dict(pair.split("=", 1) for pair in given.split("\0") if pair.startswith(("SMOKE_", "VLLM_API_KEY")))
    assert environ["SMOKE_VLLM_API_KEY"] == KEY
    code, words, output = playing.play("verify.yml", environ=environ)
    assert code == 0, output
    assert words[-1].startswith(f"smoke at {server.url}/v1: 6 of 6 passed")

    matrix = home / "client-config/runtime_matrix.json"
    code, _words, output = playing.play("probe.yml", "--check", environ=environ, probe_config=str(matrix))
    assert code == 0, output
    assert KEY not in output


def test_on_kubernetes_clients_come_through_a_port_forward(home: Path) -> None:
    """Nothing of the cluster is asked: the files only say how to get there."""
    code, words, output = playing.play(
        "client_config.yml", folder=home, inventory="inventory.example.yaml", llm_kubeconfig="/nonexistent/config"
    )
    assert code == 0, output
    told = dict(line.split(None, 1) for line in words)
    forward = "kubectl --kubeconfig /nonexistent/config -n chatbot port-forward service/vllm-router 8000:8000"
    assert told["Model"] == "gpt-oss-120b at http://localhost:8000/v1, also as chat"
    assert told["Reach"] == f"run meanwhile: {forward}"
    assert "kubectl --kubeconfig /nonexistent/config -n chatbot get secret vllm-secrets -o jsonpath=" in told["Key"]
    readme = (home / "client-config/README.md").read_text()
    assert f"`{forward}`" in readme
    assert "`http://vllm-router.chatbot:8000/v1`" in readme


def test_on_kubernetes_the_key_needs_the_cluster(home: Path) -> None:
    code, words, output = playing.play(
        "client_config.yml",
        folder=home,
        inventory="inventory.example.yaml",
        llm_kubeconfig="/nonexistent/config",
        client_config_with_key=True,
    )
    assert code != 0
    assert words[-1].startswith("Failed: No kubeconfig: /nonexistent/config does not exist."), output
    assert names(home) == set()


def test_each_of_several_hosts_has_a_folder(server: stub.StubOpenAI, tmp_path: Path, home: Path) -> None:
    hosts = {}
    for name in ("gpu-a", "gpu-b"):
        (tmp_path / name).mkdir()
        hosts[name] = {"ansible_connection": "local", "llm_state_dir": str(playing.deployed(tmp_path / name, server.server_address[1]))}
    kinds = {"llm_platform": "local", "vllm_accelerator": "cpu", "vllm_model_name": "smoke"}
    kinds["ansible_python_interpreter"] = sys.executable
    inventory = tmp_path / "hosts.yaml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": kinds}}))
    code, words, output = playing.play("client_config.yml", folder=home, inventory=str(inventory), llm_hosts="all")
    assert code == 0, output
    assert names(home) == {f"client-config/{host}/{name}" for host in hosts for name in SETTINGS}
    for host, found in hosts.items():
        assert any(line.startswith(f"Key (gpu-{host[-1]})") and found["llm_state_dir"] in line for line in words), output


def test_another_url_a_folder_and_fallback_models(deployed: Path, home: Path) -> None:
    fallbacks = [{"model": "openrouter/meta-llama/llama-3.2-3b-instruct"}]
    code, words, output = write(
        deployed, home, client_config_url="https://llm.example.com", client_config_folder="for/ada", client_config_fallbacks=fallbacks
    )
    assert code == 0, output
    assert words[1] == "Model    smoke at https://llm.example.com/v1, also as chat"
    picoclaw = json.loads((home / "for/ada/picoclaw/config.json").read_text())
    assert picoclaw["agents"]["defaults"]["model_fallbacks"] == ["openrouter/meta-llama/llama-3.2-3b-instruct"]
    assert picoclaw["model_list"][0]["api_base"] == "https://llm.example.com/v1"
    assert yaml.safe_load((home / "for/ada/victor/profiles.yaml").read_text())["profiles"]["chat"]["model"] == "smoke"


def test_what_was_never_installed_is_told(tmp_path: Path, home: Path) -> None:
    code, words, _output = write(tmp_path / "nothing", home)
    assert code != 0
    assert words[-1].startswith(
        f"Failed: There is no API key in {tmp_path}/nothing/secrets/vllm/VLLM_API_KEY, so nothing is installed there"
    )
    assert words[-1].endswith("Run make install-chat first.")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("client_config_urls", "x", "client_config_urls: no such variable (did you mean"),
        ("client_config_url", "llm.example.com", "client_config_url: 'llm.example.com' is no URL. Give one like http://localhost:8000/v1."),
        ("client_config_url", "https://ada:secret@llm.example.com", "client_config_url has a password in it"),
        ("client_config_fallbacks", [{"model": "gpt"}], "client_config_fallbacks[0] has to be"),
    ],
)
def test_what_cannot_be_right_is_refused(deployed: Path, home: Path, variable: str, value: t.Any, told: str) -> None:
    code, words, _output = write(deployed, home, **{variable: value})
    assert code != 0
    assert told in words[-1]
    assert names(home) == set()
