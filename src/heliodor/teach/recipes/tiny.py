"""The shipped small model, in the paper's stages: low resolution, higher resolution, mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heliodor.checkpoints import transformers as transformers_layout
from heliodor.checkpoints.maskcodec import read_mask_codec
from heliodor.errors import TrainingError
from heliodor.image import ImageProcessor
from heliodor.models.presets import TINY_VISION, tiny
from heliodor.teach.answering import AnswerObjective, Source
from heliodor.teach.data.casting import MOST
from heliodor.teach.data.questions import TaskMix
from heliodor.teach.data.sources import DocumentSource, LettersSource, ReadingSource, SceneSource
from heliodor.teach.grounding import GroundedPaliGemma, quieten
from heliodor.teach.init import initialise, order_rows, pattern_rows, wave_positions
from heliodor.teach.loop import Run, train
from heliodor.teach.losses import Nearness
from heliodor.teach.optim import AdamConfig, Schedule
from heliodor.teach.recipes.settings import at_least_one, override, start_fresh
from heliodor.teach.recipes.starting import fit_start, read_start, take_over
from heliodor.teach.state import find_states
from heliodor.text import Tokenizer
from heliodor.zoo import MASK_CODEC, TOKENIZER

_ASKED = TaskMix(tasks={"caption": 0.25, "ask": 0.3, "detect": 0.25, "segment": 0.2})
_SHOWN = 0x5EE  # seeds of the examples shown while a run lasts, which no batch draws
PLACES = 1024  # of a coordinate
PATCH = TINY_VISION.patch_size
EMBEDDINGS = 3776  # 3,713 ids, rounded up to a multiple of 64 as transformers does


@dataclass(frozen=True, kw_only=True, slots=True)
class TinySettings:
    """Numbers of one stage.

    Attributes:
        stage: "low", "mid", "high" or "mix": what the run is called.
        start: what to take over: the folder of an earlier run, whose newest state counts, or of a
            checkpoint in transformers layout; empty for nothing.
        size: side of the pictures in pixels.
        images: pictures of a batch.
        turns: questions about each scene; 0 teaches the image tower alone, what lies in patches.
        steps: optimiser steps in all.
        rate: full learning rate, reached after ``warmup`` steps; a cosine ends at ``floor`` of it.
        muon: full learning rate of the matrices within blocks, which Muon moves; 0 for Adam.
        tower: share of both rates for the image tower; 0 leaves it as it is, which spares its
            way back.
        decay: weight decay of the image tower and the projector.
        seed: of everything drawn.
        strength: how much the looks of things vary: near 0 as drawn, 1 as evaluations draw them.
        close: share of the scenes' pictures that show one thing close up.
        most: things in a scene at most: small pictures have no room for small things.
        grounding: weight of what lies in the patches beside the answers.
        apart: whether the answers leave the image tower alone.
        together: whether the questions about a picture share one row of the decoder.
        pointing: weight of where the decoder looks while it answers, beside the answers.
        naming: weight of how image tokens name what lies in the patches, beside the answers.
        scenes: share of pictures that show things.
        lines: share of pictures that show a few words.
        pages: share of pictures that are documents.
        letters: share of pictures full of letters, which are told and not asked about.
        spread: how far a place may be from the right one and still be told near it, in 1/1024 of
            the side; 0 for not at all.
        sample_every: steps between sample predictions; 0 for none.
        average: share that a step leaves of the running average of the weights, which is what is
            exported; 0 for the last weights.
        device: "cpu" or "cuda", see :class:`~heliodor.teach.loop.Run`.
        parts: threads that share each batch, see there.
    """

    stage: str
    start: str
    size: int
    images: int
    turns: int
    steps: int
    rate: float
    muon: float = 0.01
    tower: float = 1.0
    warmup: int = 40
    floor: float = 0.05
    decay: float = 0.0
    seed: int = 11
    strength: float = 1.0
    close: float = 0.0
    most: int = MOST
    grounding: float = 0.2
    apart: bool = False
    together: bool = False
    pointing: float = 0.0
    naming: float = 0.0
    scenes: float = 0.5
    lines: float = 0.25
    pages: float = 0.25
    letters: float = 0.0
    spread: float = 6.0
    sample_every: int = 200
    average: float = 0.0
    device: str = "cpu"
    parts: int = 1

    def __post_init__(self) -> None:
        """Refuse runs of nothing."""
        at_least_one(self, "images", "steps", "parts")
        if self.turns == 0 and self.lines > 0:
            raise TrainingError(f"turns=0 asks nothing, and lines={self.lines} are for asking")


LOW = TinySettings(
    stage="low",
    start="",
    size=112,
    images=48,
    turns=2,
    steps=1500,
    rate=1e-3,
    muon=0.012,
    tower=0.5,
    grounding=1.0,
    apart=True,
    close=0.25,
    most=2,
    scenes=0.9,
    lines=0.1,
    pages=0.0,
)
MID = TinySettings(
    stage="mid",
    start="",
    size=160,
    images=24,
    turns=3,
    steps=1050,
    rate=8e-4,
    muon=0.008,
    tower=0.5,
    grounding=1.0,
    apart=True,
    close=0.15,
    seed=14,
    scenes=0.7,
    lines=0.2,
    pages=0.1,
)
LETTERS = TinySettings(
    stage="letters",
    start="",
    size=224,
    images=24,
    turns=0,
    steps=1400,
    rate=6e-4,
    muon=0.003,
    warmup=30,
    floor=0.03,
    grounding=1.0,
    close=0.1,
    seed=15,
    scenes=0.3,
    lines=0.0,
    pages=0.05,
    letters=0.65,
)
HIGH = TinySettings(
    stage="high",
    start="",
    size=224,
    images=20,
    turns=8,
    steps=1700,
    rate=5e-4,
    muon=0.004,
    tower=0.6,
    warmup=20,
    floor=0.08,
    grounding=1.0,
    apart=True,
    together=True,
    pointing=0.4,
    naming=0.3,
    close=0.05,
    seed=12,
    scenes=0.4,
    lines=0.45,
    pages=0.1,
    letters=0.05,
)
MIX = TinySettings(
    stage="mix",
    start="",
    size=224,
    images=14,
    turns=3,
    steps=460,
    rate=2.5e-4,
    muon=0.002,
    tower=0.7,
    warmup=10,
    grounding=0.5,
    pointing=0.2,
    naming=0.1,
    seed=13,
    scenes=0.55,
    lines=0.25,
    pages=0.2,
    spread=2.0,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyStage:
    """Train one stage of tiny; ``start=FOLDER`` names the run before it."""

    settings: TinySettings
    summary: str

    def run(self, workdir: Path, overrides: Mapping[str, str], *, resume: bool) -> None:
        """Train in ``workdir``; ``workdir/model`` is the result, in transformers layout."""
        settings = override(self.settings, overrides)
        start_fresh(workdir, resume=resume)
        run, model, objective = stage(settings)
        if not find_states(workdir):
            fit_start(settings.start, objective)
        if train(run, objective, workdir).step == settings.steps:
            export(model, objective.tokenizer, workdir / "model")


def export(model: GroundedPaliGemma, tokenizer: Tokenizer, folder: Path) -> None:
    """Write what was learnt as a folder in transformers layout, in float16."""
    processor = ImageProcessor(size=model.config.vision.image_size)
    transformers_layout.save(model.plain().cpu(), tokenizer, processor, folder, dtype="float16")


def fresh(size: int, seed: int, tokenizer: Tokenizer) -> GroundedPaliGemma:
    """The model before it has learned anything."""
    model = GroundedPaliGemma(tiny(EMBEDDINGS, tokenizer.vocab_size - 1, size))
    initialise(model, seed)
    wave_positions(model.vision)
    quieten(model.covers)
    table = model.language.embedding.weight
    order_rows(table, tokenizer.loc_start, PLACES, seed)
    pattern_rows(table, tokenizer.seg_start, read_mask_codec(MASK_CODEC).codebook, seed)
    return model


def stage(settings: TinySettings) -> tuple[Run, GroundedPaliGemma, AnswerObjective]:
    """How long, the model it starts from, and on what."""
    tokenizer = Tokenizer.from_file(TOKENIZER)
    model = fresh(settings.size, settings.seed, tokenizer)
    if settings.start:
        take_over(model, read_start(Path(settings.start)))
    if settings.tower == 0:
        model.vision.requires_grad_(requires_grad=False)
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
        grounding=settings.grounding,
        apart=settings.apart,
        together=settings.together,
        pointing=settings.pointing,
        naming=settings.naming,
        near=Nearness(first=tokenizer.loc_start, count=PLACES, spread=settings.spread)
        if settings.spread
        else None,
    )
    run = Run(
        name=f"tiny {settings.stage}",
        adam=AdamConfig(
            rate=settings.rate,
            decay=settings.decay,
            beta2=0.98,
            muon=settings.muon,
            tower=settings.tower,
        ),
        schedule=Schedule(steps=settings.steps, warmup=settings.warmup, floor=settings.floor),
        data=f"{settings.images} pictures of {settings.size} pixels a step, "
        f"{settings.turns} questions each, strength {settings.strength}, close {settings.close}, "
        f"shares {settings.scenes} {settings.lines} {settings.pages} {settings.letters}, "
        f"seed {settings.seed}",
        sample_every=settings.sample_every,
        average=settings.average,
        device=settings.device,
        parts=settings.parts,
    )
    return run, model, objective


def mixture(settings: TinySettings) -> tuple[tuple[float, Source], ...]:
    """What a stage draws, with the share of pictures each source gives.

    Raises:
        TrainingError: the shares are all 0.
    """
    shares = (settings.scenes, settings.lines, settings.pages, settings.letters)
    if max(shares) <= 0 or (settings.turns > 0 and max(shares[:3]) <= 0):
        raise TrainingError("scenes, lines and pages are all 0: one is to be more")
    size, turns = settings.size, settings.turns
    drawn: tuple[tuple[float, Source], ...] = (
        (settings.scenes, _scenes(settings)),
        (settings.lines, ReadingSource(size=size, patch=PATCH)),
        (settings.pages, DocumentSource(size=size, turns=turns, patch=PATCH)),
    )
    if settings.letters > 0:
        drawn += ((settings.letters, LettersSource(size=size, patch=PATCH)),)
    return tuple((share, source) for share, source in drawn if share > 0)


def _scenes(settings: TinySettings) -> SceneSource:
    return SceneSource(
        size=settings.size,
        turns=settings.turns,
        mix=_ASKED,
        codec=MASK_CODEC,
        close=settings.close,
        strength=settings.strength,
        patch=PATCH,
        most=settings.most,
    )
