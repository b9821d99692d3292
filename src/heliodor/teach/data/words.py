"""Words to write and read: a lexicon, made-up words, names, and numbers in their many dresses.

Every function draws from the generator it is given and from nothing else. What it returns uses
only `fonts.CHARACTERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

__all__ = [
    "clock_time",
    "date",
    "lexicon",
    "lexicon_word",
    "number",
    "person",
    "pick",
    "price",
    "pseudo_word",
    "reading_word",
    "shop",
]

T = TypeVar("T")
Rng = np.random.Generator

MONTHS = "January February March April May June July August September October November December"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
FIRST_NAMES = (
    "Ada Ali Amy Ana Ben Carl Chen Clara Dora Elif Emma Eric Eva Finn Fatima George Grace Hana "
    "Henry Hugo Ida Ines Ivan Jack James Jana Jin Jon Julia Kai Karl Lena Leo Liam Lina Lucy Luis "
    "Maria Marta Max Maya Mei Mia Mina Nadia Nina Noah Nora Olga Omar Oscar Otto Paul Pavel Petra "
    "Priya Rosa Ruth Sam Sara Simon Sofia Tara Theo Tom Uma Vera Victor Yuki Yusuf Zoe"
)
LAST_NAMES = (
    "Adams Ahmed Baker Bell Berg Brown Carter Chang Costa Cruz Davis Diaz Evans Fischer Fox Garcia "
    "Gray Green Gupta Hall Hill Hunt Ito Jones Kelly Khan Kim King Klein Kumar Lane Lee Lopez "
    "Marsh Martin Meyer Moore Mori Novak Okafor Park Perez Price Reed Rossi Sato Silva Singh Smith "
    "Stone Tan Taylor Vogel Walker Wang Weber White Wong Wood Young"
)
_SHOP_FIRST = (
    "Blue Bright Corner Crown Daily Fresh Garden Golden Grand Green Happy Harbour Hill Little "
    "Lucky Market Moon New North Old Park Red River Royal Silver Star Station Sunny Village White"
)
_SHOP_KIND = (
    "Bakery Bar Books Cafe Deli Diner Flowers Foods Grill Grocer Hotel House Kitchen Market Pizza "
    "Shop Store Tea Toys"
)
_ONSETS = (
    "b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr pl pr qu sc sh sk sl sm sn "
    "sp st str sw th tr tw wh"
)
_VOWELS = "a e i o u a e i o a e ai au ea ee ie oa oo ou y"
_CODAS = "b ck d f g k l m n p r s t x ct ft ld lk lt mp nd ng nk nt rd rk rm rn rt sh sk st th"
_UNITS = "kg g km m cm ml min h"
_CURRENCIES = ("$", "$", "£", "€")


@cache
def lexicon() -> tuple[str, ...]:
    """The 4,200 words of `words.txt`: lower case, 1 to 10 letters, short ones first."""
    lines = (Path(__file__).parent / "words.txt").read_text("utf-8").splitlines()
    words = sorted(line for line in lines if not line.startswith("#"))
    return tuple(sorted(words, key=len))


@cache
def _count_up_to(letters: int) -> int:
    """How many words of the lexicon have at most `letters` letters."""
    return sum(len(word) <= letters for word in lexicon())


def pick(rng: Rng, values: Sequence[T]) -> T:
    """One of `values`, all equally likely."""
    return values[int(rng.integers(len(values)))]


def lexicon_word(rng: Rng, max_letters: int = 10) -> str:
    """A word of the lexicon of at most `max_letters` (>= 1) letters."""
    return lexicon()[int(rng.integers(_count_up_to(max(1, min(max_letters, 10)))))]


def pseudo_word(rng: Rng, max_letters: int = 10) -> str:
    """A pronounceable word that need not exist, of 2 to `max_letters` (>= 2) letters."""
    word = ""
    for _ in range(int(rng.integers(1, 4))):
        word += pick(rng, _split(_ONSETS)) + pick(rng, _split(_VOWELS))
    if rng.random() < 0.6:
        word += pick(rng, _split(_CODAS))
    return word[: max(2, max_letters)]


@cache
def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def person(rng: Rng) -> tuple[str, str]:
    """A first and a last name."""
    return pick(rng, _split(FIRST_NAMES)), pick(rng, _split(LAST_NAMES))


def shop(rng: Rng) -> str:
    """A shop's name, of two words: `Blue Bakery`, `Garcia's Deli`."""
    kind = pick(rng, _split(_SHOP_KIND))
    if rng.random() < 0.35:
        owner = pick(rng, _split(FIRST_NAMES + " " + LAST_NAMES))
        return f"{owner}'{'' if owner.endswith('s') else 's'} {kind}"
    first = pick(rng, tuple(word for word in _split(_SHOP_FIRST) if word != kind))
    return f"{first} {kind}"


def number(rng: Rng) -> str:
    """A whole number of 1 to 4 digits, small ones more often; now and then a percentage or unit."""
    value = str(int(rng.integers(*pick(rng, ((0, 10), (10, 100), (100, 1000), (1000, 10000))))))
    look = rng.random()
    if look < 0.12:
        return f"{value[:2]}%"
    if look < 0.2:
        return value[:3] + pick(rng, _split(_UNITS))
    return value


def price(rng: Rng, *, currency: str | None = None, most: float = 100.0) -> str:
    """A price such as `$3.50`, from 0.50 to below `most`; a `currency` of "" leaves it bare."""
    sign = pick(rng, _CURRENCIES) if currency is None else currency
    pence = int(50 * (2 * most) ** rng.random())  # from 0.50, each doubling equally likely
    return f"{sign}{pence // 100}.{pence % 100:02d}"


def date(rng: Rng) -> str:
    """A date in one word: `12/05/2024`, `12.05.24`, `2024-05-12` or `12May`."""
    day, month, year = int(rng.integers(1, 29)), int(rng.integers(1, 13)), int(rng.integers(10, 31))
    looks: tuple[Callable[[], str], ...] = (
        lambda: f"{day:02d}/{month:02d}/20{year}",
        lambda: f"{day:02d}.{month:02d}.{year}",
        lambda: f"20{year}-{month:02d}-{day:02d}",
        lambda: f"{day}{_split(MONTHS)[month - 1][:3]}",
    )
    return pick(rng, looks)()


def clock_time(rng: Rng) -> str:
    """A time of day on the quarter of an hour or the minute: `9:30`, `18:05`, `7pm`."""
    hour = int(rng.integers(0, 24))
    if rng.random() < 0.25:
        return f"{hour % 12 or 12}{'am' if hour < 12 else 'pm'}"
    minute = int(rng.integers(0, 60)) if rng.random() < 0.4 else 15 * int(rng.integers(0, 4))
    return f"{hour}:{minute:02d}"


def _capitalised(rng: Rng, max_letters: int) -> str:
    """A name, or a word of the lexicon with a capital or in capitals."""
    look = rng.random()
    if look < 0.3:
        return pick(rng, person(rng))[:max_letters]
    word = lexicon_word(rng, max_letters)
    return word.upper() if look < 0.65 else word.capitalize()


def reading_word(rng: Rng, max_letters: int = 10) -> str:
    """A word for reading practice.

    70 in 100 are of the lexicon, 15 are made up, and 15 are numbers, prices, dates, times, names
    and words in capitals. Numbers may be longer than `max_letters`, by 10 characters at most.
    """
    kind = rng.random()
    if kind < 0.70:
        return lexicon_word(rng, max_letters)
    if kind < 0.85:
        return pseudo_word(rng, max_letters)
    if kind < 0.92:
        return _capitalised(rng, max_letters)
    return pick(rng, (number, price, clock_time, date))(rng)
