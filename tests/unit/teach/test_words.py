from __future__ import annotations

import datetime as dt
import re
from collections import Counter

import numpy as np
import pytest

from heliodor.teach.data import words
from heliodor.teach.data.fonts import CHARACTERS


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def many(draw, count: int = 2000):
    source = rng()
    return [draw(source) for _ in range(count)]


def test_the_lexicon_holds_4200_lower_case_words_of_up_to_ten_letters():
    lexicon = words.lexicon()
    assert len(lexicon) == len(set(lexicon)) == 4200
    assert all(re.fullmatch("[a-z]{1,10}", word) for word in lexicon)
    assert [len(word) for word in lexicon] == sorted(len(word) for word in lexicon)
    assert {"a", "bread", "total", "museum", "monday", "strawberry"} <= set(lexicon)


@pytest.mark.parametrize("letters", [1, 3, 6, 10])
def test_a_lexicon_word_is_as_short_as_asked_and_every_length_comes_up(letters: int):
    drawn = many(lambda source: words.lexicon_word(source, letters))
    assert set(drawn) <= set(words.lexicon())
    assert {len(word) for word in drawn} >= set(range(3, letters + 1))
    assert max(map(len, drawn)) == letters


def test_made_up_words_are_mostly_not_in_the_lexicon():
    drawn = many(words.pseudo_word)
    assert all(re.fullmatch("[a-z]{2,10}", word) for word in drawn)
    assert sum(word in set(words.lexicon()) for word in drawn) < 0.06 * len(drawn)
    assert len(set(drawn)) > 0.8 * len(drawn)
    assert max(len(words.pseudo_word(rng(seed), 4)) for seed in range(50)) == 4


def test_the_reading_mixture_is_70_lexicon_15_made_up_15_other():
    drawn = many(words.reading_word, 8000)
    lexicon = set(words.lexicon())
    lower = re.compile("[a-z]+")
    kinds = Counter(
        "lexicon" if word in lexicon else "made up" if lower.fullmatch(word) else "other"
        for word in drawn
    )
    assert kinds["lexicon"] / 8000 == pytest.approx(0.70, abs=0.03)
    assert kinds["made up"] / 8000 == pytest.approx(0.15, abs=0.03)
    assert kinds["other"] / 8000 == pytest.approx(0.15, abs=0.02)


def test_every_word_is_written_in_characters_that_the_faces_can_draw():
    drawn = [*many(words.reading_word), *many(words.shop), *many(words.date), *many(words.price)]
    drawn += [name for pair in many(words.person) for name in pair]
    assert set("".join(drawn)) <= set(CHARACTERS)


def test_prices_have_two_decimals_and_the_asked_sign_and_stay_below_the_most():
    for text in many(lambda source: words.price(source, currency="£", most=20)):
        assert re.fullmatch(r"£\d{1,2}\.\d\d", text)
        assert 0.5 <= float(text[1:]) < 20
    assert {text[0] for text in many(words.price)} == {"$", "£", "€"}
    assert words.price(rng(), currency="")[0].isdigit()


def test_dates_exist_in_the_calendar():
    formats = ("%d/%m/%Y", "%d.%m.%y", "%Y-%m-%d", "%d%b %Y")
    seen: set[str] = set()
    for text in many(words.date, 400):
        for form in formats:
            try:
                whole = f"{text} 2024" if form == "%d%b %Y" else text
                dt.datetime.strptime(whole, form)
            except ValueError:
                continue
            seen.add(form)
            break
        else:
            pytest.fail(f"{text} is no date")
    assert seen == set(formats)


def test_times_are_of_a_day_of_24_hours_or_two_halves():
    for text in many(words.clock_time, 500):
        if text.endswith(("am", "pm")):
            assert 1 <= int(text[:-2]) <= 12
        else:
            hour, minute = text.split(":")
            assert 0 <= int(hour) < 24
            assert 0 <= int(minute) < 60
            assert len(minute) == 2


def test_numbers_of_one_to_four_digits_are_equally_frequent():
    plain = [text for text in many(words.number, 8000) if text.isdigit()]
    counts = Counter(len(text) for text in plain)
    assert all(counts[n] / len(plain) == pytest.approx(0.25, abs=0.03) for n in (1, 2, 3, 4))


def test_shops_have_two_words_and_owners_in_s_take_a_bare_apostrophe():
    for name in many(words.shop):
        first, second = name.split(" ")
        assert first[0].isupper()
        assert second[0].isupper()
        assert first != second
        assert not first.endswith("s's")
    assert any("'" in name for name in many(words.shop, 50))


def test_the_same_seed_writes_the_same_words():
    first = [words.reading_word(source) for source in [rng(5)] for _ in range(50)]
    again = [words.reading_word(source) for source in [rng(5)] for _ in range(50)]
    other = [words.reading_word(source) for source in [rng(6)] for _ in range(50)]
    assert first == again != other
