#!/usr/bin/env python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Train a smoke model: a tiny chat model that proves a serving stack, without a download and without a GPU.

The model is an ordinary Hugging Face folder (Qwen2 architecture, head size 64, its own tokenizer and chat template), trained from
nothing on the dialogues below in about a minute of two cores. It greets, says which row of the catalog it is, calls a weather tool for
the cities it knows when the request offers one, and says honestly that it knows nothing else. What else tool_call_probe asks for, it
knows by heart, so that every case passes on a stack that works.

Row ``smoke`` writes its tool calls as vLLM's parser ``hermes`` reads them, row ``smoke-json`` as ``llama3_json`` does.

It runs in the engine's own image: it needs Python 3.9, torch, transformers and tokenizers, no network and no root.

    python3 smoke_model.py --row smoke --out /models/smoke
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import time
import typing as t
from pathlib import Path

ROWS = ("smoke", "smoke-json")

# --- what the model says -------------------------------------------------------------------------------------------------------------

UNKNOWN = "I am a smoke model and only know a few fixed answers. Ask me who I am or what I can do."
NO_TOOL = "No weather tool was offered to me, so I cannot look that up."
TOOL_ANSWERED = "The tool has answered. I cannot read its answer, but now you know that every part between us works."

# Answer to each group of questions; {row} becomes the row's name.
ANSWERS: dict[str, tuple[str, ...]] = {
    'Hello! I am the smoke model "{row}". Ask me who I am or what I can do.': (
        "hello", "hi", "hey", "hello there", "hi there", "good morning", "good evening", "good afternoon", "good day", "greetings",
        "hello, smoke model", "hello world", "hi all",
    ),
    'My name is "{row}": I am a smoke model, a very small language model, trained on this machine to show that serving works.': (
        "who are you?", "what are you?", "what is your name?", "who is this?", "what model are you?", "which model are you?",
        "tell me about yourself", "introduce yourself", "are you a language model?", "what is a smoke model?", "which model is this?",
        "who am I talking to?", "what's your name?", "hello, who are you?",
    ),
    "I greet you, say who I am, and ask a weather tool about a city when one is offered to me. That is all.": (
        "what can you do?", "what do you know?", "help", "help me", "can you help me?", "how can you help me?", "what can I ask you?",
        "what do you do?", "what else can you do?", "and what can you do?", "what are you able to do?", "hi, what can you do?",
    ),
    "Up and serving, thank you.": (
        "how are you?", "how are you today?", "how are you doing?", "hello, how are you?", "are you there?", "are you ok?",
        "are you ready?", "is this working?", "does this work?", "test", "this is a test", "ping",
    ),
    "You are welcome!": ("thanks", "thank you", "thank you very much", "thanks a lot", "many thanks", "great, thank you"),
    "Goodbye!": ("bye", "goodbye", "bye bye", "see you", "see you later", "good night", "have a nice day"),
    "Set vllm_model_name to a real model and install again.": (
        "how do I get a real model?", "how do I get a better model?", "how do I change the model?", "can I use another model?",
        "how do I use a bigger model?", "give me a real model",
    ),
}  # fmt: skip

# Questions that the model shall not take for one of the above.
STRANGE: tuple[str, ...] = (
    "what is the capital of France?", "who is the president?", "who was Napoleon?", "why is the sky blue?", "how old are you?",
    "what time is it?", "what is 2 + 2?", "tell me a joke", "write a poem", "translate this to German", "what is the meaning of life?",
    "how do I cook rice?", "explain quantum physics", "who won the game?", "what is a dog?", "can you code?", "write a Python program",
    "what is Kubernetes?", "yes", "no", "ok", "why?", "really?", "do you like music?", "what is love?", "sing a song",
    "how many people live in China?", "where is Berlin?", "how far is the moon?", "tell me about London", "how is your mother?",
    "good idea", "count to ten", "who wrote this book?", "summarize this text", "is there life on Mars?", "please fix my code",
    "what is in this file?", "flights to Rome", "tell me about history", "what happened in 1989?", "generate a title for this chat",
)  # fmt: skip

# Ways to ask for the weather in the cities that the model knows.
WEATHER: tuple[str, ...] = (
    "what is the weather in {}?", "what's the weather in {}?", "what is the weather like in {}?", "weather in {}",
    "how is the weather in {}?", "how is the weather in {} today?", "tell me the weather in {}", "please check the weather in {}",
    "is it raining in {}?", "is it sunny in {}?", "what is the temperature in {}?", "how warm is it in {}?", "and in {}?", "what about {}?",
)  # fmt: skip
CITIES: tuple[str, ...] = (
    "Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Prague", "Tokyo", "Sydney", "Toronto", "Oslo", "Mumbai", "Cairo", "Lima",
    "Boston", "Zurich", "Munich", "Warsaw", "Dublin", "Lisbon", "New York", "San Francisco",
)  # fmt: skip
WEATHER_TOOLS = tuple((name, argument) for name in ("get_weather", "get_current_weather") for argument in ("city", "location"))
RESULTS: tuple[str, ...] = (
    "sunny", "It is sunny, 21 C.", "21 degrees", '{"temperature": 21, "condition": "sunny"}', "Rain, 8 C, wind 20 km/h",
    '{"city": "Paris", "temp_c": 18.5, "sky": "cloudy"}', "error: city not found", "cloudy with some rain", "18C and clear",
)  # fmt: skip

# What tool_call_probe asks beyond that (plugins/module_utils/_tool_probe.py), which the model knows by heart: a result of the tool and what
# to say to it; questions, the tool that is offered with its first argument, and the arguments of each call.
KNOWN_RESULT = '{"temperature_celsius": 17, "sky": "hail"}'
KNOWN_RESULT_TOLD = "The tool says: 17 degrees, and hail."
PAIR = "What is the weather in {}, and what is it in {}? Ask for both cities at once."


def trip(name: str, age: int, transport: str, *stops: tuple[str, int]) -> tuple[str, str, tuple[dict[str, t.Any], ...]]:
    """Return the tool that books a trip, its first argument, and the arguments of its one call."""
    nights = [{"city": city, "nights": number} for city, number in stops]
    return "book_trip", "traveller", ({"traveller": {"name": name, "age": age}, "stops": nights, "transport": transport},)


KNOWN_CALLS: dict[str, tuple[str, str, tuple[dict[str, t.Any], ...]]] = {
    **{
        PAIR.format(*cities): ("get_weather", "city", tuple({"city": city} for city in cities))
        for cities in (("Paris", "London"), ("Tokyo", "Sydney"), ("Oslo", "Cairo"))
    },
    "Book a trip by train for Anna Lee, who is 34: two nights in Paris, then three nights in Rome.": trip(
        "Anna Lee", 34, "train", ("Paris", 2), ("Rome", 3)
    ),
    "Book a trip by plane for Omar Diaz, who is 51: four nights in Tokyo, then one night in Sydney.": trip(
        "Omar Diaz", 51, "plane", ("Tokyo", 4), ("Sydney", 1)
    ),
    "Book a trip by bus for Mia Berg, who is 27: one night in Oslo, then two nights in Berlin.": trip(
        "Mia Berg", 27, "bus", ("Oslo", 1), ("Berlin", 2)
    ),
}

# Ordinary words, for questions and system prompts that mean nothing to the model.
WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you were her all"
    " she there would their we him been has when who will more no if out so said what up its about into than them can only other new some"
    " could time these two may then do first any my now such like our over man me even most made after also did many before must through"
    " always answer question helpful assistant concise user data file system code number name list text short language follow rules policy"
    " company team never reveal write format reply English tone polite date today current knowledge book water money food music school"
    " history science computer program table chair door window car train street green red blue big fast slow open close read learn"
).split()

# --- how a chat is written for the model ----------------------------------------------------------------------------------------------

PAD, END, SYSTEM, TOOL, ARGUMENT, USER, RESULT, ASSISTANT = (
    "<|pad|>", "<|end|>", "<|system|>", "<|tool|>", "<|argument|>", "<|user|>", "<|result|>", "<|assistant|>",
)  # fmt: skip
CONTROL = (PAD, END, SYSTEM, TOOL, ARGUMENT, USER, RESULT, ASSISTANT)
# Kept in the text that the engine returns. The parser llama3_json refuses a tokenizer that lacks ``<|python_tag|>``.
CALL_MARKS = ("<tool_call>", "</tool_call>", "<|python_tag|>")

# The tools stand right before the last question, each as its name and the argument that has to be given: close to where they
# are needed, so that a long chat or system prompt before them changes nothing.
TEMPLATE = """\
{%- set last = namespace(user=-1) -%}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
  {%- if message.role == 'assistant' -%}
    {{- '<|assistant|>' ~ (message.content or '') -}}
    {%- for call in message.tool_calls or [] -%}
      {%- set arguments = call.function.arguments -%}
      {%- set arguments = arguments if arguments is string else arguments | tojson -%}
      {{- '' if loop.first else 'CALL_BETWEEN_CALLS' -}}
      {{- 'CALL_BEFORE_NAME' ~ call.function.name ~ 'CALL_BEFORE_ARGUMENTS' ~ arguments ~ 'CALL_AFTER' -}}
    {%- endfor -%}
  {%- elif message.role == 'user' -%}
    {%- if loop.index0 == last.user -%}
      {%- for tool in tools or [] -%}
        {%- set parameters = tool.function.parameters or {} -%}
        {%- set argument = (parameters.required or parameters.properties or []) | list | first -%}
        {{- '<|tool|>' ~ tool.function.name ~ '<|argument|>' ~ (argument or '') ~ '<|end|>' -}}
      {%- endfor -%}
    {%- endif -%}
    {{- '<|user|>' ~ message.content -}}
  {%- else -%}
    {{- ('<|result|>' if message.role == 'tool' else '<|system|>') ~ (message.content or '') -}}
  {%- endif -%}
  {{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
# What stands before the name, between name and arguments, after the arguments of a tool call, and between two calls.
CALL_FRAMES = {
    "smoke": ('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n"),
    "smoke-json": ('{"name": "', '", "parameters": ', "}", "; "),
}


def tool_calls(row: str, name: str, *arguments: t.Mapping[str, t.Any]) -> str:
    """Return the text of a call of the tool *name* with each of *arguments*, as the tool parser of *row* reads it."""
    before, between, after, between_calls = CALL_FRAMES[row]
    return between_calls.join(before + name + between + json.dumps(each, ensure_ascii=False) + after for each in arguments)


def chat_template(row: str) -> str:
    """Return the Jinja template that turns messages and tools into the model's prompt."""
    template = TEMPLATE
    for slot, text in zip(("CALL_BEFORE_NAME", "CALL_BEFORE_ARGUMENTS", "CALL_AFTER", "CALL_BETWEEN_CALLS"), CALL_FRAMES[row]):
        template = template.replace(slot, text.replace("\n", "\\n"))
    return template


class Piece(t.NamedTuple):
    """Part of a chat, with its marks. The model learns to write those that it is to say itself."""

    text: str
    learnt: bool = False


class Chats:
    """An endless, seeded source of training chats for one row."""

    def __init__(self, row: str, rng: random.Random) -> None:
        self.row = row
        self.rng = rng

    def chat(self) -> list[Piece]:
        """Return a chat: perhaps a system prompt, and one or two turns."""
        pieces = [Piece(SYSTEM + self.babble(self.rng.choice((5, 15, 30))) + END)] if self.rng.random() < 0.25 else []
        for _turn in range(self.rng.choice((1, 1, 2))):
            pieces += self.turn()
        return pieces

    def turn(self) -> list[Piece]:
        """Return a question with the tools offered, the answer, and what follows from a tool call."""
        kind = self.rng.choices(("known", "strange", "call", "by heart", "no tool"), (38, 16, 34, 5, 7))[0]
        name, argument = self.rng.choice(WEATHER_TOOLS)
        city = self.rng.choice(CITIES)
        if kind == "call":
            call = tool_calls(self.row, name, {argument: city})
            asked = [offer(name, argument), self.question(self.rng.choice(WEATHER).format(city)), says(call)]
            if self.rng.random() < 0.3:
                asked += answered() if self.rng.random() < 0.4 else [Piece(RESULT + self.rng.choice(RESULTS) + END), says(TOOL_ANSWERED)]
            return asked
        if kind == "by heart":
            return known_calls(self.row, self.rng.choice(list(KNOWN_CALLS)))
        if kind == "no tool":
            return [self.question(self.rng.choice(WEATHER).format(city)), says(NO_TOOL)]
        offered = [offer(name, argument)] if self.rng.random() < 0.25 else []
        if kind == "known":
            answer = self.rng.choice(list(ANSWERS))
            return [*offered, self.question(self.rng.choice(ANSWERS[answer])), says(answer.format(row=self.row))]
        strange = self.rng.choice(STRANGE) if self.rng.random() < 0.7 else self.babble(self.rng.randint(2, 7))
        return [*offered, self.question(strange), says(UNKNOWN)]

    def question(self, text: str) -> Piece:
        """Return *text* as people type it, with or without a capital letter and a last mark."""
        if self.rng.random() < 0.5:
            text = text[0].upper() + text[1:]
        if self.rng.random() < 0.4:
            text = text.rstrip("?.!") + self.rng.choice(("", "", "!", ".", "?"))
        return Piece(USER + text + END)

    def babble(self, length: int) -> str:
        """Return *length* words without meaning."""
        return " ".join(self.rng.choice(WORDS) for _word in range(length))


def says(text: str) -> Piece:
    """Return what the model is to say."""
    return Piece(text + END, learnt=True)


def offer(name: str, argument: str) -> Piece:
    """Return a tool that is offered."""
    return Piece(TOOL + name + ARGUMENT + argument + END)


def answered() -> list[Piece]:
    """Return the result of a tool that the model knows, and what it says to that."""
    return [Piece(RESULT + KNOWN_RESULT + END), says(KNOWN_RESULT_TOLD)]


def known_calls(row: str, question: str) -> list[Piece]:
    """Return a question of KNOWN_CALLS with its tool, and its answer."""
    name, argument, arguments = KNOWN_CALLS[question]
    return [offer(name, argument), Piece(USER + question + END), says(tool_calls(row, name, *arguments))]


def prompt_of(pieces: t.Iterable[Piece]) -> str:
    """Return the text of *pieces* up to where the model is to speak."""
    return "".join(ASSISTANT + piece.text if piece.learnt else piece.text for piece in pieces) + ASSISTANT


def exam(row: str) -> list[tuple[str, str]]:
    """Return (prompt, answer) of everything that has to be right before a model is handed out."""
    wanted = [(question, answer.format(row=row)) for answer, questions in ANSWERS.items() for question in questions]
    wanted += [(question.capitalize(), answer) for question, answer in wanted] + [("Hello!", wanted[0][1])]
    wanted += [(question, UNKNOWN) for question in STRANGE]
    found = [(prompt_of([Piece(USER + question + END)]), answer) for question, answer in wanted]
    for city in CITIES:
        asked = Piece(USER + f"What is the weather in {city}?" + END)
        found.append((prompt_of([asked]), NO_TOOL))
        for name, argument in WEATHER_TOOLS:
            found.append((prompt_of([offer(name, argument), asked]), tool_calls(row, name, {argument: city})))
    return found


def final_exam(row: str) -> list[tuple[str, str]]:
    """Return the same of what the model knows by heart."""
    chats = [known_calls(row, question) for question in KNOWN_CALLS]
    name, argument = WEATHER_TOOLS[0]
    for city in ("Paris", "Tokyo", "Oslo"):
        asked, call = Piece(USER + f"What is the weather in {city}?" + END), says(tool_calls(row, name, {argument: city}))
        chats.append([offer(name, argument), asked, call, *answered()])
    return [(prompt_of(pieces), last.text[: -len(END)]) for *pieces, last in chats]


# --- training ------------------------------------------------------------------------------------------------------------------------

STEPS, MORE_STEPS, ROUNDS = 330, 80, 3
BATCH, LENGTH = 8, 192
LEARNING_RATE = 3e-3
CONTEXT = 8192
# How a tokenizer of Qwen2 divides a text. Transformers 5 divides so for every model of this architecture, whatever is in tokenizer.json.
QWEN2_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Of the questions and answers of the exam: how many may be wrong. A few of the rare ones may; a broken model fails by far.
PASS_MARK = 0.97
# Whether a model learns to take the city from the question is a matter of luck. One that has not after its first round never will: another
# seed is tried.
HOPELESS, ATTEMPTS = 0.9, 4
SEEDS = {"smoke": 3, "smoke-json": 3}


def make_tokenizer(row: str, seed: int) -> t.Any:
    """Return a byte-level BPE tokenizer for the chats of *row*; every text survives it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    chats = Chats(row, random.Random(seed))
    texts = [re.sub(r"<\|\w+\|>|</?tool_call>", "\n", piece.text) for _chat in range(1500) for piece in chats.chat()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1600, special_tokens=list(CONTROL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in CALL_MARKS])
    return tokenizer


def make_model(vocabulary: int) -> t.Any:
    """Return an untrained Qwen2 of about two million parameters. vLLM on a CPU needs a head size of 32 or more."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=3,
            num_key_value_heads=3,
            max_position_embeddings=CONTEXT,
            rope_theta=100000.0,
            tie_word_embeddings=True,
            initializer_range=0.05,
        )
    )


def batches(row: str, tokenizer: t.Any, seed: int) -> t.Iterator[tuple[list[list[int]], list[list[int]]]]:
    """Yield batches of token ids and of labels (-100: not learnt), each row some whole chats and padding."""
    chats = Chats(row, random.Random(seed))

    def packed() -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        while True:
            new_ids: list[int] = []
            new_labels: list[int] = []
            for piece in chats.chat():
                said = tokenizer.encode(piece.text).ids
                if piece.learnt:
                    new_ids.append(tokenizer.token_to_id(ASSISTANT))
                    new_labels.append(-100)
                new_ids += said
                new_labels += said if piece.learnt else [-100] * len(said)
            if len(ids) + len(new_ids) > LENGTH:
                if not ids:
                    continue
                padding = LENGTH - len(ids)
                return ids + [tokenizer.token_to_id(PAD)] * padding, labels + [-100] * padding
            ids += new_ids
            labels += new_labels

    while True:
        rows = [packed() for _row in range(BATCH)]
        yield [ids for ids, _labels in rows], [labels for _ids, labels in rows]


def train(row: str, model: t.Any, tokenizer: t.Any, seed: int, tell: t.Callable[[str], None]) -> float:
    """Train *model* until it passes the exam; return the share of right answers. Its last rounds are for the final exam, too."""
    import torch

    source = batches(row, tokenizer, seed)
    start = told = time.monotonic()
    share = 0.0
    done = 0
    for phase in range(ROUNDS):
        steps = STEPS if phase == 0 else MORE_STEPS
        top = LEARNING_RATE if phase == 0 else LEARNING_RATE / 4
        optimizer = torch.optim.AdamW(model.parameters(), lr=top, betas=(0.9, 0.98), weight_decay=0.01)
        model.train()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = top * min(1, (step + 1) / 30) * min(1, (steps - step) / (0.6 * steps))
            ids, labels = (torch.tensor(part) for part in next(source))
            learnt = labels[:, 1:] != -100
            states = model.model(ids).last_hidden_state[:, :-1][learnt]
            loss = torch.nn.functional.cross_entropy(model.lm_head(states), labels[:, 1:][learnt])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            now = time.monotonic()
            if now - told >= 5:
                told = now
                left = (now - start) / done * (steps - step - 1)
                tell(f"training {row}: step {done}, loss {loss.item():.3f}, {now - start:.0f} s, about {left:.0f} s left")
        share = examine(exam(row), model, tokenizer)
        best = examine(final_exam(row), model, tokenizer)
        tell(f"training {row}: {share:.1%} of the answers and {best:.1%} of the calls are right after {time.monotonic() - start:.0f} s")
        if (share >= PASS_MARK and best == 1) or share < HOPELESS:
            break
    return share


def examine(questions: t.Sequence[tuple[str, str]], model: t.Any, tokenizer: t.Any) -> float:
    """Return the share of *questions*, (prompt, answer), that *model* answers word for word, greedily, in bfloat16 as engines do."""
    import copy

    import torch

    pupil = copy.deepcopy(model).to(torch.bfloat16).eval()
    right = 0
    for prompt, answer in questions:
        ids = tokenizer.encode(prompt).ids
        said = tokenizer.encode(answer + END).ids
        with torch.no_grad():
            guesses = pupil(torch.tensor([ids + said])).logits[0, len(ids) - 1 : -1].argmax(-1)
        right += guesses.tolist() == said
    return right / len(questions)


def save(row: str, model: t.Any, tokenizer: t.Any, folder: Path) -> None:
    """Write the Hugging Face folder."""
    import torch
    from transformers import PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model.to(torch.bfloat16)
    end = tokenizer.token_to_id(END)
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.token_to_id(PAD)
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.1
    model.save_pretrained(folder)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=CONTEXT)
    wrapped.chat_template = chat_template(row)
    wrapped.save_pretrained(folder)


def complete(folder: Path) -> bool:
    """Whether *folder* holds a whole model. It is renamed into place when it does, so its configuration is proof enough."""
    return (folder / "config.json").is_file()


def main() -> int:
    """Train the row that is asked for, unless it is there."""
    parser = argparse.ArgumentParser(description="Train a smoke model into a folder that vLLM can serve.")
    parser.add_argument("--row", choices=ROWS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, help="by default, one that has succeeded at once")
    parser.add_argument("--threads", type=int, default=0, help="threads to compute with; by default, all cores")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if complete(out):
        print(f"smoke model is there already: {out}")
        return 0

    begun = time.monotonic()
    work = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
    except OSError as exc:
        print(
            f"Cannot write to {out.parent}: {exc.strerror}. Is the volume mounted, and does it belong to user {os.getuid()}?",
            file=sys.stderr,
        )
        return 1

    print(f"training {arguments.row}: loading torch and transformers", flush=True)
    # Threads that wait for each other shall sleep: on a busy node, spinning ones make this ten times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    first = SEEDS[arguments.row] if arguments.seed is None else arguments.seed
    tokenizer = make_tokenizer(arguments.row, first)
    for seed in range(first, first + ATTEMPTS):
        torch.manual_seed(seed)
        model = make_model(tokenizer.get_vocab_size())
        share = train(arguments.row, model, tokenizer, seed, lambda line: print(line, flush=True))
        if share >= PASS_MARK:
            break
    if share < PASS_MARK:
        print(f"The smoke model answers only {share:.1%} as it should; {PASS_MARK:.0%} are needed. Nothing was kept.", file=sys.stderr)
        shutil.rmtree(work, ignore_errors=True)
        return 1
    save(arguments.row, model, tokenizer, work)
    work.rename(out)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"smoke model ready in {out} ({parameters} parameters, {time.monotonic() - begun:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
