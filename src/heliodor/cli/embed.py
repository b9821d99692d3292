"""Write the embeddings of a folder of pictures, or of the lines of a text, with a SigLIP pair.

For example:

  heliodor embed photos --out photos.npy --model google/siglip-base-patch16-224
  heliodor embed captions.txt --out captions.parquet --model google/siglip-base-patch16-224

A folder is searched with its subfolders; a picture that cannot be used is reported and left out,
or ends the run with --strict. Any other file is read as UTF-8 text, a line a row, - from stdin;
empty lines are left out. Rows are unit vectors, so that a product of two is their cosine.

The suffix of --out is the format: .npy, float32, with the names in a .names.json beside it; or
.parquet with columns name and embedding, for which pyarrow is needed: pip install
'heliodor[parquet]'.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliodor.cli.options import add_json, read_picture
from heliodor.cli.output import emit, report, say
from heliodor.cli.pair import add_pair, load_pair
from heliodor.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from heliodor.see.pair import ImageTextModel
    from heliodor.see.vectors import VectorWriter

__all__ = ["add_arguments", "run"]

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_EVERY = 5.0  # seconds between two words on progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", metavar="FOLDER", help="a folder of pictures, one picture, a text file, or -"
    )
    parser.add_argument(
        "--out", required=True, metavar="OUT.npy", help="file to write, .npy or .parquet"
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at a picture that cannot be used"
    )
    add_json(parser)
    add_pair(parser)


@dataclass(kw_only=True, slots=True)
class Tally:
    """How far the work is."""

    total: int
    what: str
    done: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def skip(self, name: str, error: InputError) -> None:
        """Report one that cannot be used."""
        report(error, name)
        self.skipped.append({"name": name, "error": str(error)})

    def tell(self) -> None:
        """Say how far it is, every few seconds."""
        now = time.monotonic()
        if now - self.told >= _EVERY:
            self.told = now
            rate = self.done / (now - self.began)
            reached = self.done + len(self.skipped)
            say(f"{reached} of {self.total} {self.what}, {rate:.1f} a second")


def run(args: argparse.Namespace) -> int:
    """Embed and write."""
    from heliodor.see.vectors import check_target

    out = Path(args.out)
    check_target(out)
    pictures, names = _names(args.source)
    tally = Tally(total=len(names), what="pictures" if pictures else "texts")
    batches = _pictures(args, names, tally) if pictures else _texts(args, names)
    width = _write(args, out, batches, tally, pictures=pictures)
    if args.json:
        facts = {"out": str(out), "kind": "image" if pictures else "text", "rows": tally.done}
        emit({**facts, "width": width, "skipped": tally.skipped})
    else:
        left_out = f", {len(tally.skipped)} left out" if tally.skipped else ""
        say(f"wrote {out}: {tally.done} {tally.what} of {width} numbers{left_out}")
    return 1 if tally.skipped else 0


def _write(
    args: argparse.Namespace,
    out: Path,
    batches: Iterable[tuple[list[str], list[Any]]],
    tally: Tally,
    *,
    pictures: bool,
) -> int:
    """Embed batch by batch into the file; the width of a vector.

    The model is loaded when the first batch has been read, so that a wrong folder does not cost a
    load.
    """
    from heliodor.see.vectors import writing

    pair: ImageTextModel | None = None
    writer: VectorWriter | None = None
    with ExitStack() as stack:
        for names, items in batches:
            if pair is None or writer is None:
                pair = load_pair(args)
                kind = "image" if pictures else "text"
                opened = writing(out, width=pair.width, kind=kind, model=args.model)
                writer = stack.enter_context(opened)
            embed: Callable[..., Tensor] = pair.embed_images if pictures else pair.embed_texts
            writer.add(names, embed(items, batch=args.batch).numpy())
            tally.done += len(names)
            tally.tell()
    if pair is None:
        raise InputError(f"{args.source}: none of {tally.total} {tally.what} can be used")
    return pair.width


def _names(source: str) -> tuple[bool, list[str]]:
    """Whether they are pictures, and the pictures' paths or the lines."""
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
        if not found:
            raise InputError(f"{source} holds no pictures ({', '.join(PICTURES)})")
        return True, [str(p.relative_to(path).as_posix()) for p in found]
    if path.suffix.lower() in PICTURES:
        return True, [source]
    raw = sys.stdin.buffer.read() if source == "-" else path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is no folder, no picture by its name, and no UTF-8 text (byte {error.start})"
        ) from None
    lines = [line.strip() for line in text.splitlines()]
    if not any(lines):
        raise InputError(f"{source} holds no text")
    return False, [line for line in lines if line]


def _pictures(
    args: argparse.Namespace, names: Sequence[str], tally: Tally
) -> Generator[tuple[list[str], list[Any]]]:
    """Names and pictures, a batch at a time; those that cannot be used are told and left out."""
    folder = Path(args.source)
    kept: list[str] = []
    opened: list[Any] = []
    for name in names:
        try:
            opened.append(read_picture(str(folder / name) if folder.is_dir() else name))
        except InputError as error:
            if args.strict:
                raise InputError(f"{name}: {error}") from error
            tally.skip(name, error)
            continue
        kept.append(name)
        if len(kept) == args.batch:
            yield kept, opened
            kept, opened = [], []
    if kept:
        yield kept, opened


def _texts(
    args: argparse.Namespace, names: Sequence[str]
) -> Generator[tuple[list[str], list[Any]]]:
    """Lines, a batch at a time; each is its own name."""
    for start in range(0, len(names), args.batch):
        lines = list(names[start : start + args.batch])
        yield lines, lines
