"""Hostile files, counted: how the readers of safetensors, npz, native and index files took them.

    python benchmarks/fuzz.py                      # under a minute of one core
    python benchmarks/fuzz.py --cases 100000 --seed 7 --seconds 3600

Each case is an honest file with a piece of it changed, cut, or replaced by a lie, drawn from the
seed, and is read in full: every tensor that its header promises, everything that a native file can
be asked for. A reader may read it, or refuse it with the library's own error and one message of
readable length; anything else is a crash, and is printed with the case's number. The ways to damage
a file and the readings are those of the fuzz tests (``tests/hostile.py``).

Prints a table and one JSON line; exits 1 if anything crashed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import math
import random
import sys
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import hostile

Case = tuple[bytes, Callable[[Path], object], str]
"""The bytes, how they are read, and the name of the file."""
TYPES = ("F32", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "", None, 3)
NPY_TYPES = ("<f4", "|V2", "|O", "<f2", "|u1", ">f4", "<M8[ns]", "", "|S3", None, 1.5)
STRINGS = ("config", "processor", "mask_codec", "tokenizer", "scheme", "family")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One reader and one way to damage its files.

    Attributes:
        reader: for the table.
        damage: for the table.
        share: of the cases, where 1 is usual; what takes longer has less.
        draw: a case.
    """

    reader: str
    damage: str
    share: float
    draw: Callable[[random.Random], Case]


@dataclass(slots=True)
class Tally:
    """What became of the cases of one kind."""

    read: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    crashed: int = 0

    @property
    def tried(self) -> int:
        """All of them."""
        return self.read + self.refused.total() + self.crashed


def blob(draw: random.Random, most: int) -> bytes:
    """Up to so many bytes of anything."""
    return draw.randbytes(draw.randint(0, most))


def changes(draw: random.Random) -> list[tuple[float, int]]:
    """One to eight places and what stands there."""
    return [(draw.random(), draw.randrange(256)) for _ in range(draw.randint(1, 8))]


def number(draw: random.Random) -> Any:
    """A number, or what stands where one is expected."""
    return draw.choice(
        (draw.randint(0, 40), draw.randint(-(2**70), 2**70), draw.gauss(0, 9), None, True, "7")
    )


def anything(draw: random.Random, depth: int = 3) -> Any:
    """JSON of any kind."""
    kind = draw.randrange(4 if depth else 2)
    if kind == 0:
        return number(draw)
    if kind == 1:
        return draw.choice(("", "a", "../x", "model.safetensors", "one.safetensors", "\ud800"))
    if kind == 2:
        return [anything(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    names = ("weight_map", "a", "b.weight", "c", "d", "../x", "", "\x00")
    return {draw.choice(names): anything(draw, depth - 1) for _ in range(draw.randint(0, 4))}


def lying_header(draw: random.Random) -> bytes:
    """Entries whose types, shapes and offsets are anything."""

    def several(most: int) -> Any:
        return draw.choice(([number(draw) for _ in range(draw.randint(0, most))], number(draw)))

    header: dict[str, Any] = {
        draw.choice(("a", "b", "\ud800", "__metadata__")): draw.choice(
            (
                {"dtype": draw.choice(TYPES), "shape": several(4), "data_offsets": several(3)},
                anything(draw),
            )
        )
        for _ in range(draw.randint(0, 3))
    }
    if draw.random() < 0.5:
        return hostile.with_header(header, blob(draw, 60))
    honest = hostile.SAFETENSORS
    size = int.from_bytes(honest[:8], "little")
    header = json.loads(honest[8 : 8 + size])
    entry: dict[str, Any] = header[draw.choice([*header])]
    entry[draw.choice([*entry])] = draw.choice((several(3), several(3), draw.choice(TYPES), "x"))
    return hostile.with_header(header, honest[8 + size :])


def lying_map(draw: random.Random) -> dict[str, Any]:
    """An index that is right but for one entry, or wrong altogether."""
    places: Any = dict.fromkeys(("a", "b.weight", "c", "d"), "one.safetensors")
    if draw.random() < 0.3:
        places = anything(draw)
    elif draw.random() < 0.7:
        places[draw.choice((*places, "e"))] = draw.choice((anything(draw, 1), "one.safetensors"))
    return {"weight_map": places, **draw.choice(({}, {"metadata": anything(draw)}))}


def lying_array(draw: random.Random) -> bytes:
    """A type, a shape and an order that are anything."""
    axes = tuple(
        draw.randint(-2 if draw.random() < 0.2 else 0, 5) for _ in range(draw.randint(0, 4))
    )
    shape = axes if draw.random() < 0.8 else number(draw)
    fields: dict[str, Any] = {
        "descr": draw.choice(NPY_TYPES),
        "fortran_order": draw.choice((True, False, 1, None)),
        "shape": shape,
    }
    if draw.random() < 0.3:
        fields.pop(draw.choice(tuple(fields)))
    if draw.random() < 0.2:
        fields["more"] = number(draw)
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    exact = draw.randbytes(max(0, math.prod(axes)) * draw.choice((1, 2, 4)))
    return hostile.with_array(fields, draw.choice((exact, blob(draw, 60))), method)


def lying_strings(draw: random.Random) -> bytes:
    """One of a native file's strings is anything, or holds one field that is."""
    honest = hostile.native()
    name = draw.choice(STRINGS)
    value: Any = anything(draw)
    size = int.from_bytes(honest[:8], "little")
    text: str = json.loads(honest[8 : 8 + size])["__metadata__"][f"heliodor.{name}"]
    if text.startswith("{") and draw.random() < 0.7:
        values: dict[str, Any] = json.loads(text)
        inside = [values, *(v for v in values.values() if isinstance(v, dict))]
        target: dict[str, Any] = draw.choice(inside)
        target[draw.choice([*target, "more"])] = value
        value = values
    said = value if isinstance(value, str) else json.dumps(value)
    return hostile.with_strings(honest, {f"heliodor.{name}": said})


def damaged_head(draw: random.Random) -> bytes:
    """A native file with bytes of its head changed, or its end cut off."""
    honest = hostile.native()
    head = int.from_bytes(honest[:8], "little") + 8
    data = hostile.changed(honest[:head], changes(draw)) + honest[head:]
    return data[: draw.randrange(len(data))] if draw.random() < 0.3 else data


def kinds() -> list[Kind]:
    """All readers, each with all its damages."""
    safe, npz = hostile.SAFETENSORS, hostile.NPZ
    tensors, archive, native = hostile.read_safetensors, hostile.read_npz, hostile.read_native

    def of(reader: str, damage: str, share: float, draw: Callable[[random.Random], Case]) -> Kind:
        return Kind(reader=reader, damage=damage, share=share, draw=draw)

    def spliced(draw: random.Random, data: bytes) -> bytes:
        return hostile.spliced(data, draw.random(), draw.random(), blob(draw, 40))

    def marks(draw: random.Random) -> bytes:
        piece = draw.randbytes(draw.randint(1, 8))
        return hostile.changed_at_marks(draw.choice(npz), draw.randrange(10**6), piece)

    one, two = "model.safetensors", "x.npz"
    return [
        of("safetensors", "any bytes", 1, lambda d: (blob(d, 200), tensors, one)),
        of(
            "safetensors", "bytes changed", 1,
            lambda d: (hostile.changed(safe, changes(d)), tensors, one),
        ),
        of("safetensors", "cut and joined", 1, lambda d: (spliced(d, safe), tensors, one)),
        of("safetensors", "lying header", 1, lambda d: (lying_header(d), tensors, one)),
        of("index", "any JSON", 1, lambda d: (safe, hostile.read_index(anything(d)), one)),
        of(
            "index", "any map", 1,
            lambda d: (safe, hostile.read_index(lying_map(d)), one),
        ),
        of("npz", "any bytes", 1, lambda d: (blob(d, 200), archive, two)),
        of(
            "npz", "bytes changed", 1,
            lambda d: (hostile.changed(d.choice(npz), changes(d)), archive, two),
        ),
        of("npz", "cut and joined", 1, lambda d: (spliced(d, d.choice(npz)), archive, two)),
        of("npz", "marks changed", 1, lambda d: (marks(d), archive, two)),
        of("npz", "lying header", 1, lambda d: (lying_array(d), archive, two)),
        of("native", "lying strings", 0.2, lambda d: (lying_strings(d), native, one)),
        of("native", "head damaged", 0.2, lambda d: (damaged_head(d), native, one)),
    ]  # fmt: skip


def run(kind: Kind, count: int, seed: int, until: float) -> Tally:
    """The cases of one kind, until the time is over."""
    tally = Tally()
    for case in range(count):
        if time.perf_counter() > until:
            break
        draw = random.Random(f"{seed} {kind.reader} {kind.damage} {case}")
        try:
            refused = hostile.refusal(*kind.draw(draw))
        except Exception:  # noqa: BLE001 - whatever it is, it is a crash
            tally.crashed += 1
            print(f"{kind.reader}, {kind.damage}, seed {seed}, case {case}:", file=sys.stderr)
            traceback.print_exc()
        else:
            if refused is None:
                tally.read += 1
            else:
                tally.refused[type(refused).__name__] += 1
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all kinds, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=20000, help="at most, over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=50, help="at most, over all readers")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    chosen = kinds()
    began = time.perf_counter()
    unit = options.cases / sum(kind.share for kind in chosen)
    print("| reader      | damage         | cases  | read   | refused | crashes |")
    print("|-------------|----------------|--------|--------|---------|---------|")
    total, errors = Tally(), Counter[str]()
    for number_, kind in enumerate(chosen, 1):
        until = began + options.seconds * number_ / len(chosen)
        found = run(kind, max(1, round(unit * kind.share)), options.seed, until)
        print(
            f"| {kind.reader:11} | {kind.damage:14} | {found.tried:6} | {found.read:6} "
            f"| {found.refused.total():7} | {found.crashed:7} |",
            flush=True,
        )
        total.read += found.read
        total.crashed += found.crashed
        errors += found.refused
    total.refused = errors
    print(
        f"| all         |                | {total.tried:6} | {total.read:6} "
        f"| {errors.total():7} | {total.crashed:7} |"
    )
    summary = {
        "cases": total.tried,
        "read": total.read,
        "errors": dict(errors.most_common()),
        "crashes": total.crashed,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(summary))
    return 1 if total.crashed else 0


if __name__ == "__main__":
    sys.exit(main())
