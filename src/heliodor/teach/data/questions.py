"""Questions that a scene answers: caption, detect, segment here, and the sampler over all tasks.

A question is a prompt and the suffix that a model should write after it. Only what the picture
settles is asked: see ``asking`` for the margins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from heliodor.errors import DataError
from heliodor.see.boxes import CODES_PER_OBJECT, encode_box, format_object
from heliodor.teach.data.asking import absent, ask_questions
from heliodor.teach.data.concepts import Concept
from heliodor.teach.data.language import CAPTION_LANGUAGES, LANGUAGES, caption, kinds_of
from heliodor.teach.data.question import Question
from heliodor.teach.data.scenes import Scene

__all__ = [
    "Question",
    "TaskMix",
    "all_questions",
    "caption_question",
    "complete_segment",
    "detect_question",
    "sample_questions",
    "segment_question",
]

_CODES = "{seg}"
_ABSENT = 0.12  # share of detections that also ask for something that is not there
# Share of those that ask for nothing else. Each example's loss is a mean over its tokens, so an
# answer of <eos> alone weighs as much as ten tokens of box: with more, "nothing" always wins.
_ONLY_ABSENT = 0.1
_FOREIGN = 0.15  # share of detections and segmentations that ask in another language
# How much rarer common answers are drawn, so that none can be guessed.
_RARE = {"how_many:1": 0.35, "how_many:0": 0.4, "how_many:2": 0.8}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMix:
    """How often each task, kind and language is drawn; weights need not sum to one.

    Attributes:
        tasks: "caption", "ask", "detect", "segment" -> weight.
        kinds: kinds of "ask" -> weight among those that a scene allows.
        languages: language -> weight, for captions and questions.
    """

    tasks: Mapping[str, float] = field(
        default_factory=lambda: {"caption": 0.25, "ask": 0.35, "detect": 0.25, "segment": 0.15}
    )
    kinds: Mapping[str, float] = field(
        default_factory=lambda: {
            "what": 0.25,
            "how_many": 0.25,
            "colour": 0.2,
            "where": 0.2,
            "exists": 0.1,
        }
    )
    languages: Mapping[str, float] = field(
        default_factory=lambda: {"en": 0.6} | dict.fromkeys(LANGUAGES[1:], 0.08)
    )


def caption_question(scene: Scene, language: str = "en") -> Question:
    """``caption en`` and the scene's caption."""
    return Question(
        task="caption",
        prompt=f"caption {language}",
        suffix=caption(scene, language),
        kind=f"caption_{language}",
    )


def _listing(
    scene: Scene, concepts: Sequence[Concept], language: str, marks: str
) -> tuple[str, str, tuple[int, ...]]:
    """Names asked for, what is found, and the indices of the things: left to right."""
    names = {concept: concept.in_language(language) for concept in concepts}
    objects: list[str] = []
    indices: list[int] = []
    for index, thing in enumerate(scene.things):
        if thing.concept in names:
            locations = encode_box(thing.box, (scene.size, scene.size))
            objects.append(format_object(("".join(locations) + marks,), names[thing.concept]))
            indices.append(index)
    return " ; ".join(names.values()), " ; ".join(objects), tuple(indices)


def detect_question(scene: Scene, concepts: Sequence[Concept], language: str = "en") -> Question:
    """``detect dog ; cat`` and every box of those kinds, left to right; nothing where none is.

    Args:
        scene: The scene.
        concepts: What to ask for, in this order, at least one.
        language: Language of the names, in prompt and answer.
    """
    asked, found, indices = _listing(scene, concepts, language, "")
    return Question(
        task="detect", prompt=f"detect {asked}", suffix=found, kind="detect", things=indices
    )


def segment_question(scene: Scene, concepts: Sequence[Concept], language: str = "en") -> Question:
    """``segment dog`` and its boxes, with ``{seg}`` where ``complete_segment`` puts mask codes.

    Args:
        scene: The scene.
        concepts: What to ask for, at least one.
        language: Language of the names, in prompt and answer.
    """
    asked, found, indices = _listing(scene, concepts, language, _CODES)
    return Question(
        task="segment", prompt=f"segment {asked}", suffix=found, kind="segment", things=indices
    )


def complete_segment(question: Question, codes: Sequence[Sequence[int]]) -> Question:
    """Put mask codes into a segment question.

    Args:
        question: From ``segment_question``.
        codes: 16 codes, 0..127, for each of ``question.things``, in that order.

    Raises:
        DataError: other numbers of things or codes, or codes out of range.
    """
    wanted = len(question.things)
    if len(codes) != wanted or any(len(row) != CODES_PER_OBJECT for row in codes):
        shape = [len(row) for row in codes]
        raise DataError(
            f"codes of lengths {shape} came for {wanted} things: give {CODES_PER_OBJECT} for each"
        )
    if any(not 0 <= code < 128 for row in codes for code in row):
        raise DataError("a mask code must be 0..127: encode masks with the mask codec")
    parts = question.suffix.split(_CODES)
    filled = [parts[0]]
    for row, part in zip(codes, parts[1:], strict=True):
        filled.append("".join(f"<seg{code:03d}>" for code in row) + part)
    return replace(question, suffix="".join(filled))


def all_questions(rng: np.random.Generator, scene: Scene, language: str = "en") -> list[Question]:
    """Every question that a scene answers, one wording of each, for evaluation.

    Args:
        rng: Chooses wordings and what to ask for that is absent.
        scene: The scene.
        language: One of ``LANGUAGES``.
    """
    concepts = list(kinds_of(scene))
    questions = [caption_question(scene, language), *ask_questions(rng, scene, language)]
    questions += [detect_question(scene, [concept], language) for concept in concepts]
    if len(concepts) > 1:
        questions.append(detect_question(scene, concepts, language))
    questions += [segment_question(scene, [concept], language) for concept in concepts]
    return questions


def sample_questions(
    rng: np.random.Generator, scene: Scene, count: int, mix: TaskMix | None = None
) -> list[Question]:
    """Draw questions about one scene, for training; none twice unless the scene has no more.

    Args:
        rng: Where chance comes from.
        scene: The scene.
        count: How many, 1 or more.
        mix: Weights; the default mix where None.
    """
    mix = TaskMix() if mix is None else mix
    drawn: list[Question] = []
    for attempt in range(4 * count):
        question = _sample(rng, scene, mix)
        if question not in drawn or attempt >= 3 * count:
            drawn.append(question)
        if len(drawn) == count:
            break
    return drawn


def _sample(rng: np.random.Generator, scene: Scene, mix: TaskMix) -> Question:
    task = _pick(rng, mix.tasks)
    if task == "caption":
        return caption_question(scene, _pick(rng, mix.languages))
    if task == "ask":
        return _sample_ask(rng, scene, mix)
    language = "en"
    if rng.random() < _FOREIGN:
        language = CAPTION_LANGUAGES[int(rng.integers(1, len(CAPTION_LANGUAGES)))]
    kinds = kinds_of(scene)
    if task == "detect":
        return detect_question(scene, _asked(rng, scene), language)
    single = [concept for concept, indices in kinds.items() if len(indices) == 1]
    pool = single if single and rng.random() < 0.8 else list(kinds)
    return segment_question(scene, [pool[int(rng.integers(len(pool)))]], language)


def _asked(rng: np.random.Generator, scene: Scene) -> list[Concept]:
    """One to three kinds to look for, mostly present, in random order; all of them now and then."""
    concepts = list(kinds_of(scene))
    chance = rng.random()
    number = 1 if chance < 0.55 else 2 if chance < 0.75 else 3 if chance < 0.85 else len(concepts)
    order = rng.permutation(len(concepts))
    asked = [concepts[int(i)] for i in order[:number]]
    if rng.random() < _ABSENT:
        other = absent(rng, scene)
        asked = [other] if rng.random() < _ONLY_ABSENT else [*asked[:2], other]
    return asked


def _sample_ask(rng: np.random.Generator, scene: Scene, mix: TaskMix) -> Question:
    """One question of a drawn kind, common answers more rarely."""
    known = {lang: w for lang, w in mix.languages.items() if lang in LANGUAGES}
    questions = ask_questions(rng, scene, _pick(rng, known or {"en": 1.0}))
    possible = {question.kind for question in questions}
    kinds = {kind: w for kind, w in mix.kinds.items() if kind in possible and w > 0}
    kind = _pick(rng, kinds) if kinds else "how_many"
    choices = [question for question in questions if question.kind == kind]
    weights = [_RARE.get(f"{kind}:{question.suffix}", 1.0) for question in choices]
    return choices[_index(rng, weights)]


def _pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    return list(weights)[_index(rng, list(weights.values()))]


def _index(rng: np.random.Generator, weights: Sequence[float]) -> int:
    """A position, drawn by weight."""
    edges = list(accumulate(weights))
    return min(bisect_right(edges, rng.random() * edges[-1]), len(weights) - 1)
