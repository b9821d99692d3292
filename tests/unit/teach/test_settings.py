"""``name=value`` on the command line against a dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from heliodor.errors import TrainingError
from heliodor.teach.recipes.settings import at_least_one, override


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    steps: int = 10
    rate: float = 1e-3
    start: str = ""
    small: bool = False
    widths: tuple[int, ...] = field(default=(1, 2))

    def __post_init__(self) -> None:
        at_least_one(self, "steps")


def test_values_are_read_as_the_type_they_replace() -> None:
    changes = {"steps": "20", "rate": "3e-4", "start": "runs/a=b", "small": "True"}
    changed = override(Settings(), changes)
    assert changed == Settings(steps=20, rate=3e-4, start="runs/a=b", small=True)
    assert type(changed.rate) is float
    assert type(changed.steps) is int


def test_a_whole_number_is_a_rate_too_and_false_is_false() -> None:
    changed = override(Settings(small=True), {"rate": "1", "small": "false"})
    assert changed == Settings(rate=1.0, small=False)
    assert type(changed.rate) is float


def test_nothing_changed_is_equal() -> None:
    assert override(Settings(steps=7), {}) == Settings(steps=7)


def test_text_may_look_like_a_number() -> None:
    assert override(Settings(), {"start": "12"}).start == "12"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("batch", "8", "no setting 'batch'; there are steps, rate, start, small, widths"),
        ("steps", "1.5", "steps=1.5: a value of type int is wanted"),
        ("steps", "1e3", "steps=1e3: a value of type int is wanted"),
        ("steps", "", "steps=: a value of type int is wanted"),
        ("rate", "fast", "rate=fast: a value of type float is wanted"),
        ("rate", "nan", "rate=nan: a finite number of 0 or more is wanted"),
        ("rate", "inf", "rate=inf: a finite number of 0 or more is wanted"),
        ("rate", "-1e-3", "rate=-1e-3: a finite number of 0 or more is wanted"),
        ("small", "1", "small=1: true or false is wanted"),
        ("steps", "0", "steps=0: at least 1 is wanted"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, text: str, message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        override(Settings(), {name: text})
    assert str(caught.value) == message


def test_what_is_no_number_and_no_text_cannot_be_set() -> None:
    with pytest.raises(TrainingError, match="widths=3: this setting is changed in Python only"):
        override(Settings(), {"widths": "3"})
