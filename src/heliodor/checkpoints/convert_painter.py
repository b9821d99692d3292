"""A painter from one layout to the other, or to another type: :mod:`convert`'s promises for it.

diffusers    a pipeline's folder; what the source lacks is null in it
lumina       the official file and a ``config.json`` of ours: the transformer alone
"""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import torch

from heliodor.checkpoints.contents import counter, differing_fields, same_values, watched
from heliodor.checkpoints.diffusers_pipeline import (
    DiffusersPipeline,
    PainterParts,
    Scheduler,
    save_pipeline,
)
from heliodor.checkpoints.diffusers_transformer import Merge
from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.lumina import LuminaCheckpoint, write_lumina
from heliodor.checkpoints.lumina_config import AVERAGE
from heliodor.checkpoints.lumina_places import PainterCheckpoint, find_painter
from heliodor.checkpoints.target import check_target, commit, staged
from heliodor.checkpoints.weights import Weight
from heliodor.errors import CheckpointError, InputError

FORMATS = ("diffusers", "lumina")
DROPPABLE = ("text_encoder", "vae", "scheduler")
"""What may be left behind, by the name that ``drop`` and ``--drop`` take."""

_UNFIT = "a painter is converted without it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """How a painter is written.

    Attributes:
        format: one of ``FORMATS``; None for "diffusers".
        dtype: of transformer and text encoder; None keeps each tensor's own.
        drop: what to leave behind, of ``DROPPABLE``.
        force: replace a painter that stands at the target.
        merge: whose queries count where diffusers' two copies differ.
        variant: of diffusers' file names.
    """

    format: str | None = None
    dtype: torch.dtype | None = None
    drop: Collection[str] = ()
    force: bool = False
    merge: Merge | None = None
    variant: str | None = None


class Written(TypedDict):
    """What was written: format, tensors compared, and what was left behind."""

    format: str
    tensors: int
    dropped: tuple[str, ...]


def convert_painter(
    source: Path, target: Path, wishes: Wishes, progress: Callable[[str, int, int], None]
) -> Written:
    """Write a painter, read it back, and only then give it its name.

    Args:
        source: what :func:`~heliodor.checkpoints.lumina_places.find_painter` takes.
        target: a folder, resolved.
        wishes: how.
        progress: told what is being done, and how many values of how many are through.

    Returns:
        What :class:`~heliodor.checkpoints.convert.Converted` holds beside the path.

    Raises:
        CheckpointError: something would be lost, or reads back otherwise. The target is as it was.
        InputError: a wish that cannot be met, or a target that may not be replaced.
    """
    format_ = wishes.format or FORMATS[0]
    _check_wishes(format_, target, wishes.drop)
    check_target(target, source, force=wishes.force)
    found = find_painter(source, str(source), merge=wishes.merge, variant=wishes.variant)
    parts, dropped = _without(_parts(found), format_, frozenset(wishes.drop))
    total = sum(weight.count for state in _states(parts) for weight in state.values())
    with staged(target) as stage:
        _write(_watched(parts, partial(progress, "writing"), total), stage, format_, wishes, found)
        _verify(_watched(parts, partial(progress, "verifying"), total), stage, wishes.dtype)
        commit(stage, target)
    count = sum(len(state) for state in _states(parts))
    return Written(format=format_, tensors=count, dropped=dropped)


def refuse(wishes: Mapping[str, object], why: str = _UNFIT) -> None:
    """Wishes that do not belong to what is converted.

    Raises:
        InputError: one that was made.
    """
    for name, wish in wishes.items():
        if wish is not None:
            raise InputError(f"{name} is {str(wish)[:80]!r}: {why}")


def _check_wishes(format_: str, target: Path, drop: Collection[str]) -> None:
    if format_ not in FORMATS:
        raise InputError(f"a painter is not written as {format_!r}; there are {', '.join(FORMATS)}")
    if target.suffix in (".npz", ".safetensors"):
        raise InputError(f"{target.name} names a file; a painter is written into a folder")
    unknown = sorted(set(drop) - {*DROPPABLE})
    if unknown:
        raise InputError(
            f"{unknown[0]!r} of a painter cannot be dropped; {', '.join(DROPPABLE)} can"
        )


def _parts(found: PainterCheckpoint) -> PainterParts:
    """What there is to be written; nothing of it is read."""
    if not isinstance(found, DiffusersPipeline):
        return PainterParts(config=found.config(), state=found.weights())
    text, transformer = found.text_encoder, found.transformer
    return PainterParts(
        config=transformer.config(),
        state=transformer.weights(),
        text_config=None if text is None else text.config(),
        text_state=None if text is None else text.weights(),
        tokenizer=None if found.vocabulary is None else found.tokenizer(),
        vae=found.vae,
        vae_variant=found.variant,
        scheduler=found.scheduler(),
    )


def _without(
    parts: PainterParts, format_: str, drop: frozenset[str]
) -> tuple[PainterParts, tuple[str, ...]]:
    """The parts that the format can hold, and what is left behind.

    Raises:
        CheckpointError: something would be lost that was not dropped.
    """
    if format_ != "lumina":
        return parts, ()
    lost: dict[str, str] = {}
    if parts.text_config is not None or parts.tokenizer is not None:
        lost["text_encoder"] = "text encoder and tokenizer"
    if parts.vae is not None:
        lost["vae"] = "the autoencoder"
    if parts.scheduler != Scheduler():
        lost["scheduler"] = f"diffusers' time grid ({parts.scheduler})"
    kept = {name: why for name, why in lost.items() if name not in drop}
    if kept:
        said = "; ".join(f"{why} ({name})" for name, why in kept.items())
        raise CheckpointError(
            f"the target would lose {said}. To leave that behind, say --drop {','.join(kept)}"
        )
    return PainterParts(config=parts.config, state=parts.state), tuple(lost)


def _states(parts: PainterParts) -> list[dict[str, Weight]]:
    given: list[Mapping[str, Any]] = [parts.state, parts.text_state or {}]
    return [dict(state) for state in given]


def _watched(parts: PainterParts, tell: Callable[[int, int], None], total: int) -> PainterParts:
    """The same parts, whose tensors tell when they are read."""
    tick = counter(tell, total)
    state, text = (watched(each, tick) for each in _states(parts))
    return replace(parts, state=state, text_state=text or None)


def _write(
    parts: PainterParts, stage: Path, format_: str, wishes: Wishes, found: PainterCheckpoint
) -> None:
    if format_ == "diffusers":
        save_pipeline(parts, stage, dtype=wishes.dtype)
        return
    averaged = isinstance(found, LuminaCheckpoint) and found.path.name == AVERAGE
    which = "ema" if averaged else "last"
    with Replacement(stage) as new:
        write_lumina(new, parts.config, parts.state, dtype=wishes.dtype, which=which)


def _verify(parts: PainterParts, stage: Path, dtype: torch.dtype | None) -> None:
    """Read back what was written and hold it against the source."""
    back = _parts(find_painter(stage, str(stage)))
    changed = differing_fields(parts.config, back.config)
    if parts.text_config is not None and back.text_config is not None:
        changed |= differing_fields(parts.text_config, back.text_config, "text_encoder.")
    if parts.scheduler != back.scheduler:
        changed["scheduler"] = (parts.scheduler, back.scheduler)
    if changed:
        name, (was, becomes) = next(iter(changed.items()))
        raise CheckpointError(
            f"the format cannot say that {name} is {was}; it would be read as {becomes} "
            f"({len(changed)} such)"
        )
    for given, written in zip(_states(parts), _states(back), strict=True):
        for name, weight in given.items():
            if not same_values(weight, written[name], dtype or weight.dtype):
                raise CheckpointError(
                    f"{weight.name} reads back from the target as other values than the source's: "
                    "a disk that fails, or a mistake of heliodor. Nothing was written"
                )
    _verify_vae(parts, back)


def _verify_vae(parts: PainterParts, back: PainterParts) -> None:
    if parts.vae is None or back.vae is None:
        return
    for path in back.vae.iterdir():
        original = parts.vae / path.name
        if parts.vae_variant is not None and path.suffix == ".safetensors":
            named = f"{path.stem}.{parts.vae_variant}{path.suffix}"
            original = parts.vae / named if (parts.vae / named).is_file() else original
        if not filecmp.cmp(original, path, shallow=False):
            raise CheckpointError(f"{original} reads back otherwise than it was; nothing written")
