"""Versions of heliodor and of what it runs on, for a bug report."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

import heliodor
from heliodor.cli.options import add_json
from heliodor.cli.output import emit

__all__ = ["add_arguments", "run"]

PACKAGES = ("torch", "numpy", "pillow", "tokenizers", "sentencepiece", "huggingface-hub")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print name and version, one a line; nothing is imported to find out."""
    versions = {"heliodor": heliodor.__version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    versions["platform"] = platform.platform()
    if args.json:
        emit(versions)
    else:
        for name, version in versions.items():
            print(f"{name:<16} {version}")
    return 0
