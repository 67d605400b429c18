# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What the load generator asks: given prompts, or synthetic ones of a stated length in tokens.

Synthetic prompts are made of words whose tokens the server has counted once (``/tokenize``, which vLLM has). Without that, a word is taken
for one token, and the length is an estimate.
"""

from __future__ import annotations

import collections
import json
import random
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._load_http import Client, Endpoint, post

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
TOKENIZE_TIMEOUT_S = 30.0

# Short and frequent, so that a tokenizer is likely to have each as one token.
WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you were all her "
    "she there would their we him been has when who will no more if out so up said what its about than into them can only other time new "
    "some could these two may first then do any like my now over such our man me even most made after also did many off before must well "
    "back through years much where your way down should because long each just state those people too mr how little good world make very "
    "year still see own work men day get here old between life being under three never know same last another while us might great go come "
    "since against right came take used himself few house use place during high without again home around small however found part once "
    "general upon school every"
).split()
# The word that all synthetic prompts begin with: the tokens of a first word are not those of the same word after a blank.
FIRST = WORDS[0]
# What the server counts once.
SAMPLE = " ".join([FIRST, *WORDS, FIRST])
# What begins the first token of a word: in byte-level tokenizers, and in those of SentencePiece.
_WORD_MARKS = ("\u0120", "\u2581")
_BLOCK_WORDS = 64
_BLOCKS = 128
# So many words at the beginning make a prompt like no other, so that no cache of prefixes knows what follows.
_UNIQUE_WORDS = 8


class Vocabulary(t.NamedTuple):
    """Words of equal length, and what else a prompt costs. ``tokens`` is that of each of ``words``, a mean when they differ.

    ``lead`` are the tokens of a prompt that has only FIRST: with the special ones, and those of a chat template. ``fillers`` are words by
    their tokens. ``counted`` tells whether the server has counted. ``context`` is the longest the model takes, 0 when not known.
    """

    words: tuple[str, ...] = tuple(WORDS)
    tokens: float = 1.0
    fillers: t.Mapping[int, str] = {}
    lead: int = 1
    counted: bool = False
    context: int = 0


async def calibrate(client: Client, model: str, api: str) -> Vocabulary:
    """Ask the server how it counts; what cannot be learnt is estimated. Raises nothing: the load itself will tell what is wrong."""
    answer = await _tokenized(client, {"model": model, "prompt": SAMPLE, "return_token_strs": True})
    if answer is None:
        return Vocabulary()
    found = vocabulary_of([str(text) for text in answer.get("token_strs") or []], int(answer["count"]))
    context = answer.get("max_model_len")
    found = found._replace(context=context if isinstance(context, int) else 0)
    if api == "chat":
        alone = await _tokenized(client, {"model": model, "messages": [{"role": "user", "content": FIRST}]})
        return found._replace(counted=False) if alone is None else found._replace(lead=int(alone["count"]))
    return found


def vocabulary_of(token_strs: t.Sequence[str], total: int) -> Vocabulary:
    """Return what the tokens of SAMPLE say, *total* in all."""
    starts = [index for index, text in enumerate(token_strs) if text.startswith(_WORD_MARKS)]
    # the very first word has no mark in a byte-level tokenizer
    if len(starts) not in (len(WORDS) + 1, len(WORDS) + 2):
        mean = total / (len(WORDS) + 2)
        return Vocabulary(tokens=mean, lead=round(mean), counted=True)
    starts = starts[-len(WORDS) - 1 :]
    counts = {word: after - before for word, before, after in zip(WORDS, starts, starts[1:])}
    by_count: dict[int, list[str]] = collections.defaultdict(list)
    for word, count in counts.items():
        by_count[count].append(word)
    tokens, words = max(by_count.items(), key=lambda item: (len(item[1]), -item[0]))
    # the last word is FIRST again, and what comes after it ends every prompt
    lead = starts[0] + total - starts[-1] - counts[FIRST]
    return Vocabulary(tuple(words), float(tokens), {count: same[0] for count, same in by_count.items()}, lead, True)


async def _tokenized(client: Client, body: t.Mapping[str, t.Any]) -> t.Optional[dict[str, t.Any]]:
    """Return the answer of ``/tokenize``; None where there is no such thing."""
    exchange = await client.call("/tokenize", body, TOKENIZE_TIMEOUT_S)
    if exchange.kind or exchange.status != 200:
        return None
    try:
        answer = json.loads(exchange.body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and isinstance(answer.get("count"), int) else None


class Synthetic:
    """Makes prompts of *input_tokens* tokens, as the server counts them, each like no other but for what it shall share.

    The first *shared_share* of a prompt (0 to 1) is the same in all prompts of a session; without sessions, in all. The same *seed* makes
    the same shared parts.
    """

    def __init__(self, vocabulary: Vocabulary, input_tokens: int, shared_share: float = 0.0, seed: int = 0) -> None:
        draw = random.Random(f"words {seed}")
        self._vocabulary = vocabulary
        self._seed = seed
        self._blocks = [draw.choices(vocabulary.words, k=_BLOCK_WORDS) for _block in range(_BLOCKS)]
        self._joined = [" ".join(block) for block in self._blocks]
        self._filling = _sums(vocabulary.fillers, round(5 * vocabulary.tokens))
        room = max(0, input_tokens - vocabulary.lead)
        self._shared = round(room * shared_share)
        self._own = room - self._shared
        self._prefixes: dict[int, str] = {}

    def text(self, draw: random.Random, session: int = 0) -> str:
        """Return one prompt, with words that *draw* chooses."""
        if session not in self._prefixes:
            shared = self._words(random.Random(f"shared {self._seed} {session}"), self._shared)
            self._prefixes[session] = " ".join([FIRST, *shared])
        return " ".join([self._prefixes[session], *self._words(draw, self._own)])

    def _words(self, draw: random.Random, tokens: int) -> list[str]:
        """Return words, or whole blocks of them, of *tokens* tokens in all, as near as words can come."""
        vocabulary = self._vocabulary
        count, filling = self._parts(tokens)
        unique = draw.choices(vocabulary.words, k=min(count, _UNIQUE_WORDS))
        whole, rest = divmod(count - len(unique), _BLOCK_WORDS)
        return [*unique, *draw.choices(self._joined, k=whole), *draw.choice(self._blocks)[:rest], *filling]

    def _parts(self, tokens: int) -> tuple[int, list[str]]:
        """Return how many usual words there are among *tokens*, and the unusual ones that fill them up."""
        each = self._vocabulary.tokens
        if not self._filling:
            return round(tokens / each), []
        count = int(tokens // each)
        for fewer in range(min(count, 4) + 1):
            gap = round(tokens - (count - fewer) * each)
            if not gap or gap in self._filling:
                return count - fewer, self._filling.get(gap, [])
        return count, []


def _sums(fillers: t.Mapping[int, str], most: int) -> dict[int, list[str]]:
    """Return for each number of tokens up to *most* the fewest words that make it, where some do."""
    found: dict[int, list[str]] = {0: []}
    for total in range(1, most + 1):
        ways = [[*found[total - tokens], word] for tokens, word in fillers.items() if total - tokens in found]
        if ways:
            found[total] = min(ways, key=len)
    return {total: words for total, words in found.items() if words}


class Given:
    """The prompts that somebody has given, one after the other and from the beginning again."""

    def __init__(self, prompts: t.Sequence[t.Any], api: str) -> None:
        self.prompts = [_checked(prompt, index, api) for index, prompt in enumerate(prompts)]


def _checked(prompt: t.Any, index: int, api: str) -> t.Any:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if api == "chat" else prompt
    if isinstance(prompt, list) and prompt and all(isinstance(message, dict) and "role" in message for message in prompt):
        if api == "chat":
            return prompt
        raise ServingError(f"prompts[{index}] is a list of messages, which only the chat API takes. Set api: chat, or give a text.")
    raise ServingError(f"prompts[{index}] is neither a text nor a list of messages, each with a role and a content.")


class Asker:
    """Makes the bytes of each request. ``session_header`` carries the name of a session where there are *sessions*."""

    def __init__(
        self,
        endpoint: Endpoint,
        api: str,
        body: t.Mapping[str, t.Any],
        source: t.Union[Synthetic, Given],
        sessions: int = 0,
        session_header: str = "x-session-id",
        seed: int = 0,
    ) -> None:
        head = endpoint.head(PATHS[api])
        self._heads = [head + f"{session_header}: {seed}-{session}\r\n".encode("latin-1") for session in range(sessions)] or [head]
        self._source = source
        key = "messages" if api == "chat" else "prompt"
        if isinstance(source, Given):
            self._bodies = [json.dumps({**body, key: prompt}).encode() for prompt in source.prompts]
        else:
            # only the text differs from one request to the next
            mark = "@@text@@"
            whole = json.dumps({key: [{"role": "user", "content": mark}] if api == "chat" else mark, **body})
            before, after = whole.split(json.dumps(mark), 1)
            self._before, self._after = before.encode(), after.encode()

    def payload(self, index: int, draw: random.Random) -> bytes:
        """Return the request number *index* of a load; *draw* chooses the words of a synthetic prompt."""
        session = index % len(self._heads)
        if isinstance(self._source, Given):
            body = self._bodies[index % len(self._bodies)]
        else:
            body = self._before + json.dumps(self._source.text(draw, session)).encode() + self._after
        return post(self._heads[session], body)
