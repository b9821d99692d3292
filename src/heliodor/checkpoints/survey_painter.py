"""What a painter is: :mod:`~heliodor.checkpoints.survey` for both layouts of Lumina-Next.

Importing this module loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from heliodor.checkpoints.diffusers_config import CLASS, read_transformer_config
from heliodor.checkpoints.expected_painter import nextdit_shapes
from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.heads import Head, Heads, compared, counts, file_heads, folder_heads
from heliodor.checkpoints.keymap import KeyMap
from heliodor.checkpoints.lumina_config import find_consolidated, read_lumina_config
from heliodor.checkpoints.lumina_keys import DIFFUSERS_CAPTION, DIFFUSERS_SELF, OFFICIAL
from heliodor.checkpoints.lumina_relatives import refuse_relatives
from heliodor.checkpoints.oddities import Facts, odd_types
from heliodor.checkpoints.recognise import CONFIG, PIPELINE
from heliodor.checkpoints.variants import variants_in, weight_names
from heliodor.errors import CheckpointError, ConfigError
from heliodor.models.nextdit_config import (
    NEXTDIT_2B,
    NEXTDIT_2B_16_CHANNELS,
    NEXTDIT_2B_GQA,
    NEXTDIT_3B,
    NEXTDIT_7B,
    NEXTDIT_600M,
    NextDiTConfig,
)

STEM = "diffusion_pytorch_model"
FACTOR = 8
"""Pixels of a side that one latent stands for, in the autoencoders of Lumina-Next."""

_SIZES = {
    (known.width, known.depth): name
    for name, known in {
        "600M": NEXTDIT_600M,
        "2B": NEXTDIT_2B,
        "3B": NEXTDIT_3B,
        "7B": NEXTDIT_7B,
    }.items()
}
_RELEASED = (NEXTDIT_2B, NEXTDIT_2B_GQA, NEXTDIT_2B_16_CHANNELS)
_TOLD = ("family", "size", "precision", "parameters", "bytes", "complete")


def survey_painter(path: Path, survey: Callable[[Path], Facts]) -> Facts:
    """Describe a painter or one of its parts.

    Args:
        path: of a pipeline, of one of its folders, or of an official file or its folder.
        survey: describes the text encoder.

    Returns:
        As :func:`~heliodor.checkpoints.survey.survey`.

    Raises:
        ConfigError: it is another pipeline's or another network's.
        FileFormatError: a broken configuration.
    """
    if path.is_dir() and (path / PIPELINE).is_file():
        return _pipeline(path, survey)
    found = path if path.is_file() else find_consolidated(path)
    if found is not None:
        return _official(found)
    kind: Any = read_json(path / CONFIG).get("_class_name")
    if kind == "AutoencoderKL":
        return {"path": str(path), "format": "diffusers", **_autoencoder(path)}
    return {"path": str(path), "format": "diffusers", **_transformer(path)}


def _official(path: Path) -> Facts:
    heads = file_heads([path])
    shapes = {name: head.shape for name, head in heads.tensors.items()}
    refuse_relatives(shapes, path)
    config, faults = _read(lambda: read_lumina_config(shapes, path))
    facts = _network(config, heads, OFFICIAL, faults)
    facts["odd"].append("the transformer alone: give text_encoder= and vae= when loading")
    return {"path": str(path), "format": "lumina", **facts}


def _transformer(folder: Path, prefix: str = "") -> Facts:
    """The facts of a transformer's folder; ``prefix`` is put before its files' names."""
    kind: Any = read_json(folder / CONFIG).get("_class_name")
    if kind != CLASS:
        read_transformer_config(folder)  # says what it is
    config, faults = _read(lambda: read_transformer_config(folder))
    odd: list[str] = []
    for variant in variants_in(folder, STEM):
        plain = any((folder / name).is_file() for name in weight_names(STEM))
        said = "holds the variant" if plain else "holds only the variant"
        odd.append(f"{said} {variant}: load it with variant='{variant}'")
    heads = folder_heads(folder, stem=STEM)
    refuse_relatives({name: head.shape for name, head in heads.tensors.items()}, folder)
    facts = _network(config, replace(heads, files=_under(prefix, heads)), DIFFUSERS_SELF, faults)
    facts["odd"] = odd + facts["odd"]
    return facts


def _under(prefix: str, heads: Heads) -> list[str]:
    return [prefix + name for name in heads.files]


def _read(read: Callable[[], NextDiTConfig]) -> tuple[NextDiTConfig | None, list[str]]:
    """A configuration, or what is wrong with it."""
    try:
        return read(), []
    except CheckpointError as error:
        return None, [str(error)]


def _network(config: NextDiTConfig | None, heads: Heads, keys: KeyMap, faults: list[str]) -> Facts:
    """The facts of a transformer's tensors, held against its configuration."""
    wanted = {} if config is None else nextdit_shapes(config)
    found = {keys.to_ours(name) or name: head for name, head in heads.tensors.items()}
    missing, wrong = compared(wanted, found, keys.to_theirs) if heads.tensors else ([], [])
    if keys is DIFFUSERS_SELF and heads.tensors:
        missing += _copies(wanted, heads.tensors)
    unknown = [
        name
        for name in heads.tensors
        if keys.to_ours(name) not in wanted and keys.to_tied(name) not in wanted
    ]
    odd = odd_types(heads.tensors.values(), None)
    if unknown and wanted:
        odd.append(f"{len(unknown)} tensors that the model has not: {', '.join(unknown[:4])}")
    facts = counts(heads, [*heads.missing, *missing], faults + wrong)
    if wanted:  # diffusers' file holds the queries twice
        facts["parameters"] = sum(math.prod(shape) for shape in wanted.values())
    size = None if config is None else _SIZES.get((config.width, config.depth), "custom")
    return {
        "family": "Lumina-Next",
        "size": size,
        "released": None if config is None else config in _RELEASED,
        "resolution": None if config is None else config.sample_size * FACTOR,
        **facts,
        "odd": odd,
        "transformer": None if config is None else asdict(config),
    }


def _copies(wanted: Mapping[str, Any], tensors: Mapping[str, Head]) -> list[str]:
    """The second copies of the queries that are not there."""
    twice = [DIFFUSERS_CAPTION.to_theirs(name) for name in wanted]
    plain = {DIFFUSERS_SELF.to_theirs(name) for name in wanted}
    return [name for name in twice if name not in plain and name not in tensors]


def _pipeline(folder: Path, survey: Callable[[Path], Facts]) -> Facts:
    index = read_json(folder / PIPELINE)
    named: Any = index.get("transformer")
    if not isinstance(named, list) or CLASS not in named:
        raise ConfigError(
            f"{folder / PIPELINE} describes {index.get('_class_name')!r}, whose transformer is no "
            f"{CLASS}: other pipelines are not read"
        )
    facts = _transformer(folder / "transformer", "transformer/")
    parts: Facts = {"text_encoder": None, "vae": None}
    describe = {"text_encoder": survey, "vae": _autoencoder}
    for part, tell in describe.items():
        if not (folder / part / CONFIG).is_file():
            facts["odd"].append(f"no {part}: give {part}= when loading")
            continue
        told = tell(folder / part)
        parts[part] = {name: told[name] for name in _TOLD if told.get(name) is not None}
        facts["files"] += [f"{part}/{name}" for name in told["files"]]
        facts["missing"] += [f"{part}: {name}" for name in told["missing"]]
        facts["broken"] += [f"{part}: {said}" for said in told["broken"]]
        facts["complete"] = facts["complete"] and told["complete"]
    scheduler = folder / "scheduler" / "scheduler_config.json"
    shift = read_json(scheduler).get("shift", 1.0) if scheduler.is_file() else None
    return {"path": str(folder), "format": "diffusers", **facts, **parts, "shift": shift}


def _autoencoder(folder: Path) -> Facts:
    """Files and channels of an autoencoder, which is diffusers' and whose shapes it knows."""
    values = read_json(folder / CONFIG)
    heads = folder_heads(folder, stem=STEM)
    return {
        "family": values.get("_class_name"),
        "size": f"{values.get('latent_channels', 4)} channels",
        **counts(heads, heads.missing, []),
        "odd": odd_types(heads.tensors.values(), None),
    }
