"""Tensors that are read when it is their turn, and a network filled from them.

Whatever the format, a checkpoint opens to a mapping of names to :class:`Weight`; loading and
converting then go through it tensor by tensor, some megabytes at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar, cast

import torch
from torch import Tensor, nn

from heliodor.checkpoints.blueprint import blueprint
from heliodor.checkpoints.positions import resize_positions
from heliodor.errors import CheckpointError, ConfigError, FileFormatError
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.quant.apply import apply_empty
from heliodor.quant.scheme import Recipe

FLOATS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The types in which a model may rest."""

POSITION = "vision.position"
EMBEDDING = "language.embedding.weight"
READABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

_CHUNK = 4 * 2**20  # bytes read at a time

Network = TypeVar("Network", bound=nn.Module)


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """``"bfloat16"`` -> ``torch.bfloat16``.

    Raises:
        ConfigError: a type in which no model rests.
    """
    found = FLOATS.get(dtype) if isinstance(dtype, str) else dtype
    if found not in FLOATS.values():
        raise ConfigError(f"dtype is {dtype!r}; expected one of {', '.join(FLOATS)}")
    return cast("torch.dtype", found)


def asked_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """As :func:`parse_dtype`; None, for a type that is to stay as it is, stays None."""
    return None if dtype is None else parse_dtype(dtype)


def name_of(dtype: torch.dtype) -> str:
    """``torch.bfloat16`` -> ``"bfloat16"``, as configurations write it."""
    return str(dtype).removeprefix("torch.")


def check_readable(name: str, dtype: torch.dtype, file: Path) -> None:
    """Refuse a tensor of a type that is no weight's.

    Args:
        name: of the tensor in the file.
        dtype: in which it is stored.
        file: that holds it, for the message.

    Raises:
        FileFormatError: codes of a quantised checkpoint, or another type that is not read.
    """
    if dtype not in READABLE:
        raise FileFormatError(
            f"{file}: {name} is stored as {dtype}, which cannot be loaded as a weight: give the "
            "unquantised checkpoint"
        )


def _keep() -> None:
    """Release nothing: the tensor is in memory anyway."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """A tensor somewhere: type and shape are known, values come when asked for.

    Attributes:
        name: what the file calls it, for messages.
        dtype: in which it is stored.
        shape: of the whole tensor.
        read: the tensor; for files it looks into the mapped file, and may be a strided view.
        release: gives the memory back that reading took, where the system allows.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    release: Callable[[], None] = _keep

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Self:
        """A tensor in memory."""
        return cls(name=name, dtype=tensor.dtype, shape=tuple(tensor.shape), read=lambda: tensor)

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def pieces(self, multiple: int = 1) -> Iterator[Tensor]:
        """The tensor cut along its first axis, some megabytes at a time; a scalar as one value.

        Args:
            multiple: of how many rows each piece is, but for the last.
        """
        rows = self.read().detach()
        rows = rows.reshape(1) if rows.ndim == 0 else rows
        step = self.step(_CHUNK, multiple)
        for start in range(0, rows.shape[0], step):
            yield rows[start : start + step]
            self.release()

    def step(self, size: int, multiple: int) -> int:
        """Rows of about ``size`` bytes: a multiple, and one at least."""
        row = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        return max(1, size // (row * multiple)) * multiple

    def copy_to(self, target: Tensor) -> None:
        """Copy into a tensor of the same shape, converting to its type, on whatever device.

        Peak memory is the target's and one piece's.
        """
        rows = target.view(1) if target.ndim == 0 else target
        start = 0
        for piece in self.pieces():
            rows[start : start + piece.shape[0]].copy_(piece)
            start += piece.shape[0]


def kept_names(names: Collection[str]) -> frozenset[str]:
    """Of a network's tensors those that are codes, scales, or go with them: they keep their type.

    Args:
        names: of all its tensors.
    """
    layers = {name.removesuffix(".packed") for name in names if name.endswith(".packed")}
    return frozenset(name for name in names if name.rpartition(".")[0] in layers)


def loses_range(stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether a finite value of one floating type can be infinite in another."""
    if not (stored.is_floating_point and wanted.is_floating_point):
        return False
    return torch.finfo(wanted).max < torch.finfo(stored).max


def at_size(config: PaliGemmaConfig, image_size: int | None) -> PaliGemmaConfig:
    """The configuration for pictures of so many pixels a side; as it is for None.

    Raises:
        ConfigError: a size below one patch.
    """
    if image_size is None:
        return config
    patch = config.vision.patch_size
    if image_size < patch:
        raise ConfigError(f"image_size is {image_size}; expected at least {patch}, one patch")
    return replace(config, vision=replace(config.vision, image_size=image_size))


def assemble(
    config: PaliGemmaConfig,
    weights: Mapping[str, Weight],
    *,
    place: Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    recipe: Recipe | None = None,
) -> PaliGemma:
    """A network from weights by our names, tensor by tensor.

    Args:
        config: of the network; its resolution may be another than the weights', whose positions
            are then resized.
        weights: one for each tensor of the network, otherwise in its shape.
        place: where they come from, for messages.
        dtype: in which they shall rest; None keeps the type of the embedding table.
        device: where they shall rest. On a CPU, contiguous weights that need no conversion stay
            mapped from their file.
        recipe: how the weights are quantised, if they are; codes and scales keep their types.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: a value that ``dtype`` cannot hold.
        ConfigError: an unknown type.
    """
    model = blueprint(config)
    if recipe is not None:
        apply_empty(model, recipe)
    state = rest(model, weights, lead=EMBEDDING, place=place, dtype=dtype, device=device)
    state[POSITION] = resize_positions(state[POSITION], config.vision.num_tokens)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def fill(
    model: Network,
    weights: Mapping[str, Weight],
    *,
    lead: str,
    place: Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    recipe: Recipe | None = None,
) -> Network:
    """A network without memory, filled tensor by tensor.

    Args:
        model: with the layers of numbers that it has before it is quantised.
        weights: one for each of its tensors, in its shape.
        lead: as for :func:`rest`.
        place: where they come from, for messages.
        dtype: in which they shall rest; None for that of ``lead``.
        device: as for :func:`assemble`.
        recipe: how the weights are quantised, if they are; codes and scales keep their types.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: a value that ``dtype`` cannot hold.
        ConfigError: an unknown type.
    """
    if recipe is not None:
        apply_empty(model, recipe)
    state = rest(model, weights, lead=lead, place=place, dtype=dtype, device=device)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def rest(
    model: nn.Module,
    weights: Mapping[str, Weight],
    *,
    lead: str,
    place: Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """The tensors of a network without memory, each where and as it shall rest.

    Args:
        model: names what is wanted.
        weights: one for each of its tensors.
        lead: the weight whose type all of them get where ``dtype`` is None; if it is quantised,
            the first one that is not.
        place: where they come from, for messages.
        dtype: in which they shall rest; None for that of ``lead``, float32 for float64.
        device: as for :func:`assemble`.

    Raises:
        CheckpointError: a value that ``dtype`` cannot hold.
        ConfigError: an unknown type.
    """
    names = list(model.state_dict())
    kept = kept_names(names)
    leading = [name for name in (lead, *names) if name in weights and name not in kept]
    stored = weights[leading[0]].dtype if leading else torch.float32
    chosen = parse_dtype(dtype or (torch.float32 if stored == torch.float64 else stored))
    in_place = torch.device(device).type == "cpu"
    state: dict[str, Tensor] = {}
    for name in names:
        weight = weights[name]
        wanted = weight.dtype if name in kept else chosen
        if in_place and weight.dtype == wanted and (found := weight.read()).is_contiguous():
            state[name] = found
            continue
        target = torch.empty(weight.shape, dtype=wanted, device=device)
        weight.copy_to(target)
        if loses_range(weight.dtype, wanted):
            _check_fits(target, weight.name, place)
        state[name] = target
    for name in kept:
        if state[name].is_floating_point() and not bool(state[name].isfinite().all()):
            raise FileFormatError(f"{place}: {name} holds a scale or bias that is NaN or infinite")
    return state


def _check_fits(target: Tensor, name: str, place: Path) -> None:
    """A value too large for the type has become infinite, and so has an extreme."""
    if not bool(torch.isfinite(torch.stack(target.aminmax())).all()):
        raise CheckpointError(
            f"{place}: {name} holds values that {target.dtype} cannot; load as bfloat16 or float32"
        )
