"""Descriptions in six languages, as somebody would type what is to be painted.

    a red apple left of a blue car          红色的苹果在蓝色的汽车左边
    une pomme rouge à gauche d'une voiture bleue
    ein roter Apfel links von einem blauen Auto
    una manzana roja a la izquierda de un coche azul
    青い自動車の左に赤いリンゴ

Articles and colours follow the gender of a name (``painting_genders``). French, German and Spanish
have no plurals in ``concepts.json``: several things are the name and a number in brackets,
"pomme rouge (2)".
"""

# ruff: noqa: RUF001  (Chinese has a comma of its own)

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np

from heliodor.errors import DataError
from heliodor.teach.data.language import LANGUAGES, NUMBER_WORDS, colour_word
from heliodor.teach.data.painting import Description, Group
from heliodor.teach.data.painting_genders import FRENCH, GERMAN, SPANISH, Genders

__all__ = ["LANGUAGES", "say"]


class Speaker(Protocol):
    """How one language puts things."""

    def thing(self, rng: np.random.Generator, group: Group) -> str:
        """A group on its own."""
        ...

    def beside(self, group: Group) -> str:
        """A single thing as what another one stands beside."""
        ...

    def related(self, rng: np.random.Generator, relation: str, first: str, second: str) -> str:
        """What :meth:`thing` gave, and where it stands to what :meth:`beside` gave."""
        ...

    def listed(self, parts: Sequence[str]) -> str:
        """Things one after another; the first part may be two that are related."""
        ...

    def ground(self, rng: np.random.Generator, colour: str) -> str:
        """What stands behind the things: their ground."""
        ...


def say(rng: np.random.Generator, description: Description, language: str) -> str:
    """Put a description in words.

    Args:
        rng: chooses among wordings.
        description: what to say.
        language: of ``LANGUAGES``.

    Raises:
        DataError: another language.
    """
    if language not in _SPEAKERS:
        raise DataError(f"no captions in '{language}' for painting: use {', '.join(_SPEAKERS)}")
    speaker, groups = _SPEAKERS[language], description.groups
    parts = [speaker.thing(rng, group) for group in groups]
    if description.relation is not None:
        beside = speaker.beside(groups[1])
        parts[:2] = [speaker.related(rng, description.relation, parts[0], beside)]
    text = speaker.listed(parts)
    if description.ground is not None:
        text += speaker.ground(rng, description.ground)
    return text


def _pick(rng: np.random.Generator, ways: Sequence[str]) -> str:
    return ways[int(rng.integers(len(ways)))]


class _English:
    _WAYS: ClassVar = {
        "left": ("{} left of {}", "{} to the left of {}"),
        "right": ("{} right of {}", "{} to the right of {}"),
        "above": ("{} above {}", "{} over {}"),
        "below": ("{} below {}", "{} under {}"),
    }

    def thing(self, rng: np.random.Generator, group: Group) -> str:
        del rng
        return self.beside(group)

    def beside(self, group: Group) -> str:
        concept, colour = group.concept, group.colour
        if group.number > 1:
            holder, of, held = concept.plural.rpartition(" of ")
            noun = held if colour is None else f"{colour} {held}"
            return f"{NUMBER_WORDS[group.number]} {holder}{of}{noun}"
        if colour is None or concept.article == "some":
            noun = concept.name if colour is None else f"{colour} {concept.name}"
            return f"{concept.article} {noun}"
        return f"{_article(colour)} {colour} {concept.name}"

    def related(self, rng: np.random.Generator, relation: str, first: str, second: str) -> str:
        return _pick(rng, self._WAYS[relation]).format(first, second)

    def listed(self, parts: Sequence[str]) -> str:
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)

    def ground(self, rng: np.random.Generator, colour: str) -> str:
        return _pick(rng, (f" on {_article(colour)} {colour} background", f" on {colour}"))


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


class _Chinese:
    _NUMBERS: ClassVar = {2: "两个", 3: "三个"}
    _WAYS: ClassVar = {"left": "左边", "right": "右边", "above": "上面", "below": "下面"}

    def thing(self, rng: np.random.Generator, group: Group) -> str:
        number = self._NUMBERS.get(group.number) or _pick(rng, ("", "", "一个"))
        return number + self._name(group, _pick(rng, ("的", "的", "")))

    def beside(self, group: Group) -> str:
        return self._name(group, "的")

    @staticmethod
    def _name(group: Group, of: str) -> str:
        colour = "" if group.colour is None else colour_word(group.colour, "zh") + of
        return colour + group.concept.in_language("zh")

    def related(self, rng: np.random.Generator, relation: str, first: str, second: str) -> str:
        return f"{first}在{second}{_pick(rng, ('', '的'))}{self._WAYS[relation]}"

    def listed(self, parts: Sequence[str]) -> str:
        if "在" in parts[0] and parts[1:]:
            return f"{parts[0]}，还有{'、'.join(parts[1:])}"
        return "和".join(["、".join(parts[:-1]), parts[-1]] if parts[1:] else parts)

    def ground(self, rng: np.random.Generator, colour: str) -> str:
        word = colour_word(colour, "zh")
        return _pick(rng, (f"，{word}背景", f"，背景是{word}"))


class _Japanese:
    _COLOURS: ClassVar = {
        "red": "赤い",
        "orange": "オレンジ色の",
        "yellow": "黄色い",
        "green": "緑の",
        "blue": "青い",
        "purple": "紫の",
        "pink": "ピンクの",
        "brown": "茶色い",
        "black": "黒い",
        "white": "白い",
        "grey": "灰色の",
    }
    _NUMBERS: ClassVar = {2: "二つの", 3: "三つの"}
    _WAYS: ClassVar = {"left": "左", "right": "右", "above": "上", "below": "下"}

    def thing(self, rng: np.random.Generator, group: Group) -> str:
        del rng
        return self.beside(group)

    def beside(self, group: Group) -> str:
        number = self._NUMBERS.get(group.number, "")
        colour = "" if group.colour is None else self._COLOURS[group.colour]
        return number + colour + group.concept.in_language("ja")

    def related(self, rng: np.random.Generator, relation: str, first: str, second: str) -> str:
        return f"{second}の{self._WAYS[relation]}に{_pick(rng, ('', 'ある'))}{first}"

    def listed(self, parts: Sequence[str]) -> str:
        return "と".join(parts)

    def ground(self, rng: np.random.Generator, colour: str) -> str:
        word = self._COLOURS[colour]
        return _pick(rng, (f"、{word}背景", f"、背景は{colour_word(colour, 'ja')}"))


_BESIDE = {  # German names that another case changes
    "Affe": "Affen",
    "Löwe": "Löwen",
    "Hase": "Hasen",
    "Bär": "Bären",
    "Elefant": "Elefanten",
    "Planet": "Planeten",
    "Teddybär": "Teddybären",
    "Handschuhe": "Handschuhen",
    "Bücher": "Büchern",
}


class _French:
    _FEMININE: ClassVar = {
        "vert": "verte",
        "bleu": "bleue",
        "violet": "violette",
        "noir": "noire",
        "blanc": "blanche",
        "gris": "grise",
    }
    _WAYS: ClassVar = {
        "left": ("{} à gauche {}",),
        "right": ("{} à droite {}",),
        "above": ("{} au-dessus {}",),
        "below": ("{} au-dessous {}", "{} en dessous {}"),
    }

    def thing(self, rng: np.random.Generator, group: Group) -> str:
        del rng
        if group.number > 1:
            return f"{self._name(group)} ({group.number})"
        article = {"m": "un ", "f": "une ", "p": "des ", "": ""}[_article_kind(group, FRENCH)]
        return article + self._name(group)

    def beside(self, group: Group) -> str:
        kind = _article_kind(group, FRENCH)
        if kind in "mf" and kind:
            return ("d'un " if kind == "m" else "d'une ") + self._name(group)
        name = self._name(group)
        return ("d'" if name[0].lower() in "aeiouéèêœh" else "de ") + name

    def _name(self, group: Group) -> str:
        name = group.concept.in_language("fr")
        if group.colour is None:
            return name
        return f"{name} {self._adjective(group.colour, name)}"

    def _adjective(self, colour: str, name: str) -> str:
        word = colour_word(colour, "fr")
        if FRENCH.of(name) == "f":
            word = self._FEMININE.get(word, word)
        fixed = word in ("orange", "marron") or word.endswith("s")
        return word + "s" if name in FRENCH.plural and not fixed else word

    def related(self, rng: np.random.Generator, relation: str, first: str, second: str) -> str:
        return _pick(rng, self._WAYS[relation]).format(first, second)

    def listed(self, parts: Sequence[str]) -> str:
        return " et ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)

    def ground(self, rng: np.random.Generator, colour: str) -> str:
        return _pick(rng, (" sur fond {}", " sur un fond {}")).format(colour_word(colour, "fr"))


def _article_kind(group: Group, genders: Genders) -> str:
    """One of "m", "f", "n"; "p" for plural names, "" for what is not counted."""
    name = group.concept.in_language(genders.language)
    if name in genders.plural:
        return "p"
    return "" if group.concept.article == "some" else genders.of(name)


class _Spanish:
    _WAYS: ClassVar = {
        "left": ("{} a la izquierda de {}",),
        "right": ("{} a la derecha de {}",),
        "above": ("{} encima de {}", "{} sobre {}"),
        "below": ("{} debajo de {}", "{} bajo {}"),
    }
    _STRESSED = ("águila", "hacha", "ancla")  # feminine, and still "un"

    def thing(self, rng: np.random.Generator, group: Group) -> str:
        del rng
        if group.number > 1:
            return f"{self._name(group)} ({group.number})"
        return self.beside(group)

    def beside(self, group: Group) -> str:
        kind, name = _article_kind(group, SPANISH), group.concept.in_language("es")
        if kind == "p":
            kind = "fp" if SPANISH.of(name) == "f" else "mp"
        if name in self._STRESSED:
            kind = "m"
        article = {"m": "un ", "f": "una ", "mp": "unos ", "fp": "unas ", "": ""}[kind]
        return article + self._name(group)

    def _name(self, group: Group) -> str:
        name = group.concept.in_language("es")
        if group.colour is None:
            return name
        word = colour_word(group.colour, "es")
        if word.endswith("o") and SPANISH.of(name) == "f":
            word = word[:-1] + "a"
        if name in SPANISH.plural and word not in ("rosa", "naranja"):
            word = word.replace("ó", "o") + ("s" if word[-1] in "aeo" else "es")
        return f"{name} {word}"

    def related(self, rng: np.random.Generator, relation: str, first: str, second: str) -> str:
        return _pick(rng, self._WAYS[relation]).format(first, second)

    def listed(self, parts: Sequence[str]) -> str:
        return " y ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)

    def ground(self, rng: np.random.Generator, colour: str) -> str:
        return _pick(rng, (" sobre fondo {}", " sobre un fondo {}")).format(
            colour_word(colour, "es")
        )


class _German:
    _FIXED = ("orange", "lila", "rosa")  # not declined
    _WAYS: ClassVar = {
        "left": ("{} links von {}",),
        "right": ("{} rechts von {}",),
        "above": ("{} über {}",),
        "below": ("{} unter {}",),
    }

    def thing(self, rng: np.random.Generator, group: Group) -> str:
        del rng
        name = group.concept.in_language("de")
        kind = "p" if name in GERMAN.plural else GERMAN.of(name)
        ending = {"m": "er", "f": "e", "n": "es", "p": "e"}[kind]
        full = self._adjective(group.colour, ending) + name
        if group.number > 1:
            return f"{full} ({group.number})"
        article = {"m": "ein ", "f": "eine ", "n": "ein ", "p": "", "": ""}
        return article[_article_kind(group, GERMAN)] + full

    def beside(self, group: Group) -> str:
        name = group.concept.in_language("de")
        kind = _article_kind(group, GERMAN)
        article = {"m": "einem ", "f": "einer ", "n": "einem ", "p": "", "": ""}[kind]
        ending = "en"
        if kind == "":  # no article: the adjective shows the case
            ending = "er" if GERMAN.of(name) == "f" else "em"
        return article + self._adjective(group.colour, ending) + _BESIDE.get(name, name)

    def _adjective(self, colour: str | None, ending: str) -> str:
        if colour is None:
            return ""
        word = colour_word(colour, "de")
        return word + ("" if word in self._FIXED else ending) + " "

    def related(self, rng: np.random.Generator, relation: str, first: str, second: str) -> str:
        return _pick(rng, self._WAYS[relation]).format(first, second)

    def listed(self, parts: Sequence[str]) -> str:
        return " und ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)

    def ground(self, rng: np.random.Generator, colour: str) -> str:
        return _pick(rng, (" auf {}Hintergrund", " vor {}Hintergrund")).format(
            self._adjective(colour, "em")
        )


_SPEAKERS: dict[str, Speaker] = {
    "en": _English(),
    "zh": _Chinese(),
    "fr": _French(),
    "de": _German(),
    "es": _Spanish(),
    "ja": _Japanese(),
}
