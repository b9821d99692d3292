"""Finding the parts of a painter on disk or on the hub; nothing is loaded yet.

    diffusers folder    model_index.json, transformer, text_encoder, tokenizer, vae, scheduler
    official layout     consolidated*.safetensors: the transformer alone
    "tiny"              a diffusers folder in the package, whose text encoder is the shipped Gemma

Parts that a source lacks, or for which others are wanted, are named by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from heliodor import zoo
from heliodor.checkpoints import hub_id
from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.diffusers_pipeline import INDEX, DiffusersPipeline, Scheduler
from heliodor.checkpoints.diffusers_transformer import STEM, DiffusersTransformer, Merge
from heliodor.checkpoints.lumina import AVERAGE, LAST, LuminaCheckpoint
from heliodor.checkpoints.lumina_places import find_painter
from heliodor.checkpoints.tensors import open_tensors
from heliodor.checkpoints.variants import weight_patterns
from heliodor.checkpoints.weights import READABLE, asked_dtype
from heliodor.errors import ConfigError, InputError
from heliodor.models.gemma import Gemma
from heliodor.models.nextdit import NextDiT
from heliodor.paint.gemma_source import GemmaSource, open_gemma
from heliodor.paint.memory import Part
from heliodor.paint.saving import PainterFiles, save_painter
from heliodor.paint.sources import FACTOR, NO_VAE, TINY, Sources, check_parts, make_shape, no_vae
from heliodor.paint.text import PromptEncoder
from heliodor.paint.vae import Autoencoder, decoding_work
from heliodor.paint.vae_source import WEIGHTS, VaeSource, open_vae
from heliodor.quant.apply import apply_empty, quantise
from heliodor.quant.scheme import Recipe, recipe

__all__ = ["PartOptions", "open_painter", "vae_folder"]

_PARTS = ("text_encoder", "tokenizer", "vae", "vae_dtype", "merge", "variant")
_SMALL = (
    INDEX,
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer.model",
    "transformer/config.json",
    "text_encoder/config.json",
    "vae/config.json",
    "config.json",
)
_WEIGHTS = {"transformer": STEM, "text_encoder": "model", "vae": STEM}
_VAE_PATTERNS = ("config.json", WEIGHTS, "vae/config.json", f"vae/{WEIGHTS}")


class PartOptions(TypedDict, total=False):
    """Parts that stand in for the source's own, and how they are read."""

    text_encoder: str | Path | None
    tokenizer: str | Path | None
    vae: str | Path | None
    vae_dtype: str | torch.dtype | None
    merge: Merge | None
    variant: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """How the networks shall rest.

    Attributes:
        dtype: None for the files' own.
        recipe: how they are quantised; None for not at all.
        device: where.
    """

    dtype: torch.dtype | None
    recipe: Recipe | None
    device: torch.device

    def nbytes(self, build: Callable[[], nn.Module], stored: torch.dtype) -> int:
        """Bytes of a network once it is loaded."""
        network = unfilled(build)
        if self.recipe is not None:
            apply_empty(network, self.recipe)
        size = self.resting(stored).itemsize
        state = network.state_dict().values()
        return sum(
            each.numel() * (size if each.dtype == torch.float32 else each.itemsize)
            for each in state
        )

    def resting(self, stored: torch.dtype) -> torch.dtype:
        """The type in which weights rest that are stored in another."""
        if self.dtype is not None:
            return self.dtype
        return torch.float32 if stored == torch.float64 else stored

    def finish(self, network: nn.Module) -> None:
        """Quantise what was loaded, where that was asked for."""
        if self.recipe is not None:
            quantise(network, self.recipe)


def open_painter(
    source: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    quantize: str | Recipe | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    autoencoder: Callable[[], Any],
    **parts: Unpack[PartOptions],
) -> Sources:
    """Find the parts; arguments are those of :func:`~heliodor.paint.painter.load_painter`.

    Beside them ``autoencoder`` gives diffusers' class when the autoencoder is loaded.
    """
    unknown = sorted(parts.keys() - set(_PARTS))
    if unknown:
        raise InputError(f"{unknown[0]!r} is no part of a painter; parts are {', '.join(_PARTS)}")
    holding = Holding(
        dtype=asked_dtype(dtype),
        recipe=None if quantize is None else recipe(quantize),
        device=_device(device),
    )
    variant = parts.get("variant")
    place = _locate(source, revision, variant)
    found = find_painter(place, str(source), merge=parts.get("merge"), variant=variant)
    whole = found if isinstance(found, DiffusersPipeline) else None
    files = PainterFiles(
        transformer=found.transformer if isinstance(found, DiffusersPipeline) else found,
        gemma=_open_text(whole, str(source), parts),
        vae=_open_vae(whole, parts),
        scheduler=Scheduler() if whole is None else whole.scheduler(),
    )
    vae_part = _vae_part(
        files.vae,
        parts.get("vae_dtype") or "float32",
        holding.device,
        autoencoder,
        NO_VAE.format(source),
    )
    return _sources(str(source), files, holding, vae_part)


def _sources(
    name: str, files: PainterFiles, holding: Holding, vae_part: Part[Autoencoder]
) -> Sources:
    transformer, vae = files.transformer, files.vae
    config, text_config = transformer.config(), files.gemma.config()
    check_parts(config, text_config, config.in_channels if vae is None else vae.channels)
    stored = _stored(transformer)
    return Sources(
        name=name,
        config=config,
        text_config=text_config,
        shape=make_shape(config, FACTOR if vae is None else vae.factor),
        text=_text_part(files.gemma, holding),
        transformer=Part(
            name="transformer",
            nbytes=holding.nbytes(lambda: NextDiT(config), stored),
            load=lambda: _load_transformer(transformer, holding),
        ),
        vae=vae_part,
        device=holding.device,
        dtype=holding.resting(stored),
        vae_work=lambda latent: 0 if vae is None else decoding_work(vae.widths, latent),
        writer=lambda path, kind: save_painter(files, path, kind),
        lacks=NO_VAE.format(name) if vae is None else "",
        shift=files.scheduler.shift,
    )


def vae_folder(source: str | Path) -> Path:
    """The folder of an autoencoder: a path, "tiny" for the shipped painter's, or a hub id's.

    Raises:
        ConfigError: the shipped painter is not there, or no such folder.
        HubError: the download failed.
    """
    if source == "tiny":
        return _shipped()
    named = None if Path(source).expanduser().exists() else hub_id(source)
    if named is None:
        return Path(source).expanduser()
    from heliodor.checkpoints import hub  # noqa: PLC0415 - a third of a second, for downloads alone

    return hub.resolve(named[0], patterns=_VAE_PATTERNS)


def _shipped() -> Path:
    if not (TINY / INDEX).is_file():
        raise ConfigError(
            f"the tiny painter is not shipped yet: {TINY.name} is not in this release. Give a "
            "diffusers folder or the official consolidated.00-of-01.safetensors"
        )
    return TINY


def _locate(source: str | Path, revision: str | None, variant: str | None) -> Path:
    """A path on this machine, downloaded where a hub id is named."""
    if source == "tiny":
        if revision is not None:
            raise InputError(f"tiny ships in the package and has no revision {revision!r}")
        return _shipped()
    place, named = Path(source).expanduser(), hub_id(source)
    if place.exists() or named is None:
        if revision is not None:
            raise InputError(f"{source} is on disk and has no revision {revision!r}: leave it out")
        return place
    from heliodor.checkpoints import hub  # noqa: PLC0415 - a third of a second, for downloads alone

    def fetch(*more: str) -> Path:
        return hub.resolve(named[0], revision=revision, patterns=(*_SMALL, *more))

    folder = fetch(*_weights(_WEIGHTS, variant), AVERAGE)
    if not (folder / INDEX).is_file():
        return folder if (folder / AVERAGE).is_file() else fetch(LAST)
    plain = [part for part in _WEIGHTS if not any((folder / part).glob("*.safetensors"))]
    return folder if variant is None or not plain else fetch(*_weights(plain, None))


def _weights(parts: Iterable[str], variant: str | None) -> list[str]:
    """What to fetch of some parts' weights."""
    return [f"{part}/{name}" for part in parts for name in weight_patterns(_WEIGHTS[part], variant)]


def _open_text(whole: DiffusersPipeline | None, source: str, parts: PartOptions) -> GemmaSource:
    given, words = parts.get("text_encoder"), parts.get("tokenizer")
    if given == "tiny":
        given = zoo.TINY
    if given is not None:
        return open_gemma(given, tokenizer=words)
    own = None if whole is None else whole.text_encoder
    if whole is not None and own is not None:
        return GemmaSource(place=own, vocabulary=whole.vocabulary if words is None else Path(words))
    if whole is not None and whole.folder == TINY:
        return open_gemma(zoo.TINY, tokenizer=words)
    raise ConfigError(
        f"{source} has no text encoder: pass text_encoder=<a Gemma 2B in any form, such as "
        "google/gemma-2b>"
    )


def _open_vae(whole: DiffusersPipeline | None, parts: PartOptions) -> VaeSource | None:
    given = parts.get("vae")
    if given is not None:
        return open_vae(vae_folder(given), variant=parts.get("variant"))
    own = None if whole is None else whole.vae
    return None if own is None else open_vae(own, variant=parts.get("variant"))


def _text_part(gemma: GemmaSource, holding: Holding) -> Part[PromptEncoder]:
    stored = gemma.stored()
    config = gemma.config(whole=False)

    def load() -> PromptEncoder:
        encoder = gemma.encoder(dtype=holding.dtype, device=holding.device)
        holding.finish(encoder.model)
        return encoder

    count = holding.nbytes(lambda: Gemma(config), stored)
    return Part(name="text encoder", nbytes=count, load=load)


def _load_transformer(
    transformer: DiffusersTransformer | LuminaCheckpoint, holding: Holding
) -> NextDiT:
    network = transformer.load(dtype=holding.dtype, device=holding.device)
    holding.finish(network)
    return network


def _vae_part(
    vae: VaeSource | None,
    dtype: str | torch.dtype,
    device: torch.device,
    autoencoder: Callable[[], Any],
    lacks: str,
) -> Part[Autoencoder]:
    if vae is None:
        return Part(name="autoencoder", nbytes=0, load=lambda: no_vae(lacks))
    return Part(
        name="autoencoder",
        nbytes=vae.nbytes(dtype),
        load=lambda: vae.load(autoencoder(), dtype=dtype, device=device),
    )


def _stored(transformer: DiffusersTransformer | LuminaCheckpoint) -> torch.dtype:
    """The type of a transformer's weights on disk, by its header alone."""
    if isinstance(transformer, LuminaCheckpoint):
        tensors = open_tensors(transformer.path)
    else:
        tensors = transformer.tensors()
    found = next((tensors.entry(name).dtype for name in tensors), torch.float32)
    return found if found in READABLE else torch.float32


def _device(device: str | torch.device) -> torch.device:
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device '{device}' cannot be used here ({reason}): 'cpu' always can, 'cuda' where "
            "torch was built for it and a card is present"
        ) from error
    return torch.device(device)
