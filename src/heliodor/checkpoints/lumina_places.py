"""What of a painter lies at a path: a pipeline of diffusers, its transformer, an official file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from heliodor.checkpoints.config import CONFIG
from heliodor.checkpoints.diffusers_pipeline import INDEX, DiffusersPipeline
from heliodor.checkpoints.diffusers_transformer import STEM, DiffusersTransformer, Merge
from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.header import read_header
from heliodor.checkpoints.lumina import LuminaCheckpoint, is_official
from heliodor.checkpoints.lumina_config import Which, find_consolidated
from heliodor.checkpoints.lumina_relatives import refuse_relatives
from heliodor.checkpoints.variants import variants_in, weight_names
from heliodor.errors import ConfigError, InputError

PainterCheckpoint: TypeAlias = DiffusersPipeline | DiffusersTransformer | LuminaCheckpoint

READ = (
    "a folder of diffusers' LuminaPipeline (model_index.json) or of its transformer, or the "
    "official consolidated.00-of-01.safetensors or the folder that holds it"
)


def find_painter(
    path: Path,
    source: str,
    *,
    which: Which | None = None,
    merge: Merge | None = None,
    variant: str | None = None,
) -> PainterCheckpoint:
    """Look at a path; of weights, names and shapes alone are looked at.

    Args:
        path: a folder or file on this machine.
        source: what the user asked for.
        which: of an official folder, the moving average or the last weights; None for the average
            where there is one.
        merge: of diffusers' layout, whose queries count where two copies differ; None to refuse.
        variant: of diffusers' layout, which of the files' names, such as "fp16".

    Raises:
        ConfigError: it is no painter; the message says what can be read.
        FileFormatError: a broken file.
        InputError: the one asked for with ``which`` or ``variant`` is not there.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist; expected {READ}")
    if path.is_file():
        return _file(path, source, merge)
    if (path / INDEX).is_file():
        found = DiffusersPipeline(folder=path, source=source, merge=merge, variant=variant)
        found.check()
        _check_variant(path, variant)
        return found
    consolidated = find_consolidated(path, which)
    if consolidated is not None:
        return LuminaCheckpoint(path=consolidated, source=source)
    kind: Any = read_json(path / CONFIG).get("_class_name") if (path / CONFIG).is_file() else None
    if kind is None:
        names = sorted(entry.name for entry in path.iterdir())
        listed = ", ".join(names[:6]) if names else "nothing"
        raise ConfigError(f"{path} holds no painter but {listed}; what can be read is {READ}")
    _check_variant(path, variant)
    return DiffusersTransformer(folder=path, source=source, merge=merge, variant=variant)


def _check_variant(folder: Path, variant: str | None) -> None:
    """Some part of a painter must have the variant that is asked for."""
    if variant is None:
        return
    weight_names(STEM, variant)
    parts = [(folder, STEM), (folder / "transformer", STEM), (folder / "vae", STEM)]
    parts.append((folder / "text_encoder", "model"))
    found = sorted({each for place, stem in parts for each in variants_in(place, stem)})
    if variant not in found:
        have = f"it has {', '.join(found)}" if found else "it has none: leave variant out"
        raise InputError(f"{folder} holds no files of the variant {variant!r}; {have}")


def _file(path: Path, source: str, merge: Merge | None) -> PainterCheckpoint:
    if path.suffix != ".safetensors":
        why = (
            ", and a pickle, which is never read" if path.suffix in (".pth", ".pt", ".bin") else ""
        )
        raise ConfigError(f"{path} is no safetensors file{why}; what can be read is {READ}")
    names = read_header(path).slots
    refuse_relatives({name: slot.shape for name, slot in names.items()}, path)
    if is_official(names):
        return LuminaCheckpoint(path=path, source=source)
    if path.name.startswith(STEM) and (path.parent / CONFIG).is_file():
        return DiffusersTransformer(folder=path.parent, source=source, merge=merge)
    listed = ", ".join(list(names)[:6])
    raise ConfigError(
        f"{path} holds {len(names)} tensors ({listed}, ...), no Next-DiT in the official layout; "
        f"what can be read is {READ}"
    )
