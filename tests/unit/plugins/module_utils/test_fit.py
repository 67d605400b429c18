from __future__ import annotations

import collections
import dataclasses
import re
import typing as t

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _capacity, _catalog, _fit
from ansible_collections.llmops.serving.plugins.module_utils._capacity import DOES_NOT_FIT, FITS, GIB, UNKNOWN, WITHIN_ERROR
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._fit import Question

Row = dict[str, t.Any]

DENSE: Row = {
    "model": "example-org/dense",
    "weights_format": "bf16",
    "num_kv_heads": 8,
    "head_dim": 128,
    "max_context": 131072,
    "tool_call_parser": "hermes",
}
ROWS: dict[str, Row] = {
    "gpt-oss-120b": {
        "model": "openai/gpt-oss-120b",
        "parameters_b": 116.8,
        "active_parameters_b": 5.1,
        "weights_gib": 60.77,
        "weights_format": "mxfp4",
        "vocab_size": 201088,
        "num_attention_heads": 64,
        "num_kv_heads": 8,
        "head_dim": 64,
        "layers": {"full": 18, "sliding_window": 18},
        "sliding_window": 128,
        "max_context": 131072,
        "min_compute_capability": "8.0",
        "tool_call_parser": "openai",
    },
    "qwen-qwq-32b": {
        **DENSE,
        "parameters_b": 32.8,
        "weights_gib": 61.03,
        "vocab_size": 152064,
        "num_attention_heads": 40,
        "layers": {"full": 64},
        "max_model_len": 32768,
        "min_compute_capability": "8.0",
    },
    "medium": {
        **DENSE,
        "parameters_b": 8.2,
        "weights_gib": 15.26,
        "vocab_size": 151936,
        "num_attention_heads": 32,
        "layers": {"full": 36},
        "max_model_len": 16384,
    },
    "sliding": {
        **DENSE,
        "parameters_b": 9.2,
        "weights_gib": 17.21,
        "vocab_size": 256000,
        "num_attention_heads": 16,
        "head_dim": 256,
        "layers": {"full": 21, "sliding_window": 21},
        "sliding_window": 4096,
        "max_context": 8192,
    },
    "latent": {
        "model": "example-org/latent",
        "parameters_b": 671,
        "active_parameters_b": 37,
        "weights_gib": 641.28,
        "weights_format": "fp8",
        "vocab_size": 129280,
        "num_attention_heads": 128,
        "layers": {"mla": 61},
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "max_context": 163840,
        "tensor_parallel_size": 8,
        "tool_call_parser": "deepseek_v3",
    },
    "small": {
        **DENSE,
        "parameters_b": 0.5,
        "weights_gib": 0.92,
        "vocab_size": 151936,
        "num_attention_heads": 14,
        "num_kv_heads": 2,
        "head_dim": 64,
        "layers": {"full": 24},
        "max_model_len": 16384,
    },
    "set-aside": {
        **DENSE,
        "parameters_b": 13,
        "weights_gib": 26.0,
        "vocab_size": 32000,
        "num_attention_heads": 40,
        "layers": {"full": 40},
        "max_model_len": 16384,
        "kv_cache_memory_bytes": 60 * GIB,
    },
}
SMOKE: Row = {**ROWS["small"], "source": "smoke", "parameters_b": 999}


def gpu(product: str, memory_mib: t.Optional[int], capability: str = "8.0", count: int = 8, node: str = "") -> dict[str, t.Any]:
    return {"product": product, "memory_mib": memory_mib, "compute_capability": capability, "count": count, "node": node or product}


A100 = gpu("NVIDIA-A100-SXM4-80GB", 81920)
A100_40 = gpu("NVIDIA-A100-SXM4-40GB", 40960)
H100 = gpu("NVIDIA-H100-80GB-HBM3", 81559, "9.0")
H200 = gpu("NVIDIA-H200", 143771, "9.0")
L4 = gpu("NVIDIA-L4", 23034, "8.9")
T4 = gpu("Tesla-T4", 15360, "7.5")
ONE_A100 = {**A100, "count": 1}


def question(name: str, *gpus: dict[str, t.Any], row: t.Optional[Row] = None, **fields: t.Any) -> Question:
    fields = {"others": ROWS, **fields}
    changed = _catalog.merge(ROWS[name], row or {})
    return Question(name, changed, gpus=gpus, gpu_count=fields.pop("gpu_count", changed.get("tensor_parallel_size", 1)), **fields)


def on_cpus(row: t.Optional[Row] = None, **fields: t.Any) -> Question:
    return question("small", row={"kv_cache_memory_bytes": 2 * GIB, **(row or {})}, accelerator="cpu", **fields)


def done(asked: Question, line: str) -> Question:
    """Return the question after somebody has written *line*, a proposal, into the inventory; the GPU check looks anew."""
    for part in line.split(" with "):
        ((key, value),) = yaml.safe_load(re.sub(r" \(.*\)$", "", part)).items()
        if key == f"vllm_model_configs.{asked.name}":
            row = _catalog.merge(asked.row, value)
            asked = dataclasses.replace(asked, row=row, gpu_count=row.get("tensor_parallel_size", asked.gpu_count))
        elif key == "vllm_model_name":
            row = asked.others[value]
            usual = 1 if "tensor_parallel_size" in asked.row else asked.gpu_count
            asked = dataclasses.replace(asked, name=value, row=row, gpu_count=row.get("tensor_parallel_size", usual))
        elif key == "llm_min_gpu_memory_gb":
            asked = dataclasses.replace(asked, gpus=[found for found in asked.gpus if found["memory_mib"] * 2**20 >= value * 10**9])
        elif key == "vllm_gpu_count":
            asked = dataclasses.replace(asked, gpu_count=value)
        else:
            assert key == "vllm_memory_limit"
            asked = dataclasses.replace(asked, memory_mib=int(value[:-2]) * 1024)
    on_node: t.Counter[str] = collections.Counter()
    for found in asked.gpus:
        on_node[found["node"]] += found["count"]
    return dataclasses.replace(asked, gpus=[found for found in asked.gpus if on_node[found["node"]] >= asked.gpu_count])


def kinds(advice: t.Iterable[str]) -> list[str]:
    return [line.split(":")[0].split(".")[0] for line in advice]


# Every row, on one kind of GPU and on two, with and without choices of its own.
GPUS = [(A100,), (A100_40,), (H100,), (H200,), (L4,), (T4,), (A100, H100), (H200, A100), (L4, A100), (A100_40, H100)]
CHOICES: list[Row] = [{}, {"max_model_len": 8192}, {"max_model_len": None}, {"gpu_memory_utilization": 0.6}, {"max_num_seqs": 512}]
MANY = [question(name, *gpus, row=row) for name in ROWS for gpus in GPUS for row in CHOICES]
MANY += [question(name, *gpus, kv_cache_dtype="fp8") for name in ROWS for gpus in GPUS]
CPUS = [
    on_cpus({"kv_cache_memory_bytes": cache, "max_model_len": length, "weights_gib": weights}, memory_mib=memory_mib)
    for cache in (2**20, 100 * 2**20, 2 * GIB)
    for length in (1000, 16384)
    for weights in (0.92, 15.26)
    for memory_mib in (None, 1000, 2600, 20000)
]


@pytest.fixture(scope="module")
def judged() -> list[tuple[Question, dict[str, t.Any]]]:
    return [(asked, _fit.judge(asked)) for asked in MANY + CPUS]


class TestAdvice:
    def test_it_fits_when_it_is_followed(self, judged: list[tuple[Question, dict[str, t.Any]]]) -> None:
        followed: t.Counter[str] = collections.Counter()
        for asked, result in judged:
            for line in result["advice"]:
                after = _fit.judge(done(asked, line))
                assert (after["verdict"], after["refusal"]) == (FITS, None), (asked.name, asked.row, asked.gpus, line)
                followed[line.split(":")[0].split(".")[0]] += 1
            assert len(set(result["advice"])) == len(result["advice"])
            assert not (result["verdict"] == FITS and result["advice"])
        # each kind of proposal was made, and often
        assert set(followed) == {
            "llm_min_gpu_memory_gb",
            "vllm_model_configs",
            "vllm_gpu_count",
            "vllm_model_name",
            "vllm_memory_limit",
        }
        assert min(followed.values()) > 5

    def test_it_stands_in_every_refusal_and_in_every_doubt(self, judged: list[tuple[Question, dict[str, t.Any]]]) -> None:
        for _asked, result in judged:
            if result["verdict"] == FITS:
                assert result["refusal"] is None
                continue
            text = result["refusal"] if result["verdict"] == DOES_NOT_FIT else result["notes"][-1]
            assert result["verdict"] in (DOES_NOT_FIT, WITHIN_ERROR)
            assert text.startswith(result["summary"])
            assert all(line in text for line in result["advice"])
            assert result["advice"] or "Nothing near it would fit" in text
            assert "\n" not in text

    def test_a_lean_engine(self) -> None:
        result = _fit.judge(question("gpt-oss-120b", {**H100, "count": 1}, others={}))
        assert result["advice"] == [
            "vllm_model_configs.gpt-oss-120b: {gpu_memory_utilization: 0.95, max_num_batched_tokens: 2048, max_num_seqs: 16}"
        ]
        choices = {"gpu_memory_utilization": 0.97, "max_num_batched_tokens": 1024}
        large = _fit.judge(question("gpt-oss-120b", {**H100, "count": 1}, row=choices, others={}))
        assert large["advice"][0] == "vllm_model_configs.gpt-oss-120b: {max_num_seqs: 16}"
        few = _fit.judge(question("gpt-oss-120b", {**H100, "count": 1}, row={"max_num_seqs": 2, "max_num_batched_tokens": 1024}, others={}))
        assert few["advice"][0] == "vllm_model_configs.gpt-oss-120b: {gpu_memory_utilization: 0.95}"
        spent = {"gpu_memory_utilization": 0.95, "max_num_batched_tokens": 2048, "max_num_seqs": 16, "max_model_len": 131072}
        advice = _fit.judge(question("qwen-qwq-32b", {**A100, "count": 1}, row=spent, others={}))["advice"]
        assert [line for line in advice if "max_num_seqs" in line] == []
        assert len(advice) == 1

    def test_a_lean_engine_with_shorter_chats(self) -> None:
        result = _fit.judge(question("qwen-qwq-32b", {**A100, "count": 1}, row={"max_model_len": 131072}, others={}))
        lean, shorter = (yaml.safe_load(line)["vllm_model_configs.qwen-qwq-32b"] for line in result["advice"])
        assert set(shorter) == {"max_model_len"}
        assert lean["gpu_memory_utilization"] == 0.95
        assert shorter["max_model_len"] == result["longest_tokens_surely"] < lean["max_model_len"] < 131072

    def test_contexts_that_nobody_wants_are_not_proposed(self, judged: list[tuple[Question, dict[str, t.Any]]]) -> None:
        for asked, result in judged:
            for line in result["advice"]:
                if "max_model_len" in line and asked.accelerator != "cpu":
                    assert int(re.findall(r"max_model_len: (\d+)", line)[0]) >= _fit.SHORTEST_TOKENS

    @pytest.mark.parametrize(
        ("gpus", "count"),
        [
            ([A100], 2),
            ([H100], 2),
            ([{**L4, "count": 4}], None),
            ([L4], 8),
            ([ONE_A100], None),
            # a machine of its own has a row for each GPU
            ([{**ONE_A100, "node": "host"}, {**ONE_A100, "node": "host"}], 2),
            ([{**ONE_A100, "node": "a"}, {**ONE_A100, "node": "b"}], None),
        ],
    )
    def test_more_gpus_of_one_node(self, gpus: list[dict[str, t.Any]], count: t.Optional[int]) -> None:
        advice = _fit.judge(question("gpt-oss-120b", *gpus, row={"max_model_len": 131072, "gpu_memory_utilization": 0.8}))["advice"]
        assert [line for line in advice if "vllm_gpu_count" in line] == ([f"vllm_gpu_count: {count}"] if count else [])

    def test_a_row_with_a_number_of_gpus_of_its_own(self) -> None:
        advice = _fit.judge(question("gpt-oss-120b", A100, row={"tensor_parallel_size": 1}))["advice"]
        assert "vllm_model_configs.gpt-oss-120b: {tensor_parallel_size: 2}" in advice
        assert "vllm_gpu_count" not in kinds(advice)

    def test_a_cache_that_was_asked_for_is_taken_back(self) -> None:
        result = _fit.judge(question("set-aside", A100, others={}))
        assert result["verdict"] == DOES_NOT_FIT
        assert "kv_cache_memory_bytes: null" in result["advice"][0]


class TestOtherRow:
    def proposed(
        self, *gpus: dict[str, t.Any], name: str = "qwen-qwq-32b", others: t.Optional[t.Mapping[str, Row]] = None, **fields: t.Any
    ) -> list[str]:
        advice = _fit.judge(question(name, *(gpus or (L4,)), others=ROWS if others is None else others, **fields))["advice"]
        return [line for line in advice if line.startswith("vllm_model_name")]

    def test_the_largest_that_fits(self) -> None:
        assert self.proposed(A100_40) == ["vllm_model_name: sliding"]
        assert self.proposed(L4) == ["vllm_model_name: medium"]
        assert self.proposed(L4, others={name: ROWS[name] for name in ("small", "latent", "qwen-qwq-32b")}) == ["vllm_model_name: small"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"source": "smoke"},
            {"unservable": "It is broken."},
            {"production_use": False},
            {"gated": True},
            {"tool_call_parser": None},
            {"vocab_size": None},
            {"min_compute_capability": "9.0"},
            {"min_gpu_memory_gb": 80},
            {"tensor_parallel_size": 4},
        ],
    )
    def test_what_is_not_proposed(self, changes: Row) -> None:
        others = {"medium": _catalog.merge(ROWS["medium"], changes)}
        assert self.proposed(others={"medium": ROWS["medium"]}) == ["vllm_model_name: medium"]
        assert self.proposed(others=others) == []

    def test_what_it_needs_not_do_that_this_one_does_not(self) -> None:
        others = {"medium": _catalog.merge(ROWS["medium"], {"tool_call_parser": None, "gated": True})}
        assert self.proposed(others=others, row={"tool_call_parser": None, "gated": True}) == ["vllm_model_name: medium"]

    def test_it_has_to_go_onto_the_volume(self) -> None:
        assert self.proposed(volume_gib=18) == ["vllm_model_name: small"]

    def test_without_a_number_of_its_own_it_gets_one_gpu(self) -> None:
        assert self.proposed(L4, name="latent", gpu_count=8) == ["vllm_model_name: medium"]
        assert self.proposed(H200, name="latent", row={"weights_gib": 3000.0}) == ["vllm_model_name: gpt-oss-120b"]


class TestKindsOfGpus:
    def test_the_least_decides(self) -> None:
        for order in ([H200, A100], [A100, H200]):
            result = _fit.judge(question("gpt-oss-120b", *order))
            assert (result["verdict"], result["product"]) == (WITHIN_ERROR, "NVIDIA-A100-SXM4-80GB")
            assert {fit["product"]: fit["verdict"] for fit in result["by_gpu"]} == {
                "NVIDIA-A100-SXM4-80GB": WITHIN_ERROR,
                "NVIDIA-H200": FITS,
            }
            assert "llm_min_gpu_memory_gb: 141 (keeps it off the NVIDIA-A100-SXM4-80GB)" in result["advice"]

    def test_of_those_that_fit_the_one_with_the_least_room(self) -> None:
        assert _fit.judge(question("medium", H200, A100))["product"] == "NVIDIA-A100-SXM4-80GB"

    def test_a_minimum_of_memory_cannot_tell_an_a100_from_an_h100(self) -> None:
        result = _fit.judge(question("qwen-qwq-32b", A100, H100))
        assert {fit["product"]: fit["verdict"] for fit in result["by_gpu"]} == {A100["product"]: FITS, H100["product"]: DOES_NOT_FIT}
        assert "llm_min_gpu_memory_gb" not in kinds(result["advice"])

    def test_a_size_that_no_card_is_sold_by(self) -> None:
        odd = gpu("NVIDIA-H100-PCIe", 80000, "9.0")
        assert "llm_min_gpu_memory_gb: 85 (keeps it off the NVIDIA-H100-PCIe)" in _fit.judge(question("qwen-qwq-32b", odd, A100))["advice"]

    def test_each_kind_is_judged_once(self) -> None:
        assert len(_fit.judge(question("medium", A100, {**A100, "node": "b"}, H100))["by_gpu"]) == 2

    def test_a_gpu_without_a_name(self) -> None:
        assert "on 1 x GPU:" in _fit.judge(question("medium", {"memory_mib": 81920}))["summary"]


class TestUnknown:
    @pytest.mark.parametrize(
        "fact", ["weights_gib", "vocab_size", "num_attention_heads", "layers", "max_context", "num_kv_heads", "head_dim"]
    )
    @pytest.mark.parametrize("accelerator", ["nvidia", "cpu"])
    def test_a_fact_is_missing(self, fact: str, accelerator: str) -> None:
        result = _fit.check(question("qwen-qwq-32b", L4, row={fact: None}, accelerator=accelerator))
        assert (result["verdict"], result["refusal"], result["advice"], result["notes"]) == (UNKNOWN, None, [], [])
        assert result["summary"] == f"Whether qwen-qwq-32b fits is not known: its row lacks {fact}."

    @pytest.mark.parametrize("gpus", [(), (gpu("GB10", None),)])
    def test_the_memory_of_the_gpus_is_not_known(self, gpus: tuple[dict[str, t.Any], ...]) -> None:
        result = _fit.check(question("latent", *gpus))
        assert (result["verdict"], result["refusal"]) == (UNKNOWN, None)
        assert result["summary"] == "Whether latent fits is not known: the memory of the GPUs is not known."

    def test_the_volume_is_judged_all_the_same(self) -> None:
        result = _fit.judge(question("latent", volume_gib=100))
        assert result["verdict"] == UNKNOWN
        assert "vllm_storage_size" in result["refusal"]

    def test_flags_that_are_not_computed(self) -> None:
        result = _fit.check(question("latent", L4, row={"extra_args": ["--cpu-offload-gb=700"]}))
        assert (result["verdict"], result["refusal"]) == (WITHIN_ERROR, None)
        assert result["notes"][0] == "latent: the figures leave out --cpu-offload-gb, so it may need more memory, or less."
        fits = _fit.judge(question("small", L4, kv_cache_dtype="int4_per_token_head"))
        assert fits["verdict"] == FITS
        assert fits["notes"] == ["small: the figures leave out --kv-cache-dtype int4_per_token_head, so it may need more memory, or less."]


class TestWords:
    def refusal(self, asked: Question) -> str:
        with pytest.raises(ServingError) as caught:
            _fit.check(asked)
        assert caught.value.details["refusal"] == str(caught.value)
        assert caught.value.details["verdict"] == DOES_NOT_FIT
        return str(caught.value)

    def test_it_fits(self) -> None:
        summary = _fit.judge(question("gpt-oss-120b", H200))["summary"]
        assert re.fullmatch(
            r"gpt-oss-120b fits on 1 x NVIDIA-H200: weights 66\.2 GiB, KV cache 5\d\.\d GiB, "
            r"room for 1\d chats of 131,072 tokens at a time, or \d\d of 8,192\.",
            summary,
        )
        short = _fit.judge(question("sliding", L4, L4, row={"gpu_memory_utilization": 0.95, "max_num_seqs": 8, "max_model_len": 5000}))
        assert short["summary"].endswith("room for 1 chat of 5,000 tokens at a time.")
        assert "GiB on each, room" in _fit.judge(question("gpt-oss-120b", A100, gpu_count=2))["summary"]

    def test_too_little_is_left_for_the_cache(self) -> None:
        assert re.fullmatch(
            r"qwen-qwq-32b does not fit on 1 x NVIDIA-H100-80GB-HBM3: of 72\.\d GiB \(gpu_memory_utilization 0\.92\), weights take "
            r"61\.6 GiB and overhead about \d\.\d GiB \(give or take \d\.\d GiB\); \d\.\d GiB is left for the KV cache, "
            r"and a chat of 32,768 tokens needs 8\.0 GiB\. What would fit: vllm_model_configs\.qwen-qwq-32b: \{.*\}\. "
            r"vllm_fit_check: false deploys it all the same\.",
            self.refusal(question("qwen-qwq-32b", {**H100, "count": 1}, others={})),
        )

    def test_weights_are_too_large(self) -> None:
        assert re.fullmatch(
            r"qwen-qwq-32b does not fit on 1 x Tesla-T4: of 13\.\d GiB \(.*\), weights take 61\.6 GiB and overhead about .*; "
            r"that is \d\d\.\d GiB too much, and a chat of 32,768 tokens needs 8\.0 GiB of KV cache besides\. "
            r"Nothing near it would fit: take larger GPUs, or a smaller model\. vllm_fit_check: .*",
            self.refusal(question("qwen-qwq-32b", {**T4, "count": 1}, others={})),
        )

    def test_doubt_is_a_note(self) -> None:
        result = _fit.check(question("gpt-oss-120b", A100))
        (note,) = result["notes"]
        assert note.startswith("gpt-oss-120b may not fit on 1 x NVIDIA-A100-SXM4-80GB: of ")
        assert "vllm_fit_check" not in note

    def test_the_cache_that_was_asked_for(self) -> None:
        assert re.match(
            r"set-aside does not fit on 1 x NVIDIA-A100-SXM4-80GB: weights of 26\.3 GiB, overhead of about .* and the KV cache of "
            r"60\.0 GiB \(kv_cache_memory_bytes\) need 8\d\.\d GiB, and there is 79\.\d GiB\. What would fit: ",
            self.refusal(question("set-aside", A100)),
        )

    def test_a_volume_that_is_too_small(self) -> None:
        asked = question("gpt-oss-120b", H200, volume_gib=50)
        result = _fit.judge(asked)
        assert result["verdict"] == FITS
        assert result["refusal"] == (
            "The volume of 50 GiB cannot hold gpt-oss-120b: weights 60.77 GiB, and 3 GiB for caches. "
            "Set vllm_storage_size: 80Gi, and more when it has to hold other models, too."
        )
        with pytest.raises(ServingError, match="volume of 50 GiB"):
            _fit.check(asked)
        assert _fit.judge(question("gpt-oss-120b", H200, volume_gib=80))["refusal"] is None
        assert _fit.judge(question("gpt-oss-120b", H200, volume_gib=63.5))["refusal"]
        assert _fit.judge(question("gpt-oss-120b", H200, volume_gib=64))["refusal"] is None

    def test_a_volume_and_gpus_that_are_too_small_are_told_together(self) -> None:
        result = _fit.judge(question("latent", T4, volume_gib=100))
        assert result["refusal"].startswith("latent does not fit")
        assert any(note.startswith("The volume of 100 GiB cannot hold latent") for note in result["notes"])

    @pytest.mark.parametrize(("row", "name"), [({"license": "MNPL-0.1"}, "MNPL-0.1"), ({}, "see its card")])
    def test_a_licence_that_forbids_production(self, row: Row, name: str) -> None:
        notes = _fit.judge(question("small", L4, row={**row, "production_use": False}))["notes"]
        assert notes == [f"small: its licence ({name}) does not allow production or commercial use."]
        assert _fit.judge(question("small", L4, row={**row, "production_use": True}))["notes"] == []


class TestCpu:
    def test_it_fits(self) -> None:
        result = _fit.check(on_cpus(memory_mib=8192))
        assert (result["verdict"], result["product"], result["least_gpus"], result["by_gpu"]) == (FITS, None, None, [])
        assert result["memory_needed_mib"] == _capacity.cpu_memory_mib(on_cpus().row)
        assert (
            result["summary"]
            == "small fits on CPUs: weights 1.0 GiB, KV cache 2.0 GiB, room for 10 chats of 16,384 tokens at a time, or 21 of 8,192."
        )

    def test_too_little_memory(self) -> None:
        result = _fit.judge(on_cpus(memory_mib=3000))
        assert result["verdict"] == DOES_NOT_FIT
        assert "need 4.5 GiB, and there is 2.9 GiB. What would fit: vllm_memory_limit: 5Gi." in result["refusal"]

    def test_a_cache_that_is_too_small(self) -> None:
        asked = on_cpus({"kv_cache_memory_bytes": 100 * 2**20})
        result = _fit.judge(asked)
        assert result["refusal"] == (
            "small does not fit on CPUs: the KV cache of 100 MiB (kv_cache_memory_bytes) holds one chat of at most 8,320 tokens, "
            "and a chat of 16,384 tokens needs 192 MiB. What would fit: vllm_model_configs.small: {max_model_len: 8320}; "
            "or vllm_model_configs.small: {kv_cache_memory_bytes: 203423744}. vllm_fit_check: false deploys it all the same."
        )
        # exactly one chat, but not the block that is held back
        exactly = _fit.judge(on_cpus({"kv_cache_memory_bytes": 192 * 2**20}))
        assert exactly["concurrency"] == 1
        assert "holds one chat of at most 16,256 tokens" in exactly["refusal"]

    def test_both(self) -> None:
        result = _fit.judge(on_cpus({"kv_cache_memory_bytes": 2**20, "weights_gib": 15.26}, memory_mib=10000))
        assert result["advice"] == ["vllm_memory_limit: 19Gi with vllm_model_configs.small: {kv_cache_memory_bytes: 203423744}"]

    def test_unknown_memory(self) -> None:
        assert _fit.judge(on_cpus({"weights_gib": 500.0}))["verdict"] == FITS
