"""What a caller asks for, checked and taken apart into one job a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from PIL import Image
from torch import Tensor

from heliodor.errors import InputError
from heliodor.image import ImageSource, open_image
from heliodor.paint.noise import choose_seeds
from heliodor.paint.text import check_prompt
from heliodor.paint.vae import cut_to

__all__ = ["Job", "Shape", "Size", "batches", "make_jobs"]

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a painter's pictures have in common.

    Attributes:
        channels: of a latent.
        factor: pixels of a side that one latent stands for.
        multiple: what a side in pixels must be a multiple of.
        default: width and height that are painted unless others are asked for.
    """

    channels: int
    factor: int
    multiple: int
    default: Size

    def latent(self, size: Size) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a size in pixels."""
        return self.channels, size[1] // self.factor, size[0] // self.factor

    def check(self, size: Any) -> Size:
        """A size that can be painted.

        Raises:
            InputError: no two whole numbers, or not multiples of what a side must be.
        """
        sides = tuple(cast("Sequence[Any]", size)) if isinstance(size, tuple | list) else ()
        if len(sides) != 2 or not all(type(side) is int for side in sides):
            raise InputError(f"size is {size!r}; expected (width, height) in pixels")
        for side in sides:
            if side < self.multiple or side % self.multiple:
                lower = max(self.multiple, side - side % self.multiple)
                raise InputError(
                    f"size is {sides[0]}x{sides[1]}; expected multiples of {self.multiple}, from "
                    f"{self.multiple}: {lower} or {lower + self.multiple} for {side}"
                )
        return sides[0], sides[1]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """One picture to paint.

    Attributes:
        prompt: what to paint.
        negative: what to lead away from.
        size: width and height in pixels.
        seed: of its noise.
        noise: float32 [C h w] given by the caller; None to draw it.
        picture: what is painted over, of this size; None for nothing.
    """

    prompt: str
    negative: str
    size: Size
    seed: int
    noise: Tensor | None = field(default=None, repr=False)
    picture: Image.Image | None = field(default=None, repr=False)


def make_jobs(
    prompt: str | Sequence[str],
    shape: Shape,
    *,
    size: Size | Sequence[Size] | None,
    seed: int | Sequence[int] | None,
    negative: str | Sequence[str],
    latents: Tensor | None,
    image: ImageSource | Sequence[ImageSource] | None,
    count: int,
) -> list[Job]:
    """One job a picture: all of the first prompt, then all of the second, and so on.

    Args:
        prompt: one, or several.
        shape: of the painter.
        size: one for all, or one a prompt.
        seed: see :func:`~heliodor.paint.noise.choose_seeds`, over all pictures.
        negative: one for all, or one a prompt.
        latents: noise for all pictures, float32 [B C h w], or [C h w] for one.
        image: what is painted over: one for all, or one a prompt.
        count: pictures of each prompt.

    Raises:
        ImageError: a picture that cannot be opened.
        InputError: counts that do not pair up, or sizes, seeds or latents that cannot be used.
        PromptError: an empty prompt, or no text.
    """
    prompts: list[Any] = [prompt] if isinstance(prompt, str) else _listed(prompt, "prompt")
    if type(count) is not int or count < 1:
        raise InputError(f"count is {count!r}; expected a whole number from 1")
    if not prompts:
        raise InputError("no prompts were given")
    negatives = [check_prompt(n, "negative prompt", empty=True) for n in _spread(negative, prompts)]
    total = len(prompts) * count
    noise = None if latents is None else _check_noise(latents, shape, total)
    pictures = [None if i is None else open_image(i) for i in _spread(image, prompts)]
    sizes = [
        _size_of(given, picture, noise, shape)
        for given, picture in zip(_spread_sizes(size, prompts), pictures, strict=True)
    ]
    seeds = choose_seeds(seed, total)
    jobs: list[Job] = []
    for row, text in enumerate(prompts):
        found = pictures[row]
        fitted = None if found is None else fit(found, sizes[row])
        for _ in range(count):
            place = len(jobs)
            jobs.append(
                Job(
                    prompt=check_prompt(text),
                    negative=negatives[row],
                    size=sizes[row],
                    seed=seeds[place],
                    noise=None if noise is None else noise[place],
                    picture=fitted,
                )
            )
    _check_fits(jobs, shape)
    return jobs


def batches(jobs: Sequence[Job], batch_size: int) -> list[list[int]]:
    """Numbers of the jobs that are painted together: those of one size, so many at most."""
    if type(batch_size) is not int or batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}; expected a whole number from 1")
    by_size: dict[Size, list[int]] = {}
    for number, job in enumerate(jobs):
        by_size.setdefault(job.size, []).append(number)
    return [
        group[start : start + batch_size]
        for group in by_size.values()
        for start in range(0, len(group), batch_size)
    ]


def fit(picture: Image.Image, size: Size) -> Image.Image:
    """A picture scaled to cover a size, and the middle of it."""
    if picture.size == size:
        return picture
    scale = max(size[0] / picture.width, size[1] / picture.height)
    width, height = (round(side * scale) for side in picture.size)
    scaled = picture.resize((max(width, size[0]), max(height, size[1])), Image.Resampling.LANCZOS)
    left, top = (scaled.width - size[0]) // 2, (scaled.height - size[1]) // 2
    return scaled.crop((left, top, left + size[0], top + size[1]))


def _size_of(
    given: Size | None, picture: Image.Image | None, noise: Tensor | None, shape: Shape
) -> Size:
    """What was asked for, else what a picture or latents have, else the painter's own."""
    if given is not None:
        return shape.check(given)
    if noise is not None:
        return shape.check((noise.shape[3] * shape.factor, noise.shape[2] * shape.factor))
    if picture is not None:
        return shape.check(cut_to(picture, shape.multiple).size)
    return shape.default


def _check_noise(latents: Any, shape: Shape, total: int) -> Tensor:
    if not isinstance(latents, Tensor) or latents.ndim not in (3, 4):
        raise InputError(
            f"latents are {type(latents).__name__}; expected a tensor [B {shape.channels} h w]"
        )
    noise = latents[None] if latents.ndim == 3 else latents
    if noise.shape[0] != total or noise.shape[1] != shape.channels:
        raise InputError(
            f"latents are {list(latents.shape)}; expected [{total} {shape.channels} h w], a row "
            "for each picture"
        )
    noise = noise.detach().float().cpu()
    if not bool(torch.isfinite(noise).all()):
        raise InputError("the latents hold NaN or infinity: give finite noise")
    return noise


def _check_fits(jobs: Sequence[Job], shape: Shape) -> None:
    for job in jobs:
        if job.noise is not None and tuple(job.noise.shape) != shape.latent(job.size):
            raise InputError(
                f"latents are {list(job.noise.shape)}; a picture of {job.size[0]}x{job.size[1]} "
                f"needs {list(shape.latent(job.size))}"
            )


def _spread(given: Any, prompts: Sequence[object]) -> list[Any]:
    """One thing for all prompts, or one for each."""
    if not isinstance(given, list | tuple):
        return [given] * len(prompts)
    found = list(cast("Sequence[Any]", given))
    if len(found) != len(prompts):
        raise InputError(f"{len(found)} were given for {len(prompts)} prompts: give one for each")
    return found


def _spread_sizes(size: Any, prompts: Sequence[object]) -> list[Any]:
    several = isinstance(size, list | tuple) and any(isinstance(s, list | tuple) for s in size)  # pyright: ignore[reportUnknownVariableType]
    return _spread(size, prompts) if several else [size] * len(prompts)


def _listed(prompts: Any, what: str) -> list[Any]:
    if not isinstance(prompts, list | tuple):
        raise InputError(f"a {what} must be a string, or a list of them: {prompts!r}")
    return list(cast("Sequence[Any]", prompts))
