"""Next-DiT as diffusers saves it: the folder of a ``LuminaNextDiT2DModel``, read and written.

    config.json
    diffusion_pytorch_model.safetensors, or shards and their index

diffusers holds the query projection of each layer, and its norm, twice. Where a model was
fine-tuned there the two may have become different; a Next-DiT has only one, so such a file is
refused unless one of the two is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from heliodor.checkpoints.diffusers_config import read_transformer_config, transformer_values
from heliodor.checkpoints.files import Replacement, to_json
from heliodor.checkpoints.keymap import Match
from heliodor.checkpoints.lumina import build_network, match_network
from heliodor.checkpoints.lumina_keys import DIFFUSERS_CAPTION, DIFFUSERS_SELF
from heliodor.checkpoints.lumina_relatives import refuse_relatives
from heliodor.checkpoints.section import CONFIG
from heliodor.checkpoints.shards import write_tensors
from heliodor.checkpoints.tensors import Tensors, open_tensors
from heliodor.checkpoints.weights import Weight, asked_dtype
from heliodor.errors import InputError, KeyMismatchError
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NextDiTConfig

STEM = "diffusion_pytorch_model"
"""What diffusers calls the files of weights."""
SHARD_SIZE = 10 * 10**9
"""Bytes of a shard, diffusers' default."""

Merge = Literal["self", "caption"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusersTransformer:
    """A transformer's folder on this machine.

    Attributes:
        folder: where it lies.
        source: what the user asked for.
        merge: whose queries count where the two copies differ, those of self-attention or those
            of caption attention; None to refuse such a file.
        variant: of the files' names, such as "fp16"; see
            :mod:`~heliodor.checkpoints.variants`.
    """

    folder: Path
    source: str
    merge: Merge | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        """Refuse a choice that does not exist."""
        if self.merge not in (None, "self", "caption"):
            raise InputError(f"merge is {self.merge!r}; expected 'self', 'caption' or None")

    def config(self) -> NextDiTConfig:
        """The shape from ``config.json``.

        Raises:
            ConfigError: there is none, it is of another class, or a field cannot be used.
            FileFormatError: it is not JSON.
        """
        return read_transformer_config(self.folder)

    def tensors(self) -> Tensors:
        """The tensors by the file's names, none of them read.

        Raises:
            FileFormatError: there are none, or a file is broken.
        """
        return open_tensors(self.folder, stem=STEM, variant=self.variant)

    def weights(self) -> dict[str, Weight]:
        """The tensors by our names, none of them read but duplicates, to compare them.

        Raises:
            ConfigError: as for :meth:`config`, or a related model that is another network.
            FileFormatError: the weights are broken or of a type that is not read.
            KeyMismatchError: names or shapes are not those that the configuration asks for, or
                the two copies of the queries differ and ``merge`` does not choose.
        """
        config, tensors = self.config(), self.tensors()
        refuse_relatives({name: tensors.entry(name).shape for name in tensors}, self.folder)
        keys = DIFFUSERS_CAPTION if self.merge == "caption" else DIFFUSERS_SELF
        match = match_network(tensors, keys, config, self.folder)
        _check_copies(tensors, match, self.merge, self.folder)
        return {ours: tensors.weight(theirs) for ours, theirs in match.source.items()}

    def load(
        self, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> NextDiT:
        """The network; see :meth:`~heliodor.checkpoints.lumina.LuminaCheckpoint.load`."""
        config, weights = self.config(), self.weights()
        return build_network(config, weights, place=self.folder, dtype=dtype, device=device)


def _check_copies(tensors: Tensors, match: Match, merge: Merge | None, place: Path) -> None:
    """The copies are all there, and equal unless one was chosen."""
    copied = {name for name in match.source if _copy_names(name)}
    lacking = sorted(copied - set(match.tied.values()))
    if lacking:
        lost = sorted(_copy_names(lacking[0]) - {match.source[lacking[0]]})
        raise KeyMismatchError(
            f"{place} lacks {lost[0]}, the copy of {match.source[lacking[0]]} that diffusers' "
            f"layout holds ({len(lacking)} such): is the file complete?"
        )
    if merge is not None:
        return
    unequal = [
        name for name, ours in match.tied.items() if not tensors.equal(name, match.source[ours])
    ]
    if unequal:
        ours = match.tied[unequal[0]]
        raise KeyMismatchError(
            f"{place}: {unequal[0]} differs from {match.source[ours]} ({len(unequal)} such). "
            "Next-DiT has one query projection for picture and caption, of which diffusers keeps "
            "two copies; these were trained apart. Choose one with merge='self' or "
            "merge='caption', which gives another model than the file's"
        )


def _copy_names(ours: str) -> set[str]:
    """The two names under which diffusers holds a tensor; none for those it holds once."""
    names = {DIFFUSERS_SELF.to_theirs(ours), DIFFUSERS_CAPTION.to_theirs(ours)}
    return names if len(names) == 2 else set()


def save_transformer(
    model: NextDiT,
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = SHARD_SIZE,
) -> None:
    """Write a folder that ``LuminaNextDiT2DModel.from_pretrained`` reads, whole or not at all.

    Args:
        model: the network.
        folder: made if it does not exist; files of the same names are replaced.
        dtype: of the tensors in the file; None keeps the model's.
        max_shard_size: bytes from which on the weights are divided among several files.

    Raises:
        CheckpointError: the disk is full, the folder cannot be written, or a value does not fit
            ``dtype``; what was there before is as it was.
    """
    with Replacement(Path(folder)) as new:
        write_transformer(
            new, model.config, model.state_dict(), dtype=dtype, max_shard_size=max_shard_size
        )


def write_transformer(
    new: Replacement,
    config: NextDiTConfig,
    state: Mapping[str, Tensor] | Mapping[str, Weight],
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = SHARD_SIZE,
) -> None:
    """:func:`save_transformer` from tensors by our names, in memory or in other files."""
    tensors: dict[str, Any] = {}
    for name, value in state.items():
        tensors[DIFFUSERS_SELF.to_theirs(name)] = value
        tensors[DIFFUSERS_CAPTION.to_theirs(name)] = value  # the same but for queries
    new.write(CONFIG, to_json(transformer_values(config)))
    written = asked_dtype(dtype)
    write_tensors(new, tensors, written, max_shard_size, stem=STEM)
