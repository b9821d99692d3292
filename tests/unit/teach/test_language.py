"""Captions and their inverse, in every language."""

from itertools import pairwise, product

import numpy as np
import pytest

from heliodor.errors import DataError
from heliodor.teach.data.concepts import concept_named, load_concepts
from heliodor.teach.data.language import (
    CAPTION_LANGUAGES,
    LANGUAGES,
    caption,
    colour_word,
    names_in_caption,
    place_word,
)
from heliodor.teach.data.palette import COLOURS
from heliodor.teach.data.scenes import Scene, Thing, render_scene
from heliodor.teach.data.splits import Split, scene_rng


def scene_of(*things: tuple[str, str | None]) -> Scene:
    """A scene of things side by side, with nothing painted."""
    size = 100
    made: list[Thing] = []
    for index, (name, colour) in enumerate(things):
        box = (20.0 * index, 40.0, 20.0 * index + 10, 50.0)
        mask = np.zeros((size, size), bool)
        mask[40:50, 20 * index : 20 * index + 10] = True
        concept = concept_named(name)
        made.append(
            Thing(concept=concept, style="noto", box=box, mask=mask, colour=colour, visible=1.0)
        )
    image = np.zeros((size, size, 3), np.uint8)
    return Scene(image=image, things=tuple(made), background_colour=None, size=size)


@pytest.mark.parametrize(
    ("things", "text"),
    [
        ([("dog", None)], "a dog"),
        ([("owl", None), ("owl", None)], "two owls"),
        ([("dog", None), ("cat", None), ("cat", None)], "a dog and two cats"),
        ([("dog", None), ("milk", None), ("balloon", "red")], "a dog, some milk and a red balloon"),
        ([("umbrella", "blue")], "a blue umbrella"),
        ([("cat", "orange")], "an orange cat"),
        ([("scissors", "red")] * 2, "two pairs of red scissors"),
        ([("cat", "red"), ("cat", "blue")], "two cats"),
        ([("mouse", "grey")] * 5, "five grey mice"),
        ([("grapes", "green")], "some green grapes"),
        ([("dog", None), ("cat", None), ("dog", None)], "two dogs and a cat"),
    ],
)
def test_english_captions(things: list[tuple[str, str | None]], text: str) -> None:
    assert caption(scene_of(*things)) == text


def test_other_languages_list_with_numbers() -> None:
    scene = scene_of(("dog", "red"), ("cat", None), ("cat", None))
    assert caption(scene, "fr") == "chien, chat (2)"
    assert caption(scene, "de") == "Hund, Katze (2)"
    assert caption(scene, "zh") == "狗、猫（2）"
    assert caption(scene, "ja") == "イヌ、ネコ（2）"
    with pytest.raises(DataError, match="no names in language 'xx'"):
        caption(scene, "xx")


@pytest.mark.parametrize("language", CAPTION_LANGUAGES)
def test_reading_a_caption_gives_back_what_it_was_written_of(language: str) -> None:
    for index in range(150):
        scene = render_scene(scene_rng(Split.LAYOUTS, index), size=64)
        expected = {thing.concept for thing in scene.things}
        assert names_in_caption(caption(scene, language), language) == expected


@pytest.mark.parametrize("language", CAPTION_LANGUAGES)
def test_every_name_reads_as_itself_alone_and_in_a_list(language: str) -> None:
    concepts = load_concepts()
    for concept, other in pairwise(concepts):
        scene = scene_of((concept.name, None), (other.name, None))
        assert names_in_caption(concept.in_language(language), language) == {concept}
        assert names_in_caption(caption(scene, language), language) == {concept, other}


def test_every_plural_and_painted_name_reads_as_itself() -> None:
    for concept in load_concepts():
        for colour in ("orange", "red"):
            for count in (1, 3):
                text = caption(scene_of(*[(concept.name, colour)] * count))
                assert names_in_caption(text) == {concept}, text


def test_orange_is_a_fruit_only_where_no_name_follows() -> None:
    orange, cat = concept_named("orange"), concept_named("cat")
    assert names_in_caption("an orange and a cat") == {orange, cat}
    assert names_in_caption("an orange cat") == {cat}
    assert names_in_caption("two orange oranges") == {orange}
    assert names_in_caption("a pine tree near a HOT DOG") == {
        concept_named("pine tree"),
        concept_named("hot dog"),
    }
    assert names_in_caption("catalogue of nothing") == frozenset()


def test_colours_and_places_have_different_words_in_every_language() -> None:
    edges = product(("top", "", "bottom"), ("left", "", "right"))
    places = [f"{row} {column}".strip() or "centre" for row, column in edges]
    for language in LANGUAGES:
        assert len({colour_word(colour.name, language) for colour in COLOURS}) == 11
        assert len({place_word(place, language) for place in places}) == 9
    assert colour_word("red", "de") == "rot"
    assert place_word("top left", "fr") == "en haut à gauche"
    with pytest.raises(DataError, match="'mauve' is unknown: use one of red"):
        colour_word("mauve", "en")
