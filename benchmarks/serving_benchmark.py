"""serving_benchmark beside `vllm bench serve`: the same load on the same endpoint, in turn; and the load that one process of each reaches.

Usage: .venv/bin/python benchmarks/serving_benchmark.py URL MODEL [--vllm-python PATH] [--rate 4 | --concurrency 8] [--rounds 5]
       .venv/bin/python benchmarks/serving_benchmark.py --ceiling [--vllm-python PATH] [--gap-ms 20] [--concurrency 1 32 256]
PATH is a Python that can import vLLM; without it, only the module is run. A key is read from OPENAI_API_KEY. --json FILE keeps the figures.

The first form runs both, `rounds` times, in turn and with the order swapped from round to round. Prompts are made up by each, of the same
length and never twice the same, so that no cache of prefixes helps either. `vllm bench serve` needs a tokenizer: by default that of the
smoke models is made for the run. The table has the median of all rounds, the ratio of the medians, and how far the rounds of each lie
apart (largest / smallest).

With --ceiling, a server in a process of its own answers from memory: 64 tokens at once, or one every --gap-ms. Its share of a core is in
the table, so that it can be seen when it is the server that cannot do more. With a gap, the true inter-token latency is known: a client
that cannot keep up measures another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE = "ansible_collections.llmops.serving.plugins.modules.serving_benchmark"
SMOKE_MODEL = ROOT / "roles/vllm/files"
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
BACKENDS = {"completions": "openai", "chat": "openai-chat"}
CEILING_TOKENS = 64
CEILING_INPUT = 128
PROCESS_S = 3600
TICKS = os.sysconf("SC_CLK_TCK")

# Writes the tokenizer of the smoke models into a folder.
TOKENIZER = """
import sys
sys.path.insert(0, sys.argv[1])
import smoke_model
from transformers import PreTrainedTokenizerFast
tokenizer = smoke_model.make_tokenizer("smoke", 0)
wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=smoke_model.END, pad_token=smoke_model.PAD)
wrapped.save_pretrained(sys.argv[2])
"""

Figures = dict[str, t.Any]

# What is compared: its name, where the module has it, and what vLLM calls it.
COMPARED = (
    ("completed", ("completed",), "completed"),
    ("requests/s", ("request_throughput",), "request_throughput"),
    ("output tokens/s", ("output_token_throughput",), "output_throughput"),
    ("all tokens/s", ("total_token_throughput",), "total_token_throughput"),
    ("ttft p50 ms", ("ttft_ms", "p50"), "p50_ttft_ms"),
    ("ttft p95 ms", ("ttft_ms", "p95"), "p95_ttft_ms"),
    ("itl p50 ms", ("itl_ms", "p50"), "p50_itl_ms"),
    ("itl p95 ms", ("itl_ms", "p95"), "p95_itl_ms"),
    ("tpot p50 ms", ("tpot_ms", "p50"), "p50_tpot_ms"),
    ("e2e p50 ms", ("e2e_ms", "p50"), "p50_e2el_ms"),
    ("e2e p95 ms", ("e2e_ms", "p95"), "p95_e2el_ms"),
)


class Shape(t.NamedTuple):
    """One load: exactly one of *rate* and *concurrency*."""

    url: str
    model: str
    api: str
    rate: t.Optional[float]
    concurrency: t.Optional[int]
    requests: int
    input_tokens: int
    output_tokens: int


# -- both, each in a process of its own ----------------------------------------------------------------------------------


def ours(shape: Shape, folder: Path) -> Figures:
    """Run the module, as Ansible does, and return its figures."""
    arguments = {**shape._asdict(), "ignore_eos": True, "api_key": os.environ.get("OPENAI_API_KEY")}
    if shape.api == "completions":
        # as vllm bench serve asks, whatever the model's own default is
        arguments["extra_body"] = {"repetition_penalty": 1.0}
    path = folder / "arguments.json"
    path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": {key: value for key, value in arguments.items() if value is not None}}))
    done = process([sys.executable, "-m", MODULE, str(path)], PYTHONPATH=str(ROOT / ".venv/collections"))
    answer = json.loads(done.stdout or "{}")
    if done.returncode or answer.get("failed"):
        raise SystemExit(f"serving_benchmark failed: {answer.get('msg') or done.stderr[-1500:]}")
    (load,) = answer["loads"]
    figures: Figures = {"client": load["client"], "errors": load["errors"], "lengths": answer["lengths"], "duration_s": load["duration_s"]}
    for name, where, _theirs in COMPARED:
        value = load
        for key in where:
            value = value[key]
        figures[name] = value
    return figures


def theirs(shape: Shape, folder: Path, python: str, tokenizer: str, seed: int) -> Figures:
    """Run `vllm bench serve`, and return its figures under the same names."""
    load = ["--request-rate", str(shape.rate)] if shape.rate else ["--max-concurrency", str(shape.concurrency)]
    lengths = ["--random-input-len", str(shape.input_tokens), "--random-output-len", str(shape.output_tokens), "--random-range-ratio", "0"]
    done = process(
        [
            *[python, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--disable-tqdm"],
            *["--backend", BACKENDS[shape.api], "--base-url", shape.url, "--endpoint", PATHS[shape.api], "--model", shape.model],
            *["--tokenizer", tokenizer, "--dataset-name", "random", *lengths, "--seed", str(seed)],
            *["--num-prompts", str(shape.requests), "--num-warmups", "1", *load],
            *["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,95,99"],
            *["--save-result", "--result-dir", str(folder), "--result-filename", "theirs.json"],
        ],
        VLLM_NO_USAGE_STATS="1",
        DO_NOT_TRACK="1",
    )
    if done.returncode:
        raise SystemExit(f"vllm bench serve failed: {(done.stderr or done.stdout)[-1500:]}")
    result = json.loads((folder / "theirs.json").read_text())
    return {"duration_s": result["duration"], **{name: result.get(key) for name, _where, key in COMPARED}}


def process(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *command* to its end."""
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=PROCESS_S, cwd=ROOT
    )


def make_tokenizer(python: str, folder: Path) -> str:
    """Make the tokenizer of the smoke models, and return its folder."""
    made = process([python, "-c", TOKENIZER, str(SMOKE_MODEL), str(folder)])
    if made.returncode:
        raise SystemExit(f"The tokenizer could not be made, give one with --tokenizer: {made.stderr[-1500:]}")
    return str(folder)


# -- side by side ------------------------------------------------------------------------------------------------------


def compare(shape: Shape, rounds: int, python: t.Optional[str], tokenizer: str, folder: Path) -> Figures:
    """Run both in turn, and return all figures: ``{"ours": [...], "theirs": [...]}``."""
    runs: Figures = {"ours": [], "theirs": []}
    for number in range(rounds):
        turn = ["ours", "theirs"] if number % 2 == 0 else ["theirs", "ours"]
        for who in turn:
            if who == "ours":
                runs[who].append(ours(shape, folder))
            elif python:
                # another seed a round, so that no prompt comes twice
                runs[who].append(theirs(shape, folder, python, tokenizer, int(time.time()) + number))
            else:
                continue
            print(f"  round {number + 1} of {rounds}: {who} done", file=sys.stderr, flush=True)
    return runs


def tell(runs: Figures) -> None:
    """Print the table of medians and ratios."""
    print(f"{'median of the rounds':<20} {'ours':>10} {'vllm':>10} {'ratio':>7} {'ours apart':>11} {'vllm apart':>11}")
    for name, _where, _key in COMPARED:
        values = {who: [run[name] for run in runs[who] if run.get(name) is not None] for who in ("ours", "theirs")}
        middle = {who: statistics.median(found) if found else None for who, found in values.items()}
        ratio = f"{middle['ours'] / middle['theirs']:.3f}" if middle["ours"] and middle["theirs"] else "-"
        cells = [f"{value:.2f}" if value is not None else "-" for value in (middle["ours"], middle["theirs"])]
        apart = [f"{max(found) / min(found):.3f}" if found and min(found) > 0 else "-" for found in values.values()]
        print(f"{name:<20} {cells[0]:>10} {cells[1]:>10} {ratio:>7} {apart[0]:>11} {apart[1]:>11}")
    for number, run in enumerate(runs["ours"], 1):
        if run["client"]["limited"]:
            print(f"round {number}: our client was the bottleneck: {run['client']['why']}")
        if run["errors"]:
            print(f"round {number}: errors: {run['errors']}")
    lengths = {run["lengths"] for run in runs["ours"]}
    if lengths != {"counted"}:
        print(f"The lengths of our prompts are {', '.join(sorted(lengths))}, so the load may not be the same.")


# -- the ceiling -------------------------------------------------------------------------------------------------------


def chunk(data: bytes) -> bytes:
    """Return *data* as a chunk of HTTP."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(document: t.Any) -> bytes:
    """Return a chunk of HTTP with one event, as vLLM writes it."""
    return chunk(b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n")


COMMON = {"id": "cmpl-0123456789abcdef0123456789abcdef", "object": "text_completion", "created": 1763750000, "model": "m"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = event({**COMMON, "choices": [{"index": 0, "text": " word", "logprobs": None, "finish_reason": None, "stop_reason": None}]})
USAGE = {"prompt_tokens": CEILING_INPUT, "completion_tokens": CEILING_TOKENS, "total_tokens": CEILING_INPUT + CEILING_TOKENS}
LAST = event({**COMMON, "choices": [], "usage": USAGE}) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
AT_ONCE = HEAD + TOKEN * CEILING_TOKENS + LAST
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Answering(asyncio.Protocol):
    """A connection to the trivial server. With a gap, it hands itself to *paced*, which writes its tokens."""

    transport: asyncio.Transport

    def __init__(self, paced: t.Optional[dict[Answering, int]]) -> None:
        self._paced = paced
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport = t.cast(asyncio.Transport, transport)

    def connection_lost(self, exc: t.Optional[Exception]) -> None:
        """Write nothing more."""
        if self._paced is not None:
            self._paced.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        data, self._rest = self._rest + data, b""
        while data:
            head, found, rest = data.partition(b"\r\n\r\n")
            lengths = [line for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"]
            length = int(lengths[0][15:]) if lengths else 0
            if not found or len(rest) < length:
                self._rest = data
                return
            data = rest[length:]
            if not head.startswith(b"POST /v1/completions "):
                self.transport.write(NOT_FOUND)
            elif self._paced is None:
                self.transport.write(AT_ONCE)
            else:
                self.transport.write(HEAD)
                self._paced[self] = CEILING_TOKENS


async def answer(gap_s: float) -> None:
    """Serve on a free port, whose number is printed, for ever."""
    loop = asyncio.get_running_loop()
    paced: dict[Answering, int] = {}
    server = await loop.create_server(lambda: Answering(paced if gap_s else None), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    due = loop.time()
    while True:
        due += gap_s or 3600
        await asyncio.sleep(max(0.0, due - loop.time()))
        for connection, left in list(paced.items()):
            connection.transport.write(TOKEN if left > 1 else TOKEN + LAST)
            if left > 1:
                paced[connection] = left - 1
            else:
                del paced[connection]


@contextlib.contextmanager
def server(gap_ms: float) -> t.Iterator[tuple[str, int]]:
    """Run the trivial server in a process of its own; give its URL and its process id."""
    command = [sys.executable, __file__, "--serve", "--gap-ms", str(gap_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            port = (running.stdout.readline() if running.stdout else "").strip()
            yield f"http://127.0.0.1:{port}", running.pid
        finally:
            running.kill()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def ceiling(gap_ms: float, levels: t.Sequence[int], requests: int, python: t.Optional[str], tokenizer: str, folder: Path) -> list[Figures]:
    """Load the trivial server with ever more callers, by both, and return a row a run."""
    rows = []
    with server(gap_ms) as (url, pid):
        for level in levels:
            count = max(requests, 4 * level)
            shape = Shape(url, "m", "completions", None, level, count, CEILING_INPUT, CEILING_TOKENS)
            for who in ("ours", "theirs") if python else ("ours",):
                before = cpu_seconds(pid)
                run = ours(shape, folder) if who == "ours" else theirs(shape, folder, python or "", tokenizer, level)
                share = (cpu_seconds(pid) - before) / run["duration_s"]
                rows.append({"who": who, "concurrency": level, "server_share": round(share, 3), **run})
                print(f"  {level} callers: {who} done", file=sys.stderr, flush=True)
    return rows


def tell_ceiling(rows: t.Sequence[Figures], gap_ms: float) -> None:
    """Print a row a run, and what each reached at most."""
    print(f"trivial server, {CEILING_TOKENS} tokens {f'one every {gap_ms:g} ms' if gap_ms else 'at once'}; each client is one process")
    print(f"{'client':<7} {'callers':>7} {'req/s':>9} {'tokens/s':>10} {'itl p50':>8} {'itl p95':>8} {'server':>7}  says")
    for row in rows:
        says = (row["client"]["why"] or "it kept up") if "client" in row else ""
        latencies = " ".join(f"{row[name]:>8.2f}" for name in ("itl p50 ms", "itl p95 ms"))
        numbers = f"{row['requests/s']:>9.1f} {row['output tokens/s']:>10.0f} {latencies} {row['server_share']:>7.0%}"
        print(f"{row['who']:<7} {row['concurrency']:>7} {numbers}  {says}")
    most = {who: max((row["output tokens/s"] for row in rows if row["who"] == who), default=None) for who in ("ours", "theirs")}
    if most["ours"] and most["theirs"]:
        print(f"most tokens/s: ours {most['ours']:.0f}, vllm {most['theirs']:.0f}, ratio {most['ours'] / most['theirs']:.2f}")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--vllm-python", metavar="PATH")
    parser.add_argument("--tokenizer", help="folder of a tokenizer for vllm bench serve; without it, that of the smoke models is made")
    parser.add_argument("--api", choices=sorted(PATHS), default="completions")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--concurrency", type=int, nargs="+")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ceiling", action="store_true")
    parser.add_argument("--gap-ms", type=float, default=0.0)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(answer(options.gap_ms / 1000))
    if not options.ceiling and not (options.url and options.model):
        parser.error("URL and MODEL are needed, or --ceiling")
    if not options.ceiling and len(options.concurrency or [1]) > 1:
        parser.error("more than one --concurrency is for --ceiling")
    python = options.vllm_python
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = options.tokenizer or (make_tokenizer(python, folder / "tokenizer") if python else "")
        found: t.Any
        if options.ceiling:
            found = ceiling(options.gap_ms, options.concurrency or [1, 32, 256], options.requests, python, tokenizer, folder)
            tell_ceiling(found, options.gap_ms)
        else:
            concurrency = None if options.rate else (options.concurrency or [8])[0]
            lengths = (options.input_tokens, options.output_tokens)
            shape = Shape(options.url.rstrip("/"), options.model, options.api, options.rate, concurrency, options.requests, *lengths)
            found = compare(shape, options.rounds, python, tokenizer, folder)
            tell(found)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
