"""The mask codec's training: masks drawn from a seed, a small VQ-VAE, one file out.

    heliodor train tiny-codec

About ten minutes on one free core. The shipped codec (1500 steps, 575,000 weights, 1.02 MiB in
float16) gives back silhouettes of picture names it never saw with a mean IoU of 0.912 (a tenth of
them below 0.79) and uses 127 of its 128 codes, 96 in effect (the exponential of their entropy).

The method is AiT's (arXiv 2301.02229): squared error on 2 (mask - 0.5), commitment 0.25, a code
book that follows a moving average of the vectors it stands for (decay 0.99), AdamW with warm-up
and cosine. Added here: the code book starts from real vectors, and a code that nothing uses is
moved to a vector of the current batch.

Half the masks are silhouettes of the artwork pack at the sizes scenes use, many cut by an
occluder or an edge; the rest are plain shapes, so that the codec is not tied to one style.
Every batch is a function of (seed, step): a run that was killed goes on from its last save
exactly as if it had not been.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from heliodor.checkpoints.maskcodec import write_mask_codec
from heliodor.errors import TrainingError
from heliodor.models.maskcodec import MaskCodec, MaskCodecConfig
from heliodor.see.masks import crop_mask
from heliodor.teach.data.artwork import TRAIN_STYLES, load_style
from heliodor.teach.recipes.settings import at_least_one, override

__all__ = ["CodecRecipe", "MaskSource", "TinyCodec", "evaluate_codec", "train_codec"]

Mask = NDArray[np.bool_]
STATE = "state.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecRecipe:
    """Every number of a run; two runs of equal recipes write equal files on one machine."""

    model: MaskCodecConfig = field(
        default_factory=lambda: MaskCodecConfig(widths=(16, 32, 48, 64), code_width=128)
    )
    steps: int = 1500
    batch: int = 96
    learning_rate: float = 1.5e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    commitment: float = 0.25
    decay: float = 0.99
    revive_every: int = 25
    revive_until: float = 0.8
    bfloat16: bool = True
    save_every: int = 250
    held_out: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse runs of nothing."""
        at_least_one(self, "steps", "batch", "warmup", "save_every", "held_out")


class TinyCodec:
    """Train the mask codec: masks drawn from a seed, a small VQ-VAE, ``maskcodec.npz`` out."""

    def run(self, workdir: Path, overrides: Mapping[str, str], *, resume: bool) -> None:
        """Train in ``workdir``: log.jsonl, state.npz, maskcodec.npz.

        Raises:
            TrainingError: ``workdir`` holds a run and ``resume`` is off, or one of other settings.
        """
        if not resume and (workdir / STATE).exists():
            raise TrainingError(
                f"{workdir} holds an earlier run: pass --resume, or another --workdir"
            )
        train_codec(override(CodecRecipe(), overrides), workdir)


@cache
def _silhouettes() -> tuple[tuple[str, NDArray[np.uint8]], ...]:
    """Every sprite of the training styles as (code point, alpha [H W]), in a fixed order."""
    found: list[tuple[str, NDArray[np.uint8]]] = []
    for style in map(load_style, TRAIN_STYLES):
        alpha = np.asarray(style.atlas)[..., 3]
        for name, (x, y, width, height) in sorted(style.index.items()):
            found.append((name, alpha[y : y + height, x : x + width]))
    return tuple(found)


class MaskSource:
    """Masks by number: ``source.mask(7)`` is the same mask on every machine.

    Args:
        seed: another seed, other masks.
        held_out: draw silhouettes of every tenth picture name instead of the other nine tenths.
        sprites: share of silhouettes; the rest are plain shapes.
    """

    def __init__(self, seed: int, *, held_out: bool = False, sprites: float = 0.6) -> None:
        names = sorted({name for name, _ in _silhouettes()})
        apart = set(names[::10])
        self._pictures = [alpha for name, alpha in _silhouettes() if (name in apart) is held_out]
        self._seed = (seed, int(held_out))
        self._sprites = sprites

    def mask(self, index: int) -> NDArray[np.float32]:
        """Return mask number ``index``, cut to its box, float32 [64 64] in 0..1."""
        rng = np.random.default_rng((*self._seed, index))
        while True:
            mask = self._whole(rng)
            area = int(mask.sum())
            if rng.random() < 0.5:
                mask = _hide(rng, mask, self._whole(rng))
            if mask.sum() >= max(12, 0.25 * area):
                return crop_mask(mask, _bounds(mask))

    def batch(self, step: int, size: int) -> Tensor:
        """Masks number ``step * size`` onwards -> float32 [size 1 64 64]."""
        masks = [self.mask(step * size + row) for row in range(size)]
        return torch.as_tensor(np.stack(masks)).unsqueeze(1)

    def _whole(self, rng: Generator) -> Mask:
        if rng.random() < self._sprites:
            return _sprite(rng, self._pictures[rng.integers(len(self._pictures))])
        return _shape(rng)


def _bounds(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _sprite(rng: Generator, alpha: NDArray[np.uint8]) -> Mask:
    """Scale by a random side of 16..128 pixels, stretch a little, turn, mirror, then threshold."""
    side = math.exp(rng.uniform(math.log(16), math.log(128))) / max(alpha.shape)
    stretch = math.exp(rng.normal(0, 0.1))
    size = [max(4, round(alpha.shape[1] * side * stretch)), max(4, round(alpha.shape[0] * side))]
    picture = Image.fromarray(alpha).resize((size[0], size[1]), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.4:
        angle = float(rng.uniform(-30, 30))
        picture = picture.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return np.asarray(picture) > 127


def _shape(rng: Generator) -> Mask:
    """An ellipse, rectangle, polygon, smooth blob or letter on a 128-pixel canvas."""
    canvas = Image.new("1", (128, 128))
    pen = ImageDraw.Draw(canvas)
    width, height = (float(value) for value in rng.uniform(16, 110, 2))
    box = (64 - width / 2, 64 - height / 2, 64 + width / 2, 64 + height / 2)
    kind = rng.integers(5)
    if kind == 0:
        pen.ellipse(box, fill=1)
    elif kind == 1:
        pen.rounded_rectangle(box, float(rng.uniform(0, min(width, height) / 2)), fill=1)
    elif kind == 2:
        letter = chr(int(rng.choice([*range(48, 58), *range(65, 91), *range(97, 123)])))
        font = ImageFont.load_default(float(rng.uniform(60, 130)))
        pen.text((64, 64), letter, fill=1, font=font, anchor="mm")
    else:
        pen.polygon(_outline(rng, smooth=kind == 3), fill=1)
    return np.asarray(canvas.rotate(float(rng.uniform(0, 360)) if rng.random() < 0.5 else 0))


def _outline(rng: Generator, *, smooth: bool) -> list[tuple[float, float]]:
    """Points around the canvas's middle: waves of the angle when smooth, else 3 to 9 corners."""
    count = 48 if smooth else int(rng.integers(3, 10))
    angles = np.arange(count) * 2 * np.pi / count
    if smooth:
        radius = np.ones(count)
        for wave in range(2, 6):
            radius += rng.normal(0, 0.28 / wave) * np.cos(wave * angles + rng.uniform(0, 6.3))
        radius = 45 * np.clip(radius, 0.15, 1.4)
    else:
        radius = rng.uniform(18, 60, count)
    squeeze = rng.uniform(0.4, 1.0)
    x, y = 64 + radius * np.cos(angles), 64 + squeeze * radius * np.sin(angles)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _hide(rng: Generator, mask: Mask, other: Mask) -> Mask:
    """Cut a mask by an edge of the picture, or by another thing lying over it."""
    rows, columns = (int(side) for side in mask.shape)
    mask = mask.copy()
    if rng.random() < 0.25:
        keep = rng.uniform(0.4, 0.95)
        if rng.random() < 0.5:
            mask[round(rows * keep) :] = False
        else:
            mask[:, : round(columns * (1 - keep))] = False
        return mask
    tall, wide = (int(side) for side in other.shape)
    top = int(rng.integers(-tall // 2, rows))
    left = int(rng.integers(-wide // 2, columns))
    part = other[max(0, -top) :, max(0, -left) :][: rows - max(0, top), : columns - max(0, left)]
    y, x = max(0, top), max(0, left)
    mask[y : y + part.shape[0], x : x + part.shape[1]] &= ~part
    return mask


class _Book:
    """The code book as a moving average of the vectors assigned to each code."""

    def __init__(self, model: MaskCodec, recipe: CodecRecipe) -> None:
        self.model, self.recipe = model, recipe
        self.counts = torch.zeros(recipe.model.num_codes)
        self.sums = torch.zeros(recipe.model.num_codes, recipe.model.code_width)

    @torch.no_grad()
    def start(self, vectors: Tensor, rng: torch.Generator) -> None:
        """Copy K random rows of vectors [N D]."""
        rows = torch.randperm(len(vectors), generator=rng)[: len(self.counts)]
        self.sums.copy_(vectors[rows])
        self.counts.fill_(1.0)
        self.model.codebook.copy_(self.sums)

    @torch.no_grad()
    def follow(self, vectors: Tensor, codes: Tensor) -> None:
        """Move each code towards the mean of its vectors: vectors [N D], codes [N]."""
        decay = self.recipe.decay
        one_hot = F.one_hot(codes, len(self.counts)).to(vectors.dtype)
        self.counts.lerp_(one_hot.sum(0), 1 - decay)
        self.sums.lerp_(one_hot.T @ vectors, 1 - decay)
        self.model.codebook.copy_(self.sums / self.counts.clamp_min(1e-5).unsqueeze(1))

    @torch.no_grad()
    def revive(self, vectors: Tensor, rng: torch.Generator) -> int:
        """Move every code that is hardly used onto a random vector; return how many moved."""
        dead = self.counts < 0.02 * self.counts.mean()
        rows = torch.randperm(len(vectors), generator=rng)[: int(dead.sum())]
        self.counts[dead] = self.counts.mean()
        self.sums[dead] = vectors[rows] * self.counts.mean()
        self.model.codebook[dead] = vectors[rows]
        return len(rows)


def _rate(recipe: CodecRecipe, step: int) -> float:
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    through = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.02 + 0.49 * (1 + math.cos(math.pi * through)))


class _Run:
    """What changes during a run, and how it is saved and read back."""

    def __init__(self, recipe: CodecRecipe) -> None:
        torch.manual_seed(recipe.seed)  # pyright: ignore[reportUnknownMemberType]
        self.recipe = recipe
        self.model = MaskCodec(recipe.model)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.book = _Book(self.model, recipe)
        self.weights = [p for name, p in self.model.named_parameters() if name != "codebook"]
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.step = 0

    def advance(self, masks: Tensor) -> float:
        """Take one step on masks [B 1 64 64]; return the mean squared error of the picture."""
        recipe, rng = self.recipe, torch.Generator().manual_seed(self.recipe.seed + self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = _rate(recipe, self.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            features = self.model.features(masks.to(memory_format=torch.channels_last))
        features = features.float()
        flat = features.detach().flatten(0, 1)
        if self.step == 0:
            self.book.start(flat, rng)
        codes = self.model.nearest(features.detach())
        chosen = self.model.codebook.detach()[codes]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            drawn = self.model.render(features + (chosen - features).detach())
        error = F.mse_loss(drawn.float(), 2 * (masks.squeeze(1) - 0.5))
        loss = error + recipe.commitment * F.mse_loss(features, chosen)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} at step {self.step}: lower the learning rate "
                f"({recipe.learning_rate}) or go back to the last saved step"
            )
        self.optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()  # pyright: ignore[reportUnknownMemberType]
        self.book.follow(flat, codes.flatten())
        if self.step % recipe.revive_every == 0 and self.step < recipe.revive_until * recipe.steps:
            self.book.revive(flat, rng)
        self.step += 1
        return float(error.detach())

    def _tensors(self) -> dict[str, Tensor]:
        """Everything a later start needs, as views: weights, averages, Adam's two moments."""
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        state |= {"book.counts": self.book.counts, "book.sums": self.book.sums}
        for row, weight in enumerate(self.weights):
            moments = self.optimiser.state[weight]
            moments.setdefault("step", torch.tensor(float(self.step)))
            for name in ("exp_avg", "exp_avg_sq"):
                state[f"adam.{row}.{name}"] = moments.setdefault(name, torch.zeros_like(weight))
        return state

    def save(self, path: Path) -> None:
        """Write to a neighbour first, then move over ``path``: a kill leaves the old save whole."""
        arrays = {name: value.numpy() for name, value in self._tensors().items()}
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, step=self.step, recipe=str(self.recipe), **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    @torch.no_grad()
    def resume(self, path: Path) -> None:
        """Read what ``save`` wrote.

        Raises:
            TrainingError: the save belongs to another recipe.
        """
        with np.load(path, allow_pickle=False) as file:
            if str(file["recipe"]) != str(self.recipe):
                raise TrainingError(
                    f"{path} was saved by {file['recipe']} and this run is {self.recipe}: use its "
                    f"numbers, or another folder"
                )
            self.step = int(file["step"])
            for name, value in self._tensors().items():
                value.copy_(torch.as_tensor(file[name]))


@torch.no_grad()
def evaluate_codec(model: MaskCodec, masks: Tensor) -> dict[str, float]:
    """Encode and decode masks [B 1 64 64] -> mean and least IoU at threshold 0, codes in use."""
    rows = range(0, len(masks), 128)
    codes = torch.cat([model.encode(masks[row : row + 128]) for row in rows])
    drawn = torch.cat([model.decode(codes[row : row + 128]) for row in rows]) > 0
    truth = masks.squeeze(1) > 0.5
    both, either = (drawn & truth).sum((1, 2)), (drawn | truth).sum((1, 2))
    overlap = both / either.clamp_min(1)
    share = torch.bincount(codes.flatten(), minlength=len(model.codebook)) / codes.numel()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {
        "iou": float(overlap.mean()),
        "iou_tenth_percentile": float(overlap.quantile(0.1)),
        "codes_used": float((share > 0).sum()),
        "perplexity": float(entropy.exp()),
    }


def train_codec(recipe: CodecRecipe, folder: Path) -> MaskCodec:
    """Train in ``folder`` (log.jsonl, state.npz, maskcodec.npz); go on if it was begun."""
    folder.mkdir(parents=True, exist_ok=True)
    source, held_out = MaskSource(recipe.seed), MaskSource(recipe.seed, held_out=True)
    test = held_out.batch(0, recipe.held_out)
    run, state = _Run(recipe), folder / STATE
    if state.exists():
        run.resume(state)
    started, error = time.monotonic(), 0.0
    with (folder / "log.jsonl").open("a") as log:
        while run.step < recipe.steps:
            now = run.advance(source.batch(run.step, recipe.batch))
            error = now if run.step == 1 else 0.95 * error + 0.05 * now
            if run.step % recipe.save_every and run.step != recipe.steps:
                continue
            run.save(state)
            write_mask_codec(run.model, folder / "maskcodec.npz", dtype="float16")
            line = {"step": run.step, "error": error, "seconds": time.monotonic() - started}
            text = json.dumps(line | evaluate_codec(run.model, test))
            log.write(text + "\n")
            log.flush()
            sys.stderr.write(text + "\n")
    return run.model
