"""Arrays of a big_vision file as tensors of ours, and back; whatever the model is.

Three ways of naming are read: ``params/img/...`` as big_vision's trainer writes,
``opt/target/img/...`` as it did before, and bare ``img/...`` as its notebook writes. What a
training run saves beside the parameters, such as the optimiser's state, is passed over.

A tensor is filled straight from the place in the file where it lies, some megabytes at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from heliodor.checkpoints.bigvision_layout import Array, Shape
from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.npz import NpzFile, Source, Stack, write_npz
from heliodor.checkpoints.weights import READABLE, Weight, asked_dtype
from heliodor.errors import ConfigError, FileFormatError, KeyMismatchError

SUFFIX = ".npz"
ROOT = "params/"

_LEGACY_ROOT = "opt/target/"
_BESIDE = re.compile(r"(opt|extra|chrono|state|step)(/.*)?")  # of a training run, not of the model
_BLOCK = 4 * 2**20  # bytes of a block of rows
_TURNED = 32 * 2**20  # the same where the whole array is looked at for each
_LISTED = 12  # names that a message spells out per kind of fault


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A file, the root of its names, and the shapes of a model's arrays in it.

    Attributes:
        file: whose directory and headers are checked.
        root: what stands before every name of the model.
        shapes: by name without the root.
    """

    file: NpzFile
    root: str
    shapes: Mapping[str, Shape]

    def weights(self, layout: Iterable[Array]) -> dict[str, Weight]:
        """The tensors of a layout by our names, none of them read."""
        return {
            ours: _weight(self.file, self.root + array.name, array, layer, part)
            for array in layout
            for layer, tensors in enumerate(array.tensors)
            for part, ours in enumerate(tensors)
        }


def open_arrays(path: Path) -> Opened:
    """Names, types and shapes; types are checked.

    Raises:
        FileFormatError: the file is broken or of a type that is not read.
    """
    file = NpzFile(path)
    root = _root(file.entries)
    beside = {name for name in file.entries if root == ROOT and _BESIDE.fullmatch(name)}
    shapes: dict[str, Shape] = {}
    for name, entry in file.entries.items():
        if name in beside or (root == _LEGACY_ROOT and not name.startswith(root)):
            continue
        if entry.dtype not in READABLE:
            raise FileFormatError(
                f"{path}: {name[:100]!r} is stored as {entry.dtype}, which is no weight: floats of "
                "16, 32 or 64 bits are read"
            )
        shapes[name.removeprefix(root)] = entry.shape
    return Opened(file=file, root=root, shapes=shapes)


def _root(names: Mapping[str, object]) -> str:
    """What stands before every name of the model."""
    for root in (ROOT, _LEGACY_ROOT):
        if any(name.startswith(root) for name in names):
            return root
    return ""


def check(layout: Iterable[Array], found: Mapping[str, Shape], path: Path, family: str) -> None:
    """Each array once, in its shape, and nothing else; one message says all that is wrong.

    Args:
        layout: what must be there.
        found: what is, by name without root.
        path: for messages.
        family: for messages, such as "PaliGemma".

    Raises:
        KeyMismatchError: an array is missing, unknown, or of another shape.
    """
    wanted = {array.name: array.shape for array in layout}
    faults = {
        "missing from the file": [n for n in wanted if n not in found],
        "in the file but unknown": [n[:100] for n in found if n not in wanted],
        "of the wrong shape": [
            f"{name} is {list(found[name])}, the other shapes ask for {list(shape)}"
            for name, shape in wanted.items()
            if name in found and found[name] != shape
        ],
    }
    if not any(faults.values()):
        return
    lines = [f"the arrays of {path} are not those of a {family}:"]
    for what, names in faults.items():
        if names:
            lines.append(f"  {len(names)} {what}:")
            lines += [f"    {name}" for name in names[:_LISTED]]
            lines += [f"    ... and {len(names) - _LISTED} more"] * (len(names) > _LISTED)
    raise KeyMismatchError("\n".join(lines).encode("utf-8", "backslashreplace").decode())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placed(Weight):
    """A tensor inside an array of theirs, which fills its target without a copy between.

    Attributes:
        fill: copies the values into a tensor of our shape, of any type and device, or of some of
            its rows into a block of so many, from the row given.
        unit: rows that stand together in theirs; 0 where rows cannot be had by themselves.
        turned: whether a block of our rows lies all over their array.
    """

    fill: Callable[[Tensor, int], None]
    unit: int
    turned: bool

    def copy_to(self, target: Tensor) -> None:
        """Copy, reorder and convert, some megabytes at a time."""
        self.fill(target, 0)

    def pieces(self, multiple: int = 1) -> Iterator[Tensor]:
        """Blocks of rows, each a copy: the array is looked at some megabytes at a time."""
        if not self.unit:
            yield from Weight.pieces(self, multiple)
            return
        step = self.step(_TURNED if self.turned else _BLOCK, math.lcm(self.unit, multiple))
        for start in range(0, self.shape[0], step):
            rows = min(step, self.shape[0] - start)
            block = torch.empty((rows, *self.shape[1:]), dtype=self.dtype)
            self.fill(block, start)
            yield block


def _weight(file: NpzFile, name: str, array: Array, layer: int, part: int) -> Weight:
    """One of our tensors inside one of their arrays."""
    entry = file.entries[name]
    index = (layer,) * array.stacked + (part,) * (len(array.tensors[layer]) > 1)
    shape = array.ours
    pure = array.seen(torch.empty(shape, device="meta")).is_contiguous()
    axis, unit = _row_axis(array)

    def fill(target: Tensor, start: int) -> None:
        place = (axis, start // unit) if unit else (0, 0)
        file.copy(name, array.seen(target), index, place)

    def read() -> Tensor:
        if pure:
            return file.part(name, index).reshape(shape)
        ours = torch.empty(shape, dtype=entry.dtype)
        fill(ours, 0)
        return ours

    return _Placed(
        name=name + "".join(f"[{place}]" for place in index),
        dtype=entry.dtype,
        shape=shape,
        read=read,
        release=lambda: file.release(name, index),
        fill=fill,
        unit=unit if file.in_blocks(name, index, whole=False) else 0,
        turned=axis > 0,
    )


def _row_axis(array: Array) -> tuple[int, int]:
    """The axis of theirs along which our rows run, and how many of them a step there is.

    Where they run along two, as heads and channels of a head, it is the slower one. (0, 0) where
    there is no such axis.
    """
    numbered = torch.empty_strided(  # a step to the next row is a step of 1, any other of 0
        array.ours, (1, *[0] * (len(array.ours) - 1)), device="meta"
    )
    seen = array.seen(numbered)
    steps = [(stride, axis) for axis, stride in enumerate(seen.stride()) if seen.shape[axis] > 1]
    unit, axis = max(steps, default=(0, 0))
    return (axis, unit) if unit else (0, 0)


def write_arrays(
    layout: Iterable[Array],
    state: Mapping[str, Tensor | Weight],
    path: Path,
    *,
    dtype: str | torch.dtype | None,
) -> None:
    """Write an npz, whole or not at all, tensor by tensor.

    Args:
        layout: the arrays, in the order to write.
        state: the tensors by our names, in memory or in other files.
        path: ``x.npz``; a file that is there is replaced.
        dtype: of the arrays; None keeps the tensors' own. bfloat16 is written as numpy writes it
            for JAX, two bytes without a name, which big_vision knows again.

    Raises:
        CheckpointError: the disk is full, or a value does not fit ``dtype``; what was there before
            is as it was.
        ConfigError: an unknown type.
    """
    sources: dict[str, Source] = {
        ROOT + array.name: Stack(shape=array.shape, parts=partial(_parts, array, state))
        for array in layout
    }
    with Replacement(path.parent) as new:
        write_npz(new, path.name, sources, asked_dtype(dtype))


def check_suffix(path: Path) -> None:
    """The format is one file.

    Raises:
        ConfigError: another suffix than ``.npz``.
    """
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path} must end in {SUFFIX}: big_vision's format is one file")


def _parts(array: Array, state: Mapping[str, Tensor | Weight]) -> Iterator[Tensor]:
    """The tensors of an array as theirs, one behind the other."""
    for name in (name for tensors in array.tensors for name in tensors):
        value = state[name]
        yield array.seen(value.read() if isinstance(value, Weight) else value)
        if isinstance(value, Weight):
            value.release()
