"""The held-out examples: pictures that training never sees, and one question or more of each.

Every example is a function of its split, number and seed. Scene questions come from the sampler
that training draws from, so that they are put in the same words and common answers are as rare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliodor.errors import DataError
from heliodor.teach.data.artwork import HELD_OUT_STYLE, TRAIN_STYLES
from heliodor.teach.data.asking import absent
from heliodor.teach.data.concepts import Concept
from heliodor.teach.data.documents import document_example
from heliodor.teach.data.fonts import TextSplit
from heliodor.teach.data.language import LANGUAGES, kinds_of
from heliodor.teach.data.questions import (
    Question,
    TaskMix,
    caption_question,
    detect_question,
    sample_questions,
    segment_question,
)
from heliodor.teach.data.reading import PROMPT, read_example
from heliodor.teach.data.scenes import Scene, Thing, render_scene
from heliodor.teach.data.splits import Split, scene_rng

__all__ = [
    "ASK_KINDS",
    "COLUMNS",
    "SCENE_TASKS",
    "SIZE",
    "TASKS",
    "Column",
    "Exam",
    "Item",
    "build_exam",
    "scene_items",
]

SIZE = 224
"""Side of every picture in pixels."""

TASKS: tuple[str, ...] = ("caption", "ask", "detect", "segment", "read", "document")
SCENE_TASKS = TASKS[:4]
ASK_KINDS: tuple[str, ...] = ("what", "how_many", "colour", "where")
"""Kinds of question whose mean is the figure of "ask"; "exists" is reported beside them."""

_APART = 1_000_000  # examples between two seeds
_PATIENCE = 40  # pictures looked at for each example wanted, before giving up
_LANGUAGE_SHARE = 5  # a fifth as many captions in each language but English
_EXISTS_SHARE = 4
_ABSENT = 0.25  # share of detections that also ask for something that is not there
_READ, _DOCUMENT = 11, 12  # streams of the text examples


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A kind of held-out picture.

    Attributes:
        name: what the table calls it.
        split: which scenes; None for pictures of text.
        styles: artwork of the scenes.
    """

    name: str
    split: Split | None
    styles: tuple[str, ...] = TRAIN_STYLES


NEW_LAYOUTS = Column(name="new layouts", split=Split.LAYOUTS)
HELD_OUT_PAIRS = Column(name="held-out pairs", split=Split.PAIRS)
HELD_OUT_ARTWORK = Column(name="held-out artwork", split=Split.LAYOUTS, styles=(HELD_OUT_STYLE,))
HELD_OUT_FONTS = Column(name="held-out fonts", split=None)
COLUMNS = (NEW_LAYOUTS, HELD_OUT_PAIRS, HELD_OUT_ARTWORK, HELD_OUT_FONTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question to put to a model.

    Attributes:
        task: one of ``TASKS``.
        kind: finer: "what", "caption_fr", "receipt", "3 words"; the task where there is no finer.
        prompt: the words before the newline.
        truth: the answer in words; empty for detect and segment.
        picture: number of the picture in its exam.
        labels: what detect and segment ask for.
        things: what detect and segment should find.
        concepts: what a caption should name.
    """

    task: str
    kind: str
    prompt: str
    truth: str
    picture: int
    labels: tuple[str, ...] = ()
    things: tuple[Thing, ...] = ()
    concepts: frozenset[Concept] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """Pictures of one column, uint8 [224 224 3] each, and the questions about them."""

    column: Column
    pictures: tuple[NDArray[np.uint8], ...]
    items: tuple[Item, ...]


class Scenes:
    """Scenes of a split by number, drawn when first asked for."""

    def __init__(self, column: Column, split: Split, first: int, size: int = SIZE) -> None:
        self.split, self.size = split, size
        self._styles, self._first = column.styles, first
        self._drawn: list[Scene] = []

    def rng(self, number: int, purpose: int) -> np.random.Generator:
        """Chance for the questions about a scene, a stream for each purpose above 0."""
        return scene_rng(self.split, self._first + number, purpose)

    def __getitem__(self, number: int) -> Scene:
        while len(self._drawn) <= number:
            rng = scene_rng(self.split, self._first + len(self._drawn))
            scene = render_scene(rng, size=self.size, split=self.split, styles=self._styles)
            self._drawn.append(scene)
        return self._drawn[number]

    def pictures(self) -> tuple[NDArray[np.uint8], ...]:
        """Of all scenes drawn so far."""
        return tuple(scene.image for scene in self._drawn)


def build_exam(column: Column, tasks: Sequence[str], examples: int, seed: int) -> Exam:
    """The questions of a column.

    Args:
        column: which pictures.
        tasks: of ``TASKS``; those that the column has not are left out.
        examples: questions of each task, 1 or more.
        seed: another seed, other pictures; 0 or more.

    Raises:
        DataError: too few pictures answer a question of some kind.
    """
    first = seed * _APART
    if column.split is None:
        return _text_exam(column, tasks, examples, first)
    scenes = Scenes(column, column.split, first)
    items = [
        item
        for task in SCENE_TASKS
        if task in tasks
        for item in scene_items(scenes, task, examples)
    ]
    return Exam(column=column, pictures=scenes.pictures(), items=tuple(items))


def scene_items(scenes: Scenes, task: str, examples: int) -> list[Item]:
    """Questions of one scene task: ``examples`` of them, and those that are only reported."""
    if task == "caption":
        return [item for language in LANGUAGES for item in _captions(scenes, language, examples)]
    if task == "ask":
        kinds = {kind: -(-examples // len(ASK_KINDS)) for kind in ASK_KINDS}
        exists = {"exists": -(-examples // _EXISTS_SHARE)}
        return [*_asked(scenes, kinds, purpose=2), *_asked(scenes, exists, purpose=3)]
    if task == "detect":
        return [_detection(scenes, number) for number in range(examples)]
    return list(_segmentations(scenes, examples))


def _captions(scenes: Scenes, language: str, examples: int) -> Iterator[Item]:
    share = 1 if language == "en" else _LANGUAGE_SHARE
    for number in range(-(-examples // share)):
        scene = scenes[number]
        yield _item(caption_question(scene, language), scene, number)


def _asked(scenes: Scenes, wanted: dict[str, int], purpose: int) -> Iterator[Item]:
    """Questions, one a scene, of the kind that is rarest so far among those it allows."""
    mixes = {
        kind: TaskMix(tasks={"ask": 1}, kinds={kind: 1}, languages={"en": 1}) for kind in wanted
    }
    count: Counter[str] = Counter()
    total = sum(wanted.values())
    for number in range(_PATIENCE * total):
        scene, rng = scenes[number], scenes.rng(number, purpose)
        open_kinds = [kind for kind in wanted if count[kind] < wanted[kind]]
        for kind in sorted(open_kinds, key=lambda kind: count[kind] / wanted[kind]):
            (question,) = sample_questions(rng, scene, 1, mixes[kind])
            if question.kind == kind:
                count[kind] += 1
                yield _item(question, scene, number)
                break
        if count.total() == total:
            return
    raise DataError(_too_few("ask", dict(count), total, _PATIENCE * total))


def _detection(scenes: Scenes, number: int) -> Item:
    """Everything in the picture is asked for, in any order, now and then more than that."""
    scene, rng = scenes[number], scenes.rng(number, 4)
    concepts = list(kinds_of(scene))
    if rng.random() < _ABSENT:
        concepts.append(absent(rng, scene))
    asked = [concepts[int(index)] for index in rng.permutation(len(concepts))]
    return _item(detect_question(scene, asked), scene, number, asked)


def _segmentations(scenes: Scenes, examples: int) -> Iterator[Item]:
    """One thing a scene, the only one of its kind, so that its name means it."""
    done = 0
    for number in range(_PATIENCE * examples):
        scene = scenes[number]
        single = [concept for concept, found in kinds_of(scene).items() if len(found) == 1]
        if single:
            asked = [single[int(scenes.rng(number, 5).integers(len(single)))]]
            yield _item(segment_question(scene, asked), scene, number, asked)
            done += 1
        if done == examples:
            return
    raise DataError(_too_few("segment", done, examples, _PATIENCE * examples))


def _item(question: Question, scene: Scene, number: int, asked: Sequence[Concept] = ()) -> Item:
    located = question.task in ("detect", "segment")
    return Item(
        task=question.task,
        kind=question.kind,
        prompt=question.prompt,
        truth="" if located else question.suffix,
        picture=number,
        labels=tuple(concept.name for concept in asked),
        things=tuple(scene.things[i] for i in question.things) if located else (),
        concepts=frozenset(kinds_of(scene)) if question.task == "caption" else frozenset(),
    )


def _text_exam(column: Column, tasks: Sequence[str], examples: int, first: int) -> Exam:
    pictures: list[NDArray[np.uint8]] = []
    items: list[Item] = []
    for task in ("read", "document"):
        if task in tasks:
            for number in range(first, first + examples):
                draw = reading if task == "read" else document
                picture, item = draw(TextSplit.TEST, number, len(pictures))
                pictures.append(picture)
                items.append(item)
    return Exam(column=column, pictures=tuple(pictures), items=tuple(items))


def reading(split: TextSplit, number: int, picture: int) -> tuple[NDArray[np.uint8], Item]:
    """A few words, in a held-out font whatever the split, which chooses the random stream."""
    image, text = read_example(split.rng(number, _READ), size=SIZE, split=TextSplit.TEST)
    words = len(text.split())
    kind = f"{words} word{'s' if words > 1 else ''}"
    return image, Item(task="read", kind=kind, prompt=PROMPT, truth=text, picture=picture)


def document(split: TextSplit, number: int, picture: int) -> tuple[NDArray[np.uint8], Item]:
    """A document and one question about it; fonts and streams are those of ``reading``."""
    rng = split.rng(number, _DOCUMENT)
    page = document_example(rng, size=SIZE, split=TextSplit.TEST)
    prompt, answer = page.questions[int(rng.integers(len(page.questions)))]
    kind = page.kind.value
    return page.image, Item(
        task="document", kind=kind, prompt=prompt, truth=answer, picture=picture
    )


def _too_few(task: str, found: object, wanted: int, looked: int) -> str:
    return (
        f"only {found} of {wanted} examples of '{task}' were found in {looked} held-out pictures: "
        "ask for fewer examples or more styles of artwork"
    )
