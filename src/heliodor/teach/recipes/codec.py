"""The mask codec: masks drawn from a seed, a small VQ-VAE, one file out.

    heliodor train tiny-codec

The shipped file (575,000 weights, 1.02 MiB in float16; about ten minutes on one free core) gives
back 512 held-out masks with a mean IoU of 0.912 (a tenth of them below 0.79) and uses 127 of its
128 codes, 96 in effect (the exponential of their entropy). Six in ten of those masks come from
picture names that were not trained on, the rest are plain shapes; silhouettes alone reach 0.892.

It comes from these settings and batches, but from before the codec had the other recipes' trainer.
Then biases decayed as well, and a code that was moved onto a vector was off by the growth of the
mean count until its first update. A new run therefore gives other weights, whose codes mean nothing
to the shipped model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from heliodor.checkpoints.maskcodec import write_mask_codec
from heliodor.errors import TrainingError
from heliodor.models.maskcodec import CODES_PER_MASK, MaskCodec, MaskCodecConfig
from heliodor.teach.data.silhouettes import MaskSource
from heliodor.teach.loop import Run, train
from heliodor.teach.masking import BookConfig, CodecObjective, TrainedCodec
from heliodor.teach.optim import AdamConfig, Schedule
from heliodor.teach.recipes.settings import at_least_one, override, start_fresh

RESULT = "maskcodec.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecSettings:
    """Numbers of the run.

    Attributes:
        model: sizes of the network.
        steps: optimiser steps in all.
        masks: of a batch.
        rate: full learning rate, reached after ``warmup`` steps; a cosine ends at ``floor`` of it.
        decay: weight decay of the kernels, which the rate does not multiply; AdamW's 1e-4 at
            this rate.
        commitment: weight of the distance between vectors and their codes.
        average: share of the code book's running means that a step leaves.
        revive_every: steps between searches for codes that nothing uses.
        revive_until: share of the run after which no code is moved any more.
        held_out: masks to measure on, of picture names that are not trained on.
        sample_every: steps between measurements; 0 for none.
        seed: of everything drawn.
        device: "cpu" or "cuda", see :class:`~heliodor.teach.loop.Run`.
    """

    model: MaskCodecConfig = field(
        default_factory=lambda: MaskCodecConfig(widths=(16, 32, 48, 64), code_width=128)
    )
    steps: int = 1500
    masks: int = 96
    rate: float = 1.5e-3
    warmup: int = 100
    floor: float = 0.02
    decay: float = 1.5e-7
    commitment: float = 0.25
    average: float = 0.99
    revive_every: int = 25
    revive_until: float = 0.8
    held_out: int = 512
    sample_every: int = 250
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse runs of nothing, and a code book that cannot start or follow."""
        at_least_one(self, "steps", "masks", "revive_every", "held_out")
        if self.masks * CODES_PER_MASK < self.model.num_codes:
            raise TrainingError(
                f"masks={self.masks}: their {self.masks * CODES_PER_MASK} vectors are too few to "
                f"start {self.model.num_codes} codes from"
            )
        if self.average > 1:
            raise TrainingError(f"average={self.average}: a share in 0..1 is wanted")


class TinyCodec:
    """Train the mask codec: masks drawn from a seed, a small VQ-VAE, ``maskcodec.npz`` out."""

    summary = "the mask codec, on masks drawn from a seed"

    def run(self, workdir: Path, overrides: Mapping[str, str], *, resume: bool) -> None:
        """Train in ``workdir``; ``workdir/maskcodec.npz`` is the result, in float16.

        Raises:
            TrainingError: settings that cannot be, or ``workdir`` holds a run and ``resume`` is
                off, or one of other settings.
        """
        settings = override(CodecSettings(), overrides)
        start_fresh(workdir, resume=resume)
        run, objective = stage(settings)
        if train(run, objective, workdir).step == settings.steps:
            write_mask_codec(objective.model.codec.cpu(), workdir / RESULT, dtype="float16")


def stage(settings: CodecSettings) -> tuple[Run, CodecObjective]:
    """How long, and on what, with a fresh codec."""
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(settings.seed)  # pyright: ignore[reportUnknownMemberType]
        codec = MaskCodec(settings.model)
    book = BookConfig(
        average=settings.average,
        revive_every=settings.revive_every,
        revive_until=round(settings.revive_until * settings.steps),
        seed=settings.seed,
    )
    objective = CodecObjective(
        model=TrainedCodec(codec, book),
        source=MaskSource(settings.seed),
        masks=settings.masks,
        commitment=settings.commitment,
        held_out=MaskSource(settings.seed, held_out=True).batch(0, settings.held_out),
    )
    run = Run(
        name="mask codec",
        adam=AdamConfig(rate=settings.rate, decay=settings.decay, decayed=r"weight$"),
        schedule=Schedule(steps=settings.steps, warmup=settings.warmup, floor=settings.floor),
        data=f"{settings.masks} masks a step, commitment {settings.commitment}, {book}",
        sample_every=settings.sample_every,
        device=settings.device,
    )
    return run, objective
