# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of logs as vLLM 0.32 writes them: its logger puts a prefix before each line, a traceback on stderr has none."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._logs import (
    LONGEST_LINE,
    START_MARK,
    cause_in,
    decisive_line,
    error_texts,
    tail,
)

STARTS = """\
(APIServer pid=123) INFO 11-21 09:13:01 [utils.py:240] non-default args: {'model': 'Qwen/Qwen2.5-1.5B-Instruct', 'port': 8100}
(APIServer pid=123) WARNING 11-21 09:13:01 [system_utils.py:255] Found ulimit of 1024: `OSError: [Errno 24] Too many open files`
"""
# The engine's process logs the cause, then the process dies of it once more, then the server dies of the engine.
ENGINE_FAILS = """\
(EngineCore pid=130) INFO 11-21 09:13:20 [cpu_worker.py:98] auto thread-binding list (id, physical core): [(0, 0), (1, 1)]
(EngineCore pid=130) ERROR 11-21 09:13:34 [core.py:1510] EngineCore failed to start.
(EngineCore pid=130) ERROR 11-21 09:13:34 [core.py:1510] Traceback (most recent call last):\r
(EngineCore pid=130) ERROR 11-21 09:13:34 [core.py:1510]   File "/venv/vllm/v1/engine/core.py", line 1481, in run_engine_core\r
(EngineCore pid=130) ERROR 11-21 09:13:34 [core.py:1510]     raise ValueError(\r
(EngineCore pid=130) ERROR 11-21 09:13:34 [core.py:1510] CAUSE
Process EngineCore:
Traceback (most recent call last):
  File "/usr/lib/python3.11/multiprocessing/process.py", line 314, in _bootstrap
    self.run()
CAUSE
Traceback (most recent call last):
  File "/venv/vllm/v1/engine/utils.py", line 1428, in wait_for_engine_startup
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked objects
"""


def engine_fails(cause: str) -> str:
    return STARTS + ENGINE_FAILS.replace("CAUSE", cause)


KV_CACHE = (
    "ValueError: To serve at least one request with the model's max seq len (16384), (0.44 GiB KV cache is needed, which is larger than "
    "the available KV cache memory (0.25 GiB)."
)
COMPILER = "torch._inductor.exc.InductorError: RuntimeError: Failed to find C compiler. Please specify via CC environment variable."

LOGS = {
    "argument": (
        """\
W1121 09:35:26.060000 12493 torch/_library/triton.py:53] Triton not available, find_triton_kernels = []
usage: main.py [-h] [-v]
               {chat,complete,serve,launch,bench} ...
main.py: error: unrecognized arguments: --x
""",
        "unrecognized arguments: --x",
    ),
    "argument of the installed command": ("vllm serve: error: argument --port: invalid int value: 'x'\n", "argument --port: invalid int"),
    "KV cache": (engine_fails(KV_CACHE), KV_CACHE),
    "compiler": (engine_fails(COMPILER), COMPILER),
    "no text": (engine_fails("AssertionError"), "AssertionError"),
    "worker": (
        "(Worker pid=140) ERROR 11-21 09:13:33 [multiproc_executor.py:901] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate\n"
        + engine_fails("RuntimeError: Worker failed with error 'x', please check the stack trace above for the root cause"),
        "torch.OutOfMemoryError: CUDA out of memory. Tried",
    ),
    "not on the hub": (
        STARTS
        + """\
Traceback (most recent call last):
  File "/venv/huggingface_hub/utils/_http.py", line 761, in hf_raise_for_status
huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1-2)

Repository Not Found for url: https://huggingface.co/api/models/Qwen/Nope.

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
OSError: Qwen/Nope is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'
If this is a private repository, make sure to pass a token having permission to this repo
""",
        "OSError: Qwen/Nope is not a local folder",
    ),
    "settings that pydantic refuses": (
        STARTS
        + """\
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (99999) is greater than the derived max_model_len. [type=value_error, \
input_value=ArgsKwargs((), {'hf_token': 'hf_secret'}), input_type=ArgsKwargs]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
""",
        "Value error, User-specified max_model_len (99999) is greater than the derived max_model_len.",
    ),
    "model that cannot be loaded": (
        STARTS
        + """\
(APIServer pid=123) ERROR 11-21 09:36:31 [registry.py:1120] Error in inspecting model architecture 'LlamaForCausalLM'\r
(APIServer pid=123) ERROR 11-21 09:36:31 [registry.py:1120] subprocess.CalledProcessError: Command returned non-zero exit status 1.\r
(APIServer pid=123) ERROR 11-21 09:36:31 [registry.py:1120] RuntimeError: Error raised in subprocess:\r
(APIServer pid=123) ERROR 11-21 09:36:31 [registry.py:1120] ModuleNotFoundError: No module named 'transformers.quantizers'
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, Model architectures ['LlamaForCausalLM'] failed to be inspected. Please check the logs for more details. [type=value_error, \
input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]
""",
        "ModuleNotFoundError: No module named 'transformers.quantizers'",
    ),
    "port in use": (
        STARTS
        + """\
  File "/venv/vllm/entrypoints/launchers/api_server/entry.py", line 92, in create_server_socket
    sock.bind(addr)
OSError: [Errno 98] Address already in use
""",
        "OSError: [Errno 98] Address already in use",
    ),
    "port in use, as uvicorn says it": (
        "INFO:     Application startup complete.\n"
        "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8080): address already in use\n"
        "INFO:     Waiting for application shutdown.\n",
        "[Errno 98] error while attempting to bind on address ('127.0.0.1', 8080): address already in use",
    ),
    "startup of an application": (
        "ERROR:    Traceback (most recent call last):\n"
        "sqlite3.OperationalError: database is locked\n\n"
        "ERROR:    Application startup failed. Exiting.\n",
        "sqlite3.OperationalError: database is locked",
    ),
    "router in Rust": (
        "DEBUG: AppContext created\n"
        'pyo3_runtime.PanicException: failed to install exporter: FailedToCreateHTTPListener("Address already in use (os error 98)")\n',
        "pyo3_runtime.PanicException: failed to install exporter",
    ),
    "clean-up of Python": (
        "OSError: [Errno 28] No space left on device\n"
        "Exception ignored in: <function LLMEngine.__del__ at 0x7f>\n"
        "Traceback (most recent call last):\n"
        "AttributeError: 'LLMEngine' object has no attribute 'dp_group'\n",
        "OSError: [Errno 28] No space left on device",
    ),
    "colours": (
        "\x1b[0;36m(EngineCore pid=1)\x1b[0;0m \x1b[31mERROR\x1b[0m \x1b[90m11-21 09:13:34\x1b[0m \x1b[90m[core.py:1]\x1b[0m MemoryError",
        "MemoryError",
    ),
    "hub, whose words come further down": (
        "huggingface_hub.errors.HfHubHTTPError: \n\n429 Too Many Requests for url: https://huggingface.co/api.\n",
        "huggingface_hub.errors.HfHubHTTPError: 429 Too Many Requests for url",
    ),
    "name that does not end as errors do": ("socket.gaierror: [Errno -3] Temporary failure", "socket.gaierror: [Errno -3]"),
    "binary for another CPU": ("exec /usr/bin/python3: exec format error\n", "exec /usr/bin/python3: exec format error"),
    "words of a shell": ("mkdir: cannot create directory '/data/hub': Permission denied\n", "mkdir: cannot create directory"),
    "error before the words of a shell": ("ValueError: no\nrm: /x: Permission denied\n", "ValueError: no"),
    "container runtime": ("OCI: nvidia-container-cli: initialization error: nvml error\n", "OCI: nvidia-container-cli: initialization"),
    "only the echo": (
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}\n",
        "RuntimeError: Engine core initialization failed.",
    ),
    "killed": (
        "ValueError: of an earlier start\n" + STARTS + "Traceback (most recent call last):\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}\n",
        "its process was killed (signal 9), as Linux does when memory runs out",
    ),
    "an earlier start was killed": (
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}\n" + KV_CACHE,
        KV_CACHE,
    ),
}


@pytest.mark.parametrize(("log", "cause"), LOGS.values(), ids=LOGS)
def test_the_cause_is_found(log: str, cause: str) -> None:
    found = decisive_line(log)
    assert found.startswith(cause)
    assert "\n" not in found
    assert "hf_secret" not in found


LINK = "\nThe above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n"


def test_what_an_error_came_of() -> None:
    log = f"KeyError: 'unrelated'\nOSError: first\nmore of it\n{LINK}  File x\nValueError: second{LINK}RuntimeError: third\n"
    assert error_texts(log) == ["RuntimeError: third", "ValueError: second", "OSError: first\nmore of it"]
    assert error_texts("") == []


def test_secrets_are_masked() -> None:
    log = "api_server.py: error: unrecognized arguments: --api-key=abc --x-token def --max-tokens 9 hf_AbCdEfGhIjKl Bearer xyz\n"
    assert decisive_line(log) == "unrecognized arguments: --api-key=*** --x-token *** --max-tokens 9 *** Bearer ***"


@pytest.mark.parametrize(
    "log",
    ["", STARTS, "INFO: x: not found\n", "(APIServer pid=123) INFO 11-21 09:14:00 [launcher.py:38] Application startup: error: none\n"],
)
def test_a_log_without_an_error(log: str) -> None:
    assert decisive_line(log) == ""


def test_a_long_cause_is_cut() -> None:
    assert decisive_line(f"ValueError: {'x' * 5000}") == f"ValueError: {'x' * 5000}"[:LONGEST_LINE]


def test_only_the_end_of_a_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"0123456789\xe2\x82\xac end")
    assert tail(str(path), 4) == " end"
    assert tail(str(path), 5) == "\ufffd end"
    assert tail(str(path)) == "0123456789\u20ac end"
    assert tail(str(tmp_path / "absent")) == ""


@pytest.mark.parametrize(
    ("starts", "cause"),
    [
        (["ValueError: old\n", "ValueError: new\n"], "ValueError: new"),
        (["ValueError: the last one ended so\n", "INFO just started anew\n"], "ValueError: the last one ended so"),
        (["ValueError: long ago\n", "stopped by hand\n", "INFO just started\n"], ""),
    ],
)
def test_the_cause_is_of_the_last_start_or_the_one_before(tmp_path, starts, cause) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{START_MARK} engine, 2026-11-21 10:00:00\n{start}" for start in starts))
    assert cause_in(tail(str(path))) == cause


def test_a_program_that_may_not_place_its_memory_goes_on() -> None:
    assert decisive_line("set_mempolicy: Operation not permitted\nINFO loading weights\n") == ""
    assert decisive_line("mkdir: cannot create directory: Operation not permitted\n")
