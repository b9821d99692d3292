"""The pictures of one batch, from their noise to their latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from heliodor.errors import CancelledError, PaintingError
from heliodor.paint.denoiser import Denoiser
from heliodor.paint.integrate import Progress, integrate
from heliodor.paint.memory import Stages
from heliodor.paint.noise import generator
from heliodor.paint.request import Job
from heliodor.paint.schedule import resume_from
from heliodor.paint.settings import Settings
from heliodor.paint.sources import Sources
from heliodor.paint.text import TextFeatures
from heliodor.paint.vae import to_pictures

__all__ = ["Painted", "Snapshot", "paint_batch"]

_PREVIEW = 32  # latents of a preview's longer side


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Snapshot:
    """How far a batch is, after a step.

    Attributes:
        progress: step, steps, time, seconds and latents.
        pictures: which of the pictures that were asked for are in the batch, counted from 0.
    """

    progress: Progress
    pictures: tuple[int, ...] = ()
    _decode: Callable[[Tensor], Tensor] = field(repr=False)

    @property
    def step(self) -> int:
        """Steps done, from 1."""
        return self.progress.step

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.progress.steps

    def preview(self) -> list[Image.Image]:
        """Small pictures of where the path seems to lead; costs a small decoding.

        Raises:
            MissingExtraError: diffusers is not installed.
        """
        estimate = self.progress.estimate
        step = -(-max(estimate.shape[2:]) // _PREVIEW)
        smaller = F.avg_pool2d(estimate, step) if step > 1 else estimate
        return to_pictures(self._decode(smaller))

    def numbered(self, pictures: Sequence[int]) -> Snapshot:
        """The same, of these pictures."""
        return replace(self, pictures=tuple(pictures))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Painted:
    """A picture before it is decoded.

    Attributes:
        latents: float32 [C h w].
        cut: what was left out at the prompt's end.
        skipped: steps that went on with an old velocity.
        seconds: that the batch took.
    """

    latents: Tensor = field(repr=False)
    cut: str
    skipped: int
    seconds: float


def paint_batch(
    sources: Sources,
    stages: Stages,
    jobs: Sequence[Job],
    features: Sequence[tuple[TextFeatures, TextFeatures]],
    settings: Settings,
    *,
    progress: Callable[[Snapshot], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Painted]:
    """Paint jobs of one size together.

    Args:
        sources: of the parts.
        stages: which are in memory.
        jobs: B of them.
        features: of each job's prompt and negative prompt.
        settings: how.
        progress: told after each step.
        cancelled: asked before each step.

    Raises:
        CancelledError: ``cancelled`` said so.
        PaintingError: NaN.
    """
    if cancelled is not None and cancelled():
        raise CancelledError("painting was stopped before its first step")
    shape = sources.shape.latent(jobs[0].size)
    times = settings.grid.times(settings.steps)
    start, times = _begin(sources, stages, jobs, settings, shape, times)
    beside = None if progress is None else sources.vae
    model = stages.use(sources.transformer, beside=beside)
    velocity = Denoiser(
        model, [f for f, _ in features], [f for _, f in features], shape[1:], settings
    )
    last: list[Progress] = []

    def watch(now: Progress) -> None:
        last[:] = [now]
        if progress is not None:
            progress(Snapshot(progress=now, _decode=_decoder(sources, stages)))

    try:
        path = integrate(
            velocity,
            start.to(sources.device),
            times,
            settings.solver,
            skipping=settings.skipping,
            watch=watch,
            cancelled=cancelled,
        )
    except PaintingError as error:
        raise PaintingError(f"{error}: {_advice(sources.dtype_name)}") from None
    return [
        Painted(latents=row, cut=cut.cut, skipped=path.skipped, seconds=last[0].seconds)
        for row, (cut, _) in zip(path.latents.cpu(), features, strict=True)
    ]


def _begin(
    sources: Sources,
    stages: Stages,
    jobs: Sequence[Job],
    settings: Settings,
    shape: tuple[int, int, int],
    times: Tensor,
) -> tuple[Tensor, Tensor]:
    """Where the path begins, float32 [B C h w], and its times.

    A picture that is painted over is met on the way from the noise: ``(1 - t) noise + t picture``.
    """
    random = [generator(job.seed) for job in jobs]
    noise = torch.stack(
        [
            torch.randn(shape, generator=source) if job.noise is None else job.noise
            for job, source in zip(jobs, random, strict=True)
        ]
    )
    pictures = [job.picture for job in jobs if job.picture is not None]
    if not pictures or settings.strength is None:
        return noise, times
    times = resume_from(times, settings.strength)
    met = stages.use(sources.vae).encode(pictures, random).cpu()
    return (1.0 - times[0]) * noise + times[0] * met, times


def _decoder(sources: Sources, stages: Stages) -> Callable[[Tensor], Tensor]:
    """The autoencoder, loaded beside the transformer when a preview is asked for."""
    return lambda latents: stages.use(sources.vae, beside=sources.transformer).decode(latents)


def _advice(dtype: str) -> str:
    if dtype == "float32":
        return "the transformer computes in float32, so its weights or the latents are broken"
    return f"the transformer rests in {dtype}: load the painter with dtype='float32' or 'bfloat16'"
