"""SigLIP pairs in transformers layout: weights, configuration, processor and tokenizer.

What :func:`save_pair` writes, ``SiglipModel`` and ``AutoProcessor`` of transformers load; what they
write, :class:`SiglipCheckpoint` loads.

One tensor of theirs is three of ours: the pooling head's attention has query, key and value one
above the other in ``in_proj_weight`` and ``in_proj_bias``. The key table calls the thirds
``in_proj_weight[0]`` and so on, and this file cuts and joins them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.config import CONFIG
from heliodor.checkpoints.files import Replacement, to_json
from heliodor.checkpoints.keymap import SIGLIP
from heliodor.checkpoints.processor import NESTED, PROCESSOR, processor_for
from heliodor.checkpoints.shards import SHARD_SIZE, write_tensors
from heliodor.checkpoints.siglip_config import pair_config_values, read_pair_config
from heliodor.checkpoints.tensors import Tensors, open_tensors
from heliodor.checkpoints.weights import Weight, asked_dtype, check_readable, fill, name_of
from heliodor.errors import ConfigError
from heliodor.image import ImageProcessor
from heliodor.models.pair import SiglipPair, SiglipPairConfig
from heliodor.quant.scheme import Recipe
from heliodor.text.fixed import Cleaning, FixedTokenizer

EMBEDDING = "text.embedding.weight"

_FUSED = ("in_proj_weight", "in_proj_bias")
_THIRD = re.compile(r"(.+)\[([012])\]")
_BUFFER = ".embeddings.position_ids"  # 0, 1, 2, ...: some files hold it, no release reads it


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipCheckpoint:
    """A folder in transformers layout on this machine.

    Attributes:
        folder: where it lies.
        source: what the user asked for, a folder or a hub id.
    """

    folder: Path
    source: str

    def config(self) -> SiglipPairConfig:
        """Shapes from ``config.json``."""
        return read_pair_config(self.folder)

    def weights(self) -> dict[str, Weight]:
        """The tensors by our names, checked against the configuration.

        Raises:
            KeyMismatchError: names or shapes are not those that the configuration asks for.
            FileFormatError: the weights are broken or of a type that is not read.
        """
        tensors = open_tensors(self.folder)
        found = {part.name: part for name in tensors for part in _parts(tensors, name)}
        shapes = {name: weight.shape for name, weight in found.items()}
        match = SIGLIP.match(pair_shapes(self.config()), shapes, self.folder)
        return {ours: found[theirs] for ours, theirs in match.source.items()}

    def load(
        self, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> SiglipPair:
        """The network with its weights; see :func:`assemble_pair`."""
        return assemble_pair(
            self.config(), self.weights(), place=self.folder, dtype=dtype, device=device
        )

    def tokenizer(self, cleaning: Cleaning | None = None) -> FixedTokenizer:
        """The tokenizer that lies beside the weights."""
        length = self.config().text.length
        return FixedTokenizer.from_folder(self.folder, length=length, cleaning=cleaning)

    def processor(self) -> ImageProcessor:
        """How pictures become pixels; see :mod:`~heliodor.checkpoints.processor`."""
        return processor_for(self.folder, self.config().vision.image_size)


def pair_shapes(config: SiglipPairConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a pair, by our names."""
    state = unfilled(lambda: SiglipPair(config)).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def assemble_pair(
    config: SiglipPairConfig,
    weights: Mapping[str, Weight],
    *,
    place: Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    recipe: Recipe | None = None,
) -> SiglipPair:
    """A pair from weights by our names; see :func:`~heliodor.checkpoints.weights.fill`.

    Where ``dtype`` is None, all take the type of the text embedding.
    """
    return fill(
        unfilled(lambda: SiglipPair(config)),
        weights,
        lead=EMBEDDING,
        place=place,
        dtype=dtype,
        device=device,
        recipe=recipe,
    )


def save_pair(
    model: SiglipPair,
    tokenizer: FixedTokenizer,
    processor: ImageProcessor,
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = SHARD_SIZE,
) -> None:
    """Write a folder in transformers layout, whole or not at all.

    Args:
        model: the network.
        tokenizer: written beside it.
        processor: how its pictures become pixels.
        folder: made if it does not exist; a checkpoint that lies there is replaced.
        dtype: of the tensors in the file; None keeps the model's.
        max_shard_size: bytes from which on the weights are divided among several files.

    Raises:
        CheckpointError: the disk is full, the folder cannot be written, or a value does not fit
            ``dtype``; what was there before is as it was.
        ConfigError: the processor or the tokenizer does not fit the model.
    """
    check_fit(model.config, tokenizer, processor)
    written = asked_dtype(dtype)
    state = model.state_dict()
    resting = written or state[EMBEDDING].dtype
    values = pair_config_values(
        model.config,
        eos=tokenizer.eos,
        pad=tokenizer.pad,
        dtype=name_of(resting),
    )
    with Replacement(Path(folder)) as new:
        new.write(CONFIG, to_json(values))
        new.write(PROCESSOR, to_json(_processor_values(processor)))
        for name, content in tokenizer.files().items():
            new.write(name, content)
        write_tensors(new, _theirs(state), written, max_shard_size)
        for stale in (NESTED, "spiece.model", "tokenizer.json"):
            new.remove_afterwards(stale)


def check_fit(
    config: SiglipPairConfig, tokenizer: FixedTokenizer, processor: ImageProcessor
) -> None:
    """Refuse parts of different models.

    Raises:
        ConfigError: another picture size, text length, or more tokens than the model has rows.
    """
    if processor.size != config.vision.image_size:
        raise ConfigError(
            f"the processor makes pictures of {processor.size} pixels, the model takes "
            f"{config.vision.image_size}"
        )
    if tokenizer.length != config.text.length:
        raise ConfigError(
            f"the tokenizer makes texts of {tokenizer.length} tokens, the model takes exactly "
            f"{config.text.length}"
        )
    if tokenizer.vocab_size > config.text.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's embedding only "
            f"{config.text.vocab_size} rows: is it another model's tokenizer?"
        )


def _processor_values(processor: ImageProcessor) -> dict[str, Any]:
    values = processor.to_preprocessor_config(0)
    del values["image_seq_length"]  # PaliGemma's
    return {**values, "processor_class": "SiglipProcessor", "do_convert_rgb": True}


def _parts(tensors: Tensors, name: str) -> list[Weight]:
    """A tensor of a file as the weights that it holds: itself, three, or nothing of interest."""
    weight = tensors.weight(name)
    if name.endswith(_BUFFER):
        return []
    check_readable(name, weight.dtype, tensors.file(name))
    if not name.endswith(_FUSED) or not weight.shape or weight.shape[0] % 3:
        return [weight]
    shape = (weight.shape[0] // 3, *weight.shape[1:])
    return [
        replace(weight, name=f"{name}[{index}]", shape=shape, read=partial(_third, weight, index))
        for index in range(3)
    ]


def _third(weight: Weight, index: int) -> Tensor:
    return weight.read().chunk(3)[index]


def _theirs(state: Mapping[str, Tensor]) -> dict[str, Weight]:
    """The tensors under their names; thirds are joined when they are written."""
    written: dict[str, Weight] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for ours, tensor in state.items():
        name = SIGLIP.to_theirs(ours)
        found = _THIRD.fullmatch(name)
        if found is None:
            written[name] = Weight.of(name, tensor)
        else:
            thirds.setdefault(found[1], {})[int(found[2])] = tensor
    for name, parts in thirds.items():
        first = parts[0]
        written[name] = Weight(
            name=name,
            dtype=first.dtype,
            shape=(3 * first.shape[0], *first.shape[1:]),
            read=partial(torch.cat, [parts[index] for index in range(3)]),
        )
    return written
