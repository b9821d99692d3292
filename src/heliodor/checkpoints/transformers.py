"""Folders in transformers layout: weights, configuration, processor, tokenizer of a PaliGemma.

What :func:`save` writes, ``PaliGemmaForConditionalGeneration`` and ``AutoProcessor`` of
transformers load; what they write, :func:`load` and :class:`TransformersCheckpoint` load.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heliodor.checkpoints.blueprint import blueprint
from heliodor.checkpoints.config import CONFIG, config_values, read_config
from heliodor.checkpoints.files import Replacement, to_json
from heliodor.checkpoints.keymap import HUB, Match, Spelling, paligemma_keys
from heliodor.checkpoints.processor import NESTED, PROCESSOR, read_processor
from heliodor.checkpoints.shards import SHARD_SIZE, write_tensors
from heliodor.checkpoints.tensors import Tensors, open_tensors
from heliodor.checkpoints.weights import EMBEDDING, Weight, asked_dtype, assemble, at_size, name_of
from heliodor.errors import ConfigError, KeyMismatchError
from heliodor.image import ImageProcessor
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.text import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersCheckpoint:
    """A folder in transformers layout on this machine.

    Attributes:
        folder: where it lies.
        source: what the user asked for, a folder or a hub id.
    """

    folder: Path
    source: str

    def config(self) -> PaliGemmaConfig:
        """Shapes from ``config.json``."""
        return read_config(self.folder)

    def weights(self) -> dict[str, Weight]:
        """The tensors by our names, checked against the configuration; see :func:`open_weights`."""
        return open_weights(self.folder, self.config())

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
            self.folder,
            dtype=dtype,
            device=device,
            image_size=image_size,
            final_cap=final_cap,
        )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that lies beside the weights."""
        return Tokenizer.from_folder(self.folder)

    def processor(self, image_size: int | None = None) -> ImageProcessor:
        """How pictures become pixels; see :mod:`~heliodor.checkpoints.processor`."""
        return read_processor(self.folder, image_size)


def load(
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    final_cap: bool = True,
) -> PaliGemma:
    """Load the network, tensor by tensor.

    The model is built without memory of its own, so that the peak is the weights' size in ``dtype``
    and a few megabytes. Weights that need no conversion are not even read: they stay mapped, page
    by page as they are used, and writing to them (training) never reaches the file. A save to the
    same folder replaces files rather than changing them, so a mapped model stays what it is.

    Args:
        folder: in transformers layout; old and new tensor names, one file or shards.
        dtype: in which the weights rest; None keeps the file's.
        device: where they rest.
        image_size: pixels of a side, where another resolution is wanted than the checkpoint's; the
            position embeddings are then resized.
        final_cap: False leaves out the soft cap on logits that PaliGemma 2's configuration asks
            for, as big_vision does when it trains for a task.

    Returns:
        The model in evaluation mode.

    Raises:
        ConfigError: the configuration cannot be used.
        FileFormatError: the weights are broken or of a type that is not read.
        KeyMismatchError: names or shapes are not those that the configuration asks for.
    """
    folder = Path(folder)
    stored = read_config(folder)
    config = at_size(stored, image_size)
    if not final_cap:
        config = replace(config, language=replace(config.language, final_cap=None))
    weights = open_weights(folder, stored)
    return assemble(config, weights, place=folder, dtype=dtype, device=device)


def open_weights(folder: Path, config: PaliGemmaConfig) -> dict[str, Weight]:
    """The tensors in a folder by our names, none of them read but duplicates, to compare them.

    Raises:
        FileFormatError: the weights are broken or of a type that is not read.
        KeyMismatchError: names or shapes are not those that the configuration asks for.
    """
    tensors = open_tensors(folder)
    wanted = {name: tuple(v.shape) for name, v in blueprint(config).state_dict().items()}
    found = {name: tensors.entry(name).shape for name in tensors}
    match = paligemma_keys(config).match(wanted, found, folder)
    check_head(tensors, match, "PaliGemma")
    return {ours: tensors.weight(theirs) for ours, theirs in match.source.items()}


def check_head(tensors: Tensors, match: Match, model: str) -> None:
    """Types that can be read, and an output head that is the embedding table.

    Args:
        tensors: of the files.
        match: which of them is which of ours.
        model: the family, for messages.

    Raises:
        FileFormatError: a tensor of a type that is not read.
        KeyMismatchError: a head of its own.
    """
    tensors.check_readable()
    for name, ours in match.tied.items():
        if not tensors.equal(name, match.source[ours]):
            raise KeyMismatchError(
                f"{tensors.file(name)}: {name} differs from {match.source[ours]}; {model}'s output "
                "head is its embedding table, an untied one is not supported"
            )


def save(
    model: PaliGemma,
    tokenizer: Tokenizer,
    processor: ImageProcessor,
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = SHARD_SIZE,
    spelling: Spelling = HUB,
) -> None:
    """Write a folder in transformers layout, whole or not at all.

    Args:
        model: the network.
        tokenizer: written beside it.
        processor: how its pictures become pixels.
        folder: made if it does not exist; a checkpoint that lies there is replaced.
        dtype: of the tensors in the file; None keeps the model's.
        max_shard_size: bytes from which on the weights are divided among several files.
        spelling: of the tensor names.

    Raises:
        CheckpointError: the disk is full, the folder cannot be written, or a value does not fit
            ``dtype``; what was there before is as it was.
        ConfigError: the processor or the tokenizer does not fit the model.
    """
    with Replacement(Path(folder)) as new:
        write(
            new,
            model.config,
            model.state_dict(),
            tokenizer,
            processor,
            dtype=dtype,
            max_shard_size=max_shard_size,
            spelling=spelling,
        )


def write(
    new: Replacement,
    config: PaliGemmaConfig,
    state: Mapping[str, Tensor] | Mapping[str, Weight],
    tokenizer: Tokenizer,
    processor: ImageProcessor,
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = SHARD_SIZE,
    spelling: Spelling = HUB,
) -> None:
    """Write the files of a folder from tensors by our names, in memory or in other files.

    The other arguments, and the errors, are those of :func:`save`.
    """
    written = asked_dtype(dtype)
    resting = name_of(written or state[EMBEDDING].dtype)
    for name, values in _small_files(config, tokenizer, processor, resting).items():
        new.write(name, to_json(values))
    _write_tokenizer(new, tokenizer)
    keys = paligemma_keys(config)
    tensors: dict[str, Any] = {keys.to_theirs(n, spelling): value for n, value in state.items()}
    write_tensors(new, tensors, written, max_shard_size)
    new.remove_afterwards(NESTED)


def _small_files(
    config: PaliGemmaConfig, tokenizer: Tokenizer, processor: ImageProcessor, dtype: str
) -> dict[str, dict[str, Any]]:
    """The JSON files beside weights and tokenizer."""
    if processor.size != config.vision.image_size:
        raise ConfigError(
            f"the processor makes pictures of {processor.size} pixels, the model takes "
            f"{config.vision.image_size}"
        )
    if tokenizer.vocab_size > config.language.vocab_size + 1:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's embedding only "
            f"{config.language.vocab_size} rows"
        )
    special = {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.pad,
    }
    image_token = tokenizer.image_token
    if image_token is None:
        image_token = tokenizer.vocab_size  # where saving the tokenizer adds it
    if config.image_token not in (None, image_token):
        raise ConfigError(
            f"<image> is {image_token} in the tokenizer and {config.image_token} in the model: "
            "is it another model's tokenizer?"
        )
    return {
        CONFIG: config_values(config, image_token=image_token, special=special, dtype=dtype),
        "generation_config.json": dict(special),
        PROCESSOR: processor.to_preprocessor_config(config.vision.num_tokens),
    }


def _write_tokenizer(new: Replacement, tokenizer: Tokenizer) -> None:
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save(Path(place))
        for path in sorted(Path(place).iterdir()):
            new.write(path.name, path.read_bytes())
