"""Say what a checkpoint is: family, size, precision, whether it is whole, what is odd about it.

For example:

  heliodor inspect tiny
  heliodor inspect google/paligemma-3b-mix-224 --json
  heliodor inspect paligemma2-28b-pt-448.b16.npz
  heliodor inspect mix-224-int8.safetensors --engine

It reads folders in transformers layout, big_vision's .npz files and their pieces, native files,
LoRA adapters, and painters: diffusers' folders and the official consolidated*.safetensors. No
weight is read; of a hub id only the small files are fetched. Of a repository that holds several
models, as google/paligemma-3b-pt-224-jax does, it lists the files: give one as
google/paligemma-3b-pt-224-jax/NAME.npz.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

from heliodor import zoo
from heliodor.cli.options import add_json
from heliodor.cli.output import emit

__all__ = ["add_arguments", "describe", "run"]

ZOO = Path(zoo.__file__).parent
_LISTED = 12  # names of missing tensors in a line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", nargs="?", metavar="MODEL", help="the shipped 'tiny', a folder, a file, a hub id"
    )
    parser.add_argument("--model", default="tiny", help="the same, as the other commands take it")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument(
        "--engine",
        action="store_true",
        help="say too by what quantised layers would be multiplied on this machine",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the description, a line a fact; 1 if something is missing or broken."""
    facts = describe(args.source or args.model, args.revision)
    if args.engine:
        from heliodor.quant.products import engine

        facts["engine"] = engine()
    if args.json:
        emit(facts)
    else:
        for name, value in facts.items():
            _print(name, value)
    return 0 if facts["complete"] or not facts["files"] else 1


def describe(source: str, revision: str | None = None) -> dict[str, Any]:
    """The facts about a checkpoint; see :func:`heliodor.checkpoints.survey.survey`.

    Args:
        source: the name of a shipped model, a path, or a hub id.
        revision: branch, tag or commit of a hub id.

    Raises:
        CheckpointError: there is no such checkpoint, or its configuration is broken.
        HubError: it could not be downloaded.
    """
    from heliodor.checkpoints import hub_id, locate
    from heliodor.checkpoints.survey import survey

    shipped = ZOO / source
    if source.isidentifier() and shipped.is_dir():
        return survey(shipped)
    place = locate(source, revision=revision, only_small=True)
    named = hub_id(source)
    if named is None or place == Path(source).expanduser():
        return survey(place)
    whole = (place / "config.json").is_file() or (place / "adapter_config.json").is_file()
    if named[1] is not None or not whole:
        return _of_files(source, *named, revision) or survey(place)
    facts = survey(place)
    if not facts["files"]:
        facts |= {"complete": None, "missing": []}
        facts["odd"].append("the weights are on the hub and have not been fetched")
    return facts


def _of_files(
    source: str, repo: str, file: str | None, revision: str | None
) -> dict[str, Any] | None:
    """Of a repository of npz or native files: which there are; None where there are none.

    Raises:
        ConfigError: the file that is asked for is not among them.
    """
    from heliodor.checkpoints import hub
    from heliodor.checkpoints.survey import survey
    from heliodor.errors import ConfigError

    files = hub.single_files(repo, revision=revision)
    if file is not None and file not in files:
        listed = f"it has {', '.join(files[:_LISTED])}" if files else "it has none such"
        raise ConfigError(f"{repo} has no file {file}: {listed}")
    if not files:
        return None
    for name in [file] if file is not None else files if len(files) == 1 else []:
        cached = hub.cached_file(repo, name, revision=revision)
        if cached is not None:
            return survey(cached)
    facts: dict[str, Any] = {"path": source, "files": [], "complete": None, "missing": []}
    if file is not None:
        odd = "the file is on the hub and has not been fetched; what it holds, it alone says"
    else:
        odd = f"name one of them to load it, as in {repo}/{min(files, key=len)}"
    return {**facts, "on the hub": files if file is None else [file], "odd": [odd]}


def _print(name: str, value: object) -> None:
    if value is None or value == []:
        return
    if isinstance(value, dict):
        print(name)
        for inner, number in cast("dict[str, object]", value).items():
            print(f"  {inner:<16} {number}")
    elif isinstance(value, list):
        items = cast("list[object]", value)
        for item in items[:_LISTED]:
            print(f"{name:<18} {item}")
        if len(items) > _LISTED:
            print(f"{name:<18} ... and {len(items) - _LISTED} more")
    elif isinstance(value, bool):
        print(f"{name:<18} {'yes' if value else 'no'}")
    else:
        print(f"{name:<18} {value:,}" if isinstance(value, int) else f"{name:<18} {value}")
