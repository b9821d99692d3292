"""big_vision's ``.npz`` files of PaliGemma 1 and 2.

A file holds arrays and nothing else. What the network is, their shapes tell (:func:`read_config`);
the tokenizer is given by the caller or lies beside the file. Layers are stacked on a first axis, as
in all published files, or one by one.

How arrays are named and read: :mod:`~heliodor.checkpoints.bigvision_arrays`; their layout:
:mod:`~heliodor.checkpoints.bigvision_layout`; the file: :mod:`~heliodor.checkpoints.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from heliodor.checkpoints.bigvision_arrays import (
    Opened,
    check,
    check_suffix,
    open_arrays,
    write_arrays,
)
from heliodor.checkpoints.bigvision_config import (
    check_expressible,
    infer_config,
    infer_stacking,
)
from heliodor.checkpoints.bigvision_layout import Array, Stacking, arrays
from heliodor.checkpoints.weights import EMBEDDING, Weight, assemble, at_size
from heliodor.errors import KeyMismatchError, TokenizerError
from heliodor.image import ImageProcessor, Resize
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.text import Tokenizer

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "paligemma_tokenizer.model")


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
    found = _open(Path(path))
    config = at_size(found.config, image_size)
    if not final_cap:
        config = replace(config, language=replace(config.language, final_cap=None))
    weights = found.weights()
    if dtype is None:
        widest = reduce(torch.promote_types, (weight.dtype for weight in weights.values()))
        dtype = torch.float32 if widest == torch.float64 else widest
    return assemble(config, weights, place=Path(path), dtype=dtype, device=device)


def open_weights(path: str | Path) -> dict[str, Weight]:
    """The tensors of an npz by our names, none of them read.

    Raises:
        FileFormatError: the file is broken or of a type that is not read.
        KeyMismatchError: names or shapes are not those of a PaliGemma.
    """
    return _open(Path(path)).weights()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """A file whose arrays are those of a PaliGemma."""

    opened: Opened
    config: PaliGemmaConfig
    layout: tuple[Array, ...]

    def weights(self) -> dict[str, Weight]:
        return self.opened.weights(self.layout)


def _open(path: Path) -> _Read:
    """Names, types and shapes, all of them checked."""
    opened = open_arrays(path)
    stacking = infer_stacking(opened.shapes)
    config = infer_config(opened.shapes, stacking, path)
    try:
        layout = tuple(arrays(config, stacking))
    except (RuntimeError, OverflowError) as error:
        raise KeyMismatchError(f"{path}: no machine holds the sizes of its arrays") from error
    check(layout, opened.shapes, path, "PaliGemma")
    return _Read(opened=opened, config=config, layout=layout)


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
    state: Mapping[str, Tensor | Weight],
    path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
) -> None:
    """Write an npz from tensors by our names, in memory or in other files; see :func:`save`."""
    path = Path(path)
    check_suffix(path)
    check_expressible(config, path)
    rows = config.num_predicted
    written = replace(config, language=replace(config.language, vocab_size=rows))
    cut = {name: _cut(value, rows) if name == EMBEDDING else value for name, value in state.items()}
    write_arrays(arrays(written, Stacking()), cut, path, dtype=dtype)


def _cut(value: Tensor | Weight, rows: int) -> Tensor | Weight:
    """The first rows of a table."""
    if isinstance(value, Weight):
        shape = (rows, *value.shape[1:])
        return replace(value, shape=shape, read=lambda: value.read()[:rows])
    return value[:rows]
