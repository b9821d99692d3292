"""The ``heliodor`` command: pick a command, run it, turn errors into an exit code.

Only the chosen command's file is imported, and it imports the library when it runs, so that
``--help`` answers at once. Exit codes: 0 done, 1 an error, 2 a command line that makes no sense,
130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

import heliodor
from heliodor.cli.options import UsageError
from heliodor.cli.output import report, say
from heliodor.errors import HeliodorError

COMMANDS = {
    "caption": "describe a picture in one sentence",
    "ask": "answer a question about a picture",
    "read": "read the text in a picture",
    "detect": "find things: a box and a score for each",
    "segment": "find things: a box, a mask and a score for each",
    "classify": "score labels for a picture, with a SigLIP pair",
    "embed": "write embeddings of a folder of pictures, or of texts",
    "generate": "continue any prompt, with any sampler",
    "paint": "paint pictures from words",
    "vae": "show what a painter's autoencoder keeps of a picture",
    "chat": "talk with a Gemma, or let it continue a text",
    "demo": "all five tasks on bundled pictures, nothing to download",
    "train": "run a training recipe",
    "evaluate": "measure a model on held-out examples",
    "convert": "write a checkpoint in another format",
    "quantize": "store a model in fewer bits, calibrated on your own pictures",
    "inspect": "say what a checkpoint holds",
    "bench": "measure speed beside other engines and the machine's limits",
    "version": "versions of heliodor and of what it runs on",
}


class Command(Protocol):
    """What each file in this folder provides."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit code."""
        ...


def load_command(name: str) -> Command:
    """The command's module, checked by a test to have the two functions of `Command`."""
    return cast("Command", importlib.import_module(f"heliodor.cli.{name}"))


def build_parser(name: str, command: Command) -> argparse.ArgumentParser:
    """The parser of one command; its help opens with the file's docstring."""
    parser = argparse.ArgumentParser(
        prog=f"heliodor {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    return parser


def overview() -> str:
    """What ``heliodor --help`` prints."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: heliodor COMMAND ...",
            "",
            *lines,
            "",
            "heliodor COMMAND --help explains one command; heliodor --version prints the version.",
            "--json puts JSON on stdout, one object a line; everything else is said on stderr.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of the process by default.

    Returns:
        The exit code. argparse leaves by ``SystemExit`` on ``--help`` (0) and bad usage (2).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        print(overview(), file=sys.stderr)
        return 2
    name, rest = words[0], words[1:]
    if name in {"-h", "--help", "help"}:
        print(overview())
        return 0
    if name in {"-V", "--version"}:
        print(f"heliodor {heliodor.__version__}")
        return 0
    if name not in COMMANDS:
        print(f"heliodor: {_unknown(name)}", file=sys.stderr)
        return 2
    command = load_command(name)
    parser = build_parser(name, command)
    return _guarded(command, parser, parser.parse_intermixed_args(rest))


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "heliodor --help lists the commands"
    return f"no command '{name}'; {hint}"


def _guarded(command: Command, parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Run the command; one line on stderr for whatever the user can mend."""
    try:
        code = command.run(args)
        sys.stdout.flush()
    except UsageError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        say("heliodor: stopped")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): leave without a word at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (HeliodorError, OSError) as error:
        if os.environ.get("HELIODOR_DEBUG") == "1":
            raise
        report(error)
        return 1
    return code
