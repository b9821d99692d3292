"""The shipped painter: an autoencoder, a cache of latents and captions, a small Next-DiT.

    heliodor train painter-vae
    heliodor train painter-cache
    heliodor train painter

``docs/guides/teach-paint.md`` says what each costs. The autoencoder has 8 channels of 16 x 16 for
128 x 128 pixels, so that a picture is 64 patches; the transformer, the autoencoder and the shipped
Gemma together stay below 25 MB in float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from heliodor.checkpoints.diffusers_config import VERSION
from heliodor.checkpoints.diffusers_pipeline import (
    INDEX,
    DiffusersPipeline,
    PainterParts,
    save_pipeline,
)
from heliodor.checkpoints.diffusers_transformer import STEM
from heliodor.checkpoints.files import Replacement, to_json
from heliodor.checkpoints.shards import write_tensors
from heliodor.errors import TrainingError
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NextDiTConfig
from heliodor.paint.painter import new_vae
from heliodor.teach.compressing import (
    CompressLoss,
    CompressObjective,
    held_out_scenes,
    latent_scale,
)
from heliodor.teach.data.painting import paint_scene
from heliodor.teach.data.splits import Split, scene_rng
from heliodor.teach.latents import LatentCache
from heliodor.teach.loop import Run, train
from heliodor.teach.lowrank import adapt, merge
from heliodor.teach.optim import AdamConfig
from heliodor.teach.painting import FlowObjective, choose_times, initialise_painter
from heliodor.teach.recipes.settings import Course, at_least_one, override, start_fresh
from heliodor.teach.state import newest_model

VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 8,
    "block_out_channels": [24, 48, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 128,
}
"""The autoencoder's ``config.json``, but for the scale of its latents."""

TRANSFORMER = NextDiTConfig(
    in_channels=8,
    width=256,
    depth=6,
    num_heads=8,
    num_kv_heads=4,
    mlp_width=432,
    caption_width=256,
    sample_size=16,
)
"""5.4 million parameters, 5.8 as diffusers' layout holds them, with queries twice."""

TURNED = r"^layers\.\d+\.(attention|mlp)\..*weight$"
"""The matrices that Muon moves: the products within blocks, no modulation."""
_MEASURED = 256  # scenes whose latents say how they are scaled
_ONE_FILE = 2**40


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeSettings(Course):
    """Numbers of the autoencoder's run, beside those of any.

    Attributes:
        size: side of the pictures in pixels.
        crop: side of the cuts of them that most steps learn from.
        pictures: cuts of a batch; whole pictures are fewer, as many pixels in all.
        whole: share of the steps, the last ones, that learn from whole pictures.
        squares: weight of the squared error beside the absolute one.
        edges: weight of the differences between neighbouring errors.
        kl: weight of the divergence from a standard normal.
        strength: how much looks vary.
        held_out: pictures to measure on.
        sample_every: steps between measurements; 0 for none.
    """

    size: int = 128
    crop: int = 64
    pictures: int = 16
    whole: float = 0.15
    steps: int = 6000
    rate: float = 1.5e-3
    warmup: int = 100
    squares: float = 1.0
    edges: float = 0.5
    kl: float = 5e-4
    strength: float = 0.35
    average: float = 0.995
    held_out: int = 32
    sample_every: int = 250
    seed: int = 21

    def __post_init__(self) -> None:
        """Refuse runs of nothing, and sizes that do not divide."""
        at_least_one(self, "pictures", "steps", "held_out", "parts")
        if self.crop < 16 or self.crop % 8 or self.size % 16 or self.crop > self.size:
            raise TrainingError(
                f"size={self.size}, crop={self.crop}: a size in multiples of 16 and a cut within "
                "it in multiples of 8, from 16, are wanted"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PainterVae:
    """Train the autoencoder; ``workdir/vae`` is the result, as diffusers saves it, in float16."""

    settings: VaeSettings
    summary: str = "the painter's autoencoder, on scenes drawn from a seed"

    def run(self, workdir: Path, overrides: Mapping[str, str], *, resume: bool) -> None:
        """Train in ``workdir``.

        Raises:
            TrainingError: settings that cannot be, or ``workdir`` holds another run.
            MissingExtraError: diffusers is not installed.
        """
        settings = override(self.settings, overrides)
        start_fresh(workdir, resume=resume)
        run, network = vae_stage(settings)
        if train(run, network, workdir).step == settings.steps:
            pictures = [
                paint_scene(
                    scene_rng(Split.TRAIN, number, 44),
                    size=settings.size,
                    strength=settings.strength,
                ).image
                for number in range(_MEASURED)
            ]
            seen = torch.as_tensor(np.stack(pictures))
            plain = network.model.cpu()
            write_vae(plain, workdir / "vae", scale=latent_scale(plain, seen))


def vae_stage(
    settings: VaeSettings, config: Mapping[str, Any] | None = None
) -> tuple[Run, CompressObjective]:
    """How long, and on what, with a fresh autoencoder."""
    config = VAE if config is None else config
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(settings.seed)  # pyright: ignore[reportUnknownMemberType]
        network = new_vae(config)
    terms = CompressLoss(squares=settings.squares, edges=settings.edges, kl=settings.kl)
    objective = CompressObjective(
        model=network,
        channels=config["latent_channels"],
        factor=2 ** (len(config["block_out_channels"]) - 1),
        pictures=settings.pictures,
        size=settings.size,
        crop=settings.crop,
        whole_from=round((1.0 - settings.whole) * settings.steps),
        strength=settings.strength,
        seed=settings.seed,
        loss_terms=terms,
        held_out=held_out_scenes(settings.held_out, size=settings.size, strength=settings.strength),
    )
    data = (
        f"{settings.pictures} cuts of {settings.crop} pixels of {settings.size} a step, "
        f"whole for {settings.whole}, strength {settings.strength}, {terms}, seed {settings.seed}"
    )
    adam = AdamConfig(rate=settings.rate)
    run = settings.plan("painter vae", adam, data, sample_every=settings.sample_every)
    return run, objective


def write_vae(network: Any, folder: Path, *, scale: float) -> None:
    """Write an autoencoder as diffusers does, its weights in float16.

    Args:
        network: diffusers' AutoencoderKL.
        folder: made if it does not exist.
        scale: what latents are multiplied by for the transformer.

    Raises:
        CheckpointError: the disk refused, or a weight is beyond float16.
    """
    own = {name: value for name, value in dict(network.config).items() if name[0] != "_"}
    values = {
        **own,
        "_class_name": "AutoencoderKL",
        "_diffusers_version": VERSION,
        "scaling_factor": scale,
    }
    with Replacement(folder) as new:
        new.write("config.json", to_json(values))
        write_tensors(new, network.state_dict(), torch.float16, _ONE_FILE, stem=STEM)


@dataclass(frozen=True, kw_only=True, slots=True)
class PainterSettings(Course):
    """Numbers of the transformer's run, beside those of any.

    Attributes:
        cache: folder of ``painter-cache``.
        vae: folder of the autoencoder that the cache was made with.
        start: what to take over: a painter's folder, or that of an earlier run; "" for nothing.
        rank: of low-rank adapters, which then learn alone; 0 to teach every weight.
        alpha: adapters count alpha / rank.
        images: pictures of a batch.
        muon: full learning rate of the matrices within blocks, which Muon moves; 0 for Adam.
        times: "uniform" or "lognorm".
        dropout: share of captions replaced by the empty one.
        first: share of English captions.
    """

    cache: str = "runs/painter-cache"
    vae: str = "runs/painter-vae/vae"
    start: str = ""
    rank: int = 0
    alpha: float = 16.0
    images: int = 64
    steps: int = 12000
    rate: float = 1e-3
    muon: float = 0.01
    warmup: int = 200
    times: str = "lognorm"
    dropout: float = 0.1
    first: float = 0.4
    average: float = 0.999
    seed: int = 22

    def __post_init__(self) -> None:
        """Refuse runs of nothing, and adapters beside nothing."""
        at_least_one(self, "images", "steps", "parts")
        choose_times(self.times)
        if self.rank and not self.start:
            raise TrainingError("rank: adapters learn beside a painter: give start=FOLDER")
        if max(self.dropout, self.first) > 1:
            raise TrainingError(
                f"dropout={self.dropout}, first={self.first}: shares in 0..1 are wanted"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyPainter:
    """Train the transformer; ``workdir/painter`` is the result, a folder of diffusers.

    It has no text encoder: ``load_painter(folder, text_encoder="tiny")``, or copied to the zoo,
    where the shipped Gemma is taken.
    """

    settings: PainterSettings
    summary: str = "the painter's transformer, on cached latents"

    def run(self, workdir: Path, overrides: Mapping[str, str], *, resume: bool) -> None:
        """Train in ``workdir``.

        Raises:
            TrainingError: settings that cannot be, no cache, one of another shape, or ``workdir``
                holds another run.
        """
        settings = override(self.settings, overrides)
        start_fresh(workdir, resume=resume)
        run, objective = painter_stage(settings)
        if train(run, objective, workdir).step == settings.steps:
            model = objective.model.cpu()
            merge(model)
            export(model, Path(settings.vae), workdir / "painter")


def painter_stage(
    settings: PainterSettings, config: NextDiTConfig = TRANSFORMER
) -> tuple[Run, FlowObjective]:
    """How long, the network it starts from, and on what."""
    cache = LatentCache(Path(settings.cache))
    wanted = (config.in_channels, config.sample_size, config.sample_size)
    if cache.sides != wanted or cache.empty.shape[1] != config.caption_width:
        raise TrainingError(
            f"{settings.cache} holds latents {list(cache.sides)} and features of "
            f"{cache.empty.shape[1]} channels; the transformer learns {list(wanted)} and "
            f"{config.caption_width}"
        )
    model = NextDiT(config)
    initialise_painter(model, settings.seed)
    if settings.start:
        take_over(model, Path(settings.start))
    if settings.rank:
        adapt(model, rank=settings.rank, alpha=settings.alpha, seed=settings.seed)
    objective = FlowObjective(
        model=model,
        cache=cache,
        images=settings.images,
        seed=settings.seed,
        times=choose_times(settings.times),
        dropout=settings.dropout,
        first=settings.first,
    )
    adam = AdamConfig(
        rate=settings.rate, beta2=0.99, muon=settings.muon, turned=TURNED, decayed=r"^$"
    )
    data = (
        f"{settings.images} pictures a step of {len(cache)} in {cache.key[:16]}, "
        f"{objective.times}, dropout {settings.dropout}, English {settings.first}, "
        f"rank {settings.rank}, seed {settings.seed}"
    )
    return settings.plan("painter", adam, data), objective


def take_over(model: nn.Module, place: Path) -> None:
    """Give a network the weights of a painter's folder, or of a run's newest state.

    Raises:
        TrainingError: they are those of another network.
    """
    if (place / INDEX).is_file():
        found = DiffusersPipeline(folder=place, source=str(place)).transformer.load(dtype="float32")
        state: Mapping[str, torch.Tensor] = found.state_dict()
    else:
        state = newest_model(place)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(f"{place} holds another painter: {error}") from error


def export(model: NextDiT, vae: Path, folder: Path) -> None:
    """Write what was learnt beside its autoencoder, in float16; without a text encoder."""
    parts = PainterParts(config=model.config, state=model.state_dict(), vae=vae)
    save_pipeline(parts, folder, dtype="float16")
