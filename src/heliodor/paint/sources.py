"""Where a painter's three parts come from, and what is known of them before they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heliodor import zoo
from heliodor.errors import ConfigError, InputError, MissingExtraError
from heliodor.models.gemma import GemmaConfig
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NextDiTConfig
from heliodor.paint.memory import Part, Stages, machine_memory
from heliodor.paint.request import Shape
from heliodor.paint.text import PromptEncoder
from heliodor.paint.vae import Autoencoder, decoding_work

__all__ = [
    "FACTOR",
    "NO_VAE",
    "TINY",
    "Sources",
    "check_parts",
    "from_networks",
    "make_shape",
    "no_vae",
]

TINY = zoo.TINY.parent / "painter"
"""The shipped painter: a folder of diffusers without a text encoder, which is the shipped Gemma."""

NO_VAE = (
    "{} has no autoencoder: pass vae=<a folder of diffusers' AutoencoderKL, such as "
    "stabilityai/sdxl-vae's>, or ask for output='latents'"
)
FACTOR = 8  # of SDXL's autoencoder, for a painter that comes without one


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sources:
    """The parts of a painter.

    Attributes:
        name: what the user asked for.
        config: of the transformer.
        text_config: of the text encoder.
        shape: of pictures and latents.
        text: the text encoder.
        transformer: what paints.
        vae: the autoencoder.
        device: where the parts rest.
        dtype: in which the transformer rests.
        vae_work: height and width of a latent -> bytes that decoding needs beside the weights.
        writer: writes the painter to a path in a format.
        lacks: why there is no autoencoder; "" where there is one.
        shift: of diffusers' grid, as the source's scheduler has it.
    """

    name: str
    config: NextDiTConfig
    text_config: GemmaConfig
    shape: Shape
    text: Part[PromptEncoder]
    transformer: Part[NextDiT]
    vae: Part[Autoencoder]
    device: torch.device
    dtype: torch.dtype
    vae_work: Callable[[tuple[int, int]], int] = field(repr=False)
    writer: Callable[[Path, str], None] = field(repr=False)
    lacks: str = ""
    shift: float = 1.0

    @property
    def dtype_name(self) -> str:
        """The type as torch calls it, such as float32."""
        return str(self.dtype).removeprefix("torch.")

    def stages(self, memory: str) -> Stages:
        """How the parts are held.

        Raises:
            InputError: an unknown way.
        """
        if memory not in ("auto", "all", "staged"):
            raise InputError(f"memory is {memory!r}; expected 'auto', 'all' or 'staged'")
        limit = machine_memory() if self.device.type == "cpu" else None
        together = self.text.nbytes + self.transformer.nbytes + self.vae.nbytes
        large = limit is not None and together > limit // 2
        return Stages(staged=memory == "staged" or (memory == "auto" and large))

    def require_vae(self) -> None:
        """Refuse to begin what could not be decoded at the end.

        Raises:
            ConfigError: there is no autoencoder.
            MissingExtraError: diffusers is not installed.
        """
        if self.lacks:
            raise ConfigError(self.lacks)
        if not self.vae.lasting and find_spec("diffusers") is None:
            raise MissingExtraError("diffusers", "paint", "the autoencoder of a painter")


def from_networks(
    *,
    text: PromptEncoder,
    transformer: NextDiT,
    vae: Autoencoder | None = None,
    name: str = "",
    writer: Callable[[Path, str], None] | None = None,
) -> Sources:
    """Sources of networks that are in memory already, such as after training.

    Args:
        text: the text encoder.
        transformer: what paints.
        vae: the autoencoder; without one only latents can be painted.
        name: for the records of pictures.
        writer: writes the painter to a path in a format.

    Raises:
        ConfigError: they do not belong together.
    """
    config = transformer.config
    lacks = NO_VAE.format(name or "the painter") if vae is None else ""
    shape = make_shape(config, FACTOR if vae is None else vae.factor)
    check_parts(config, text.model.config, config.in_channels if vae is None else vae.channels)
    return Sources(
        name=name,
        config=config,
        text_config=text.model.config,
        shape=shape,
        text=_lasting("text encoder", text, text.model),
        transformer=_lasting("transformer", transformer, transformer),
        vae=Part(name="autoencoder", nbytes=0, load=lambda: no_vae(lacks))
        if vae is None
        else _lasting("autoencoder", vae, vae.module),
        device=transformer.pad_token.device,
        dtype=transformer.pad_token.dtype,
        vae_work=lambda latent: 0 if vae is None else decoding_work(vae.widths, latent),
        writer=_unwritable if writer is None else writer,
        lacks=lacks,
    )


def check_parts(config: NextDiTConfig, text: GemmaConfig, channels: int) -> None:
    """Refuse parts of different models.

    Raises:
        ConfigError: widths or channels that do not meet.
    """
    if text.width != config.caption_width:
        raise ConfigError(
            f"the text encoder gives {text.width} channels, the transformer reads "
            f"{config.caption_width}: they do not belong together"
        )
    if channels != config.in_channels:
        raise ConfigError(
            f"the autoencoder has {channels} channels, the transformer paints "
            f"{config.in_channels}: they do not belong together"
        )


def make_shape(config: NextDiTConfig, factor: int) -> Shape:
    """What pictures have in common; ``factor`` pixels of a side are one latent."""
    side = config.sample_size * factor
    return Shape(
        channels=config.in_channels,
        factor=factor,
        multiple=factor * config.patch_size,
        default=(side, side),
    )


def _lasting(name: str, part: Any, module: nn.Module) -> Part[Any]:
    """A part that is in memory anyway."""
    count = sum(each.numel() * each.element_size() for each in module.parameters())
    return Part(name=name, nbytes=count, load=lambda: part, lasting=True)


def no_vae(why: str) -> Autoencoder:
    """Stand in for an autoencoder that is not there."""
    raise ConfigError(why)


def _unwritable(path: Path, kind: str) -> None:
    raise ConfigError(
        f"this painter was put together in memory and is not written to {path}: {kind}"
    )
