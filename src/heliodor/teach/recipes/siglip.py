"""The image tower's first lessons: one thing at 64 pixels, then scenes and words at 112."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from heliodor.checkpoints.positions import resize_positions
from heliodor.models.pair import SiglipPairConfig, SiglipTextConfig
from heliodor.models.presets import TINY_VISION
from heliodor.teach.grounding import GroundedPair, GroundingObjective, quieten
from heliodor.teach.init import centre_pair, initialise, wave_positions
from heliodor.teach.loop import Run, train
from heliodor.teach.optim import AdamConfig, Schedule
from heliodor.teach.pairing import pixels_in
from heliodor.teach.recipes.settings import at_least_one, override, start_fresh
from heliodor.text import Tokenizer
from heliodor.zoo import TOKENIZER

TEXT = SiglipTextConfig(vocab_size=2560, length=12, width=256, depth=1, num_heads=4, mlp_width=512)


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipSettings:
    """Numbers of the run; the second stage is ``scene_*``."""

    steps: int = 1100
    images: int = 128
    size: int = 64
    rate: float = 1e-3
    muon: float = 0.012
    strength: float = 0.8
    scene_steps: int = 1000
    scene_images: int = 64
    scene_size: int = 112
    scene_rate: float = 8e-4
    scene_muon: float = 0.01
    seed: int = 3
    device: str = "cpu"
    parts: int = 1

    def __post_init__(self) -> None:
        """Refuse runs of nothing."""
        at_least_one(self, "steps", "images", "scene_steps", "scene_images", "parts")


class TinySiglip:
    """Train tiny's image tower as one half of a SigLIP pair.

    1,100 steps of 128 pictures of one thing at 64 pixels, whose looks grow from plain to varied,
    then 1,000 steps of 64 pictures at 112: scenes, some single things and some words.
    """

    summary = "tiny's image tower as one half of a SigLIP pair: one thing at 64 pixels, then scenes"

    def run(self, workdir: Path, overrides: Mapping[str, str], *, resume: bool) -> None:
        """Train both stages in ``workdir``; the last state of ``scenes`` is the result."""
        settings = override(SiglipSettings(), overrides)
        start_fresh(workdir, resume=resume)
        first = stage(settings, scenes=False)
        if train(first[0], first[1], workdir / "singles").step < settings.steps:
            return
        second = stage(settings, scenes=True)
        carry(first[1].model.state_dict(), second[1].model)
        train(second[0], second[1], workdir / "scenes")


def stage(settings: SiglipSettings, *, scenes: bool) -> tuple[Run, GroundingObjective]:
    """One stage: how long, and on what, with a fresh model."""
    size = settings.scene_size if scenes else settings.size
    images = settings.scene_images if scenes else settings.images
    steps = settings.scene_steps if scenes else settings.steps
    model = fresh(size, settings.seed)
    objective = GroundingObjective(
        model=model,
        tokenizer=Tokenizer.from_file(TOKENIZER),
        size=size,
        images=images,
        singles=0.15 if scenes else 1.0,
        lines=0.12 if scenes else 0.0,
        seed=settings.seed + int(scenes),
        ramp=0 if scenes else steps,
        strength=1.0 if scenes else settings.strength,
        most=2,
    )
    if not scenes:
        first = objective.batch(0)
        centre_pair(model, pixels_in(first.pixels), first.tokens)
    run = Run(
        name="siglip scenes" if scenes else "siglip singles",
        adam=AdamConfig(
            rate=settings.scene_rate if scenes else settings.rate,
            muon=settings.scene_muon if scenes else settings.muon,
            beta2=0.97,
        ),
        schedule=Schedule(steps=steps, warmup=max(1, steps // 25), floor=0.25),
        data=f"{images} pictures of {size} pixels a step, seed {objective.seed}",
        log_every=10,
        device=settings.device,
        parts=settings.parts,
    )
    return run, objective


def fresh(size: int, seed: int) -> GroundedPair:
    """The pair before it has learned anything."""
    vision = replace(TINY_VISION, image_size=size)
    model = GroundedPair(SiglipPairConfig(vision=vision, text=TEXT))
    initialise(model, seed)
    wave_positions(model.vision)
    quieten(model.covers)
    with torch.no_grad():  # about one name in eighty is in a picture; -10 is for 32,768 texts
        model.logit_bias.fill_(-math.log(80))
    return model


def carry(state: Mapping[str, Tensor], model: GroundedPair) -> None:
    """Give a model the parameters of another whose pictures had another size."""
    new = dict(state)
    key = "vision.position"
    new[key] = resize_positions(new[key], model.config.vision.num_tokens)
    model.load_state_dict(new)
