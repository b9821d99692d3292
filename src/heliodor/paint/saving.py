"""A painter as a folder that diffusers' LuminaPipeline loads, or as the official file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from heliodor.checkpoints.diffusers_pipeline import PainterParts, Scheduler, save_pipeline
from heliodor.checkpoints.diffusers_transformer import DiffusersTransformer
from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.lumina import AVERAGE, LuminaCheckpoint, write_lumina
from heliodor.errors import ConfigError
from heliodor.paint.gemma_source import GemmaSource
from heliodor.paint.vae_source import VaeSource

__all__ = ["PainterFiles", "save_painter"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PainterFiles:
    """Where the parts of a painter lie.

    Attributes:
        transformer: in either layout.
        gemma: the text encoder.
        vae: the autoencoder; None where there is none.
        scheduler: diffusers' time grid.
    """

    transformer: DiffusersTransformer | LuminaCheckpoint
    gemma: GemmaSource
    vae: VaeSource | None
    scheduler: Scheduler


def save_painter(files: PainterFiles, path: Path, kind: str) -> None:
    """Write a painter from the files it was opened from, tensor by tensor.

    Weights are written as they lie in those files: neither ``dtype`` nor ``quantize`` of loading
    changes them.

    Args:
        files: what to write.
        path: a folder; a pipeline that lies there is replaced.
        kind: "diffusers" or "lumina".

    Raises:
        CheckpointError: the disk refused; what was there before is as it was.
        ConfigError: another kind, or parts that the layout cannot hold.
        InputError: something else than a pipeline lies there.
    """
    transformer = files.transformer
    if kind == "lumina":
        averaged = isinstance(transformer, LuminaCheckpoint) and transformer.path.name == AVERAGE
        which = "ema" if averaged else "last"
        with Replacement(path) as new:
            write_lumina(new, transformer.config(), transformer.weights(), which=which)
        return
    if kind != "diffusers":
        raise ConfigError(f"format {kind!r} is not written; there are 'diffusers' and 'lumina'")
    parts = PainterParts(
        config=transformer.config(),
        state=transformer.weights(),
        text_config=files.gemma.config(),
        text_state=files.gemma.weights(),
        tokenizer=files.gemma.tokenizer(),
        vae=None if files.vae is None else files.vae.folder,
        vae_variant=None if files.vae is None else files.vae.variant,
        scheduler=files.scheduler,
    )
    save_pipeline(parts, path)
