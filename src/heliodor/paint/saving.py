"""A painter as a folder that diffusers' LuminaPipeline loads, or as the official file.

A pipeline's folder has five folders in it. They are written beside the target and moved there when
all of it stands, so that a pipeline is there whole or not at all.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliodor.checkpoints.diffusers_transformer import (
    VERSION,
    DiffusersTransformer,
    write_transformer,
)
from heliodor.checkpoints.files import Replacement, to_json
from heliodor.checkpoints.language import save_language
from heliodor.checkpoints.lumina import LuminaCheckpoint, write_lumina
from heliodor.errors import CheckpointError, ConfigError
from heliodor.paint.gemma_source import GemmaSource
from heliodor.paint.vae_source import CONFIG, WEIGHTS, VaeSource

__all__ = ["PainterFiles", "save_painter"]

_INDEX: dict[str, Any] = {
    "_class_name": "LuminaPipeline",
    "_diffusers_version": VERSION,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "GemmaModel"],
    "tokenizer": ["transformers", "GemmaTokenizerFast"],
    "transformer": ["diffusers", "LuminaNextDiT2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PainterFiles:
    """Where the parts of a painter lie.

    Attributes:
        transformer: in either layout.
        gemma: the text encoder.
        vae: the autoencoder; None where there is none.
        shift: of diffusers' scheduler.
    """

    transformer: DiffusersTransformer | LuminaCheckpoint
    gemma: GemmaSource
    vae: VaeSource | None
    shift: float


def save_painter(files: PainterFiles, path: Path, kind: str) -> None:
    """Write a painter from the files it was opened from, tensor by tensor.

    Weights are written as they lie in those files: neither ``dtype`` nor ``quantize`` of loading
    changes them.

    Args:
        files: what to write.
        path: a folder; for "diffusers" one that does not exist yet.
        kind: "diffusers" or "lumina".

    Raises:
        CheckpointError: the disk refused, or something lies there.
        ConfigError: another kind, or no autoencoder for a folder of diffusers.
    """
    if kind == "lumina":
        with Replacement(path) as new:
            write_lumina(new, files.transformer.config(), files.transformer.weights())
        return
    if kind != "diffusers":
        raise ConfigError(f"format {kind!r} is not written; there are 'diffusers' and 'lumina'")
    if files.vae is None:
        raise ConfigError("a folder of diffusers holds an autoencoder: load the painter with vae=")
    if files.gemma.config().is_gemma2:
        raise ConfigError("LuminaPipeline takes a Gemma 1 as its text encoder, not a Gemma 2")
    if path.exists():
        raise CheckpointError(f"{path} exists: give a folder that does not")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        _write(files, files.vae, partial)
        partial.rename(path)
    except OSError as error:
        raise CheckpointError(f"saving to {path} failed: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(files: PainterFiles, vae: VaeSource, folder: Path) -> None:
    with Replacement(folder) as new:
        new.write("model_index.json", to_json(_INDEX))
    with Replacement(folder / "transformer") as new:
        write_transformer(new, files.transformer.config(), files.transformer.weights())
    tokenizer = files.gemma.tokenizer()
    save_language(files.gemma.load(whole=True), tokenizer, folder / "text_encoder")
    tokenizer.save_as_gemma(folder / "tokenizer")
    scheduler = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": VERSION,
        "num_train_timesteps": 1000,
        "shift": files.shift,
    }
    with Replacement(folder / "scheduler") as new:
        new.write("scheduler_config.json", to_json(scheduler))
    with Replacement(folder / "vae") as new:
        new.write(CONFIG, (vae.folder / CONFIG).read_bytes())
        with (vae.folder / WEIGHTS).open("rb") as source, new.open(WEIGHTS) as target:
            shutil.copyfileobj(source, target)
