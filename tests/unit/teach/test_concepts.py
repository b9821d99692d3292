"""Concepts: names, plurals, and the rule of held-out pairs."""

import hashlib
from itertools import combinations

import pytest

from heliodor.errors import DataError
from heliodor.teach.data.concepts import concept_named, held_out_pair, load_concepts, partners


def test_ids_are_positions_and_every_language_has_unique_names() -> None:
    concepts = load_concepts()
    assert [c.id for c in concepts] == list(range(237))
    for language in ("en", "zh", "fr", "de", "es", "ja", "ko", "pt", "it", "ru"):
        assert len({c.in_language(language).lower() for c in concepts}) == 237


def test_held_out_pairs_follow_the_published_rule_and_number() -> None:
    count = 0
    for a, b in combinations(load_concepts(), 2):
        digest = hashlib.sha1("|".join(sorted([a.code, b.code])).encode()).hexdigest()
        expected = int(digest, 16) % 10 == 0
        assert held_out_pair(a, b) is expected
        assert held_out_pair(b, a) is expected
        count += expected
    assert count == 2766


def test_partners_are_the_other_halves_of_held_out_pairs() -> None:
    dog = concept_named("dog")
    assert set(partners(dog)) == {c for c in load_concepts() if held_out_pair(dog, c)}
    assert dog not in partners(dog)


@pytest.mark.parametrize(
    ("name", "plural"),
    [
        ("cat", "cats"),
        ("mouse", "mice"),
        ("bus", "buses"),
        ("butterfly", "butterflies"),
        ("key", "keys"),
        ("watch", "watches"),
        ("die", "dice"),
        ("wine glass", "wine glasses"),
        ("scissors", "pairs of scissors"),
        ("bow and arrow", "bows and arrows"),
        ("sheep", "sheep"),
        ("french fries", "portions of french fries"),
    ],
)
def test_plurals(name: str, plural: str) -> None:
    assert concept_named(name).plural == plural


def test_articles_fit_the_sound_and_plural_names_take_are() -> None:
    assert concept_named("owl").article == "an"
    assert concept_named("scissors").verb == "are"
    assert concept_named("bus").verb == "is"
    assert [c.name for c in load_concepts() if c.verb == "are" and c.article != "some"] == []


def test_lookup_by_name_ignores_case_and_knows_languages() -> None:
    assert concept_named("christmas TREE").name == "Christmas tree"
    assert concept_named("猫", "zh") is concept_named("cat")
    with pytest.raises(DataError, match="no concept is named 'gryphon' in 'en'"):
        concept_named("gryphon")
    with pytest.raises(DataError, match="no names in language 'tlh': use one of en, zh"):
        concept_named("cat", "tlh")
