# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts of a stated length, counted by tokenizers in miniature."""

from __future__ import annotations

import json
import random
import re
import typing as t

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._load_http import Endpoint
from ansible_collections.llmops.serving.plugins.module_utils._load_prompts import (
    FIRST,
    SAMPLE,
    WORDS,
    Asker,
    Given,
    Synthetic,
    Vocabulary,
    vocabulary_of,
)


def pieces(word: str, most: int) -> list[str]:
    return [word[at : at + most] for at in range(0, len(word), most)]


def byte_level(text: str, most: int = 99) -> list[str]:
    """As a byte-level tokenizer with pieces of so many characters; the blank belongs to the word after it."""
    return [piece for word in re.findall(r" ?\S+", text) for piece in pieces(word.replace(" ", "\u0120"), most)]


def sentence_piece(text: str, most: int = 99) -> list[str]:
    return ["<s>", *(piece for word in text.split() for piece in pieces("\u2581" + word, most))]


Tokenizer = t.Callable[[str], list[str]]


def rough(text: str) -> list[str]:
    """Cuts words of more than three letters in two."""
    return byte_level(text, 4)


def learnt(tokenize: Tokenizer) -> Vocabulary:
    found = tokenize(SAMPLE)
    return vocabulary_of(found, len(found))


@pytest.mark.parametrize("tokenize", [byte_level, sentence_piece])
@pytest.mark.parametrize("tokens", [2, 9, 16, 500, 4001])
def test_prompts_have_as_many_tokens_as_stated(tokenize: Tokenizer, tokens: int) -> None:
    source = Synthetic(learnt(tokenize), tokens)
    assert [len(tokenize(source.text(random.Random(seed)))) for seed in range(3)] == [tokens] * 3


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("tokens", [25, 26, 27, 1000, 1001, 1002])
def test_words_of_several_tokens_fill_a_prompt_too(most: int, tokens: int) -> None:
    def tokenize(text: str) -> list[str]:
        return byte_level(text, most)

    source = Synthetic(learnt(tokenize), tokens)
    assert [len(tokenize(source.text(random.Random(seed)))) for seed in range(3)] == [tokens] * 3


def test_words_of_one_length_are_taken() -> None:
    vocabulary = learnt(rough)
    assert {len(rough(f" {word}")) for word in vocabulary.words} == {int(vocabulary.tokens)}
    assert len(vocabulary.words) > 50
    assert vocabulary.counted


def test_what_stands_around_a_text_is_counted() -> None:
    def with_ends(text: str) -> list[str]:
        return ["[CLS]", *byte_level(text, 2), "[SEP]"]

    assert (learnt(byte_level).lead, learnt(sentence_piece).lead) == (1, 2)
    assert learnt(with_ends).lead == len(with_ends(FIRST))
    assert len(with_ends(Synthetic(learnt(with_ends), 40).text(random.Random(0)))) == 40
    in_chat = learnt(byte_level)._replace(lead=13)
    assert len(byte_level(Synthetic(in_chat, 100).text(random.Random(0)))) == 88


def test_a_count_without_words_makes_a_mean() -> None:
    vocabulary = vocabulary_of([], 2 * (len(WORDS) + 2))
    assert (vocabulary.tokens, vocabulary.counted) == (2.0, True)
    assert len(Synthetic(vocabulary, 100).text(random.Random(0)).split()) == 50


def test_the_words_of_the_sample_are_all_different() -> None:
    assert len(WORDS) == len(set(WORDS))


def common(first: str, second: str) -> int:
    """How many words both begin with."""
    pairs = zip(first.split(), second.split())
    return next((index for index, (one, other) in enumerate(pairs) if one != other), len(first.split()))


def test_prompts_share_as_much_as_stated() -> None:
    draw = random.Random(0)
    alone, half, all_of_it = (Synthetic(Vocabulary(), 1000, share, seed=1) for share in (0.0, 0.5, 1.0))
    assert common(alone.text(draw), alone.text(draw)) <= 2
    assert 500 <= common(half.text(draw), half.text(draw)) <= 503
    assert all_of_it.text(draw) == all_of_it.text(draw)


def test_what_is_shared_is_that_of_the_session_and_the_seed() -> None:
    draw = random.Random(0)
    source = Synthetic(Vocabulary(), 200, 0.9, seed=1)
    assert common(source.text(draw, 1), source.text(draw, 1)) >= 180
    assert common(source.text(draw, 1), source.text(draw, 2)) <= 2
    assert common(source.text(draw, 1), Synthetic(Vocabulary(), 200, 0.9, seed=1).text(draw, 1)) >= 180
    assert common(source.text(draw, 1), Synthetic(Vocabulary(), 200, 0.9, seed=2).text(draw, 1)) <= 2


def taken_apart(payload: bytes) -> tuple[str, dict[str, str], t.Any]:
    head, _empty, body = payload.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _colon, value in (line.partition(":") for line in lines)}
    assert headers["content-length"] == str(len(body))
    return first, headers, json.loads(body)


ENDPOINT = Endpoint("http://engine.test:8000/behind", api_key="sk-secret")


def test_a_request_has_its_head_its_fields_and_its_session() -> None:
    asker = Asker(ENDPOINT, "completions", {"model": "m", "stream": True}, Synthetic(Vocabulary(), 5), 2, "x-user", 9)
    requests = [taken_apart(asker.payload(index, random.Random(index))) for index in range(3)]
    first, headers, body = requests[0]
    assert first == "POST /behind/v1/completions HTTP/1.1"
    assert (headers["host"], headers["authorization"]) == ("engine.test:8000", "Bearer sk-secret")
    assert (body["model"], body["stream"], len(body["prompt"].split())) == ("m", True, 5)
    assert [headers["x-user"] for _first, headers, _body in requests] == ["9-0", "9-1", "9-0"]


def test_without_sessions_and_key_no_header_tells_of_them() -> None:
    asker = Asker(Endpoint("http://engine.test"), "chat", {"model": "m"}, Synthetic(Vocabulary(), 5))
    first, headers, body = taken_apart(asker.payload(0, random.Random(0)))
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert not {"x-session-id", "authorization"} & set(headers)
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_given_prompts_come_in_turn() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "H\u00e9?"}]
    asker = Asker(ENDPOINT, "chat", {"model": "m"}, Given(["Hello", messages], "chat"))
    asked = [taken_apart(asker.payload(index, random.Random(0)))[2]["messages"] for index in range(3)]
    assert asked == [[{"role": "user", "content": "Hello"}], messages, [{"role": "user", "content": "Hello"}]]


@pytest.mark.parametrize(
    ("prompt", "words"), [([{"role": "user", "content": "x"}], "only the chat API takes"), (5, "neither a text"), ([], "neither a text")]
)
def test_prompts_that_cannot_be_asked_are_refused(prompt: t.Any, words: str) -> None:
    with pytest.raises(ServingError, match=rf"prompts\[1\] is .*{words}"):
        Given(["fine", prompt], "completions")
