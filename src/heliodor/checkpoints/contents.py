"""A checkpoint opened: what it is and holds, nothing of it read yet; and its comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.maskcodec import find_mask_codec, read_mask_codec
from heliodor.checkpoints.recognise import Kind
from heliodor.checkpoints.weights import Weight
from heliodor.errors import TokenizerError
from heliodor.image import ImageProcessor
from heliodor.models.gemma import Gemma
from heliodor.models.maskcodec import MaskCodec
from heliodor.models.pair import SiglipPair
from heliodor.models.paligemma import PaliGemma
from heliodor.quant.scheme import Recipe

if TYPE_CHECKING:
    from heliodor.checkpoints import Checkpoint

NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "paligemma": PaliGemma,
    "siglip": SiglipPair,
    "gemma": Gemma,
}
"""What is built from a family's configuration."""

_ROWS = 16 * 2**20  # bytes compared at a time

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """A model on disk, or one about to be written.

    Attributes:
        kind: the format it was read from.
        family: "paligemma", "siglip" or "gemma".
        config: its shape.
        weights: by our names, one for each tensor of the network.
        tokenizer: None where the format carries none.
        processor: how pictures become pixels; None for a model without pictures.
        codec: the mask codec whose codes the model writes, if it lies there too.
        extra: what one family alone carries, such as Gemma's chat template.
        recipe: how the weights are quantised; None for numbers.
    """

    kind: Kind
    family: str
    config: Any
    weights: Mapping[str, Weight]
    tokenizer: Any
    processor: ImageProcessor | None
    codec: MaskCodec | None = None
    extra: Mapping[str, Any] | None = None
    recipe: Recipe | None = None


def open_contents(checkpoint: Checkpoint, kind: Kind, family: str) -> Contents:
    """What a checkpoint of any format holds.

    Raises:
        CheckpointError: it is broken, or its tensors are not those that its configuration asks for.
    """
    opened: Any = checkpoint
    folder: Path | None = getattr(opened, "folder", None)
    codec: MaskCodec | None = None
    if family == "paligemma":
        found = None if folder is None else find_mask_codec(folder)
        codec = read_mask_codec(found) if found is not None else None
        if kind is Kind.NATIVE:
            codec = opened.mask_codec()
    extra: dict[str, Any] = {}
    if family == "gemma":
        extra = {"ends": opened.ends(), "chat_template": opened.chat_template()}
    return Contents(
        kind=kind,
        family=family,
        config=opened.config(),
        weights=opened.weights(),
        tokenizer=_tokenizer(opened),
        processor=None if family == "gemma" else opened.processor(),
        codec=codec,
        extra=extra,
        recipe=opened.recipe() if kind is Kind.NATIVE else None,
    )


def _tokenizer(checkpoint: Any) -> Any:
    """The tokenizer, None if there is none; one that is there and broken is an error."""
    try:
        return checkpoint.tokenizer()
    except TokenizerError:
        folder: Path | None = getattr(checkpoint, "folder", None)
        if folder is not None and any((folder / name).is_file() for name in _TOKENIZERS):
            raise
        return None


def as_network(contents: Contents) -> Any:
    """A network whose tensors look into the files, for writers that ask for one.

    Weights keep their own types, strides and places; nothing is converted.
    """
    network = unfilled(lambda: NETWORKS[contents.family](contents.config))
    state = {name: contents.weights[name].read() for name in network.state_dict()}
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def watched(weights: Mapping[str, Weight], tick: Callable[[int], None]) -> dict[str, Weight]:
    """The same weights, which tell when they are read, and of how many values."""

    def reading(weight: Weight) -> Callable[[], Tensor]:
        def read() -> Tensor:
            tick(weight.count)
            return weight.read()

        return read

    return {name: replace(weight, read=reading(weight)) for name, weight in weights.items()}


def counter(tell: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """What tells of values read, one count after another, how many of all are through."""
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        tell(min(done, total), total)

    return tick


def same_values(one: Weight, other: Weight, dtype: torch.dtype) -> bool:
    """Whether ``other`` holds the values of ``one`` as ``dtype``, NaN being NaN.

    Some megabytes are looked at at a time, whatever the strides of either.
    """
    if one.shape != other.shape or other.dtype != dtype:
        return False
    pairs = zip(_rows(one, one), _rows(other, one), strict=True)
    return all(_equal(first.to(dtype), second) for first, second in pairs)


def _rows(weight: Weight, like: Weight) -> Iterator[Tensor]:
    """A tensor along its first axis, in steps that depend on ``like`` alone."""
    rows = weight.read().detach()
    rows = rows.reshape(1) if rows.ndim == 0 else rows
    step = max(1, _ROWS // max(1, 8 * like.count // max(1, rows.shape[0])))
    for start in range(0, rows.shape[0], step):
        yield rows[start : start + step]
        weight.release()


def _equal(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def differing_fields(one: object, other: object, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations of one kind differ, by dotted name."""
    found: dict[str, tuple[Any, Any]] = {}
    for field in fields(cast("Any", one)):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if is_dataclass(left) and type(left) is type(right):
            found |= differing_fields(left, right, f"{prefix}{field.name}.")
            continue
        if field.name == "query_scale":
            left, right = _scale(one), _scale(other)
        if left != right and not _close(left, right):
            found[prefix + field.name] = (left, right)
    return found


def _scale(config: Any) -> float:
    """A decoder's factor on attention scores, written out."""
    return config.head_dim**-0.5 if config.query_scale is None else config.query_scale


def _close(one: object, other: object) -> bool:
    """Whether two numbers are one, spelled in another way in another format."""
    if not isinstance(one, float) or not isinstance(other, float):
        return False
    return math.isclose(one, other, rel_tol=1e-9)
