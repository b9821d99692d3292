"""What receipts, signs and cards say, line by line, and what can be asked about them.

A record is plain data. Its `rows()` are what a page shows, its `questions()` follow from the data
alone, and every answer is written as the page shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from heliodor.teach.data.words import DAYS, date, person, pick, shop

__all__ = [
    "CITIES",
    "GOODS",
    "Directions",
    "Limits",
    "NameCard",
    "OpeningHours",
    "PriceBoard",
    "Receipt",
    "Record",
    "Row",
    "draw_card",
    "draw_receipt",
    "draw_sign",
    "sample",
]

Rng = np.random.Generator
Question = tuple[str, str]

_GOODS = (
    "apples bananas bread butter cake candles carrots cereal cheese chicken chips coffee cookies "
    "crackers cream dates eggs fish flour garlic grapes ham honey ice jam juice ketchup lemons "
    "lettuce limes mangoes milk mushrooms mustard noodles nuts oats oil olives onions oranges "
    "pasta peaches pears peas pepper pizza plums potatoes rice salad salt sandwich sauce soap soup "
    "spinach steak sugar tea tomatoes tuna vinegar water yogurt batteries comb cup envelope fork "
    "glue knife lamp pen pencil plate ruler scissors shampoo socks sponge stamps tape towel"
)
_PLACES = (
    "Airport Beach Bridge Castle Church Exit Garden Gate Harbour Hospital Hotel Lake Library "
    "Market Museum Office Park Parking Pool School Shop Stadium Station Theatre Toilets Tower Town "
    "Zoo"
)
_JOBS = (
    "Architect Artist Baker Chef Dentist Designer Director Doctor Editor Engineer Gardener Lawyer "
    "Manager Nurse Painter Pilot Plumber Teacher Writer"
)
_CITIES = (
    "Athens Berlin Boston Cairo Delhi Dublin Lima Lisbon London Madrid Milan Oslo Paris Prague "
    "Quito Rome Seoul Sydney Tokyo Turin Vienna Warsaw Zurich"
)
GOODS = tuple(_GOODS.split())
"""Things a shop sells; a name that ends in s is a plural."""

CITIES = tuple(_CITIES.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much a page of a given size can hold.

    Attributes:
        entries: items one under another.
        columns: columns of figures beside the names of the rows.
        letters: letters of a name.
    """

    entries: int
    columns: int
    letters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of a page.

    Attributes:
        left: text at the left edge, or centred when there is no `right`.
        right: text at the right edge.
        heading: set in larger letters.
        rule: a line drawn across the page instead of text.
        arrow: "left", "right" or "up": an arrow drawn before the text.
    """

    left: str = ""
    right: str = ""
    heading: bool = False
    rule: bool = False
    arrow: str = ""


class Record(Protocol):
    """What every record offers."""

    def rows(self) -> tuple[Row, ...]:
        """The lines of the page, from the top."""
        ...

    def questions(self) -> tuple[Question, ...]:
        """Every (question, answer) that the page settles without doubt."""
        ...


def sample(rng: Rng, values: tuple[str, ...], count: int, limits: Limits) -> tuple[str, ...]:
    """Up to `count` different `values` no longer than the limit, in random order."""
    fitting = [value for value in values if len(value) <= limits.letters]
    order = rng.permutation(len(fitting))[:count]
    return tuple(fitting[int(index)] for index in order)


def _is(name: str) -> str:
    return "are" if name.endswith("s") else "is"


def _money(currency: str, pence: int) -> str:
    return f"{currency}{pence // 100}.{pence % 100:02d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """A till receipt; prices are whole pence and differ from one another."""

    shop: str
    date: str
    currency: str
    items: tuple[tuple[str, int], ...]
    total_word: str = "Total"

    @property
    def total(self) -> int:
        """The sum of the prices in pence."""
        return sum(price for _, price in self.items)

    def rows(self) -> tuple[Row, ...]:
        """The shop, the date, the items with their prices, and the total."""
        priced = (Row(left=name, right=_money(self.currency, pence)) for name, pence in self.items)
        return (
            Row(left=self.shop, heading=True),
            *((Row(left=self.date),) if self.date else ()),
            Row(rule=True),
            *priced,
            Row(rule=True),
            Row(left=self.total_word, right=_money(self.currency, self.total)),
        )

    def questions(self) -> tuple[Question, ...]:
        """The total, each price, the shop, the date, and the dearest and cheapest item."""
        total = _money(self.currency, self.total)
        asked = [("What is the total?", total), ("How much was paid in all?", total)]
        asked.append(("What is the name of the shop?", self.shop))
        asked.append(("How many items were bought?", str(len(self.items))))
        if self.date:
            asked.append(("What is the date?", self.date))
        return (*asked, *_price_questions(self.currency, self.items))


def _price_questions(currency: str, items: tuple[tuple[str, int], ...]) -> tuple[Question, ...]:
    """The price of each item, and which of them is the dearest and the cheapest."""
    asked = [
        (f"How much {_is(name.lower())} the {name.lower()}?", _money(currency, pence))
        for name, pence in items
    ]
    by_price = sorted(items, key=lambda item: item[1])
    asked.append(("Which is the cheapest item?", by_price[0][0]))
    asked.append(("Which is the most expensive item?", by_price[-1][0]))
    return tuple(asked)


def draw_receipt(rng: Rng, limits: Limits) -> Receipt:
    """A receipt of 2 to 5 items."""
    return Receipt(
        shop=_short_shop(rng, limits),
        date=date(rng) if rng.random() < 0.6 else "",
        currency=pick(rng, ("$", "$", "£", "€", "")),
        items=_priced(rng, limits, 2500),
        total_word=pick(rng, ("Total", "TOTAL", "Total due", "Sum")),
    )


def _short_shop(rng: Rng, limits: Limits) -> str:
    """A shop's name: the shortest of a few, more of them on a narrow page."""
    tries = 1 if limits.letters > 8 else 5
    return min((shop(rng) for _ in range(tries)), key=len)


def _priced(rng: Rng, limits: Limits, most: int) -> tuple[tuple[str, int], ...]:
    """2 to 5 goods, all in one letter case, with different prices of 50 to `most` pence."""
    names = sample(rng, GOODS, int(rng.integers(2, min(5, limits.entries) + 1)), limits)
    dress: Callable[[str], str] = pick(rng, (str.lower, str.capitalize, str.capitalize, str.upper))
    step = pick(rng, (1, 5, 10, 50))
    prices = rng.choice(np.arange(50, most, step), len(names), replace=False)
    return tuple((dress(name), int(price)) for name, price in zip(names, prices, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceBoard:
    """A menu or a price list."""

    title: str
    currency: str
    items: tuple[tuple[str, int], ...]

    def rows(self) -> tuple[Row, ...]:
        """The title, then an item and its price on each line."""
        priced = (Row(left=name, right=_money(self.currency, pence)) for name, pence in self.items)
        return (Row(left=self.title, heading=True), *priced)

    def questions(self) -> tuple[Question, ...]:
        """Each price, and the dearest and cheapest item."""
        return _price_questions(self.currency, self.items)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpeningHours:
    """Opening hours: (day, opens, closes), with two empty times for a day that is closed.

    The day is "" when the same hours hold every day; `days` then has one entry.
    """

    title: str
    days: tuple[tuple[str, str, str], ...]

    def rows(self) -> tuple[Row, ...]:
        """The title, then the hours of each day."""
        if not self.days[0][0]:
            _, opens, closes = self.days[0]
            return (
                Row(left=self.title, heading=True),
                Row(left=f"{opens} - {closes}", heading=True),
            )
        hours = (
            Row(left=day, right=f"{opens} - {closes}" if opens else "closed")
            for day, opens, closes in self.days
        )
        return (Row(left=self.title, heading=True), *hours)

    def questions(self) -> tuple[Question, ...]:
        """When the shop opens and closes, and the day off if there is just one."""
        asked: list[Question] = []
        for day, opens, closes in self.days:
            on = f" on {day}" if day else ""
            if opens:
                asked.append((f"What time does the shop open{on}?", opens))
                asked.append((f"What time does the shop close{on}?", closes))
        closed = [day for day, opens, _ in self.days if not opens]
        if len(closed) == 1:
            asked.append(("On which day is the shop closed?", closed[0]))
        return tuple(asked)


@dataclass(frozen=True, kw_only=True, slots=True)
class Directions:
    """A signpost: (place, arrow, metres); metres is 0 where the sign gives no distance."""

    ways: tuple[tuple[str, str, int], ...]

    def rows(self) -> tuple[Row, ...]:
        """An arrow, a place and perhaps a distance on each line."""
        return tuple(
            Row(left=place, right=f"{metres} m" if metres else "", arrow=arrow)
            for place, arrow, metres in self.ways
        )

    def questions(self) -> tuple[Question, ...]:
        """Where each place lies, how far it is, and what lies to a side if one place alone does."""
        asked: list[Question] = []
        words = {"left": "left", "right": "right", "up": "straight ahead"}
        for place, arrow, metres in self.ways:
            name = f"{_is(place)} the {place.lower()}"
            asked.append((f"Which way {name}?", words[arrow]))
            if metres:
                asked.append((f"How far {name}?", f"{metres} m"))
        for arrow, phrase in (("left", "on the left"), ("right", "on the right")):
            there = [place for place, way, _ in self.ways if way == arrow]
            if len(there) == 1:
                asked.append((f"What is {phrase}?", there[0]))
        return tuple(asked)


@dataclass(frozen=True, kw_only=True, slots=True)
class NameCard:
    """A visiting card."""

    name: str
    job: str
    city: str
    phone: str

    def rows(self) -> tuple[Row, ...]:
        """The name, then what the card knows besides."""
        return (
            Row(left=self.name, heading=True),
            Row(left=self.job),
            *((Row(left=self.city),) if self.city else ()),
            *((Row(left=self.phone),) if self.phone else ()),
        )

    def questions(self) -> tuple[Question, ...]:
        """Who it is, what they do, where, and their number."""
        asked = [("What is the name on the card?", self.name)]
        asked.append((f"What is the job of {self.name.split()[0]}?", self.job))
        if self.city:
            asked.append(("Which city is on the card?", self.city))
        if self.phone:
            asked.append(("What is the phone number?", self.phone))
        return tuple(asked)


def draw_card(rng: Rng, limits: Limits) -> NameCard:
    """A visiting card."""
    digits = "".join(str(int(d)) for d in rng.integers(0, 10, 7))
    return NameCard(
        name=" ".join(person(rng)),
        job=sample(rng, tuple(_JOBS.split()), 1, limits)[0],
        city=pick(rng, CITIES) if rng.random() < 0.6 else "",
        phone=f"{digits[:3]} {digits[3:]}" if rng.random() < 0.6 else "",
    )


def draw_sign(rng: Rng, limits: Limits) -> PriceBoard | OpeningHours | Directions:
    """A price board, opening hours or a signpost."""
    return pick(rng, (_draw_board, _draw_hours, _draw_directions))(rng, limits)


def _draw_board(rng: Rng, limits: Limits) -> PriceBoard:
    title = pick(rng, ("Menu", "MENU", "Prices", "Today", "Sale", _short_shop(rng, limits)))
    currency = pick(rng, ("$", "£", "€", ""))
    return PriceBoard(title=title, currency=currency, items=_priced(rng, limits, 1500))


def _draw_hours(rng: Rng, limits: Limits) -> OpeningHours:
    title = pick(rng, ("OPEN", "Open", "Opening hours", "Hours"))
    if len(title) > limits.letters:
        title = "Open"
    if rng.random() < 0.35:
        return OpeningHours(title=title, days=(("", *_hours(rng)),))
    week = DAYS.split()
    count = int(rng.integers(2, min(4, limits.entries) + 1))
    first = int(rng.integers(0, len(week) - count + 1))
    closed = int(rng.integers(count)) if rng.random() < 0.5 else -1
    hours = [("", "") if index == closed else _hours(rng) for index in range(count)]
    days = tuple((week[first + index], *hours[index]) for index in range(count))
    return OpeningHours(title=title, days=days)


def _hours(rng: Rng) -> tuple[str, str]:
    """Opening and closing time, in one notation."""
    opens, closes = int(rng.integers(6, 12)), int(rng.integers(13, 23))
    if rng.random() < 0.3:
        return f"{opens}am", f"{closes - 12}pm"
    minutes = (0, 0, 15, 30, 45)
    return f"{opens}:{pick(rng, minutes):02d}", f"{closes}:{pick(rng, minutes):02d}"


def _draw_directions(rng: Rng, limits: Limits) -> Directions:
    places = sample(
        rng, tuple(_PLACES.split()), int(rng.integers(2, min(4, limits.entries) + 1)), limits
    )
    measured = rng.random() < 0.45
    return Directions(
        ways=tuple(
            (place, pick(rng, ("left", "right", "up")), 50 * int(rng.integers(1, 20)) * measured)
            for place in places
        )
    )
