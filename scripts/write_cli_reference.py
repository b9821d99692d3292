"""Write docs/reference/cli.md from the commands themselves."""

from __future__ import annotations

import argparse
from pathlib import Path

from heliodor.cli.main import COMMANDS, build_parser, load_command

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
INTRO = """# Commands

Written by `scripts/write_cli_reference.py` from the commands themselves.

`heliodor --help` lists the commands, `heliodor COMMAND --help` explains one. With `--json`, stdout
holds JSON, one object a line; talk goes to stderr. Exit codes: 0 done, 1 an error, 2 a command line
that makes no sense, 130 stopped with Ctrl-C. `HELIODOR_DEBUG=1` shows the traceback of an error.
"""


def row(action: argparse.Action) -> str:
    """One line of the table of arguments."""
    value = str(action.metavar or action.dest.upper().replace("_", "-"))
    if action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        name = str(action.metavar or action.dest)
    else:
        name = action.option_strings[-1] + ("" if action.nargs == 0 else f" {value}")
    help_text = (action.help or "").replace("|", "\\|")
    if action.option_strings and action.default not in (None, False) and "default" not in help_text:
        help_text += f" (default: {action.default})"
    return f"| `{name}` | {help_text} |"


def section(name: str) -> str:
    """One command: what it does, an example, its arguments."""
    command = load_command(name)
    title, *rest = (command.__doc__ or "").strip().splitlines()
    body = "\n".join(f"  {line}" if line.startswith("  ") else line for line in rest)
    actions = [a for a in build_parser(name, command)._actions if a.dest != "help"]
    rows = "\n".join(row(action) for action in actions)
    return f"## heliodor {name}\n\n{title}\n{body}\n\n| argument | meaning |\n|---|---|\n{rows}\n"


def page() -> str:
    """The whole page."""
    return "\n".join([INTRO, *map(section, COMMANDS)])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
