"""The shipped small model, in the paper's stages: low resolution, higher resolution, mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from heliodor.checkpoints.positions import resize_positions
from heliodor.errors import TrainingError
from heliodor.models.paligemma import PaliGemma
from heliodor.models.presets import tiny
from heliodor.teach.answering import AnswerObjective, Source
from heliodor.teach.data.questions import TaskMix
from heliodor.teach.data.sources import DocumentSource, ReadingSource, SceneSource
from heliodor.teach.init import initialise
from heliodor.teach.loop import Run, train
from heliodor.teach.optim import AdamConfig, Schedule
from heliodor.teach.recipes.settings import override
from heliodor.teach.recipes.siglip import start_fresh
from heliodor.teach.state import newest_model
from heliodor.text import Tokenizer
from heliodor.zoo import MASK_CODEC, TOKENIZER

_SHOWN = 0x5EE  # seeds of the examples shown while a run lasts, which no batch draws
EMBEDDINGS = 3776  # 3,713 ids, rounded up to a multiple of 64 as transformers does


@dataclass(frozen=True, kw_only=True, slots=True)
class TinySettings:
    """Numbers of one stage.

    Attributes:
        stage: "low", "high" or "mix": which mixture is drawn.
        start: folder of an earlier run whose newest state is taken over; empty for none.
        size: side of the pictures in pixels.
        images: pictures of a batch.
        turns: questions about each scene.
    """

    stage: str
    start: str
    size: int
    images: int
    turns: int
    steps: int
    rate: float
    warmup: int = 40
    floor: float = 0.05
    decay: float = 0.0
    seed: int = 11
    sample_every: int = 200


LOW = TinySettings(
    stage="low", start="", size=112, images=32, turns=4, steps=2400, rate=1e-3
)
HIGH = TinySettings(
    stage="high", start="", size=224, images=16, turns=4, steps=1200, rate=6e-4, seed=12
)
MIX = TinySettings(
    stage="mix", start="", size=224, images=16, turns=4, steps=600, rate=3e-4, seed=13
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyStage:
    """Train one stage of tiny; ``start=FOLDER`` names the run before it."""

    settings: TinySettings

    def run(self, workdir: Path, overrides: Mapping[str, str], *, resume: bool) -> None:
        """Train in ``workdir``; its last state is the result."""
        settings = override(self.settings, overrides)
        start_fresh(workdir, resume=resume)
        run, objective = stage(settings)
        train(run, objective, workdir)


def stage(settings: TinySettings) -> tuple[Run, AnswerObjective]:
    """How long, on what, and the model it starts from."""
    tokenizer = Tokenizer.from_file(TOKENIZER)
    model = PaliGemma(tiny(EMBEDDINGS, tokenizer.vocab_size - 1, settings.size))
    initialise(model, settings.seed)
    if settings.start:
        take_over(model, newest_model(Path(settings.start)))
    drawn = mixture(settings)
    shown = [
        source(np.random.default_rng([_SHOWN, turn, index]))
        for turn in range(2)
        for index, (_, source) in enumerate(drawn)
    ]
    objective = AnswerObjective(
        model=model,
        tokenizer=tokenizer,
        sources=drawn,
        images=settings.images,
        seed=settings.seed,
        shown=shown,
    )
    run = Run(
        name=f"tiny {settings.stage}",
        adam=AdamConfig(rate=settings.rate, decay=settings.decay, beta2=0.98),
        schedule=Schedule(steps=settings.steps, warmup=settings.warmup, floor=settings.floor),
        sample_every=settings.sample_every,
    )
    return run, objective


def mixture(settings: TinySettings) -> tuple[tuple[float, Source], ...]:
    """What a stage draws, with the share of pictures each source gives.

    Raises:
        TrainingError: no stage of that name.
    """
    size, turns = settings.size, settings.turns
    if settings.stage == "low":
        asks = TaskMix(tasks={"caption": 0.3, "ask": 0.35, "detect": 0.35})
        return (
            (0.7, SceneSource(size=size, turns=turns, mix=asks)),
            (0.3, ReadingSource(size=size)),
        )
    if settings.stage not in ("high", "mix"):
        raise TrainingError(f"no stage '{settings.stage}'; there are low, high and mix")
    asks = TaskMix(tasks={"caption": 0.2, "ask": 0.35, "detect": 0.25, "segment": 0.2})
    return (
        (0.5, SceneSource(size=size, turns=turns, mix=asks, codec=MASK_CODEC)),
        (0.25, ReadingSource(size=size)),
        (0.25, DocumentSource(size=size, turns=turns)),
    )


def take_over(model: PaliGemma, found: Mapping[str, Tensor]) -> None:
    """Give a fresh model whatever an earlier stage learned.

    A SigLIP pair gives its image tower, a PaliGemma gives everything; positions are resized to
    this model's pictures.

    Raises:
        TrainingError: ``found`` holds no image tower.
    """
    wanted = model.state_dict()
    known = {name: value for name, value in found.items() if name in wanted}
    if "vision.position" not in known:
        raise TrainingError("the earlier run's state holds no image tower to start from")
    known["vision.position"] = resize_positions(
        known["vision.position"], model.config.vision.num_tokens
    )
    model.load_state_dict(wanted | known)
