"""What commands say: data on stdout, talk on stderr, files whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from heliodor.cli.options import UsageError, load_model, read_picture
from heliodor.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from heliodor.see.vlm import VisionLanguageModel

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Result(Protocol):
    """Whatever a model returns for one picture."""

    def to_dict(self) -> dict[str, Any]:
        """The result in JSON's own types."""
        ...


R = TypeVar("R", bound=Result)


def say(text: str) -> None:
    """Talk to the person, on stderr."""
    print(text, file=sys.stderr)


def report(error: Exception, subject: str | None = None) -> None:
    """Say an error on stderr, in one line whatever its message looks like."""
    message = " ".join(str(error).split()) or type(error).__name__
    say(f"heliodor: {subject}: {message}" if subject else f"heliodor: {message}")


def emit(record: dict[str, Any]) -> None:
    """Print one JSON object on a line of stdout; text stays readable, NaN is refused."""
    print(json.dumps(record, ensure_ascii=False, allow_nan=False), flush=True)


def for_each_picture(
    args: argparse.Namespace,
    work: Callable[[VisionLanguageModel, Image], R],
    lines: Callable[[R], Sequence[str]],
) -> int:
    """Open each picture, work on it, print what came of it.

    A picture that cannot be used is reported and the rest go on. The model is loaded when the
    first picture has been read, so that a mistyped path does not cost a load.

    Args:
        args: with ``images``, ``json`` and the model's options.
        work: the call on the model.
        lines: a result as lines for people. With several pictures each line opens with the
            picture's name and a tab.

    Returns:
        The exit code: 1 if any picture could not be used.
    """
    code = 0
    model: VisionLanguageModel | None = None
    for source in args.images:
        try:
            picture = read_picture(source)
            model = load_model(args) if model is None else model
            result = work(model, picture)
        except InputError as error:
            report(error, source)
            code = 1
            continue
        if args.json:
            emit({"image": source, **result.to_dict()})
            continue
        for line in lines(result):
            print(f"{source}\t{line}" if len(args.images) > 1 else line, flush=True)
    return code


def picture_target(text: str, count: int = 1) -> Path:
    """Where a drawn picture goes, checked before any work is done.

    Args:
        text: the path given.
        count: how many pictures the command was given; one file holds one.

    Raises:
        UsageError: several pictures, a suffix that names no format, or no such folder.
    """
    path = Path(text)
    if count > 1:
        raise UsageError(f"--draw writes one file, and {count} pictures were given")
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise UsageError(f"--draw {text}: the name must end in {', '.join(PICTURE_SUFFIXES)}")
    if not path.parent.is_dir():
        raise UsageError(f"--draw {text}: there is no folder {path.parent}")
    return path


@contextlib.contextmanager
def whole(path: Path) -> Generator[Path]:
    """A path beside `path` to write to, moved onto it at the end, or removed on any error."""
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def save_picture(picture: Image, path: Path) -> None:
    """Write a picture; readers see the old file or the new one, never half of it."""
    with whole(path) as partial:
        picture.save(partial)
