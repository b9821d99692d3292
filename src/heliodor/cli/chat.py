"""Talk with a Gemma, without pictures.

For example:

  heliodor chat --model google/gemma-2-2b-it
  heliodor chat --model google/gemma-2-2b-it --prompt "Why is the sky blue?"
  heliodor chat --model google/gemma-2-2b --raw --prompt "Once upon a time" --top-p 0.9

Without --prompt each line of the standard input is something you say, and the whole talk so far is
read for each answer; /new starts afresh, Ctrl-D ends. --raw leaves the chat template out: the
prompt is continued as it stands, which is what models that are not instruction-tuned are for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import heliodor
from heliodor.cli.options import UsageError, add_json
from heliodor.cli.output import emit, report, say
from heliodor.cli.sampling import add_sampling, sampler_from
from heliodor.errors import InputError

if TYPE_CHECKING:
    from heliodor.see.lm import LanguageModel

__all__ = ["add_arguments", "run"]

_ANEW = "/new"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--prompt", help="what to say, for one answer; - reads it from stdin")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it stands")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end there; may be repeated"
    )
    add_sampling(parser, most=512, beam=False)
    add_json(parser)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", required=True, help="a folder of a Gemma in transformers layout, or a hub id"
    )
    group.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="type of the weights in memory"
    )
    group.add_argument(
        "--quantize",
        choices=["int8", "int4"],
        help="store the weights in so many bits, quantised while they are read",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    group.add_argument("--tokenizer", metavar="FILE", help="where the model's folder has none")


def run(args: argparse.Namespace) -> int:
    """Print one answer, or one to each line."""
    sampler = sampler_from(args)
    if args.raw and args.prompt is None:
        raise UsageError("--raw continues a text: give it with --prompt")
    model = _load(args)
    settings: dict[str, Any] = {
        "max_new_tokens": args.max_new_tokens,
        "sampler": sampler,
        "stop": args.stop,
        "seed": args.seed,
    }
    if args.prompt is None:
        return _talk(model, settings, as_json=args.json)
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if args.raw:
        _continue(model, prompt, settings, as_json=args.json)
    else:
        _answer(model, [{"role": "user", "content": prompt}], settings, as_json=args.json)
    return 0


def _load(args: argparse.Namespace) -> LanguageModel:
    names = ("dtype", "quantize", "device", "revision", "tokenizer")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return heliodor.load_gemma(args.model, **given)


def _continue(
    model: LanguageModel, prompt: str, settings: dict[str, Any], *, as_json: bool
) -> None:
    """Print the prompt's continuation, as it comes or as one object."""
    if as_json:
        (found,) = model.generate([prompt], **settings)
        emit({"prompt": prompt, **found.to_dict()})
        return
    _print(model.stream(prompt, **settings))


def _answer(
    model: LanguageModel,
    messages: list[dict[str, str]],
    settings: dict[str, Any],
    *,
    as_json: bool,
) -> str:
    """Print the answer to a talk so far, as it comes or as one object, and return it."""
    if as_json:
        found = model.chat(messages, **settings)
        emit({"prompt": messages[-1]["content"], **found.to_dict()})
        return found.text
    return _print(model.stream_chat(messages, **settings))


def _print(pieces: Iterator[str]) -> str:
    said: list[str] = []
    for piece in pieces:
        print(piece, end="", flush=True)
        said.append(piece)
    print(flush=True)
    return "".join(said)


def _talk(model: LanguageModel, settings: dict[str, Any], *, as_json: bool) -> int:
    """Answer line by line; what cannot be answered is said and forgotten."""
    messages: list[dict[str, str]] = []
    code = 0
    for line in _lines():
        if line == _ANEW:
            messages.clear()
            continue
        messages.append({"role": "user", "content": line})
        try:
            text = _answer(model, messages, settings, as_json=as_json)
        except InputError as error:
            report(error)
            messages.pop()
            code = 1
            continue
        messages.append({"role": "assistant", "content": text})
    return code


def _lines() -> Iterator[str]:
    """Lines that hold something, after a prompt where a person types."""
    person = sys.stdin.isatty()
    if person:
        say(f"{_ANEW} starts afresh, Ctrl-D ends")
    while True:
        if person:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
