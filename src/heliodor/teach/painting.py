"""Teaching Next-DiT to paint: the velocity from noise to a picture, by flow matching.

    x_t = t x_1 + (1 - t) x_0        x_0 noise, x_1 the picture's latents, t in 0..1
    loss = mean over pictures of mean |v(x_t, t, caption) - (x_1 - x_0)|^2

over the first channels of what the network gives; those of a learnt sigma are never looked at. Now
and then a caption is replaced by the empty one, which guidance needs. Positions are not stretched
and attention is not sharpened while learning.

Sources: arXiv 2210.02747; arXiv 2406.18583; Lumina-T2X ``lumina_next_t2i/transport``.

B pictures, C channels, h and w of latents, L tokens of the longest caption, W their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heliodor.errors import TrainingError
from heliodor.models.nextdit import NextDiT, NextDiTLayer
from heliodor.models.nextdit_rope import Unscaled
from heliodor.nn.linear import Linear
from heliodor.teach.latents import LatentCache
from heliodor.teach.log import Mean

__all__ = [
    "FlowBatch",
    "FlowObjective",
    "LogitNormal",
    "Times",
    "Uniform",
    "between",
    "choose_times",
    "flow_losses",
    "initialise_painter",
    "pad_states",
]

Floats = NDArray[np.float32]
_ORDER = 0x0DE  # the stream that orders scenes within a pass


class Times(Protocol):
    """Where between noise and picture steps learn."""

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Times in 0..1, float32 [count]."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Uniform:
    """Every time alike, the reference's default."""

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Times in 0..1, float32 [count]."""
        return rng.random(count, np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitNormal:
    """The logistic function of a normal number: mostly in the middle (arXiv 2403.03206).

    Attributes:
        mean: of the normal; below 0 nearer to noise.
        spread: its standard deviation.
    """

    mean: float = 0.0
    spread: float = 1.0

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Times in 0..1, float32 [count]."""
        normal = self.mean + self.spread * rng.standard_normal(count, np.float32)
        return (1.0 / (1.0 + np.exp(-normal))).astype(np.float32)


def choose_times(name: str) -> Times:
    """The distribution of that name, "uniform" or "lognorm".

    Raises:
        TrainingError: another name.
    """
    known: dict[str, Times] = {"uniform": Uniform(), "lognorm": LogitNormal()}
    if name not in known:
        raise TrainingError(f"times={name}: one of {', '.join(known)} is wanted")
    return known[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowBatch:
    """What a step learns from.

    Attributes:
        latents: float32 [B C h w], x_1.
        noise: float32 [B C h w], x_0.
        times: float32 [B].
        states: float32 [B L W], features of the captions, zeros behind each.
        valid: bool [B L].
    """

    latents: Tensor
    noise: Tensor
    times: Tensor
    states: Tensor
    valid: Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FlowObjective:
    """Cached scenes, each with one of its captions, at a time of its own.

    Attributes:
        model: a Next-DiT, with or without adapters.
        cache: latents and captions.
        images: pictures of a batch.
        seed: of everything drawn.
        times: where steps learn.
        dropout: share of captions replaced by the empty one.
        first: share of a scene's first caption, which is English; the others share the rest.
    """

    model: NextDiT
    cache: LatentCache
    images: int
    seed: int
    times: Times
    dropout: float = 0.1
    first: float = 0.4

    def batch(self, step: int) -> FlowBatch:
        """The batch of a step: scenes come in passes, each pass in an order of its own."""
        rng = np.random.default_rng([self.seed, step])
        scenes = self._scenes(step)
        rows = [self._states(rng, scene) for scene in scenes]
        states, valid = pad_states(rows)
        latents = torch.stack([self.cache.latents(scene) for scene in scenes]).float()
        noise = torch.as_tensor(rng.standard_normal(tuple(latents.shape), np.float32))
        times = torch.as_tensor(self.times.draw(rng, self.images))
        return FlowBatch(latents=latents, noise=noise, times=times, states=states, valid=valid)

    def _scenes(self, step: int) -> list[int]:
        places = np.arange(step * self.images, (step + 1) * self.images)
        found: list[int] = []
        for passed in np.unique(places // len(self.cache)):
            rng = np.random.default_rng([self.seed, _ORDER, int(passed)])
            order = rng.permutation(len(self.cache))
            inside = places[places // len(self.cache) == passed] % len(self.cache)
            found += [int(scene) for scene in order[inside]]
        return found

    def _states(self, rng: np.random.Generator, scene: int) -> Tensor:
        dropped, chance = rng.random() < self.dropout, rng.random()
        others = self.cache.per_scene - 1
        if dropped:
            return self.cache.empty
        if chance < self.first or others == 0:
            return self.cache.states(scene, 0)
        return self.cache.states(scene, 1 + int(rng.integers(others)))

    def loss(self, batch: FlowBatch) -> tuple[Tensor, Mapping[str, float]]:
        """The loss, and that of the noisier and the clearer half of the times."""
        model = self.model
        prompt = model.prepare(batch.states, batch.valid)
        height, width = batch.latents.shape[2:]
        canvas = model.canvas(
            [(height, width)] * len(batch.latents), scaling=Unscaled(), proportional=False
        )
        mixed = between(batch.noise, batch.latents, batch.times)
        velocity = model(mixed, batch.times, prompt, canvas)
        losses = flow_losses(velocity, batch.noise, batch.latents)
        figures: dict[str, float] = {}
        told, early = losses.detach(), batch.times < 0.5
        for name, chosen in (("noisy", early), ("clear", ~early)):
            if bool(chosen.any()):
                figures[name] = Mean(float(told[chosen].mean()), over=int(chosen.sum()))
        return losses.mean(), figures

    def divide(self, batch: FlowBatch, parts: int) -> Sequence[tuple[float, FlowBatch]]:
        """Cut a batch between pictures."""
        count = len(batch.latents)
        edges = [count * part // parts for part in range(parts + 1)]
        return [
            ((end - start) / count, _rows(batch, start, end))
            for start, end in pairwise(edges)
            if start < end
        ]

    def samples(self) -> list[str]:
        """Nothing: a velocity is no text."""
        return []


def _rows(batch: FlowBatch, start: int, end: int) -> FlowBatch:
    rows = slice(start, end)
    return FlowBatch(
        latents=batch.latents[rows],
        noise=batch.noise[rows],
        times=batch.times[rows],
        states=batch.states[rows],
        valid=batch.valid[rows],
    )


def between(noise: Tensor, latents: Tensor, times: Tensor) -> Tensor:
    """What lies between noise, at time 0, and latents [B C h w], at time 1, at times [B]."""
    t = times.view(-1, 1, 1, 1)
    return t * latents + (1.0 - t) * noise


def flow_losses(velocity: Tensor, noise: Tensor, latents: Tensor) -> Tensor:
    """Mean squared error of each picture's velocity: [B C h w] each -> float32 [B]."""
    return (velocity.float() - (latents - noise)).square().mean((1, 2, 3))


def pad_states(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Captions' features [tokens W] -> float32 [B L W], zeros behind, and bool [B L]."""
    states = nn.utils.rnn.pad_sequence([row.float() for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return states, torch.arange(states.shape[1]) < lengths[:, None]


@torch.no_grad()
def initialise_painter(model: NextDiT, seed: int) -> None:
    """Draw fresh weights as the reference does.

    Linear layers are Xavier-uniform with biases zero, the layers of the time normal with 0.02;
    modulations, gates, the projection of the pooled caption and the last layer are zero, so that
    the network starts by predicting zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if isinstance(part, Linear):
            for own in part.parameters():
                if own.ndim == 2:
                    nn.init.xavier_uniform_(own, generator=generator)
                else:
                    own.zero_()
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
    nn.init.normal_(model.pad_token, std=0.02, generator=generator)
    nn.init.normal_(model.time.first.weight, std=0.02, generator=generator)
    nn.init.normal_(model.time.second.weight, std=0.02, generator=generator)
    quiet = [model.caption.out.weight, model.last.modulation.weight, model.last.out.weight]
    for layer in cast("Iterator[NextDiTLayer]", iter(model.layers)):
        quiet += [layer.modulation.weight, layer.attention.gate]
    for weight in quiet:
        weight.zero_()
