"""The everyday things that scenes show: 237 concepts, their names in ten languages, their pairs.

``concepts.json`` carries them; names come from Unicode CLDR (Unicode licence), with some by hand.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, cast

from heliodor.errors import DataError

__all__ = ["Concept", "concept_named", "held_out_pair", "load_concepts", "partners"]

# Plurals that no rule gives. A thing that cannot be counted is counted by what holds it; no
# phrase may contain another concept's name ("glasses of milk" would read as glasses).
PLURALS = {
    "bow and arrow": "bows and arrows",
    "books": "stacks of books",
    "bread": "loaves of bread",
    "broccoli": "pieces of broccoli",
    "cheese": "pieces of cheese",
    "cherries": "pairs of cherries",
    "corn": "ears of corn",
    "deer": "deer",
    "die": "dice",
    "fish": "fish",
    "french fries": "portions of french fries",
    "glasses": "pairs of glasses",
    "gloves": "pairs of gloves",
    "grapes": "bunches of grapes",
    "headphones": "pairs of headphones",
    "jeans": "pairs of jeans",
    "maple leaf": "maple leaves",
    "milk": "portions of milk",
    "mouse": "mice",
    "pancakes": "stacks of pancakes",
    "popcorn": "portions of popcorn",
    "scarf": "scarves",
    "scissors": "pairs of scissors",
    "sheep": "sheep",
    "shrimp": "shrimp",
    "snowman": "snowmen",
    "socks": "pairs of socks",
    "sushi": "pieces of sushi",
    "tomato": "tomatoes",
    "volcano": "volcanoes",
}

# English names that are plural although there is one of it: "where are the scissors?"
_PLURAL_NAMES = frozenset(
    ("books", "cherries", "french fries", "glasses", "gloves", "grapes", "headphones", "jeans")
) | frozenset(("pancakes", "scissors", "socks"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """One everyday thing.

    Attributes:
        id: Position in ``load_concepts()``, 0..236.
        code: Its code point in hexadecimal, the key of artwork and of held-out pairs.
        group: "animal", "plant", "food", "vehicle", "place", "sport", "music", "clothing",
            "tool", "object" or "nature".
        article: What stands before one of it in English: "a", "an" or "some".
        names: Language code -> name; unique within a language.
    """

    id: int
    code: str
    group: str
    article: str
    names: dict[str, str] = field(repr=False, hash=False, compare=False)

    @property
    def name(self) -> str:
        """The English name."""
        return self.names["en"]

    @property
    def plural(self) -> str:
        """What two of it are called in English: "cats", "mice", "pairs of scissors"."""
        name = self.name
        if name in PLURALS:
            return PLURALS[name]
        if name.endswith(("s", "x", "z", "ch", "sh")):
            return name + "es"
        if name.endswith("y") and name[-2] not in "aeiou":
            return name[:-1] + "ies"
        return name + "s"

    @property
    def verb(self) -> str:
        """What its English name goes with: "is" or "are"."""
        return "are" if self.name in _PLURAL_NAMES else "is"

    def in_language(self, language: str) -> str:
        """Its name in a language.

        Raises:
            DataError: the pack has no names in that language.
        """
        if language not in self.names:
            known = ", ".join(self.names)
            raise DataError(f"no names in language '{language}': use one of {known}")
        return self.names[language]


@cache
def load_concepts() -> tuple[Concept, ...]:
    """Every concept, by id.

    Raises:
        DataError: the package's data file is missing or broken.
    """
    path = resources.files("heliodor.teach.data") / "concepts.json"
    try:
        rows = cast("list[dict[str, Any]]", json.loads(path.read_text("utf-8"))["concepts"])
        return tuple(
            Concept(
                id=row["id"],
                code=row["code"],
                group=row["group"],
                article=row["article"],
                names=row["names"],
            )
            for row in rows
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"concepts.json cannot be read ({error}): reinstall heliodor") from error


@cache
def _by_name(language: str) -> dict[str, Concept]:
    return {c.in_language(language).lower(): c for c in load_concepts()}


def concept_named(name: str, language: str = "en") -> Concept:
    """Look a concept up by its name, whatever the case.

    Raises:
        DataError: no concept has that name.
    """
    found = _by_name(language).get(name.strip().lower())
    if found is None:
        raise DataError(f"no concept is named '{name}' in '{language}': see load_concepts()")
    return found


@cache
def _pair_is_held_out(first: str, second: str) -> bool:
    digest = hashlib.sha1(f"{first}|{second}".encode(), usedforsecurity=False).hexdigest()
    return int(digest, 16) % 10 == 0


def held_out_pair(a: Concept, b: Concept) -> bool:
    """Whether two different concepts are never shown together in training (2,766 pairs are)."""
    return a.id != b.id and _pair_is_held_out(*sorted((a.code, b.code)))


@cache
def partners(concept: Concept) -> tuple[Concept, ...]:
    """The concepts that form a held-out pair with this one; empty for none."""
    return tuple(c for c in load_concepts() if held_out_pair(concept, c))
