"""Questions of the ask task: what, how many, which colour, where, is there.

A question is put only where the picture settles its answer: things near the border between two
fields are not asked for their place, things at about the same height not which one is above.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import TypeVar

import numpy as np

from heliodor.teach.data.concepts import Concept, load_concepts, partners
from heliodor.teach.data.language import PLACES, colour_word, kinds_of, place_word
from heliodor.teach.data.question import Question
from heliodor.teach.data.scenes import Scene, Thing
from heliodor.teach.data.templates import TEMPLATES, WORDS

__all__ = ["absent", "ask_questions", "place_of"]

_T = TypeVar("_T")

_FIELD_MARGIN = 0.045  # of the side: how far a middle must be from the border of two fields
_APART = 0.12  # of the side: how far two middles must be apart to be left, right, above, below
_MIDDLE = 0.07  # of the side: half the width of the band that is neither left nor right
_MOST_NAMED = 2  # kinds that "what is in the picture?" may ask for; a caption names more

# The form, the axis (0 across, 1 down), the sign of the side it asks for.
_HALVES = (("what_left", 0, -1), ("what_right", 0, 1), ("what_top", 1, -1), ("what_bottom", 1, 1))
_BESIDE = (
    ("what_left_of", 0, -1),
    ("what_right_of", 0, 1),
    ("what_above", 1, -1),
    ("what_below", 1, 1),
)
_RELATIONS = (("where_across", 0, ("left", "right")), ("where_down", 1, ("above", "below")))


def ask_questions(rng: np.random.Generator, scene: Scene, language: str = "en") -> list[Question]:
    """Every question of the ask task that a scene answers, each in one wording.

    Args:
        rng: Chooses wordings and what to ask for that is absent.
        scene: The scene.
        language: One of ``language.LANGUAGES``; forms that it lacks are left out.
    """
    ask = _Asker(rng, language)
    questions: list[Question] = []
    for part in (_what, _beside, _how_many, _colour, _where, _relations, _exists):
        questions += part(ask, scene)
    return questions


class _Asker:
    """Words one question in one language."""

    def __init__(self, rng: np.random.Generator, language: str) -> None:
        self.rng = rng
        self.language = language
        self.forms = TEMPLATES[language]
        self.words = WORDS[language]

    def name(self, concept: Concept) -> str:
        return concept.in_language(self.language)

    def counted(self, concept: Concept) -> str:
        return concept.plural if self.language == "en" else self.name(concept)

    def one(self, concept: Concept) -> str:
        return f"{concept.article} {concept.name}" if self.language == "en" else self.name(concept)

    def put(
        self,
        kind: str,
        form: str,
        answer: str,
        a: str = "",
        b: str = "",
        verb: str = "is",
        things: tuple[int, ...] = (),
    ) -> Iterator[Question]:
        """The question, or nothing where the language lacks the form."""
        ways = self.forms.get(form, ())
        if ways:
            way = ways[int(self.rng.integers(len(ways)))]
            text = way.format_map({"a": a, "b": b, "is": verb, "Is": verb.capitalize()})
            prompt = f"answer {self.language} {text}"
            yield Question(task="ask", prompt=prompt, suffix=answer, kind=kind, things=things)


def absent(rng: np.random.Generator, scene: Scene) -> Concept:
    """A concept that the scene does not show; often of a group that it shows.

    Held-out partners of what it shows are never named: a model that always saw them denied would
    learn the pair after all, the wrong way round.
    """
    shown = {thing.concept for thing in scene.things}
    barred = {partner for concept in shown for partner in partners(concept)} | shown
    groups = {concept.group for concept in shown}
    near = rng.random() < 0.4
    concepts = load_concepts()
    for _ in range(200):
        concept = concepts[int(rng.integers(len(concepts)))]
        if concept not in barred and (not near or concept.group in groups):
            return concept
    return next(concept for concept in concepts if concept not in barred)


def place_of(thing: Thing, size: int) -> str | None:
    """The field of the picture that holds a thing's middle, None near the border of two fields."""
    fields: list[int] = []
    for value in thing.centre:
        share = value / size
        if min(abs(share - 1 / 3), abs(share - 2 / 3)) < _FIELD_MARGIN:
            return None
        fields.append(min(2, int(share * 3)))
    column, row = fields
    return PLACES[row][column]


def _singles(scene: Scene) -> list[Thing]:
    """Things that are the only one of their kind, so that a name means them."""
    return [scene.things[i[0]] for i in kinds_of(scene).values() if len(i) == 1]


def _numbers(scene: Scene, chosen: list[Thing]) -> tuple[int, ...]:
    """The indices of some of a scene's things."""
    return tuple(i for i, thing in enumerate(scene.things) if any(thing is c for c in chosen))


def _some(ask: _Asker, items: list[_T], most: int) -> list[_T]:
    """At most so many of the items, drawn: full scenes would ask for little else."""
    order = ask.rng.permutation(len(items))[:most]
    return [items[int(i)] for i in order]


def _what(ask: _Asker, scene: Scene) -> Iterator[Question]:
    kinds = kinds_of(scene)
    if len(kinds) <= _MOST_NAMED:
        names = ask.words["separator"].join(ask.name(concept) for concept in kinds)
        alone = len(scene.things) == 1 and "what_one" in ask.forms
        yield from ask.put("what", "what_one" if alone else "what", names)
    if len(scene.things) < 2:
        return
    for form, axis, sign in _HALVES:
        sides = [sign * (thing.centre[axis] / scene.size - 0.5) for thing in scene.things]
        inside = [t for t, side in zip(scene.things, sides, strict=True) if side > 0]
        if len(inside) == 1 and min(abs(side) for side in sides) > _MIDDLE:
            found = _numbers(scene, inside)
            yield from ask.put("what", form, ask.name(inside[0].concept), things=found)


def _beside(ask: _Asker, scene: Scene) -> Iterator[Question]:
    for thing in _some(ask, _singles(scene), 2):
        for form, axis, sign in _BESIDE:
            others = [other for other in scene.things if other is not thing]
            gaps = [sign * (o.centre[axis] - thing.centre[axis]) / scene.size for o in others]
            beyond = [o for o, gap in zip(others, gaps, strict=True) if gap > 0]
            if len(beyond) == 1 and min(abs(gap) for gap in gaps) > _APART:
                name = ask.name(beyond[0].concept)
                found = _numbers(scene, beyond)
                yield from ask.put("what", form, name, ask.name(thing.concept), things=found)


def _how_many(ask: _Asker, scene: Scene) -> Iterator[Question]:
    for concept, indices in kinds_of(scene).items():
        number, found = str(len(indices)), tuple(indices)
        yield from ask.put("how_many", "how_many", number, ask.counted(concept), things=found)
    yield from ask.put("how_many", "how_many", "0", ask.counted(absent(ask.rng, scene)))
    yield from ask.put("how_many", "how_many_all", str(len(scene.things)))


def _colour(ask: _Asker, scene: Scene) -> Iterator[Question]:
    for thing in _singles(scene):
        if thing.colour is not None:
            word = colour_word(thing.colour, ask.language)
            name = ask.name(thing.concept)
            found, verb = _numbers(scene, [thing]), thing.concept.verb
            yield from ask.put("colour", "colour", word, name, verb=verb, things=found)
    if scene.background_colour is not None:
        word = colour_word(scene.background_colour, ask.language)
        yield from ask.put("colour", "colour_ground", word)


def _where(ask: _Asker, scene: Scene) -> Iterator[Question]:
    for thing in _singles(scene):
        place = place_of(thing, scene.size)
        if place is not None:
            word = place_word(place, ask.language)
            name = ask.name(thing.concept)
            found, verb = _numbers(scene, [thing]), thing.concept.verb
            yield from ask.put("where", "where", word, name, verb=verb, things=found)


def _relations(ask: _Asker, scene: Scene) -> Iterator[Question]:
    for thing, other in _some(ask, list(permutations(_singles(scene), 2)), 2):
        for form, axis, words in _RELATIONS:
            gap = (thing.centre[axis] - other.centre[axis]) / scene.size
            if abs(gap) > _APART and form in ask.forms:
                word = ask.words[words[0] if gap < 0 else words[1]]
                names = ask.name(thing.concept), ask.name(other.concept)
                found, verb = _numbers(scene, [thing, other]), thing.concept.verb
                yield from ask.put("where", form, word, *names, verb=verb, things=found)


def _exists(ask: _Asker, scene: Scene) -> Iterator[Question]:
    kinds = kinds_of(scene)
    concepts = list(kinds)
    there = concepts[int(ask.rng.integers(len(concepts)))]
    missing = absent(ask.rng, scene)
    for concept, word, found in ((there, "yes", tuple(kinds[there])), (missing, "no", ())):
        one, answer = ask.one(concept), ask.words[word]
        yield from ask.put("exists", "exists", answer, one, verb=concept.verb, things=found)
