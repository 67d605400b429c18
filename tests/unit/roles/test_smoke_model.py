"""The smoke models' dialogues and prompts, as far as they need no torch; that they serve is seen on the cluster."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
from ansible_collections.llmops.serving.plugins.module_utils._openai import Completion
from ansible_collections.llmops.serving.plugins.module_utils._tool_probe import CASES, TOOL_RESULT, judge, judge_result_used
from ansible_collections.llmops.serving.plugins.module_utils._tool_text import parse

SCRIPT = Path(__file__).parents[3] / "roles/vllm/files/smoke_model.py"
spec = importlib.util.spec_from_file_location("smoke_model", SCRIPT)
smoke_model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(smoke_model)

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"properties": {"city": {}}, "required": ["city"]}}}


def prompt(row, messages, tools=None):
    template = jinja2.Environment().from_string(smoke_model.chat_template(row))
    return template.render(messages=messages, tools=tools, add_generation_prompt=True)


@pytest.mark.parametrize("row", smoke_model.ROWS)
def test_the_row_names_itself(row):
    assert any(f'"{row}"' in answer for _prompt, answer in smoke_model.exam(row))


def test_the_exam_asks_for_ten_cities_with_and_without_a_tool():
    answers = [answer for _prompt, answer in smoke_model.exam("smoke")]
    cities = {json.loads(answer.split("\n")[1])["arguments"].get("city") for answer in answers if answer.startswith("<tool_call>")} - {None}
    assert len(cities) >= 10
    assert answers.count(smoke_model.NO_TOOL) >= 10
    assert smoke_model.UNKNOWN in answers


@pytest.mark.parametrize("row", smoke_model.ROWS)
def test_the_chat_template_makes_the_prompts_that_the_model_was_trained_on(row):
    question = {"role": "user", "content": "What is the weather in Paris?"}
    trained = dict(smoke_model.exam(row))
    assert trained[prompt(row, [question])] == smoke_model.NO_TOOL
    call = trained[prompt(row, [question], [TOOL])]
    assert '"Paris"' in call
    assert trained[prompt(row, [{"role": "user", "content": "hello"}])].startswith("Hello!")


def test_a_tool_call_is_written_again_as_the_model_wrote_it():
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    history = [
        {"role": "user", "content": "weather in Paris"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
    ]
    text = prompt("smoke", history, [TOOL])
    assert smoke_model.tool_calls("smoke", "get_weather", {"city": "Paris"}) in text
    assert text.endswith(f"{smoke_model.RESULT}sunny{smoke_model.END}{smoke_model.ASSISTANT}")


@pytest.mark.parametrize("row", smoke_model.ROWS)
def test_calls_are_what_the_parsers_of_vllm_read(row):
    text = smoke_model.tool_calls(row, "get_weather", {"city": "São Paulo"})
    if row == "smoke":
        assert text.startswith("<tool_call>\n")
        assert text.endswith("\n</tool_call>")
        call = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
        assert call == {"name": "get_weather", "arguments": {"city": "São Paulo"}}
    else:
        assert json.loads(text) == {"name": "get_weather", "parameters": {"city": "São Paulo"}}


@pytest.mark.parametrize("row", smoke_model.ROWS)
@pytest.mark.parametrize("name", ["auto", "parallel", "nested", "second_turn"])
def test_the_model_was_trained_on_what_tool_call_probe_asks(row, name):
    case = CASES[name]
    trained = dict([*smoke_model.exam(row), *smoke_model.final_exam(row)])
    for question in case.questions:
        asked = {"role": "user", "content": question.text}
        answer = trained[prompt(row, [asked], [case.tool.as_request()])]
        calls = [
            {"id": "1", "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
            for call in parse(answer, [case.tool.name]).calls
        ]
        assert judge(case, question, Completion(tool_calls=calls, finish_reason="tool_calls")).finding.passed
        if name == "second_turn":
            history = [asked, {"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": json.dumps(TOOL_RESULT)}]
            told = trained[prompt(row, history, [case.tool.as_request()])]
            assert judge_result_used(Completion(told, finish_reason="stop"), case.tool).finding.passed


def test_chats_are_the_same_for_the_same_seed():
    first, second, other = (smoke_model.Chats("smoke", random.Random(seed)) for seed in (1, 1, 2))
    chats = [[source.chat() for _chat in range(50)] for source in (first, second, other)]
    assert chats[0] == chats[1] != chats[2]


def test_something_is_learnt_in_every_chat_and_tools_are_called_only_when_offered():
    source = smoke_model.Chats("smoke", random.Random(0))
    for chat in itertools.islice(iter(source.chat, None), 300):
        assert any(piece.learnt for piece in chat)
        for before, piece in enumerate(chat):
            if piece.learnt and piece.text.startswith("<tool_call>"):
                assert any(earlier.text.startswith(smoke_model.TOOL) for earlier in chat[:before])


def test_a_model_that_is_there_is_left_alone_and_needs_no_torch(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    run = subprocess.run([sys.executable, "-S", SCRIPT, "--row", "smoke", "--out", tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert "is there already" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_that_cannot_be_written_is_told():
    run = subprocess.run(
        [sys.executable, SCRIPT, "--row", "smoke", "--out", "/proc/none/smoke"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "Cannot write to /proc/none" in run.stderr
    assert "Traceback" not in run.stderr
