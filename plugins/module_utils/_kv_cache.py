# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""How many tokens fit into a KV cache: the planner of vLLM 0.32, in plain numbers.

vLLM cuts the cache into blocks. A block holds ``block_tokens`` tokens of a *group* of layers of one kind; groups are of equal size, so
that every block has the same bytes and can serve any group. A request takes blocks of every group: for all its tokens in full
attention, for those that the window still needs in sliding and chunked attention, and one or two for the state of linear attention.

Sources are named by file and function of vLLM 0.32.0. ``benchmarks/kv_cache.py`` compares the results with a running vLLM.
All sizes are in bytes, for one GPU (one tensor parallel rank), unless a name says otherwise.
"""

from __future__ import annotations

import dataclasses
import math
import typing as t

FULL, SLIDING, CHUNKED, MLA, LINEAR = "full", "sliding_window", "chunked", "mla", "linear"
# Kinds of attention, in the words of a row's key `layers`.
LAYER_KINDS = (FULL, SLIDING, CHUNKED, MLA, LINEAR)

# Bytes of an element of the cache by `--kv-cache-dtype`; `auto` is the model's own type, of 2 bytes unless it is served in float32.
ELEMENT_BYTES = {"auto": 2, "float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1}
# Bytes of a token in a layer of MLA, where vLLM packs it in a format of its own (MLAAttention.get_kv_cache_spec).
PACKED_MLA_BYTES = {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What of a model decides about its cache: a row's facts by the same names. ``mla_width`` is kv_lora_rank + qk_rope_head_dim."""

    layers: t.Mapping[str, int]
    num_kv_heads: int = 1
    head_dim: int = 1
    sliding_window: int = 0
    attention_chunk_size: int = 0
    mla_width: int = 0
    linear_state_bytes: int = 0
    linear_state_blocks: int = 2

    @classmethod
    def of_row(cls, row: t.Mapping[str, t.Any]) -> Shape:
        """Read the facts of a complete *row* of the model table."""
        return cls(
            layers=dict(row["layers"]),
            num_kv_heads=row.get("num_kv_heads", 1),
            head_dim=row.get("head_dim", 1),
            sliding_window=row.get("sliding_window", 0),
            attention_chunk_size=row.get("attention_chunk_size", 0),
            mla_width=row.get("kv_lora_rank", 0) + row.get("qk_rope_head_dim", 0),
            linear_state_bytes=row.get("linear_state_bytes", 0),
            linear_state_blocks=row.get("linear_state_blocks", 2),
        )


@dataclasses.dataclass(frozen=True)
class Engine:
    """How vLLM is started, as far as the cache depends on it.

    ``kernel_tokens``: the smallest block that the attention backend takes, and of which others are multiples (GPU 16, CPU 32).
    ``concurrent_batches``: steps in flight; 2 with asynchronous scheduling, which is usual on a GPU, 1 on CPUs.
    ``prefix_caching``: on by default. ``hybrid``: the hybrid KV cache manager; without it layers of sliding and chunked attention cost as
    much as those of full attention beside them. ``chunked_hybrid``: whether it stays on for chunked attention, too.
    """

    kv_cache_dtype: str = "auto"
    element_bytes: int = 2
    block_tokens: int = 16
    kernel_tokens: int = 16
    tensor_parallel: int = 1
    max_num_batched_tokens: int = 2048
    concurrent_batches: int = 2
    prefix_caching: bool = True
    hybrid: bool = True
    chunked_hybrid: bool = False

    @property
    def in_flight_tokens(self) -> int:
        """Tokens that may be scheduled and not yet settled (config/vllm.py: max_in_flight_tokens)."""
        return self.concurrent_batches * self.max_num_batched_tokens


@dataclasses.dataclass(frozen=True)
class Page:
    """What a block holds of one layer of a kind: ``tokens`` tokens in ``size_bytes`` bytes."""

    kind: str
    layers: int
    tokens: int
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class Pool:
    """What fits into a cache. ``concurrency``: requests of the full length; ``tokens``: the figure that vLLM logs."""

    blocks: int
    concurrency: float
    tokens: int


class Cache:
    """The layout that vLLM chooses for the cache of a model."""

    def __init__(self, shape: Shape, engine: Engine) -> None:
        self.shape = shape
        self.engine = engine
        self.pages = _unified([page for page in _pages(shape, engine) if page.layers])
        sizes = [page.layers for page in self.pages]
        # kv_cache_utils.py, _get_kv_cache_groups_uniform_page_size: groups as large as the rarest kind, but no padding for a near tie
        group = max(sizes) if max(sizes) < 1.5 * min(sizes) else min(sizes)
        self.groups = [(page, math.ceil(page.layers / group)) for page in self.pages]

    @property
    def block_bytes(self) -> int:
        """Bytes of a block (_get_kv_cache_bytes_per_block): the widest group's layers, a page each."""
        return max(math.ceil(page.layers / count) * page.size_bytes for page, count in self.groups)

    def request_blocks(self, length: int) -> int:
        """Blocks that a request of *length* tokens takes at most (get_max_concurrency_for_kv_cache_config)."""
        return sum(count * self._group_blocks(page, length) for page, count in self.groups)

    def request_bytes(self, length: int) -> int:
        """Bytes that a request of *length* tokens takes at most (_max_memory_usage_bytes_from_groups)."""
        return self.request_blocks(length) * self.block_bytes

    def pool(self, available_bytes: float, length: int) -> Pool:
        """Return what *available_bytes* hold, with requests of *length* tokens (get_kv_cache_capacity)."""
        blocks = max(0, int(available_bytes // self.block_bytes))
        concurrency = blocks / self.request_blocks(length)
        return Pool(blocks, concurrency, int(concurrency * length))

    def starts(self, available_bytes: float, length: int) -> bool:
        """Whether vLLM starts: one request of *length* has to fit beside a block that is held back (get_kv_cache_configs)."""
        return self.request_bytes(length) <= available_bytes - self.block_bytes

    def longest(self, available_bytes: float, most: int) -> int:
        """Return the longest request, of at most *most* tokens, with which vLLM starts; 0 where there is none."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.starts(available_bytes, middle) else (low, middle - 1)
        return low

    def _group_blocks(self, page: Page, length: int) -> int:
        """Blocks that a request takes of one group (kv_cache_interface.py, max_admission_blocks_per_request of each spec)."""
        flight = self.engine.in_flight_tokens
        if page.kind == SLIDING:
            # one more, because a window need not begin where a block does
            return math.ceil(min(self.shape.sliding_window - 1 + flight, length) / page.tokens) + 1
        if page.kind == CHUNKED:
            return math.ceil(min(self.shape.attention_chunk_size + flight, length) / page.tokens)
        if page.kind == LINEAR:
            return self.shape.linear_state_blocks if self.engine.prefix_caching else 1
        return math.ceil(length / page.tokens)


def token_bytes(shape: Shape, element_bytes: int = 2) -> int:
    """Bytes that one more token takes in all layers of the whole model while no window is full: what people call KV per token."""
    heads = 2 * shape.num_kv_heads * shape.head_dim * element_bytes
    return sum(
        count * (shape.mla_width * element_bytes if kind == MLA else 0 if kind == LINEAR else heads) for kind, count in shape.layers.items()
    )


def _pages(shape: Shape, engine: Engine) -> t.Iterator[Page]:
    """Yield the page of each kind, before they are made equal (get_kv_cache_spec of each attention layer)."""
    # Heads are split over the GPUs, and repeated where there are more GPUs than heads (ModelConfig.get_num_kv_heads).
    heads = max(1, shape.num_kv_heads // engine.tensor_parallel)
    token = 2 * heads * shape.head_dim * engine.element_bytes
    # Every GPU holds the whole latent vector of MLA.
    mla_token = PACKED_MLA_BYTES.get(engine.kv_cache_dtype, shape.mla_width * engine.element_bytes)
    state = math.ceil(shape.linear_state_bytes / engine.tensor_parallel)
    block = engine.block_tokens
    layers = dict(shape.layers)
    # config/vllm.py turns the hybrid manager off for chunked attention unless an environment variable allows it
    hybrid = engine.hybrid and (engine.chunked_hybrid or not layers.get(CHUNKED))
    if not hybrid and layers.get(FULL):
        # _promote_local_kv_cache_specs; layers that are all of one kind stay as they are
        layers[FULL] += layers.pop(SLIDING, 0) + layers.pop(CHUNKED, 0)
    if layers.get(LINEAR) and any(count for kind, count in layers.items() if kind != LINEAR):
        # platforms/interface.py, _align_hybrid_block_size: attention blocks grow until one is as large as a state
        per_token = mla_token if layers.get(MLA) else token
        step = max(engine.kernel_tokens, block, 128 if layers.get(MLA) else 0)
        block = max(block, step * math.ceil(state / (step * per_token)))
    yield Page(FULL, layers.get(FULL, 0), block, block * token)
    yield Page(MLA, layers.get(MLA, 0), block, block * mla_token)
    # a sliding window takes the largest block that its kernel knows and that is no larger than the others'
    window = max(engine.kernel_tokens, block // engine.kernel_tokens * engine.kernel_tokens)
    yield Page(SLIDING, layers.get(SLIDING, 0), window, window * token)
    yield Page(CHUNKED, layers.get(CHUNKED, 0), block, block * token)
    yield Page(LINEAR, layers.get(LINEAR, 0), block, state)


def _unified(pages: list[Page]) -> list[Page]:
    """Return *pages* with the size of the largest (unify_kv_cache_spec_page_size): with more tokens where that goes, else padded."""
    largest = max(page.size_bytes for page in pages)
    unified = []
    for page in pages:
        ratio, rest = divmod(largest, page.size_bytes)
        tokens = page.tokens if rest or page.kind == LINEAR else page.tokens * ratio
        unified.append(dataclasses.replace(page, tokens=tokens, size_bytes=largest))
    return unified
