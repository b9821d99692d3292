"""Words for scenes: names of colours and places in six languages, captions and their inverse.

English captions are sentences. The other languages list what is there with numbers in brackets,
"chien, chat (2)": a form that is right whatever the gender and plural of the names.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import groupby

from heliodor.errors import DataError
from heliodor.teach.data.concepts import Concept, load_concepts
from heliodor.teach.data.scenes import Scene, Thing

__all__ = [
    "CAPTION_LANGUAGES",
    "LANGUAGES",
    "NUMBER_WORDS",
    "PLACES",
    "caption",
    "colour_word",
    "kinds_of",
    "names_in_caption",
    "place_word",
]

LANGUAGES = ("en", "zh", "fr", "de", "es", "ja")  # questions and captions
CAPTION_LANGUAGES = (*LANGUAGES, "ko", "pt", "it", "ru")  # captions, and names to detect by

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five")

_COLOUR_NAMES = "red orange yellow green blue purple pink brown black white grey"
_COLOURS = {
    "en": _COLOUR_NAMES,
    "zh": "红色 橙色 黄色 绿色 蓝色 紫色 粉色 棕色 黑色 白色 灰色",
    "fr": "rouge orange jaune vert bleu violet rose marron noir blanc gris",
    "de": "rot orange gelb grün blau lila rosa braun schwarz weiß grau",
    "es": "rojo naranja amarillo verde azul morado rosa marrón negro blanco gris",
    "ja": "赤 オレンジ 黄 緑 青 紫 ピンク 茶色 黒 白 灰色",
}

PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)
"""The nine fields of a picture in English, by row and column."""

_PLACES = {
    "en": "top left|top|top right|left|centre|right|bottom left|bottom|bottom right",
    "zh": "左上|上|右上|左|中间|右|左下|下|右下",
    "fr": "en haut à gauche|en haut|en haut à droite|à gauche|au centre|à droite"
    "|en bas à gauche|en bas|en bas à droite",
    "de": "oben links|oben|oben rechts|links|Mitte|rechts|unten links|unten|unten rechts",
    "es": "arriba a la izquierda|arriba|arriba a la derecha|a la izquierda|centro|a la derecha"
    "|abajo a la izquierda|abajo|abajo a la derecha",
    "ja": "左上|上|右上|左|中央|右|左下|下|右下",
}
_SEPARATORS = {"zh": "、", "ja": "、"}
_WIDE = frozenset(("zh", "ja", "ko"))  # written without spaces, or with endings glued to a name


def _table(cells: dict[str, str], separator: str | None) -> dict[str, dict[str, str]]:
    english = cells["en"].split(separator)
    return {
        language: dict(zip(english, row.split(separator), strict=True))
        for language, row in cells.items()
    }


_COLOUR_WORDS = _table(_COLOURS, None)
_PLACE_WORDS = _table(_PLACES, "|")


def colour_word(name: str, language: str) -> str:
    """A colour's word: ("red", "de") -> "rot".

    Raises:
        DataError: unknown language or colour.
    """
    return _word(_COLOUR_WORDS, name, language)


def place_word(name: str, language: str) -> str:
    """A field's word: ("top left", "fr") -> "en haut à gauche".

    Raises:
        DataError: unknown language or place.
    """
    return _word(_PLACE_WORDS, name, language)


def _word(table: dict[str, dict[str, str]], name: str, language: str) -> str:
    if language not in table:
        raise DataError(f"no questions in language '{language}': use one of {', '.join(table)}")
    if name not in table[language]:
        raise DataError(f"'{name}' is unknown: use one of {', '.join(table[language])}")
    return table[language][name]


def kinds_of(scene: Scene) -> dict[Concept, tuple[int, ...]]:
    """Each concept in a scene with the indices of its things, in order of first appearance."""
    kinds: dict[Concept, tuple[int, ...]] = {}
    for index, thing in enumerate(scene.things):
        kinds[thing.concept] = (*kinds.get(thing.concept, ()), index)
    return kinds


def caption(scene: Scene, language: str = "en") -> str:
    """What is in a scene, from left to right, things of a kind together.

    "a dog, two cats and a red balloon"; "chien, chat (2), ballon". Only English tells colours, and
    only of things that are painted in one.

    Raises:
        DataError: no names in that language.
    """
    phrases = [text for text, _ in caption_parts(scene, language)]
    if language == "en":
        return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)
    return _SEPARATORS.get(language, ", ").join(phrases)


def caption_parts(scene: Scene, language: str = "en") -> list[tuple[str, tuple[int, ...]]]:
    """The phrases of a caption in order, each with the indices of the things it stands for.

    Raises:
        DataError: no names in that language.
    """
    left, right = ("（", "）") if language in _SEPARATORS else (" (", ")")  # noqa: RUF001
    parts: list[tuple[str, tuple[int, ...]]] = []
    for indices in kinds_of(scene).values():
        group = [scene.things[i] for i in indices]
        if language == "en":
            phrase = _phrase(group)
        else:
            number = f"{left}{len(group)}{right}" if len(group) > 1 else ""
            phrase = group[0].concept.in_language(language) + number
        parts.append((phrase, tuple(indices)))
    return parts


def _phrase(group: list[Thing]) -> str:
    """Things of one kind: "a dog", "an orange cat", "two red cats", "two pairs of red socks"."""
    concept = group[0].concept
    colours = [colour for colour, _ in groupby(group, key=lambda thing: thing.colour)]
    colour = colours[0] if len(colours) == 1 else None
    if len(group) > 1:
        holder, of, held = concept.plural.rpartition(" of ")
        return " ".join(filter(None, (NUMBER_WORDS[len(group)], holder + of + _mark(colour, held))))
    if colour is None or concept.article == "some":
        return f"{concept.article} {_mark(colour, concept.name)}"
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {concept.name}"


def _mark(colour: str | None, noun: str) -> str:
    return noun if colour is None else f"{colour} {noun}"


@cache
def _names(language: str) -> tuple[re.Pattern[str], dict[str, Concept]]:
    """What finds the names of a language, longest first, and what each stands for."""
    known: dict[str, Concept] = {}
    for concept in load_concepts():
        known[concept.in_language(language).lower()] = concept
        if language == "en":
            known[concept.plural.lower()] = concept
    words = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
    edge = "" if language in _WIDE else r"\b"
    return re.compile(f"{edge}(?:{words}){edge}", re.IGNORECASE), known


def names_in_caption(text: str, language: str = "en") -> frozenset[Concept]:
    """The concepts that a caption names; the longest name wins where two begin at one place.

    In English "orange" before another name is its colour.

    Raises:
        DataError: no names in that language.
    """
    pattern, known = _names(language)
    found: set[Concept] = set()
    place = 0
    while (match := pattern.search(text, place)) is not None:
        place = match.end()
        is_colour = match[0].lower() == "orange" and pattern.match(text, place + 1) is not None
        if not (is_colour and language == "en" and text[place : place + 1] == " "):
            found.add(known[match[0].lower()])
    return frozenset(found)
