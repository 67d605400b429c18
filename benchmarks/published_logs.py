#!/usr/bin/env python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare model_fit's figures with logs of vLLM on GPUs that other people have published.

usage: benchmarks/published_logs.py

Three tables: loaded weights, overhead (what the engine takes beside weights and cache), and tokens of the cache for the memory that the log
states. Sources and doubts of each log: benchmarks/published_logs.yml; totals of the cards: benchmarks/cuda_totals.yml.
The overhead that a log implies is its share of the card, less weights and cache; older versions did not take CUDA graphs into account.
"""

from __future__ import annotations

import sys
import typing as t
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / ".venv" / "collections"))

from ansible_collections.llmops.serving.plugins.module_utils import _capacity  # noqa: E402
from ansible_collections.llmops.serving.plugins.module_utils._capacity import GIB, Gpu, Serving  # noqa: E402
from ansible_collections.llmops.serving.plugins.module_utils._kv_cache import Cache, Engine, Shape  # noqa: E402

Entry = dict[str, t.Any]

# vLLM takes CUDA graphs into account since then.
GRAPHS_SINCE = [0, 21]

LLAMA = {"num_attention_heads": 64, "num_kv_heads": 8, "head_dim": 128, "vocab_size": 128256}
QWEN = {"num_attention_heads": 64, "num_kv_heads": 8, "head_dim": 128, "vocab_size": 151936}
MLA = {"layers": {"mla": 61}, "num_attention_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "vocab_size": 129280}
MIXTURE = {"active_parameters_b": 1}
# What the catalog and the entries do not tell, by the beginning of the model's name: from each model's config.json.
FACTS: dict[str, Entry] = {
    "meta-llama/Llama-3.1-8B": {**LLAMA, "layers": {"full": 32}, "num_attention_heads": 32, "weights_gib": 14.96},
    "meta-llama/Llama-3.3-70B": {**LLAMA, "layers": {"full": 80}, "weights_gib": 131.42},
    "RedHatAI/Llama-3.3-70B": {**LLAMA, "layers": {"full": 80}},
    "Qwen/Qwen3-0.6B": {**QWEN, "layers": {"full": 28}, "num_attention_heads": 16},
    "Qwen/Qwen3-14B": {**QWEN, "layers": {"full": 40}, "num_attention_heads": 40},
    "Qwen/Qwen3-32B": {**QWEN, "layers": {"full": 64}, "weights_gib": 61.02},
    "Qwen/Qwen2.5-7B": {**QWEN, "layers": {"full": 28}, "num_kv_heads": 4, "vocab_size": 152064},
    "Qwen/Qwen3-235B": {**QWEN, **MIXTURE},
    "RedHatAI/Qwen3-235B": {**QWEN, **MIXTURE},
    "Qwen/Qwen3-Coder-480B": {**QWEN, **MIXTURE},
    "Qwen/Qwen3-VL-30B": {**QWEN, **MIXTURE},
    "Qwen/Qwen3-Next": {**QWEN, **MIXTURE},
    "deepseek-ai/DeepSeek-R1": {**MLA, **MIXTURE},
    "deepseek-ai/DeepSeek-V3.2": {**MLA, **MIXTURE},
    "deepseek-ai/DeepSeek-V2-Lite": {**MLA, **MIXTURE, "layers": {"mla": 27}, "vocab_size": 102400},
    "moonshotai/Kimi-K2": {**MLA, **MIXTURE, "vocab_size": 163840},
    "RedHatAI/Llama-4": {**MIXTURE, "vocab_size": 202048},
    "meta-llama/Llama-4": {**MIXTURE, "vocab_size": 202048},
    "llava-hf": {"vocab_size": 32064},
    "mistralai/Mistral-Small": {"vocab_size": 131072},
    "TheBloke/Mistral": {"vocab_size": 32000},
    "ibm-granite": {"vocab_size": 100352},
    "google/gemma": {"vocab_size": 256000},
}


def row_of(entry: Entry, catalog: t.Mapping[str, Entry]) -> Entry:
    """Return what is known of the model: from the catalog, from this file, and from the entry itself."""
    own = next((facts for prefix, facts in FACTS.items() if entry["model"].startswith(prefix)), {})
    return {**catalog.get(entry["model"], {}), **own, **entry.get("facts", {})}


def total_gib(entry: Entry, cards: t.Sequence[Entry]) -> t.Optional[float]:
    """Return the card's memory as CUDA tells it: from the log, else from logs of other cards of the name."""
    if entry.get("gpu_total_gib"):
        return float(entry["gpu_total_gib"])
    return next((min(card["cuda_total_gib"]) for card in cards if entry["gpu"].lower() == card["product"].lower()), None)


def title(entry: Entry) -> str:
    """Return model, GPUs and version, short enough for a table."""
    model = entry["model"].split("/")[-1].split(" ")[0][:34]
    gpu = entry["gpu"].replace("NVIDIA ", "").replace("GeForce ", "")[:14]
    return f"{model:<34} {entry.get('tensor_parallel', 1)} x {gpu:<14} {str(entry.get('vllm_version') or '?')[:7]:<8}"


def weights(entries: t.Sequence[tuple[Entry, Entry]]) -> None:
    """Print loaded weights, where the bytes as shipped are known."""
    print(f"Weights on each GPU, GiB\n{'':<62} {'log':>8} {'ours':>8}  difference")
    for entry, row in entries:
        loaded = entry["log"].get("model_loading_gib")
        if loaded and row.get("weights_gib") and "facts" not in entry:
            ours = _capacity.loaded_bytes(row, Serving(1), entry.get("tensor_parallel", 1)) / GIB
            print(f"{title(entry):<62} {loaded:>8.2f} {ours:>8.2f}  {ours - loaded:+.2f} ({ours / loaded - 1:+.1%})")


def overheads(entries: t.Sequence[tuple[Entry, Entry]], cards: t.Sequence[Entry]) -> None:
    """Print what the engine took beside weights and cache."""
    print(f"\nOverhead on each GPU, GiB\n{'':<62} {'log':>8} {'ours':>8}  difference  within the error")
    differences = []
    for entry, row in entries:
        log, share, total = entry["log"], entry.get("gpu_memory_utilization"), total_gib(entry, cards)
        available = log["available_kv_bytes"] / GIB if "available_kv_bytes" in log else log.get("available_kv_gib")
        if not (total and share and available and log.get("model_loading_gib") and row.get("vocab_size")):
            continue
        theirs = total * share - log["model_loading_gib"] - available
        gpu = Gpu(entry["gpu"], round((total * 1024 + 300) / 0.995))
        graphs = [int(part) for part in str(entry.get("vllm_version") or "0").split(".")[:2]] >= GRAPHS_SINCE
        serving = Serving(8192, entry.get("max_num_seqs"), enforce_eager=not graphs or bool(entry.get("enforce_eager")))
        ours = _capacity.overhead_bytes(row, serving, gpu, entry.get("tensor_parallel", 1)) / GIB
        differences.append(abs(ours - theirs))
        inside = abs(ours - theirs) <= gpu.gpu_class.error_gib
        print(f"{title(entry):<62} {theirs:>8.2f} {ours:>8.2f}  {ours - theirs:>+10.2f}  {'yes' if inside else 'NO'}")
    print(f"{len(differences)} compared, mean error {sum(differences) / len(differences):.2f} GiB, largest {max(differences):.2f} GiB")


def tokens(entries: t.Sequence[tuple[Entry, Entry]]) -> None:
    """Print the tokens that the cache of the stated size holds."""
    print(f"\nTokens in the cache, for the memory that the log states\n{'':<62} {'log':>11} {'ours':>11}  difference")
    for entry, row in entries:
        log = entry["log"]
        available = log.get("available_kv_bytes") or log.get("available_kv_gib", 0) * GIB
        if not available or not log.get("kv_cache_tokens") or not row.get("layers"):
            continue
        kinds = row["layers"]
        engine = Engine(
            kv_cache_dtype=entry.get("kv_cache_dtype") or "auto",
            element_bytes=1 if "fp8" in str(entry.get("kv_cache_dtype")) else 2,
            block_tokens=entry.get("block_size") or 16,
            tensor_parallel=entry.get("tensor_parallel", 1),
            max_num_batched_tokens=entry.get("max_num_batched_tokens") or 8192,
            hybrid=entry.get("hybrid_kv_cache", True),
        )
        cache = Cache(Shape.of_row(row), engine)
        length = entry.get("max_model_len") or 8192
        ours = cache.pool(available, length).tokens * entry.get("data_parallel", 1)
        if len(cache.groups) > 1 or cache.groups[0][1] > 1:
            # versions before 0.19 or so printed blocks / groups * block size for layers of several kinds
            count = sum(number for _page, number in cache.groups)
            ours = cache.pool(available, length).blocks // count * cache.groups[0][0].tokens
        mixed = " (several kinds of layers)" if len(kinds) > 1 else ""
        print(f"{title(entry):<62} {log['kv_cache_tokens']:>11,} {ours:>11,}  {ours / log['kv_cache_tokens'] - 1:+.2%}{mixed}")


def main() -> int:
    """Print the tables."""
    catalog = yaml.safe_load((ROOT / "roles/vllm/vars/models.yml").read_text(encoding="utf-8"))["vllm_models"]
    by_model = {row["model"]: row for row in catalog.values()}
    logs = yaml.safe_load((ROOT / "benchmarks/published_logs.yml").read_text(encoding="utf-8"))
    cards = yaml.safe_load((ROOT / "benchmarks/cuda_totals.yml").read_text(encoding="utf-8"))
    entries = [(entry, row_of(entry, by_model)) for entry in logs]
    weights(entries)
    overheads(entries, cards)
    tokens(entries)
    print("\nMemory of a card, GiB: CUDA (least seen), ours from nvidia-smi's MiB")
    for card in cards:
        if card["nvidia_smi_mib"]:
            ours, theirs = Gpu(card["product"], card["nvidia_smi_mib"]).total_bytes / GIB, min(card["cuda_total_gib"])
            print(f"{card['product']:<34} {theirs:>8.2f} {ours:>8.2f}  {ours - theirs:+.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
