"""What a painter paints of what it was asked for, looked at by a model that never saw its pictures.

Prompts are held out: each names two things of a pair that no training scene shows together. The
scene that a prompt was taken from is looked at in the same way beside it, which is the most that
could be found; and so is the picture of another prompt, which is what is found where nothing is.

    objects      of the things named, those detected
    colours      of the things named with a colour, those whose colour is answered right
    left/right   of the prompts that say so, those whose two things are both detected, and stand so
    above/below  the same
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heliodor.errors import InputError
from heliodor.teach.compressing import held_out_scenes, round_trip_psnr
from heliodor.teach.data.concepts import Concept
from heliodor.teach.data.painting import Description, describe, paint_scene
from heliodor.teach.data.painting_words import say
from heliodor.teach.data.splits import Split, scene_rng
from heliodor.teach.data.templates import TEMPLATES
from heliodor.teach.evals.answers import Model, answer_items, encode_pictures
from heliodor.teach.evals.boxes import Marked
from heliodor.teach.evals.exam import Item
from heliodor.teach.evals.marking import Floor
from heliodor.teach.evals.painting_report import Gap, PaintFigure, PaintReport
from heliodor.teach.evals.report import describe_machine
from heliodor.teach.evals.statistics import Ratio, interval
from heliodor.teach.evals.text import exact_match

__all__ = [
    "FLOORS",
    "GAP",
    "LANGUAGES",
    "MEASURES",
    "PSNR",
    "Asked",
    "Painter",
    "Seen",
    "build_prompts",
    "evaluate_painter",
    "look",
    "score",
]

LANGUAGES = ("en", "zh", "fr")
MEASURES = ("objects", "colours", "left/right", "above/below")
FLOORS = {
    "objects": Floor(value=0.70),
    "colours": Floor(value=0.70),
    "left/right": Floor(value=0.60),
    "above/below": Floor(value=0.60),
}
"""What English prompts are asked to reach."""
GAP = Floor(value=0.10, less_is_better=True)
"""How far another language may lie below English."""
PSNR = Floor(value=24.0)
"""Of the autoencoder's round trip, in dB."""

_SCENE, _WORDS = 43, 45  # streams of held-out scenes and of their prompts
_APART = 1_000_000  # prompts between two seeds
_AXES = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}
_SIZE = 128
_STRENGTH = 0.35  # as the painter was taught


class Painter(Protocol):
    """What an evaluation needs of a painter; ``heliodor.load_painter`` gives it."""

    def paint(self, prompt: Any, **options: Any) -> Any:
        """Prompts -> paintings, each with an ``image``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Asked:
    """A held-out prompt.

    Attributes:
        description: what it says.
        prompts: by language.
        real: the scene it was taken from, uint8 [H W 3].
    """

    description: Description
    prompts: dict[str, str]
    real: NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was found in the picture of a prompt.

    Attributes:
        found: of each group, the middle (x, y) of its best box in pixels; None where there is none.
        colours: of each group with a colour, whether it was answered; None for the others.
    """

    found: tuple[tuple[float, float] | None, ...]
    colours: tuple[bool | None, ...]


def build_prompts(count: int, seed: int, *, size: int = _SIZE) -> list[Asked]:
    """Held-out prompts: two things of a pair never shown together, with colours and a relation.

    Args:
        count: how many.
        seed: another seed, other prompts; 0 or more.
        size: side of the scenes in pixels.
    """
    asked: list[Asked] = []
    for number in range(seed * _APART, seed * _APART + count):
        rng = scene_rng(Split.PAIRS, number, _SCENE)
        scene = paint_scene(rng, size=size, split=Split.PAIRS, most=2)
        description = describe(rng, scene, everything=True)
        prompts = {
            language: say(scene_rng(Split.PAIRS, number, _WORDS), description, language)
            for language in LANGUAGES
        }
        asked.append(Asked(description=description, prompts=prompts, real=scene.image))
    return asked


def look(
    judge: Model, pictures: Sequence[NDArray[np.uint8]], asked: Sequence[Description]
) -> list[Seen]:
    """Look for what descriptions name, each in its picture.

    Args:
        judge: a ``VisionLanguageModel``.
        pictures: uint8 [H W 3] each.
        asked: one a picture.
    """
    features = encode_pictures(judge, pictures)
    wanted = [_detection(number, each) for number, each in enumerate(asked)]
    questions = [
        _question(number, group.concept, group.colour)
        for number, each in enumerate(asked)
        for group in each.groups
        if group.colour is not None
    ]
    boxes = answer_items(judge, features, wanted)
    answers = iter(answer_items(judge, features, questions))
    seen: list[Seen] = []
    for each, found in zip(asked, boxes, strict=True):
        colours: list[bool | None] = [
            None if group.colour is None else exact_match(next(answers).text, group.colour) > 0
            for group in each.groups
        ]
        places = tuple(_middle(found.boxes, group.concept) for group in each.groups)
        seen.append(Seen(found=places, colours=tuple(colours)))
    return seen


def _detection(number: int, description: Description) -> Item:
    labels = tuple(group.concept.name for group in description.groups)
    return Item(task="detect", kind="detect", prompt="", truth="", picture=number, labels=labels)


def _question(number: int, concept: Concept, colour: str | None) -> Item:
    """The first wording of training's question for a colour."""
    way = TEMPLATES["en"]["colour"][0].format_map({"a": concept.name, "is": concept.verb})
    return Item(
        task="ask", kind="colour", prompt=f"answer en {way}", truth=colour or "", picture=number
    )


def _middle(boxes: Sequence[Marked], concept: Concept) -> tuple[float, float] | None:
    own = [box for box in boxes if box.label == concept.name]
    if not own:
        return None
    x0, y0, x1, y1 = max(own, key=lambda box: box.score).xyxy
    return (x0 + x1) / 2, (y0 + y1) / 2


def score(
    asked: Sequence[Description], seen: Sequence[Seen]
) -> dict[str, list[tuple[float, float]]]:
    """By measure, for each picture what is right and what could be; 0 of 0 where nothing is asked.

    A relation whose things are not both found is wrong.
    """
    marks: dict[str, list[tuple[float, float]]] = {name: [] for name in MEASURES}
    for each, found in zip(asked, seen, strict=True):
        marks["objects"].append(
            (float(sum(place is not None for place in found.found)), float(len(found.found)))
        )
        told = [right for right in found.colours if right is not None]
        marks["colours"].append((float(sum(told)), float(len(told))))
        for name in MEASURES[2:]:
            if each.relation is None or each.relation not in name:
                marks[name].append((0.0, 0.0))
            else:
                marks[name].append((float(_stands(each.relation, found)), 1.0))
    return marks


def _stands(relation: str, seen: Seen) -> bool:
    first, second = seen.found[:2]
    if first is None or second is None:
        return False
    axis, sign = _AXES[relation]
    return sign * (first[axis] - second[axis]) > 0


def evaluate_painter(
    painter: Painter,
    judge: Model,
    network: Any,
    *,
    prompts: int = 300,
    seed: int = 0,
    round_trips: int = 64,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> PaintReport:
    """Measure a painter.

    Args:
        painter: what paints.
        judge: a ``VisionLanguageModel`` that knows the things' English names.
        network: the painter's autoencoder, of diffusers.
        prompts: held-out prompts, each in every language of ``LANGUAGES``; at least 2.
        seed: of prompts, noise and resampling, 0 or more.
        round_trips: held-out scenes through the autoencoder, at least 1.
        options: of ``paint``, beside the seeds: steps, guidance, solver, ...
        progress: called with a line of text now and then.

    Raises:
        InputError: numbers out of range.
    """
    _check(prompts, seed, round_trips)
    tell = progress or _silent
    chosen = {"batch_size": 16, **(options or {})}
    asked = build_prompts(prompts, seed)
    wanted = [each.description for each in asked]
    tell(f"{prompts} scenes are looked at")
    real = _ratios(score(wanted, look(judge, [each.real for each in asked], wanted)))
    found: dict[str, dict[str, Ratio]] = {}
    others: dict[str, dict[str, Ratio]] = {}
    began = time.perf_counter()
    pictures: dict[str, list[NDArray[np.uint8]]] = {}
    for language in LANGUAGES:
        tell(f"{prompts} pictures are painted from prompts in {language}")
        texts = [each.prompts[language] for each in asked]
        seeds = list(range(seed * _APART, seed * _APART + prompts))
        painted = painter.paint(texts, seed=seeds, **chosen)
        pictures[language] = [np.asarray(each.image.convert("RGB")) for each in painted]
    seconds = (time.perf_counter() - began) / (prompts * len(LANGUAGES))
    for language, seen in pictures.items():
        tell(f"they are looked at: {language}")
        found[language] = _ratios(score(wanted, look(judge, seen, wanted)))
        others[language] = _ratios(score(wanted, look(judge, [*seen[1:], seen[0]], wanted)))
    figures = [_round_trip(network, round_trips, seed)]
    for language in reversed(LANGUAGES):
        figures[:0] = _figures(language, found, real, others[language], seed)
    return PaintReport(
        figures=tuple(figures),
        prompts=prompts,
        seed=seed,
        options={name: value for name, value in chosen.items() if name != "progress"},
        seconds=seconds,
        machine=describe_machine(),
    )


def _check(prompts: int, seed: int, round_trips: int) -> None:
    if prompts < 2 or seed < 0 or round_trips < 1:
        raise InputError(
            f"prompts must be at least 2, seed at least 0 and round_trips at least 1, not "
            f"{prompts}, {seed} and {round_trips}"
        )


def _silent(_: str) -> None:
    pass


def _ratios(marks: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Ratio]:
    """Measures that something was asked of."""
    return {
        name: Ratio.of(pairs)
        for name, pairs in marks.items()
        if sum(bottom for _, bottom in pairs) > 0
    }


def _figures(
    language: str,
    found: Mapping[str, Mapping[str, Ratio]],
    real: Mapping[str, Ratio],
    other: Mapping[str, Ratio],
    seed: int,
) -> Iterator[PaintFigure]:
    """A language's figures, and where it is not English how far it lies below."""
    for name, ratio in found[language].items():
        low, high = interval(ratio, seed)
        yield PaintFigure(
            name=name,
            language=language,
            count=int(ratio.bottom.sum()),
            value=ratio.value,
            low=low,
            high=high,
            real=real[name].value,
            other=other[name].value,
            floor=FLOORS[name] if language == "en" else None,
        )
    if language == "en":
        return
    for name, ratio in found[language].items():
        gap = Gap(upper=found["en"][name], lower=ratio)
        low, high = interval(gap, seed)
        yield PaintFigure(
            name=f"{name}, below English",
            language=language,
            count=int(ratio.bottom.sum()),
            value=gap.value,
            low=low,
            high=high,
            floor=GAP,
        )


def _round_trip(network: Any, count: int, seed: int) -> PaintFigure:
    scenes = held_out_scenes(count, size=_SIZE, strength=_STRENGTH, first=seed * _APART)
    mean = Ratio.mean(round_trip_psnr(network, scenes))
    low, high = interval(mean, seed)
    return PaintFigure(
        name="round trip, dB",
        language="",
        count=count,
        value=mean.value,
        low=low,
        high=high,
        floor=PSNR,
    )
