"""big_vision's ``.npz`` files of PaliGemma 1 and 2.

A file holds arrays and nothing else. What the network is, their shapes tell (:func:`read_config`);
the tokenizer is given by the caller or lies beside the file. Three ways of naming are read:
``params/img/...`` as big_vision's trainer writes, ``opt/target/img/...`` as it did before, and bare
``img/...`` as its notebook writes; layers stacked on a first axis, as in all published files, or
one by one. The optimiser's state, which a training run saves beside the parameters, is passed over.

Layout: :mod:`~heliodor.checkpoints.bigvision_layout`; the file: :mod:`~heliodor.checkpoints.npz`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path

import torch
from torch import Tensor

from heliodor.checkpoints.bigvision_config import (
    check_expressible,
    infer_config,
    infer_stacking,
)
from heliodor.checkpoints.bigvision_layout import Array, Shape, Stacking, arrays
from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.npz import NpzFile, Source, Stack, write_npz
from heliodor.checkpoints.weights import (
    EMBEDDING,
    READABLE,
    Weight,
    assemble,
    at_size,
    parse_dtype,
)
from heliodor.errors import ConfigError, FileFormatError, KeyMismatchError, TokenizerError
from heliodor.image import ImageProcessor, Resize
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.text import Tokenizer

SUFFIX = ".npz"
ROOT = "params/"

_LEGACY_ROOT = "opt/target/"
_BESIDE = re.compile(r"(opt|extra|chrono|state|step)(/.*)?")  # of a training run, not of the model
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "paligemma_tokenizer.model")
_LISTED = 12  # names that a message spells out per kind of fault


@dataclass(frozen=True, kw_only=True, slots=True)
class BigVisionCheckpoint:
    """An npz on this machine.

    Attributes:
        path: the file, or where its pieces lie.
        source: what the user asked for.
    """

    path: Path
    source: str

    def config(self) -> PaliGemmaConfig:
        """What the shapes tell; see :func:`read_config`."""
        return read_config(self.path)

    def load(
        self,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device = "cpu",
        image_size: int | None = None,
        final_cap: bool = True,
    ) -> PaliGemma:
        """The network with its weights; see :func:`load`."""
        return load(
            self.path, dtype=dtype, device=device, image_size=image_size, final_cap=final_cap
        )

    def weights(self) -> dict[str, Weight]:
        """The network's tensors by our names, none of them read; see :func:`open_weights`."""
        return open_weights(self.path)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that lies beside the file, which itself holds none.

        Raises:
            TokenizerError: none lies there.
        """
        folder = self.path.parent
        for name in _TOKENIZERS:
            if (folder / name).is_file():
                return Tokenizer.from_file(folder / name)
        raise TokenizerError(
            f"{self.path} carries no tokenizer, as no npz does, and none of "
            f"{', '.join(_TOKENIZERS)} lies beside it: pass tokenizer=<path to a tokenizer.json or "
            "SentencePiece model>"
        )

    def processor(self, image_size: int | None = None) -> ImageProcessor:
        """Pictures resized as big_vision does it, to the size that the positions tell."""
        size = self.config().vision.image_size if image_size is None else image_size
        return ImageProcessor(size=size, resize=Resize.BIG_VISION)


def read_config(path: str | Path) -> PaliGemmaConfig:
    """The configuration that the shapes of an npz tell.

    Raises:
        FileFormatError: the file cannot be read.
        KeyMismatchError: it is not one of a PaliGemma.
    """
    return _open(Path(path)).config


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    final_cap: bool = True,
) -> PaliGemma:
    """Load the network, layer by layer.

    The model is built without memory of its own, and one layer of an array is taken at a time, so
    that the peak is little above the weights' size in ``dtype``.

    Args:
        path: the npz, or where its pieces lie.
        dtype: in which the weights rest; None takes the widest that the file holds, since
            big_vision's notebook mixes float16 and float32 in one file.
        device: where they rest.
        image_size: pixels of a side, where another resolution is wanted than the file's; the
            position embeddings are then resized.
        final_cap: False leaves out PaliGemma 2's soft cap on logits, as big_vision's configurations
            of single tasks do.

    Returns:
        The model in evaluation mode. It has no ``<image>`` row: ``image_token`` is None.

    Raises:
        CheckpointError: a value that ``dtype`` cannot hold.
        ConfigError: an unknown type, or a size below one patch.
        FileFormatError: the file is broken or of a type that is not read.
        KeyMismatchError: names or shapes are not those of a PaliGemma.
    """
    opened = _open(Path(path))
    config = at_size(opened.config, image_size)
    if not final_cap:
        config = replace(config, language=replace(config.language, final_cap=None))
    weights = opened.weights()
    if dtype is None:
        found = reduce(torch.promote_types, (weight.dtype for weight in weights.values()))
        dtype = torch.float32 if found == torch.float64 else found
    return assemble(config, weights, place=opened.file.path, dtype=dtype, device=device)


def open_weights(path: str | Path) -> dict[str, Weight]:
    """The tensors of an npz by our names, none of them read.

    Raises:
        FileFormatError: the file is broken or of a type that is not read.
        KeyMismatchError: names or shapes are not those of a PaliGemma.
    """
    return _open(Path(path)).weights()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    """A file, the root of its names, and what it holds."""

    file: NpzFile
    root: str
    config: PaliGemmaConfig
    layout: tuple[Array, ...]

    def weights(self) -> dict[str, Weight]:
        return {
            ours: _weight(self.file, self.root + array.name, array, layer, part)
            for array in self.layout
            for layer, tensors in enumerate(array.tensors)
            for part, ours in enumerate(tensors)
        }


def _open(path: Path) -> _Opened:
    """Names, types and shapes, all of them checked."""
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
    stacking = infer_stacking(shapes)
    config = infer_config(shapes, stacking, path)
    try:
        layout = tuple(arrays(config, stacking))
    except (RuntimeError, OverflowError) as error:
        raise KeyMismatchError(f"{path}: no machine holds the sizes of its arrays") from error
    _check(layout, shapes, path)
    return _Opened(file=file, root=root, config=config, layout=layout)


def _root(names: Mapping[str, object]) -> str:
    """What stands before every name of the model."""
    for root in (ROOT, _LEGACY_ROOT):
        if any(name.startswith(root) for name in names):
            return root
    return ""


def _check(layout: tuple[Array, ...], found: Mapping[str, Shape], path: Path) -> None:
    """Each array once, in its shape, and nothing else; one message says all that is wrong."""
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
    lines = [f"the arrays of {path} are not those of a PaliGemma:"]
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
        fill: copies the values into a tensor of our shape, of any type and device.
    """

    fill: Callable[[Tensor], None]

    def copy_to(self, target: Tensor) -> None:
        """Copy, reorder and convert, some megabytes at a time."""
        self.fill(target)


def _weight(file: NpzFile, name: str, array: Array, layer: int, part: int) -> Weight:
    """One of our tensors inside one of their arrays."""
    entry = file.entries[name]
    index = (layer,) * array.stacked + (part,) * (len(array.tensors[layer]) > 1)
    shape = array.ours
    pure = array.seen(torch.empty(shape, device="meta")).is_contiguous()

    def fill(target: Tensor) -> None:
        file.copy(name, array.seen(target), index)

    def read() -> Tensor:
        if pure:
            return file.part(name, index).reshape(shape)
        ours = torch.empty(shape, dtype=entry.dtype)
        fill(ours)
        return ours

    return _Placed(
        name=name + "".join(f"[{place}]" for place in index),
        dtype=entry.dtype,
        shape=shape,
        read=read,
        release=lambda: file.release(name, index),
        fill=fill,
    )


def save(model: PaliGemma, path: str | Path, *, dtype: str | torch.dtype | None = None) -> None:
    """Write an npz that big_vision loads, whole or not at all.

    Layers are stacked and names begin with ``params/``, as in the published files. Rows of the
    embedding table behind the last token, which transformers needs and nothing reads, are left out.

    Args:
        model: the network.
        path: ``x.npz``; a file that is there is replaced.
        dtype: of the arrays; None keeps the model's. bfloat16 is written as numpy writes it for
            JAX, two bytes without a name, which big_vision knows again.

    Raises:
        CheckpointError: the disk is full, or a value does not fit ``dtype``; what was there before
            is as it was.
        ConfigError: another suffix, or a model that the format would make another of.
    """
    write(model.config, model.state_dict(), path, dtype=dtype)


def write(
    config: PaliGemmaConfig,
    state: Mapping[str, Tensor] | Mapping[str, Weight],
    path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
) -> None:
    """Write an npz from tensors by our names, in memory or in other files; see :func:`save`."""
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path} must end in {SUFFIX}: big_vision's format is one file")
    check_expressible(config, path)
    rows = config.num_predicted
    written = replace(config, language=replace(config.language, vocab_size=rows))
    sources: dict[str, Source] = {}
    for array in arrays(written, Stacking()):
        sources[ROOT + array.name] = Stack(
            shape=array.shape, parts=partial(_parts, array, state, rows)
        )
    with Replacement(path.parent) as new:
        write_npz(new, path.name, sources, None if dtype is None else parse_dtype(dtype))


def _parts(
    array: Array, state: Mapping[str, Tensor] | Mapping[str, Weight], rows: int
) -> Iterator[Tensor]:
    """The tensors of an array as theirs, one behind the other."""
    for name in (name for tensors in array.tensors for name in tensors):
        value = state[name]
        ours = value.read() if isinstance(value, Weight) else value
        yield array.seen(ours[:rows] if name == EMBEDDING else ours)
        if isinstance(value, Weight):
            value.release()
