from __future__ import annotations

import copy

import pytest
from ansible_collections.llmops.serving.plugins.plugin_utils import report as _report

ENGINE = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: vllm-backend
spec:
  replicas: 1
  template:
    metadata:
      annotations:
        serving.llmops/model: gpt-oss-120b
    spec:
      containers:
      - name: vllm
        image: vllm/vllm-openai:v0.32.0
        args:
        - openai/gpt-oss-120b
        - --served-model-name
        - gpt-oss-120b
        - --max-model-len
        - '131072'
        - --enable-auto-tool-choice
        env:
        - name: HOME
          value: /data/home
"""
PROGRAM = "/srv/venvs/vllm-1/bin/python -m vllm.entrypoints.cli.main serve"
SCRIPT = """\
#!/bin/sh
# written by llmops.serving
export HOME=/srv/home
export LABELS='{"a": "b c"}'
if [ -f /srv/secret ]; then
  KEY="$(cat /srv/secret)"
fi
echo "=== start of vllm-backend, $(date '+%Y-%m-%d')"
cd /srv || exit 1
exec /srv/venvs/vllm-1/bin/python \\
  -m vllm.entrypoints.cli.main serve /srv/models/smoke-1 \\
  --served-model-name smoke \\
  --enforce-eager \\
  --max-model-len 8192
"""


def diff(header, before, after):
    return {"before_header": header, "after_header": header, "before": before, "after": after}


def engine_change(after=ENGINE, action="changed", before=ENGINE):
    return {
        "changed": True,
        "results": [
            {"kind": "Deployment", "name": "vllm-backend", "action": action},
            {"kind": "Service", "name": "x", "action": "unchanged"},
        ],
        "diff": [diff("Deployment/vllm-backend", before if action == "changed" else "", after)],
    }


@pytest.fixture
def plan():
    return {
        "platform": "kubernetes",
        "stack": "chat",
        "accelerator": "nvidia",
        "names": {"engine": "vllm-backend"},
        "model": {"name": "gpt-oss-120b", "license": "Apache-2.0", "weights_gib": 60.77},
        "engine": {"strategy": {"type": "Recreate"}},
        "gpu_check": {"gpus_per_node": 1, "replicas": 1},
        "fit": {"row": {"model": "openai/gpt-oss-120b"}},
    }


FIT = {
    "verdict": "fits",
    "summary": "it fits",
    "refusal": None,
    "product": "NVIDIA-A100",
    "notes": ["mind the licence"],
    "memory_gib": {
        "total": 80.0, "budget": 76.0, "weights": 66.0, "overhead": 2.0, "overhead_error": 1.5, "kv_cache": 8.0, "missing": 0.0, "left": 4.0
    },
    "max_model_len": 131072,
    "chats": {"full_length": 1, "typical": 17, "typical_tokens": 8192, "at_a_time": 2},
}  # fmt: skip
GPUS = {"fits": ["a"], "eligible": [{"node": "a", "product": "NVIDIA-A100", "free": 3, "memory_gb": 85.9}, {"node": "full", "free": 0}]}


def report(plan, applied=None, fit=None, gpus=None, guard=None, weights_there=False, switch=None):
    return _report.make_report(plan, gpus or GPUS, guard or {}, fit or FIT, switch or {}, applied or {}, weights_there)


def test_no_change_is_told_as_such(plan):
    found = report(plan)
    assert (found["changed"], found["changes"], found["restarts"], found["gap"], found["download_gib"]) == (False, [], [], None, 0)
    assert found["model"]["running"] == "gpt-oss-120b"
    assert "Changes   nothing: all is as the inventory says" in _report.lines(found)
    assert _report.lines(found)[-1] == "Nothing is to be done."


@pytest.mark.parametrize(
    ("here", "gpus", "router"),
    [
        ((True, True), "1: ", "here, in front of the engines on gpu1, gpu2"),
        ((False, True), "1: ", "on gpu1, which leads to this engine"),
        ((True, False), "none: the engines are on other hosts", "here, in front of the engines on gpu1, gpu2"),
    ],
)
def test_of_several_hosts_it_is_told_where_the_router_is(plan, here, gpus, router):
    engines = {"gpu1": "http://10.0.0.1:8100", "gpu2": "http://10.0.0.2:8100"}
    plan["together"] = {"router": "gpu1", "engines": engines, "has_router": here[0], "has_engine": here[1]}
    told = _report.lines(report(plan))
    assert f"Router    {router}" in told
    assert [line for line in told if line.startswith(f"GPUs      {gpus}")]
    assert ("(on other hosts)" in told[0]) is not here[1]


def test_a_changed_argument_restarts_and_keeps_the_weights(plan):
    found = report(plan, {"vllm": engine_change(ENGINE.replace("131072", "65536").replace("/data/home", "/data/h"))})
    assert found["changes"] == [
        {
            "object": "Deployment/vllm-backend",
            "action": "changed",
            "restarts": True,
            "details": ["--max-model-len 131072 -> 65536", "env.HOME /data/home -> /data/h"],
        }
    ]
    assert found["restarts"] == ["Deployment/vllm-backend"]
    assert (found["download_gib"], found["model"]["running"]) == (0, "gpt-oss-120b")
    assert found["gap"]["seconds"] == 300 + round(60.77 * 1024 / 200)


def test_a_flag_that_goes_and_one_that_comes(plan):
    after = ENGINE.replace("--enable-auto-tool-choice", "--enforce-eager")
    details = report(plan, {"vllm": engine_change(after)})["changes"][0]["details"]
    assert details == ["--enable-auto-tool-choice on -> (none)", "--enforce-eager (none) -> on"]


def test_what_is_not_in_the_pods_restarts_nothing(plan):
    found = report(plan, {"vllm": engine_change(ENGINE.replace("replicas: 1", "replicas: 2"))})
    assert (found["restarts"], found["gap"]) == ([], None)
    assert found["changes"][0]["details"] == ["replicas 1 -> 2"]


def test_another_model_is_downloaded_in_the_gap(plan):
    before = ENGINE.replace("openai/gpt-oss-120b", "Qwen/QwQ-32B").replace("gpt-oss-120b", "qwen-qwq-32b")
    found = report(plan, {"vllm": engine_change(before=before)})
    assert (found["model"]["running"], found["download_gib"]) == ("qwen-qwq-32b", 60.77)
    assert found["gap"]["seconds"] == 300 + round(60.77 * 1024 / 200 + 60.77 * 1024 / 50)
    assert "downloads 60.77 GiB" in found["gap"]["reason"]
    assert report(plan, {"vllm": engine_change(before=before)}, weights_there=True)["download_gib"] == 0


def test_weights_that_are_fetched_before_lengthen_no_gap(plan):
    plan["prefetch"] = {"weights": "models--openai--gpt-oss-120b"}
    before = ENGINE.replace("openai/gpt-oss-120b", "Qwen/QwQ-32B").replace("gpt-oss-120b", "qwen-qwq-32b")
    found = report(plan, {"vllm": engine_change(before=before)})
    assert (found["download_gib"], found["gap"]["seconds"]) == (60.77, 300 + round(60.77 * 1024 / 200))
    assert "downloads" not in found["gap"]["reason"]


def test_the_strategy_of_a_switch_is_told_and_decides_the_gap(plan):
    change = {"vllm": engine_change(ENGINE.replace("131072", "65536"))}
    surge = report(plan, change, switch={"needed": True, "strategy": "surge", "why": "surge: node gpu-1 has room for both"})
    assert (surge["switch"]["strategy"], surge["gap"]) == ("surge", None)
    assert "Switch    surge: node gpu-1 has room for both" in _report.lines(surge)
    recreate = report(plan, change, switch={"needed": True, "strategy": "recreate", "why": "recreate: no GPU is free"})
    assert recreate["gap"]["seconds"] > 0
    quiet = report(plan, switch={"needed": False, "strategy": "surge", "why": ""})
    assert (quiet["switch"], [line for line in _report.lines(quiet) if "Switch" in line]) == (None, [])


def test_unused_weights_are_named(plan):
    plan["weights"] = {"models--openai--gpt-oss-120b": {"model": "gpt-oss-120b", "gib": 60.77}}
    known = {
        "models--openai--gpt-oss-120b": {"model": "gpt-oss-120b", "gib": 60.77},
        "models--Qwen--QwQ-32B": {"model": "qwen-qwq-32b", "gib": 61.0},
        "models/smoke-1": {"model": "smoke", "gib": None},
    }
    found = report(plan, switch={"weights": known, "last_good": {"model": "qwen-qwq-32b"}})
    assert [entry["name"] for entry in found["unused_weights"]] == ["models/smoke-1"]
    found = report(plan, switch={"weights": known, "last_good": {"model": "gpt-oss-120b"}})
    assert "Unused    weights of qwen-qwq-32b (61 GiB), smoke; make prune-models removes them" in _report.lines(found)


def test_what_pruning_did(plan):
    models = [{"title": "a/old", "bytes": 3 * 2**30, "kept": False}, {"title": "b/new", "bytes": 2**29, "kept": True}]
    pruned = {"models": models, "freed_bytes": 3 * 2**30}
    assert _report.pruned_lines(pruned) == {"Removed": "a/old (3.0 GiB)", "Kept": "b/new (512.0 MiB)", "Freed": "3.0 GiB"}
    assert _report.pruned_lines(pruned, check=True)["Would free"] == "3.0 GiB"
    assert _report.pruned_lines({"models": [], "freed_bytes": 0})["Removed"].startswith("nothing")


def test_the_same_row_with_other_weights_is_downloaded(plan):
    found = report(plan, {"vllm": engine_change(ENGINE.replace("- openai/gpt-oss-120b", "- other-org/gpt-oss-120b"))})
    assert found["download_gib"] == 60.77


def test_a_rolling_update_leaves_no_gap(plan):
    plan["engine"]["strategy"] = {"type": "RollingUpdate"}
    found = report(plan, {"vllm": engine_change(ENGINE.replace("131072", "65536"))})
    assert (found["restarts"], found["gap"]) == (["Deployment/vllm-backend"], None)


def test_a_first_installation(plan):
    found = report(plan, {"vllm": engine_change(action="created")})
    assert (found["model"]["running"], found["download_gib"], found["gap"], found["restarts"]) == (None, 60.77, None, [])
    text = "\n".join(_report.lines(found))
    assert "gpt-oss-120b (not running yet)" in text
    assert "Download  60.77 GiB of weights, unless the volume has them already" in text
    assert "1 new object: Deployment/vllm-backend" in text


def test_programs_of_a_machine(plan):
    local = copy.deepcopy(plan)
    local.update(platform="local", engine={"name": "vllm-backend"}, accelerator="cpu", model={**plan["model"], "name": "smoke"})
    del local["names"]
    local["fit"]["row"] = {"model": "smoke", "source": "smoke"}
    applied = {
        "vllm": {
            "changed": True,
            "programs": [{"name": "vllm-backend", "action": "restarted"}, {"name": "vllm-router", "action": "none"}],
            "diff": [diff("/srv/scripts/vllm-backend", SCRIPT, SCRIPT.replace("8192", "4096"))],
        },
        "installed": {"changed": True, "environments": [{"path": "/v", "download_mib": 580}, {"path": "/s", "download_mib": 1}]},
        "page_installed": {"changed": True, "environments": [{"path": "/s", "download_mib": 1}]},
    }
    found = report(local, applied)
    assert (found["restarts"], found["install_mib"], found["gpus"]["per_engine"]) == (["vllm-backend"], 581, 0)
    assert found["changes"][0]["details"] == ["--max-model-len 8192 -> 4096"]
    assert found["model"]["running"] == "smoke"
    text = "\n".join(_report.lines(found))
    assert "581 MiB of programs" in text
    assert "none: the engine computes on CPUs" in text


def test_tasks_that_were_skipped_change_nothing(plan):
    skipped = {"changed": False, "skipped": True, "skip_reason": "Conditional result was False"}
    found = report(
        plan, {"vllm": {"changed": False, "results": [], "diff": []}, "installed": skipped, "page_installed": skipped}, guard=skipped
    )
    assert (found["changed"], found["install_mib"], found["warnings"], found["refusals"]) == (False, 0, ["mind the licence"], [])


@pytest.mark.parametrize(
    ("before", "after", "detail"),
    [
        ("smoke-1", "smoke-2", "model /srv/models/smoke-1 -> /srv/models/smoke-2"),
        ("-m vllm.entrypoints.cli.main", "vllm", f"program {PROGRAM[:57]}... -> /srv/venvs/vllm-1/bin/python vllm serve"),
        ("/srv/home", "/srv/h", "env.HOME /srv/home -> /srv/h"),
        ('"b c"', '"d"', """env.LABELS {"a": "b c"} -> {"a": "d"}"""),
        ("--enforce-eager", "--flag", "--enforce-eager on -> (none)"),
    ],
)
def test_what_changes_in_a_script(before, after, detail):
    details, _restarts = _report._compared(SCRIPT, SCRIPT.replace(before, after))
    assert detail in details


def test_a_program_without_a_model_is_no_model():
    text = "#!/bin/sh\nexec /srv/venvs/router/bin/vllm-router \\\n  --port 8000\n"
    assert _report._compared(text, text.replace("router/bin", "router-2/bin"))[0] == [
        "program /srv/venvs/router/bin/vllm-router -> /srv/venvs/router-2/bin/vllm-router"
    ]


def test_what_is_deleted_and_left_out(plan):
    applied = {
        "vllm": {
            "changed": True,
            "results": [{"kind": "Job", "name": "old", "action": "deleted"}],
            "skipped": [{"kind": "ServiceMonitor", "name": "m", "reason": "this cluster does not know it"}],
            "diff": [],
        }
    }
    found = report(plan, applied)
    assert found["deletes"] == ["Job/old"]
    assert found["warnings"] == ["mind the licence", "ServiceMonitor/m is left out: this cluster does not know it"]


def test_another_runtime_that_is_stopped_first(plan):
    found = report(plan, guard={"changed": True, "stopped": ["Deployment/ollama"]})
    assert (found["changed"], found["stops"]) == (True, ["Deployment/ollama"])
    assert "Stops     Deployment/ollama, whose GPUs the engine takes; its volumes stay" in _report.lines(found)


def test_what_holds_the_gpu_of_a_host_is_a_refusal(plan):
    assert report(plan, guard={"msg": "GPU guard: train.py holds GPU 0"})["refusals"] == ["GPU guard: train.py holds GPU 0"]


@pytest.mark.parametrize(
    ("gpus", "fit", "words"),
    [
        ({"msg": "GPU check: none"}, FIT, ["GPU check: none"]),
        (GPUS, {**FIT, "refusal": "too large"}, ["too large"]),
        ({"msg": "GPU check: none"}, {**FIT, "refusal": "too large"}, ["GPU check: none", "too large"]),
        (GPUS, FIT, []),
    ],
)
def test_a_refusal_is_handed_on(plan, gpus, fit, words):
    assert report(plan, gpus=gpus, fit=fit)["refusals"] == words


def test_the_lines_are_a_table_with_a_bar(plan):
    text = _report.lines(report(plan, {"vllm": engine_change(ENGINE.replace("131072", "65536"))}))
    assert text[0] == "Model     gpt-oss-120b (runs already)"
    assert text[1] == "GPUs      1: a (3 free of NVIDIA-A100)"
    gauge = text[2].split("[")[1].split("]")[0]
    assert len(gauge) == _report.BAR_WIDTH
    assert gauge.count("#") == round(66 / 80 * _report.BAR_WIDTH)
    assert gauge.index("#") < gauge.index("=") < gauge.index("~") < gauge.index(".")
    assert "Room      1 chat of 131,072 tokens at a time, or 17 of 8,192; 2 are answered at a time, others wait" in text
    assert all(line == line.rstrip() for line in text)
    assert text[-1] == "Nothing was changed. make install-chat does this."


def test_what_would_be_refused_is_not_said_to_be_done(plan):
    assert "make install-chat" not in "\n".join(_report.lines(report(plan, gpus={"msg": "GPU check: none"})))


def test_facts_that_are_missing_are_said(plan):
    fit = {"verdict": "unknown", "summary": "x: whether it fits is not known", "refusal": None, "notes": []}
    assert "Memory    x: whether it fits is not known" in _report.lines(report(plan, fit=fit))


def test_many_details_are_counted(plan):
    after = ENGINE.replace("131072", "1").replace("v0.32.0", "v0.33.0").replace("/data/home", "/x").replace("--enable-auto", "--x")
    text = "\n".join(_report.lines(report(plan, {"vllm": engine_change(after)})))
    assert "and 1 more" in text


@pytest.mark.parametrize("model", ["gpt-oss:120b", "registry.example.com:5000/team/qwen3:8b", "qwen3-8b"])
def test_the_model_that_runs_is_read_from_the_annotation_of_its_pods(model):
    assert _report._running_model({"diff": [{"before": f"annotations:\n  serving.llmops/model: {model}\n"}]}) == model
