from __future__ import annotations

import json
import typing as t

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.testing import patch_module_args
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.modules import model_fit

ROW: dict[str, t.Any] = {
    "model": "Qwen/QwQ-32B",
    "weights_gib": 61.03,
    "weights_format": "bf16",
    "vocab_size": 152064,
    "num_attention_heads": 40,
    "num_kv_heads": 8,
    "head_dim": 128,
    "layers": {"full": 64},
    "max_context": 40960,
    "max_model_len": 32768,
}
A100 = {"product": "NVIDIA-A100-SXM4-80GB", "memory_mib": 81920, "compute_capability": "8.0", "count": 1, "node": "a"}
L4 = {"product": "NVIDIA-L4", "memory_mib": 23034, "compute_capability": "8.9", "count": 1, "node": "b"}


def params(**changes: t.Any) -> dict[str, t.Any]:
    checked = ArgumentSpecValidator(model_fit.ARGS).validate({"name": "qwq", "row": ROW, **changes})
    assert not checked.error_messages
    return dict(checked.validated_parameters)


class Run:
    """The module, as Ansible starts it; what it returned, with what it warned of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.warned: list[str] = []
        monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: self.warned.append(text))

    def __call__(self, check_mode: bool = False, **changes: t.Any) -> dict[str, t.Any]:
        self.warned.clear()
        with patch_module_args({"name": "qwq", "row": ROW, "_ansible_check_mode": check_mode, **changes}), pytest.raises(SystemExit):
            model_fit.main()
        result: dict[str, t.Any] = json.loads(self.capsys.readouterr().out)
        return {**result, "warned": list(self.warned)}


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def test_it_fits(start: Run) -> None:
    result = start(gpus=[A100])
    assert (result["changed"], result["verdict"], result["refusal"], result["warned"]) == (False, "fits", None, [])
    assert result["product"] == "NVIDIA-A100-SXM4-80GB"


def test_it_does_not(start: Run) -> None:
    result = start(gpus=[L4], row={**ROW, "production_use": False})
    assert (result["failed"], result["verdict"], result["msg"]) == (True, "does_not_fit", result["refusal"])
    assert result["msg"].startswith("qwq does not fit on 1 x NVIDIA-L4: ")
    assert result["memory_gib"]["missing"] > 0
    # notes are told even then
    assert result["warned"] == result["notes"] != []


def test_it_may_be_deployed_all_the_same(start: Run) -> None:
    enforced = start(gpus=[L4])
    result = start(gpus=[L4], enforce=False)
    assert not result["changed"]
    assert "failed" not in result
    assert result["warned"] == [enforced["msg"]]
    assert result["verdict"] == "does_not_fit"


def test_doubt_is_a_warning(start: Run) -> None:
    result = start(gpus=[A100], row={**ROW, "max_model_len": 40960})
    assert (result["verdict"], result["refusal"]) == ("within_error", None)
    assert len(result["warned"]) == 1
    assert result["warned"][0].startswith("qwq may not fit on 1 x NVIDIA-A100-SXM4-80GB: ")


@pytest.mark.parametrize("gpus", [[A100], [L4], []])
def test_check_mode_returns_the_same(start: Run, gpus: list[dict[str, t.Any]]) -> None:
    assert start(gpus=gpus) == start(check_mode=True, gpus=gpus)


@pytest.mark.parametrize(
    ("gpus", "options"),
    [([A100], {}), ([L4], {"enforce": False}), ([], {}), ([], {"accelerator": "cpu", "row": {**ROW, "kv_cache_memory_bytes": 9 * 2**30}})],
)
def test_the_result_is_what_is_documented(gpus: list[dict[str, t.Any]], options: dict[str, t.Any]) -> None:
    result = model_fit.run(params(gpus=gpus, **options))
    # Ansible has a meaning of its own for these
    assert not {"warnings", "deprecations", "failed", "changed", "msg", "exception"} & set(result)
    documented = yaml_keys(model_fit.RETURN)
    assert set(result) <= documented
    if result["verdict"] != "unknown":
        assert set(result) == documented
        assert all(set(fit) <= documented for fit in result["by_gpu"])
    json.dumps(result)


def yaml_keys(text: str) -> set[str]:
    return set(yaml.safe_load(text))


def test_the_example_of_the_documentation() -> None:
    (task,) = yaml.safe_load(model_fit.EXAMPLES)
    arguments = task["llmops.serving.model_fit"]
    assert model_fit.run(params(**arguments))["verdict"] == "within_error"


def test_options() -> None:
    two = model_fit.run(params(gpus=[{**A100, "count": 2}], gpu_count=2, kv_cache_dtype="fp8"))
    assert (two["verdict"], two["gpu_count"], two["request_gib"]) == ("fits", 2, 2.0)
    others = {"small": {**ROW, "weights_gib": 3.0, "layers": {"full": 16}, "max_model_len": 4096, "parameters_b": 1.5}}
    with pytest.raises(ServingError, match="vllm_model_name: small"):
        model_fit.run(params(gpus=[L4], others=others))
    with pytest.raises(ServingError, match="vllm_storage_size: 80Gi"):
        model_fit.run(params(gpus=[A100], volume_gib=50))
    with pytest.raises(ServingError, match="vllm_memory_limit: 70Gi"):
        model_fit.run(params(accelerator="cpu", memory_mib=30000, row={**ROW, "kv_cache_memory_bytes": 2**30, "max_model_len": 2048}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": {"fulll": 64}}, 'layers.fulll: unknown kind of attention (did you mean "full"?)'),
        ({"vocab_size": "many"}, 'vllm_model_configs.qwq.vocab_size: "many" is not a whole number.'),
        ({"sliding_window": 4096}, "it belongs to layers.sliding_window, which the row lacks"),
    ],
)
def test_what_is_no_row(start: Run, changes: dict[str, t.Any], message: str) -> None:
    result = start(gpus=[A100], row={**ROW, **changes})
    assert result["failed"]
    assert message in result["msg"]


def test_what_is_not_known_refuses_nothing(start: Run) -> None:
    for changes in ({"gpus": []}, {"gpus": [L4], "row": {"model": "example-org/model"}}):
        result = start(**changes)
        assert (result["verdict"], result["refusal"], result["warned"]) == ("unknown", None, [])
