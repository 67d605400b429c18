"""After one line was changed: the other model answers under its name, with its own kind of tool calls, and the chats are there."""

from __future__ import annotations

import json

import chat
import local
import trained

testinfra_hosts = ["local://"]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_the_new_model_answers_and_calls_tools():
    assert local.answers("smoke-json")
    question = [{"role": "user", "content": "What is the weather in Oslo?"}]
    answer = chat.complete(local.url("vllm-router"), "smoke-json", key=local.key(), messages=question, tools=[TOOL]).json()
    assert json.loads(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}


def test_the_old_one_does_not():
    assert not local.answers("smoke")
    assert local.page().models() == ["smoke-json"]


def test_chats_and_the_old_model_are_kept():
    assert local.page().chats()
    assert len(list((local.STATE / "models").glob("smoke-*"))) == 2


def test_what_was_trained_is_kept_for_tests_that_need_no_training():
    """Both models have answered as they should; test_transaction.py prunes them."""
    trained.keep(local.STATE / "models")
    assert all(map(trained.kept, trained.ROWS)) or not trained.KEPT
