"""The official layout of Lumina-Next: one safetensors file of Next-DiT, and nothing beside it.

    consolidated.00-of-01.safetensors       the weights as training left them
    consolidated_ema.00-of-01.safetensors   their moving average
    model_args.pth                          a pickle of the training's arguments, which is not read

The shape of the network is found from the shapes of its tensors. What they cannot say is what the
released models have: patches of 2, norms' epsilon 1e-5, latents of 128 x 128. A ``config.json`` of
ours, which saving writes beside the weights, says otherwise where it is otherwise.

Layout: Lumina-T2X ``lumina_next_t2i/models/model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.files import Replacement, to_json
from heliodor.checkpoints.keymap import KeyMap, Match, Shape
from heliodor.checkpoints.lumina_config import (
    AVERAGE,
    LAST,
    MODEL_TYPE,
    Which,
    read_lumina_config,
)
from heliodor.checkpoints.lumina_keys import OFFICIAL
from heliodor.checkpoints.section import CONFIG
from heliodor.checkpoints.shards import Planned, write_file
from heliodor.checkpoints.tensors import Tensors, open_tensors
from heliodor.checkpoints.weights import Weight, asked_dtype, fill
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NextDiTConfig

LEAD = "patch.weight"
"""The tensor whose type the others take where none is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LuminaCheckpoint:
    """A file in the official layout on this machine.

    Attributes:
        path: the file.
        source: what the user asked for.
    """

    path: Path
    source: str

    def config(self) -> NextDiTConfig:
        """The shape, from the tensors' shapes and from a ``config.json`` of ours beside the file.

        Raises:
            ConfigError: a related model that is another network, or a config that cannot be used.
            FileFormatError: a broken file.
            KeyMismatchError: tensors that tell the shape are missing or contradict one another.
        """
        return read_lumina_config(_shapes(open_tensors(self.path)), self.path)

    def weights(self) -> dict[str, Weight]:
        """The tensors by our names, none of them read.

        Raises:
            CheckpointError: as for :meth:`config`; or names or shapes that do not fit.
        """
        tensors = open_tensors(self.path)
        config = read_lumina_config(_shapes(tensors), self.path)
        match = match_network(tensors, OFFICIAL, config, self.path)
        return {ours: tensors.weight(theirs) for ours, theirs in match.source.items()}

    def load(
        self, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> NextDiT:
        """The network with its weights, tensor by tensor.

        Args:
            dtype: in which the weights rest; None keeps the file's.
            device: where they rest. On a CPU, what needs no conversion stays mapped from its file.

        Raises:
            CheckpointError: as for :meth:`weights`; or a value that ``dtype`` cannot hold.
        """
        config, weights = self.config(), self.weights()
        return build_network(config, weights, place=self.path, dtype=dtype, device=device)


def match_network(tensors: Tensors, keys: KeyMap, config: NextDiTConfig, place: Path) -> Match:
    """Pair a file's tensors with a network's.

    Raises:
        FileFormatError: a tensor of a type that is not read.
        KeyMismatchError: names or shapes are not those that the configuration asks for.
    """
    state = unfilled(lambda: NextDiT(config)).state_dict()
    wanted = {name: tuple(value.shape) for name, value in state.items()}
    match = keys.match(wanted, _shapes(tensors), place)
    tensors.check_readable()
    return match


def build_network(
    config: NextDiTConfig,
    weights: Mapping[str, Weight],
    *,
    place: Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> NextDiT:
    """A Next-DiT from weights by our names; see :func:`~heliodor.checkpoints.weights.fill`.

    Where ``dtype`` is None, all take the type of the patch embedding.
    """
    model = unfilled(lambda: NextDiT(config))
    return fill(model, weights, lead=LEAD, place=place, dtype=dtype, device=device)


def save_lumina(
    model: NextDiT,
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    which: Which = "last",
) -> None:
    """Write the official layout and a ``config.json`` of ours, whole or not at all.

    Args:
        model: the network.
        folder: made if it does not exist; files of the same names are replaced.
        dtype: of the tensors in the file; None keeps the model's.
        which: whether these are a moving average or the last weights, for the file's name.

    Raises:
        CheckpointError: the disk is full, the folder cannot be written, or a value does not fit
            ``dtype``; what was there before is as it was.
    """
    with Replacement(Path(folder)) as new:
        write_lumina(new, model.config, model.state_dict(), dtype=dtype, which=which)


def write_lumina(
    new: Replacement,
    config: NextDiTConfig,
    state: Mapping[str, Tensor] | Mapping[str, Weight],
    *,
    dtype: str | torch.dtype | None = None,
    which: Which = "last",
) -> None:
    """:func:`save_lumina` from tensors by our names, in memory or in other files."""
    written = asked_dtype(dtype)
    planned = [Planned.of(OFFICIAL.to_theirs(n), value, written) for n, value in state.items()]
    new.write(CONFIG, to_json({"model_type": MODEL_TYPE, **asdict(config)}))
    with new.open(AVERAGE if which == "ema" else LAST) as file:
        write_file(file, planned, {})


def is_official(names: Mapping[str, Any] | Tensors) -> bool:
    """Whether tensors have the official names, of Next-DiT or of a relative."""
    return "x_embedder.weight" in names


def _shapes(tensors: Tensors) -> dict[str, Shape]:
    return {name: tensors.entry(name).shape for name in tensors}
