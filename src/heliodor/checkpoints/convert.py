"""From one checkpoint format to another, tensor by tensor.

    convert("google/paligemma-3b-pt-224", "pt_224.npz", drop={"tokenizer", "padding"})

What would be lost is refused and named, unless the caller drops it by name. Everything is written
under a temporary name beside the target and read back from there: each tensor must hold the
source's values in the type asked for, and each configuration must be the source's. Only then does
it get its name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from heliodor.checkpoints import locate, open_found
from heliodor.checkpoints import native as native_file
from heliodor.checkpoints import transformers as transformers_layout
from heliodor.checkpoints.adapters import find_adapter, merged
from heliodor.checkpoints.contents import (
    Contents,
    as_network,
    counter,
    differing_fields,
    open_contents,
    same_values,
    watched,
)
from heliodor.checkpoints.convert_painter import Wishes, convert_painter, refuse
from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.maskcodec import CODEC_NAMES, write_mask_codec
from heliodor.checkpoints.quantised import ALONE, check_float, quantised_contents
from heliodor.checkpoints.recognise import Kind, holds_painter, recognise
from heliodor.checkpoints.target import check_target, commit, staged, target_kind
from heliodor.checkpoints.weights import EMBEDDING, asked_dtype, kept_names
from heliodor.errors import CheckpointError, ConfigError, InputError
from heliodor.image import ImageProcessor, Resize
from heliodor.models.maskcodec import MaskCodec
from heliodor.quant.scheme import Recipe
from heliodor.quant.scheme import recipe as find_recipe
from heliodor.text import GemmaTokenizer, Tokenizer

DROPPABLE = ("tokenizer", "padding", "codec", "processor", "context")
"""What may be left behind, by the name that ``drop`` and ``--drop`` take."""

_UNSAID = ("language.context",)  # fields that change no value the network computes

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how many values of how many are through."""


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """What was written.

    Attributes:
        path: where.
        format: one of ``FORMATS``.
        tensors: number of the network's tensors, each compared with its source.
        dropped: what the source holds and the target does not, by the names in ``DROPPABLE``.
    """

    path: Path
    format: str
    tensors: int
    dropped: tuple[str, ...]


def convert(  # noqa: PLR0913 - each is one wish of the caller's
    source: str | Path,
    target: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the public name
    dtype: str | torch.dtype | None = None,
    tokenizer: str | Path | None = None,
    adapter: str | Path | None = None,
    quantize: str | Recipe | None = None,
    drop: Collection[str] = (),
    force: bool = False,
    revision: str | None = None,
    progress: Progress = _silent,
    **painter: Any,
) -> Converted:
    """Write a checkpoint in another format or type.

    Args:
        source: what :func:`~heliodor.checkpoints.open_checkpoint` takes.
        target: a path that does not exist: ``x.npz``, ``x.safetensors``, or a folder.
        format: one of ``FORMATS``; by default what the target's name says.
        dtype: of the network's tensors; None keeps each one's own.
        tokenizer: a vocabulary file, where the source carries none.
        adapter: the folder or hub id of a LoRA adapter to merge on the way.
        quantize: "int8", "int4" or a :class:`~heliodor.quant.Recipe`, for a native file.
        drop: what to leave behind, of ``DROPPABLE``; anything else that would be lost is refused.
        force: replace what stands at the target, if it is a checkpoint.
        revision: of a hub id.
        progress: called as the work goes on.
        **painter: of a painter in diffusers' layout ``merge`` and ``variant``.

    Raises:
        CheckpointError: something would be lost, a value does not fit the type, what was written
            reads back as something else, or the disk refused. The target is as it was.
        InputError: a target that exists, or one that is the source.
    """
    place = Path(target).expanduser().resolve()
    origin = locate(source, revision=revision)
    chosen = asked_dtype(dtype)
    if holds_painter(origin):
        refuse({"tokenizer": tokenizer, "adapter": adapter, "quantize": quantize})
        wishes = Wishes(format=format, dtype=chosen, drop=drop, force=force, **painter)
        return Converted(path=place, **convert_painter(origin, place, wishes, progress))
    refuse(painter, "it belongs to painters in diffusers' layout")
    _check_drop(drop)
    kind = target_kind(place, format)
    found = recognise(origin)
    check_target(place, found.path, force=force)
    contents = open_contents(open_found(found, str(source)), found.kind, found.family)
    contents = _completed(contents, tokenizer, adapter)
    contents = _quantised(contents, kind, None if quantize is None else find_recipe(quantize))
    kept, dropped = _without(contents, kind, frozenset(drop))
    total = sum(weight.count for weight in kept.weights.values())
    with staged(place) as stage:
        counted = watched(kept.weights, counter(partial(progress, "writing"), total))
        _WRITERS[kind, kept.family](replace(kept, weights=counted), stage, chosen)
        counted = watched(kept.weights, counter(partial(progress, "verifying"), total))
        _verify(replace(kept, weights=counted), stage, chosen, frozenset(drop))
        commit(stage, place)
    return Converted(path=place, format=kind.value, tensors=len(kept.weights), dropped=dropped)


def _check_drop(drop: Collection[str]) -> None:
    unknown = sorted(set(drop) - {*DROPPABLE})
    if unknown:
        raise InputError(f"{unknown[0]!r} cannot be dropped; {', '.join(DROPPABLE)} can")


def _completed(
    contents: Contents, tokenizer: str | Path | None, adapter: str | Path | None
) -> Contents:
    """The contents with what the caller adds to them."""
    if tokenizer is not None:
        contents = replace(contents, tokenizer=_open_tokenizer(tokenizer, contents))
    return contents if adapter is None else _with_adapter(contents, adapter)


def _with_adapter(contents: Contents, adapter: str | Path) -> Contents:
    if contents.recipe is not None:
        raise ConfigError(
            "an adapter is merged into numbers, not into codes: give the checkpoint "
            "that the source was made from, with --adapter and --quantize"
        )
    if contents.family != "paligemma":
        raise ConfigError(f"adapters are merged into PaliGemma alone, not into a {contents.family}")
    weights = merged(contents.weights, find_adapter(adapter), contents.config)
    return replace(contents, weights=weights)


def _quantised(contents: Contents, kind: Kind, wished: Recipe | None) -> Contents:
    if wished is not None and kind is not Kind.NATIVE:
        raise ConfigError(f"{ALONE}: name the target x.safetensors, it is {kind.value} now")
    if kind is not Kind.NATIVE:
        check_float(contents, kind.value)
    return contents if wished is None else quantised_contents(contents, wished)


def _open_tokenizer(path: str | Path, contents: Contents) -> Any:
    if contents.family == "siglip":
        from heliodor.text.fixed import FixedTokenizer  # noqa: PLC0415

        return FixedTokenizer.from_file(path, length=contents.config.text.length)
    kind = Tokenizer if contents.family == "paligemma" else GemmaTokenizer
    return kind.from_file(path)


def _without(
    contents: Contents, kind: Kind, drop: frozenset[str]
) -> tuple[Contents, tuple[str, ...]]:
    """The contents as the format can hold them, and what is left behind.

    Raises:
        CheckpointError: something would be lost that the caller did not drop.
        ConfigError: the format asks for what is not there, or has no such family.
    """
    if (kind, contents.family) not in _WRITERS:
        raise ConfigError(f"the format {kind.value} has no layout for a {contents.family} model")
    if contents.tokenizer is None and kind is Kind.TRANSFORMERS:
        raise ConfigError(
            f"a folder in transformers layout needs a tokenizer, which {contents.kind.value} does "
            "not carry: pass one (--tokenizer FILE)"
        )
    lost = _losses(contents, kind)
    kept = {name: why for name, why in lost.items() if name not in drop}
    if kept:
        said = "; ".join(f"{why} ({name})" for name, why in kept.items())
        raise CheckpointError(
            f"the target would lose {said}. To leave that behind, say --drop {','.join(kept)}"
        )
    if "padding" in lost:
        contents = _without_padding(contents)
    if "tokenizer" in lost:
        contents = replace(contents, tokenizer=None)
    if "codec" in lost:
        contents = replace(contents, codec=None)
    return contents, tuple(lost)


def _losses(contents: Contents, kind: Kind) -> dict[str, str]:
    """What an npz does not hold: arrays are all it has."""
    if kind is not Kind.BIG_VISION:
        return {}
    lost: dict[str, str] = {}
    if contents.tokenizer is not None and contents.kind is not Kind.BIG_VISION:
        lost["tokenizer"] = "the tokenizer, which is then given when the npz is loaded"
    if contents.codec is not None:
        lost["codec"] = "the mask codec, which an npz keeps in a file of its own"
    if contents.processor is not None:
        theirs = ImageProcessor(size=contents.processor.size, resize=Resize.BIG_VISION)
        if contents.processor != theirs:
            lost["processor"] = (
                f"how pictures are resized ({contents.processor.resize.value}, read back as "
                f"{theirs.resize.value})"
            )
    if contents.family == "paligemma":
        lost |= _losses_of_config(contents)
    return lost


def _losses_of_config(contents: Contents) -> dict[str, str]:
    """What shapes do not tell of a PaliGemma.

    Raises:
        ConfigError: they would tell of another model.
    """
    from heliodor.checkpoints import bigvision_config, bigvision_layout  # noqa: PLC0415

    path = Path("the target")
    bigvision_config.check_expressible(contents.config, path)
    stacking = bigvision_layout.Stacking()
    shapes = {a.name: a.shape for a in bigvision_layout.arrays(contents.config, stacking)}
    becomes = bigvision_config.infer_config(shapes, stacking, path).language.context
    lost: dict[str, str] = {}
    rows, named = contents.config.language.vocab_size, contents.config.num_predicted
    if rows > named:
        lost["padding"] = f"rows {named} to {rows - 1} of the embedding table, which are no tokens"
    was = contents.config.language.context
    if was != becomes:
        lost["context"] = f"that the model takes {was} positions, read back as {becomes}"
    return lost


def _without_padding(contents: Contents) -> Contents:
    """The embedding table cut behind its last token."""
    rows = contents.config.num_predicted
    table = contents.weights[EMBEDDING]
    cut = replace(table, shape=(rows, *table.shape[1:]), read=lambda: table.read()[:rows])
    language = replace(contents.config.language, vocab_size=rows)
    return replace(
        contents,
        config=replace(contents.config, language=language),
        weights={**contents.weights, EMBEDDING: cut},
    )


def _verify(
    contents: Contents, stage: Path, dtype: torch.dtype | None, drop: frozenset[str]
) -> None:
    """Read back what was written and hold it against the source."""
    found = recognise(stage)
    back = open_contents(open_found(found, str(stage)), found.kind, found.family)
    _verify_facts(contents, back, drop)
    _verify_codec(contents.codec, back.codec)
    _verify_extra(contents, back)
    codes = kept_names(contents.weights)
    for name, weight in contents.weights.items():
        written = weight.dtype if name in codes else dtype or weight.dtype
        if not same_values(weight, back.weights[name], written):
            raise CheckpointError(
                f"{weight.name} reads back from the target as other values than the source's in "
                f"{written}: a disk that fails, or a mistake of heliodor. Nothing was written"
            )


def _verify_facts(contents: Contents, back: Contents, drop: frozenset[str]) -> None:
    """Configuration and processor as they were, but for what was dropped."""
    if contents.recipe != back.recipe:
        raise CheckpointError(f"quantised as {contents.recipe}, read back as {back.recipe}")
    changed = differing_fields(contents.config, back.config)
    if (
        contents.family == "paligemma"
        and contents.config.num_predicted == back.config.num_predicted
    ):
        changed.pop("image_token", None)  # where there is none, every row is a token
    lost = {name: changed.pop(name) for name in _UNSAID if name in changed}
    if changed:
        name, (was, becomes) = next(iter(changed.items()))
        raise CheckpointError(
            f"the format {back.kind.value} cannot say that {name} is {was}; it would be read as "
            f"{becomes}, and the model would be another ({len(changed)} such)"
        )
    said = [f"{name} {was}, read as {becomes}" for name, (was, becomes) in lost.items()]
    said = [] if "context" in drop else said
    if contents.processor != back.processor and "processor" not in drop:
        said.append(f"{contents.processor}, read as {back.processor}")
    if said:
        raise CheckpointError(f"the target would lose {'; '.join(said)}")


def _verify_codec(codec: MaskCodec | None, back: MaskCodec | None) -> None:
    if codec is None and back is None:
        return
    if codec is not None and back is not None:
        ours, theirs = codec.state_dict(), back.state_dict()
        if ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours):
            return
    raise CheckpointError("the mask codec reads back otherwise than it was; nothing was written")


def _verify_extra(contents: Contents, back: Contents) -> None:
    """Where a Gemma's answers end, and its chat template."""
    was, becomes = contents.extra or {}, back.extra or {}
    eos = () if contents.tokenizer is None else (contents.tokenizer.eos,)
    ends, read = ({*eos, *extra.get("ends", ())} for extra in (was, becomes))
    if ends != read:
        raise CheckpointError(f"answers end at the ids {sorted(ends)}, read back as {sorted(read)}")
    if was.get("chat_template") != becomes.get("chat_template"):
        raise CheckpointError("the chat template reads back otherwise than it was")


def _write_transformers(contents: Contents, stage: Path, dtype: torch.dtype | None) -> None:
    assert contents.processor is not None
    with Replacement(stage) as new:
        transformers_layout.write(
            new,
            contents.config,
            contents.weights,
            contents.tokenizer,
            contents.processor,
            dtype=dtype,
        )
    if contents.codec is not None:
        write_mask_codec(contents.codec, stage / CODEC_NAMES[0], dtype="float32")


def _write_native(contents: Contents, stage: Path, dtype: torch.dtype | None) -> None:
    native_file.save(contents, stage, dtype=dtype)


def _write_big_vision(contents: Contents, stage: Path, dtype: torch.dtype | None) -> None:
    from heliodor.checkpoints import bigvision  # noqa: PLC0415

    bigvision.write(contents.config, contents.weights, stage, dtype=dtype)


def _write_language(contents: Contents, stage: Path, dtype: torch.dtype | None) -> None:
    from heliodor.checkpoints.language import save_language  # noqa: PLC0415

    save_language(
        as_network(contents), contents.tokenizer, stage, dtype=dtype, **(contents.extra or {})
    )


def _write_pair(contents: Contents, stage: Path, dtype: torch.dtype | None) -> None:
    from heliodor.checkpoints.siglip import save_pair  # noqa: PLC0415

    assert contents.processor is not None
    save_pair(as_network(contents), contents.tokenizer, contents.processor, stage, dtype=dtype)


def _write_pair_npz(contents: Contents, stage: Path, dtype: torch.dtype | None) -> None:
    from heliodor.checkpoints.siglip_npz import save_pair_npz  # noqa: PLC0415

    save_pair_npz(as_network(contents), stage, dtype=dtype)


_WRITERS: dict[tuple[Kind, str], Callable[[Contents, Path, torch.dtype | None], None]] = {
    (Kind.TRANSFORMERS, "paligemma"): _write_transformers,
    (Kind.NATIVE, "paligemma"): _write_native,
    (Kind.BIG_VISION, "paligemma"): _write_big_vision,
    (Kind.TRANSFORMERS, "siglip"): _write_pair,
    (Kind.BIG_VISION, "siglip"): _write_pair_npz,
    (Kind.NATIVE, "siglip"): _write_native,
    (Kind.TRANSFORMERS, "gemma"): _write_language,
    (Kind.NATIVE, "gemma"): _write_native,
}
