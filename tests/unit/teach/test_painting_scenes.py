"""Scenes to paint from, and what is said of them: true, in six languages, never a held-out pair."""

from __future__ import annotations

import re

import numpy as np
import pytest

from heliodor.errors import DataError
from heliodor.teach.data.concepts import concept_named, held_out_pair, load_concepts
from heliodor.teach.data.language import NUMBER_WORDS, names_in_caption
from heliodor.teach.data.painting import Description, Group, describe, paint_scene
from heliodor.teach.data.painting_genders import FRENCH, GERMAN, SPANISH
from heliodor.teach.data.painting_words import LANGUAGES, say
from heliodor.teach.data.palette import COLOURS
from heliodor.teach.data.scenes import Scene
from heliodor.teach.data.splits import Split, scene_rng

COUNT = 40
SCENES = [paint_scene(scene_rng(Split.TRAIN, n, 41), size=64) for n in range(COUNT)]
RELATED = re.compile(r"^(.*?) (?:to the )?(left of|right of|above|over|below|under) (.*)$")


def only(scene: Scene, name: str) -> tuple[float, float]:
    (thing,) = [t for t in scene.things if t.concept.name == name]
    return thing.centre


class TestScenes:
    def test_one_to_three_things_and_never_a_held_out_pair(self) -> None:
        counts = [len(scene.things) for scene in SCENES]
        assert set(counts) == {1, 2, 3}
        for scene in SCENES:
            ids = [thing.concept for thing in scene.things]
            assert not any(held_out_pair(a, b) for a in ids for b in ids)

    def test_the_held_out_split_shows_such_a_pair_every_time(self) -> None:
        for number in range(10):
            scene = paint_scene(scene_rng(Split.PAIRS, number), size=64, split=Split.PAIRS, most=2)
            first, second = (thing.concept for thing in scene.things)
            assert held_out_pair(first, second)

    def test_a_scene_is_a_function_of_its_number(self) -> None:
        again = paint_scene(scene_rng(Split.TRAIN, 3, 41), size=64)
        assert np.array_equal(again.image, SCENES[3].image)
        assert not np.array_equal(SCENES[3].image, SCENES[4].image)

    def test_boxes_hug_what_is_not_ground(self) -> None:
        """On a plain ground, the pixels that differ from its corner lie within the boxes."""
        for scene in (s for s in SCENES if s.background_colour is not None):
            counts: dict[tuple[int, ...], int] = {}
            for pixel in scene.image.reshape(-1, 3).tolist():
                counts[tuple(pixel)] = counts.get(tuple(pixel), 0) + 1
            ground = np.array(max(counts, key=lambda each: counts[each]))
            odd = np.asarray((np.abs(scene.image.astype(int) - ground) > 60).any(-1))
            for thing in scene.things:
                x0, y0, x1, y1 = (int(v) for v in thing.box)
                odd[max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3] = False
            assert not odd.any()

    def test_painted_things_are_of_their_colour_and_not_of_the_grounds(self) -> None:
        known = {colour.name: np.array(colour.rgb, float) for colour in COLOURS}
        right = total = 0
        for scene in SCENES:
            for thing in scene.things:
                if thing.colour in ("red", "yellow", "green", "blue"):
                    assert thing.colour != scene.background_colour
                    mean = scene.image[thing.mask].mean(0)
                    four = {k: known[k] for k in ("red", "yellow", "green", "blue")}
                    best = min(four, key=lambda k: float(np.abs(four[k] - mean).sum()))
                    right, total = right + (best == thing.colour), total + 1
        assert total >= 5
        assert right >= 0.9 * total


class TestTruth:
    @pytest.mark.parametrize("number", range(COUNT))
    def test_english_captions_say_what_the_scene_shows(self, number: int) -> None:
        """Read back with plain rules: numbers, colours, relation, ground."""
        scene = SCENES[number]
        rng = np.random.default_rng(number)
        for _ in range(4):
            description = describe(rng, scene)
            text = say(rng, description, "en")
            body, _, ground = text.partition(" on ")
            if ground:
                words = ground.removesuffix(" background").split()
                assert words[-1] == scene.background_colour
            assert names_in_caption(body) == {thing.concept for thing in scene.things}
            for group in description.groups:
                own = [t for t in scene.things if t.concept == group.concept]
                assert len(own) == group.number
                if group.colour is not None:
                    assert {t.colour for t in own} == {group.colour}
                if group.number > 1:
                    assert NUMBER_WORDS[group.number] in body.split()
            if description.relation is not None:
                self.check_relation(scene, description, body)

    @staticmethod
    def check_relation(scene: Scene, description: Description, body: str) -> None:
        found = RELATED.match(body)
        assert found is not None
        first, second = (group.concept.name for group in description.groups[:2])
        assert found[1].endswith(first)
        assert second in found[3]
        (x, y), (other_x, other_y) = only(scene, first), only(scene, second)
        gap = 0.15 * scene.size
        true = {
            "left of": x < other_x - gap,
            "right of": x > other_x + gap,
            "above": y < other_y - gap,
            "over": y < other_y - gap,
            "below": y > other_y + gap,
            "under": y > other_y + gap,
        }
        assert true[found[2]]

    def test_everything_tells_every_colour_and_no_ground(self) -> None:
        for number, scene in enumerate(SCENES):
            description = describe(np.random.default_rng(number), scene, everything=True)
            assert description.ground is None
            for group in description.groups:
                colours = {t.colour for t in scene.things if t.concept == group.concept}
                assert group.colour == (colours.pop() if len(colours) == 1 else None)

    def test_every_language_names_everything(self) -> None:
        for number, scene in enumerate(SCENES[:12]):
            description = describe(np.random.default_rng(number), scene)
            for language in LANGUAGES:
                text = say(np.random.default_rng(number), description, language)
                for group in description.groups:
                    name = group.concept.in_language(language)
                    assert name in text or name[:-2] in text, (language, text)


def pair(
    first: str, colour: str | None, relation: str, second: str, other: str | None
) -> Description:
    return Description(
        groups=(
            Group(concept=concept_named(first), colour=colour),
            Group(concept=concept_named(second), colour=other),
        ),
        relation=relation,
    )


def ways(description: Description, language: str) -> set[str]:
    return {say(np.random.default_rng(seed), description, language) for seed in range(30)}


class TestWords:
    """Grammar, against sentences written by hand."""

    def test_the_issues_own_example(self) -> None:
        said = pair("apple", "red", "left", "car", "blue")
        assert "a red apple left of a blue car" in ways(said, "en")
        assert "红色的苹果在蓝色的汽车左边" in ways(said, "zh")
        assert ways(said, "fr") == {"une pomme rouge à gauche d'une voiture bleue"}
        assert ways(said, "de") == {"ein roter Apfel links von einem blauen Auto"}
        assert ways(said, "es") == {"una manzana roja a la izquierda de un coche azul"}
        assert "青い自動車の左に赤いリンゴ" in ways(said, "ja")

    @pytest.mark.parametrize(
        ("said", "language", "wanted"),
        [
            (pair("cat", "white", "above", "cherries", "green"), "fr",
             "un chat blanc au-dessus de cerises vertes"),
            (pair("glasses", "black", "right", "orange", None), "fr",
             "des lunettes noires à droite d'une orange"),
            (pair("lion", "purple", "below", "lion", "grey"), "de",
             "ein lila Löwe unter einem grauen Löwen"),
            (pair("books", "red", "left", "gloves", "brown"), "de",
             "rote Bücher links von braunen Handschuhen"),
            (pair("milk", "blue", "left", "milk", "pink"), "de",
             "blaue Milch links von rosa Milch"),
            (pair("eagle", "white", "right", "grapes", "brown"), "es",
             "un águila blanca a la derecha de unas uvas marrones"),
            (pair("jeans", "grey", "left", "star", "yellow"), "es",
             "unos vaqueros grises a la izquierda de una estrella amarilla"),
        ],
    )  # fmt: skip
    def test_articles_and_colours_agree(
        self, said: Description, language: str, wanted: str
    ) -> None:
        assert wanted in ways(said, language)

    def test_numbers_and_grounds(self) -> None:
        two = Description(groups=(Group(concept=concept_named("apple"), number=2),), ground="white")
        assert "two apples on a white background" in ways(two, "en")
        assert "两个苹果，白色背景" in ways(two, "zh")
        assert "pomme (2) sur fond blanc" in ways(two, "fr")
        assert "Apfel (2) vor weißem Hintergrund" in ways(two, "de")
        assert "manzana (2) sobre fondo blanco" in ways(two, "es")
        assert "二つのリンゴ、白い背景" in ways(two, "ja")

    def test_listed_genders_are_of_names_that_exist(self) -> None:
        for genders in (FRENCH, GERMAN, SPANISH):
            names = {concept.in_language(genders.language) for concept in load_concepts()}
            assert genders.feminine | genders.neuter | genders.plural <= names
            assert not genders.feminine & genders.neuter

    def test_another_language_is_refused(self) -> None:
        with pytest.raises(DataError, match="no captions in 'ko' for painting: use en, zh"):
            say(np.random.default_rng(0), pair("cat", None, "left", "dog", None), "ko")
