#!/usr/bin/env python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run recorded outputs of models through the parsers of the vLLM that is installed, without weights, GPU or network.

Each file of recordings/ holds what the models of one family write, and what a client is to get of it. A recording goes the way that it
goes in an engine: its tokens through vLLM's detokenizer, what comes out of that through the parser that vLLM makes of
--tool-call-parser and --reasoning-parser. Once whole, as for a request that does not stream, and then streamed: token by token, in
larger pieces (speculative decoding, a busy server), and all at once. The pieces of a stream are joined as clients join them.

It is run by the Python that has vLLM, and needs nothing else: in the engine's image, for instance.

    python3 run_parsers.py --output results.json
    python3 run_parsers.py --registry registry.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import typing as t
from pathlib import Path

HERE = Path(__file__).resolve().parent

# The ways a recording is parsed: for each run of a stream, the tokens of its first piece and those of each other. The whole has no
# pieces. Pieces of two to seven tokens begin at every place, since parsers that fail on pieces do so where a mark is cut from its text.
WHOLE = "whole"
MODES: dict[str, tuple[tuple[int, int], ...]] = {
    WHOLE: (),
    "token": ((1, 1),),
    "pieces": tuple((first, size) for size in range(2, 8) for first in range(1, size + 1)),
    "at_once": ((10**6, 10**6),),
}
PASSED, LIMIT, FAILED, NOT_RUN = "passed", "limit", "failed", "not run"
# Merged tokens beyond the 256 bytes of the tokenizer that is made for a family.
MERGES = 300

Recording = dict[str, t.Any]
Family = dict[str, t.Any]


class MissingError(Exception):
    """Something that a family needs is not to be had here, so that none of its recordings was tried."""


class Answer(t.NamedTuple):
    """What a client has in the end; ``faults`` are breaches of the protocol of streams."""

    reasoning: str
    content: str
    calls: list[tuple[str, str]]
    faults: list[str] = []


# --- the recordings ------------------------------------------------------------------------------------------------------------------


def load(folder: Path) -> dict[str, Family]:
    """Return the families of *folder* by the names of their files."""
    import yaml

    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yml"))}


def load_tools(path: Path) -> list[dict[str, t.Any]]:
    """Return the tools that every request offers."""
    import yaml

    tools: list[dict[str, t.Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["tools"]
    return tools


# --- judging -------------------------------------------------------------------------------------------------------------------------


def join(deltas: t.Iterable[t.Optional[dict[str, t.Any]]]) -> Answer:
    """Join the deltas of a stream as clients do: text after text, calls by their index, the pieces of names and arguments in a row."""
    reasoning = content = ""
    calls: list[dict[str, str]] = []
    faults = []
    for delta in deltas:
        reasoning += (delta or {}).get("reasoning") or ""
        content += (delta or {}).get("content") or ""
        for piece in (delta or {}).get("tool_calls") or []:
            index = piece.get("index")
            if index == len(calls):
                calls.append({"id": "", "name": "", "arguments": ""})
            elif not isinstance(index, int) or not 0 <= index < len(calls):
                faults.append(f"a piece of call {index} comes after {len(calls)} calls")
                continue
            function = piece.get("function") or {}
            call = calls[index]
            if function.get("arguments") and not (call["name"] or function.get("name")):
                faults.append(f"arguments of call {index} come before its name")
            call["id"] += piece.get("id") or ""
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""
    faults += [f"call {index} has no id" for index, call in enumerate(calls) if not call["id"]]
    return Answer(reasoning, content, [(call["name"], call["arguments"]) for call in calls], faults)


def problem(recording: Recording, answer: Answer) -> str:
    """Return the first thing in which *answer* is not what *recording* expects, or "". White space around texts does not count."""
    wanted = recording.get("calls") or []
    if len(answer.calls) != len(wanted):
        text = f", text {short(answer.content)}" if answer.content.strip() else ""
        return f"{len(answer.calls)} calls in place of {len(wanted)}{text}"
    for index, (call, (name, arguments)) in enumerate(zip(wanted, answer.calls)):
        if name != call["name"]:
            return f"call {index}: name {short(name)} in place of {call['name']}"
        try:
            found = json.loads(arguments)
        except ValueError:
            return f"call {index}: the arguments are no JSON: {short(arguments)}"
        if found != call["arguments"]:
            return f"call {index}: arguments {short(arguments)}"
    for key, found in (("reasoning", answer.reasoning), ("content", answer.content)):
        expected = recording.get(key) or ""
        if found.strip() != expected.strip():
            return f"{key} {short(found)} in place of {short(expected)}"
    return answer.faults[0] if answer.faults else ""


def short(text: str, most: int = 90) -> str:
    """Return *text* as JSON, its end cut off."""
    shown = json.dumps(text, ensure_ascii=False)
    return shown if len(shown) <= most else f'{shown[:most]}..."'


def verdict(recording: Recording, mode: str, found: str) -> dict[str, str]:
    """Return status and, unless it passed, what was found; a known limit that is gone is a failure, so that it gets taken out."""
    limit = (recording.get("limits") or {}).get(mode)
    if limit and found:
        return {"status": LIMIT, "found": found}
    if limit:
        return {"status": FAILED, "found": f"it passes, so that this is no limit any more: {limit}"}
    return {"status": FAILED, "found": found} if found else {"status": PASSED}


def cut(ids: t.Sequence[int], first: int, size: int) -> list[list[int]]:
    """Return *ids* in pieces: one of *first* tokens, and then of *size* each."""
    starts = [0, *range(first, len(ids), size)]
    return [list(ids[start:end]) for start, end in zip(starts, [*starts[1:], len(ids)])]


def split_marks(text: str, marks: t.Sequence[str]) -> list[str]:
    """Return *text* in parts, each a mark or text without one."""
    if not marks:
        return [text]
    return [part for part in re.split("(" + "|".join(map(re.escape, sorted(marks, key=len, reverse=True))) + ")", text) if part]


# --- tokenizers ----------------------------------------------------------------------------------------------------------------------


class Tongue:
    """How a family reads and writes tokens: the tokenizer that its parsers are given, and vLLM's detokenizer on it."""

    def __init__(self, tokenizer: t.Any, end: t.Optional[int]) -> None:
        self.tokenizer = tokenizer
        self.end = end

    def encode(self, text: str) -> list[int]:
        """Return the tokens of *text*, its marks as the single tokens that they are."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def detokenizer(self, request: t.Any, prompt: list[int]) -> t.Callable[[list[int], bool], str]:
        """Return a function that turns the next tokens into text, as the engine does; it holds incomplete characters back."""
        from types import SimpleNamespace

        from vllm.sampling_params import SamplingParams
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer

        sampling = SamplingParams(
            skip_special_tokens=request.skip_special_tokens, spaces_between_special_tokens=request.spaces_between_special_tokens
        )
        engine_request = SimpleNamespace(request_id="0", sampling_params=sampling, prompt_token_ids=prompt, prompt_embeds=None)
        detokenizer = IncrementalDetokenizer.from_new_request(self.tokenizer, t.cast(t.Any, engine_request))

        def text_of(ids: list[int], finished: bool) -> str:
            detokenizer.update(ids, finished and self.end is not None)
            return detokenizer.get_next_output_text(finished, True)

        return text_of


class MistralTongue(Tongue):
    """A tokenizer of mistral_common, which never reads a mark from text."""

    def __init__(self, tokenizer: t.Any, end: str, special: t.Sequence[str]) -> None:
        super().__init__(tokenizer, tokenizer.tokenizer.get_special_token(end))
        self.special = special

    def encode(self, text: str) -> list[int]:
        """Return the tokens of *text*; sentencepiece sets a space before each text, so that one there already is taken off."""
        ids: list[int] = []
        for part in split_marks(text, self.special):
            if part in self.special:
                ids.append(self.tokenizer.tokenizer.get_special_token(part))
            else:
                ids += self.tokenizer.tokenizer.encode(part[1:] if part.startswith(" ") else part, bos=False, eos=False)
        return ids


class HarmonyTongue(Tongue):
    """The encoding of gpt-oss. Its parser reads tokens, not text, and asks its tokenizer for nothing but words for a broken output."""

    def __init__(self, encoding: t.Any) -> None:
        super().__init__(self, None)
        self.encoding = encoding

    def encode(self, text: str) -> list[int]:
        """Return the tokens of *text*."""
        return list(self.encoding.encode(text, allowed_special="all"))

    def decode(self, ids: t.Sequence[int]) -> str:
        """Return the text of *ids*."""
        return str(self.encoding.decode(list(ids)))

    def get_vocab(self) -> dict[str, int]:
        """Return no vocabulary: nobody looks into it."""
        return {}

    def detokenizer(self, request: t.Any, prompt: list[int]) -> t.Callable[[list[int], bool], str]:
        """Return a function that returns no text, which the parser would not read."""
        return lambda ids, finished: ""


def tongue(family: Family) -> Tongue:
    """Return the tokens of *family*. Raises MissingError where what it needs is not installed."""
    spec = family["tokenizer"]
    return {"byte_level": byte_level, "mistral_common": mistral_common, "harmony": harmony}[spec["kind"]](family)


def byte_level(family: Family) -> Tongue:
    """Return a tokenizer over bytes, trained on the family's recordings, that has the family's marks as tokens.

    It is no model's own, which would have to be downloaded. To the parsers it looks like one: texts are cut at similar places (words,
    and marks such as `"}}` in one), characters beyond ASCII take several tokens, and each mark takes one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    spec = family["tokenizer"]
    special, added = spec.get("special", []), spec.get("added", [])
    texts = [part for recording in family["recordings"].values() for part in split_marks(recording["output"], [*special, *added])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + MERGES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text for text in texts if text not in special and text not in added], trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in added])
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in special])
    end = spec["end"]
    return Tongue(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end), tokenizer.token_to_id(end))


def mistral_common(family: Family) -> Tongue:
    """Return the tokenizer of the models, which the package mistral_common brings along."""
    spec = family["tokenizer"]
    found = importlib.util.find_spec("mistral_common")
    source = Path(found.submodule_search_locations[0]) / "data" / spec["file"] if found and found.submodule_search_locations else None
    if not source or not source.is_file():
        raise MissingError(f"mistral_common, where it is installed, would bring {spec['file']}, and does not here")
    from vllm.tokenizers.mistral import MistralTokenizer

    with tempfile.TemporaryDirectory() as folder:
        # vLLM looks for it as for a model's
        shutil.copy(source, Path(folder) / f"tokenizer.{'.'.join(spec['file'].split('.')[1:])}")
        tokenizer = MistralTokenizer.from_pretrained(folder)
    return MistralTongue(tokenizer, spec["end"], spec["special"])


def harmony(family: Family) -> Tongue:
    """Return the encoding of gpt-oss. The package oss-harmony has its vocabulary, openai-harmony downloads it."""
    from vllm.entrypoints.openai.parser.harmony_utils import get_encoding

    try:
        return HarmonyTongue(get_encoding())
    except Exception as exc:
        raise MissingError(
            f"the vocabulary of gpt-oss could not be loaded ({exc}); set TIKTOKEN_ENCODINGS_BASE to a folder with o200k_base.tiktoken"
        ) from exc


# --- running -------------------------------------------------------------------------------------------------------------------------


class Runner:
    """Runs the recordings of one family."""

    def __init__(self, family: Family, tools: list[dict[str, t.Any]]) -> None:
        """Compose the parser as an engine does that is started with the family's flags. Raises MissingError, or what vLLM raises."""
        from vllm.parser import ParserManager

        self.family = family
        self.tools = tools
        self.tongue = tongue(family)
        parser_class = ParserManager.get_parser(
            tool_parser_name=family.get("tool_call_parser"),
            reasoning_parser_name=family.get("reasoning_parser"),
            enable_auto_tools=True,
            is_harmony=family["tokenizer"]["kind"] == "harmony",
            tokenizer=self.tongue.tokenizer,
        )
        if parser_class is None:
            raise ValueError("the family names no parser")
        self.parser_class = parser_class

    def classes(self) -> list[str]:
        """Return the names of the classes that parse: the composed one where it is special, tool parser, reasoning parser."""
        parts = (self.parser_class.tool_parser_cls, self.parser_class.reasoning_parser_cls)
        special = [] if self.parser_class.__name__.startswith("_") else [self.parser_class.__name__]
        return special + [part.__name__ for part in parts if part is not None]

    def results(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return the verdict of every recording in every mode."""
        return {
            name: {mode: verdict(recording, mode, self.first_problem(recording, mode)) for mode in MODES}
            for name, recording in self.family["recordings"].items()
        }

    def first_problem(self, recording: Recording, mode: str) -> str:
        """Return what is wrong with *recording* parsed in *mode*, or ""."""
        for first, size in MODES[mode] or ((0, 0),):
            try:
                answer = self.streamed(recording, first, size) if size else self.whole(recording)
                found = problem(recording, answer)
            except Exception as exc:
                found = f"{type(exc).__name__}: {exc}"
            if found:
                return found
        return ""

    def start(self, recording: Recording) -> tuple[t.Any, t.Any, list[int], list[int]]:
        """Return a parser and a request of this recording, the prompt's tokens and the output's, the one that ends it included."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        kwargs = recording.get("chat_template_kwargs") or {}
        request = ChatCompletionRequest(
            model="recorded",
            messages=[{"role": "user", "content": "What is the weather?"}],
            tools=self.tools,
            tool_choice="auto",
            chat_template_kwargs=kwargs,
        )
        parser = self.parser_class(self.tongue.tokenizer, request.tools, chat_template_kwargs=kwargs, model_config=None)
        request = parser.adjust_request(request)
        prompt = self.tongue.encode(recording.get("prompt", self.family["prompt"]))
        ids = self.tongue.encode(recording["output"])
        return parser, request, prompt, ids + ([self.tongue.end] if self.tongue.end is not None and recording.get("ended", True) else [])

    def whole(self, recording: Recording) -> Answer:
        """Parse *recording* as the answer to a request that does not stream."""
        parser, request, prompt, ids = self.start(recording)
        text = self.tongue.detokenizer(request, prompt)(ids, recording.get("ended", True))
        parser.set_prompt_token_ids(prompt)
        reasoning, content, calls = parser.parse(text, request, enable_auto_tools=True, model_output_token_ids=ids)
        return Answer(reasoning or "", content or "", [(call.name, call.arguments) for call in calls or []])

    def streamed(self, recording: Recording, first: int, size: int) -> Answer:
        """Parse *recording* as a stream: a piece of *first* tokens, and others of *size*."""
        parser, request, prompt, ids = self.start(recording)
        text_of = self.tongue.detokenizer(request, prompt)
        pieces = cut(ids, first, size)
        deltas = []
        for number, piece in enumerate(pieces, start=1):
            last = number == len(pieces)
            text = text_of(piece, last and recording.get("ended", True))
            delta = parser.parse_delta(text, piece, request, prompt, finished=last)
            deltas.append(delta.model_dump(exclude_none=True) if delta is not None else None)
        return join(deltas)


def run(families: t.Mapping[str, Family], tools: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    """Return the results of all *families*, and with which vLLM they were had."""
    found: dict[str, t.Any] = {}
    for name, family in families.items():
        try:
            runner = Runner(family, tools)
        except MissingError as exc:
            found[name] = {"not_run": str(exc)}
            continue
        except Exception as exc:
            found[name] = {"refused": f"{type(exc).__name__}: {exc}"}
            continue
        found[name] = {"classes": runner.classes(), "recordings": runner.results()}
    return {"vllm": version(), "families": found}


def version() -> str:
    """Return the version of the vLLM that is installed, without what tells one build from another."""
    import vllm

    return vllm.__version__.partition("+")[0]


def registry() -> dict[str, t.Any]:
    """Return the parsers that vLLM declares, each with its class."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    def classes(lazy: t.Mapping[str, tuple[str, str]], eager: t.Mapping[str, type]) -> dict[str, str]:
        known = {name: class_name for name, (_module, class_name) in lazy.items()}
        known.update({name: kind.__name__ for name, kind in eager.items()})
        return dict(sorted(known.items()))

    return {
        "vllm": version(),
        "tool_call_parsers": classes(ToolParserManager.lazy_parsers, ToolParserManager.tool_parsers),
        "reasoning_parsers": classes(ReasoningParserManager.lazy_parsers, ReasoningParserManager.reasoning_parsers),
    }


# --- telling -------------------------------------------------------------------------------------------------------------------------


def failures(results: t.Mapping[str, t.Any]) -> list[str]:
    """Return a line for everything that failed."""
    lines = []
    for name, family in results["families"].items():
        if "refused" in family:
            lines.append(f"{name}: vLLM refuses its parsers: {family['refused']}")
        for recording, modes in family.get("recordings", {}).items():
            lines += [f"{name}: {recording}, {mode}: {cell['found']}" for mode, cell in modes.items() if cell["status"] == FAILED]
    return lines


def table(results: t.Mapping[str, t.Any], families: t.Mapping[str, Family]) -> list[str]:
    """Return the results for people: a line for each recording, what did not pass below it."""
    lines = [f"{'family':<16} {'recording':<26} " + " ".join(f"{mode:<8}" for mode in MODES)]
    for name, family in results["families"].items():
        if "recordings" not in family:
            why = family.get("not_run") or family.get("refused")
            lines.append(f"{name:<16} {NOT_RUN if 'not_run' in family else 'refused'}: {why}")
            continue
        for recording, modes in family["recordings"].items():
            lines.append(f"{name:<16} {recording:<26} " + " ".join(f"{modes[mode]['status']:<8}" for mode in MODES).rstrip())
            lines += [f"{'':<16}   {mode}: {cell['found']}" for mode, cell in modes.items() if cell["status"] != PASSED]
        lines += [f"{name:<16} {recording:<26} absent: {why}" for recording, why in (families[name].get("absent") or {}).items()]
    statuses = [
        cell["status"]
        for family in results["families"].values()
        for modes in family.get("recordings", {}).values()
        for cell in modes.values()
    ]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in (PASSED, LIMIT, FAILED))
    unrun = sum("not_run" in family for family in results["families"].values())
    return [*lines, f"vLLM {results['vllm']}: {counts}" + (f"; {unrun} families not run" if unrun else "")]


def write(path: str, document: t.Mapping[str, t.Any]) -> None:
    """Write *document* to the file *path*, or as one line to the standard output for "-"."""
    if path == "-":
        print(json.dumps(document, ensure_ascii=False))
    else:
        Path(path).write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main(arguments: t.Optional[t.Sequence[str]] = None) -> int:
    """Run what is asked for. Return 1 when a recording failed."""
    parser = argparse.ArgumentParser(description="Run recorded outputs through the parsers of the vLLM that is installed.")
    parser.add_argument("families", nargs="*", help="names of files in the folder of recordings, without .yml; all by default")
    parser.add_argument("--recordings", type=Path, default=HERE / "recordings", help="the folder of recordings")
    parser.add_argument("--tools", type=Path, default=HERE / "tools.yml", help="the tools that requests offer")
    parser.add_argument("--output", help='write the results as JSON to this file; "-" prints them in one line below the table')
    parser.add_argument("--registry", help="write the parsers that vLLM declares as JSON to this file; without --output, run nothing")
    options = parser.parse_args(arguments)
    # The parsers log each output that they cannot read; the table tells it.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if options.registry:
        write(options.registry, registry())
        if not options.output:
            return 0
    families = load(options.recordings)
    unknown = sorted(set(options.families) - set(families))
    if unknown:
        print(f"There are no recordings of {', '.join(unknown)}. Known: {', '.join(families)}.", file=sys.stderr)
        return 2
    results = run(
        {name: family for name, family in families.items() if name in options.families or not options.families}, load_tools(options.tools)
    )
    print("\n".join(table(results, families)), flush=True)
    if options.output:
        write(options.output, results)
    return 1 if failures(results) else 0


if __name__ == "__main__":
    sys.exit(main())
