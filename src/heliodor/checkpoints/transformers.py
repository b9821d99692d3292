"""Folders in transformers layout: weights, configuration, processor, tokenizer of a PaliGemma.

What :func:`save` writes, ``PaliGemmaForConditionalGeneration`` and ``AutoProcessor`` of
transformers load; what they write, :func:`load` and :class:`TransformersCheckpoint` load.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from heliodor.checkpoints.blueprint import blueprint
from heliodor.checkpoints.config import CONFIG, config_values, read_config
from heliodor.checkpoints.files import Replacement, to_json
from heliodor.checkpoints.keymap import HUB, Match, Spelling, paligemma_keys
from heliodor.checkpoints.positions import resize_positions
from heliodor.checkpoints.processor import NESTED, PROCESSOR, read_processor
from heliodor.checkpoints.shards import SHARD_SIZE, write_tensors
from heliodor.checkpoints.tensors import Tensors, open_tensors
from heliodor.errors import CheckpointError, ConfigError, FileFormatError, KeyMismatchError
from heliodor.image import ImageProcessor
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.text import Tokenizer

FLOATS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The types in which a model may rest."""

_POSITION = "vision.position"
_EMBEDDING = "language.embedding.weight"
_READABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """``"bfloat16"`` -> ``torch.bfloat16``.

    Raises:
        ConfigError: a type in which no model rests.
    """
    found = FLOATS.get(dtype) if isinstance(dtype, str) else dtype
    if found not in FLOATS.values():
        raise ConfigError(f"dtype is {dtype!r}; expected one of {', '.join(FLOATS)}")
    return cast("torch.dtype", found)


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
    config = stored if image_size is None else _at_size(stored, image_size)
    if not final_cap:
        config = replace(config, language=replace(config.language, final_cap=None))
    tensors = open_tensors(folder)
    model = blueprint(config)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wanted[_POSITION] = (stored.vision.num_tokens, stored.vision.width)
    found = {name: tensors.entry(name).shape for name in tensors}
    match = paligemma_keys(config).match(wanted, found, folder)
    _check_values(tensors, match)
    chosen = _resting_dtype(tensors, match) if dtype is None else parse_dtype(dtype)
    state: dict[str, Tensor] = {}
    rests_in_file = torch.device(device).type == "cpu"
    for name, source in match.source.items():
        if rests_in_file and tensors.entry(source).dtype == chosen:
            state[name] = tensors.read(source)
            continue
        target = torch.empty(wanted[name], dtype=chosen, device=device)
        tensors.copy(source, target)
        if tensors.entry(source).dtype.itemsize > chosen.itemsize:
            _check_fits(target, source, folder)
        state[name] = target
    state[_POSITION] = resize_positions(state[_POSITION], config.vision.num_tokens)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def _at_size(config: PaliGemmaConfig, image_size: int) -> PaliGemmaConfig:
    patch = config.vision.patch_size
    if image_size < patch:
        raise ConfigError(f"image_size is {image_size}; expected at least {patch}, one patch")
    return replace(config, vision=replace(config.vision, image_size=image_size))


def _check_values(tensors: Tensors, match: Match) -> None:
    """Types that can be read, and duplicates that are duplicates."""
    for name in tensors:
        if tensors.entry(name).dtype not in _READABLE:
            raise FileFormatError(
                f"{tensors.file(name)}: {name} is stored as {tensors.entry(name).dtype}, which "
                "cannot be loaded as a weight: give the unquantised checkpoint"
            )
    for name, ours in match.tied.items():
        if not tensors.equal(name, match.source[ours]):
            raise KeyMismatchError(
                f"{tensors.file(name)}: {name} differs from {match.source[ours]}; PaliGemma's "
                "output head is its embedding table, an untied one is not supported"
            )


def _resting_dtype(tensors: Tensors, match: Match) -> torch.dtype:
    stored = tensors.entry(match.source[_EMBEDDING]).dtype
    return torch.float32 if stored == torch.float64 else stored


def _check_fits(target: Tensor, source: str, folder: Path) -> None:
    """A value too large for the type has become infinite, and so has an extreme."""
    if not bool(torch.isfinite(torch.stack(target.aminmax())).all()):
        raise CheckpointError(
            f"{folder}: {source} holds values that {target.dtype} cannot; load as bfloat16 or "
            "float32"
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
    state = model.state_dict()
    written = None if dtype is None else parse_dtype(dtype)
    resting = str(written or state[_EMBEDDING].dtype).removeprefix("torch.")
    files = _small_files(model.config, tokenizer, processor, resting)
    with Replacement(Path(folder)) as new:
        for name, values in files.items():
            new.write(name, to_json(values))
        _write_tokenizer(new, tokenizer)
        keys = paligemma_keys(model.config)
        tensors = {keys.to_theirs(name, spelling): value for name, value in state.items()}
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
