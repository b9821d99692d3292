"""The held-out examples: what is in them, and that training could not have seen it."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from heliodor.errors import DataError
from heliodor.see import prompt
from heliodor.teach.data.artwork import HELD_OUT_STYLE, TRAIN_STYLES
from heliodor.teach.data.concepts import concept_named, held_out_pair
from heliodor.teach.data.language import LANGUAGES
from heliodor.teach.data.splits import Split
from heliodor.teach.evals import exam as exams
from heliodor.teach.evals.exam import (
    HELD_OUT_ARTWORK,
    HELD_OUT_FONTS,
    HELD_OUT_PAIRS,
    NEW_LAYOUTS,
    TASKS,
    Column,
    Scenes,
    build_exam,
    scene_items,
)

SCENES = (NEW_LAYOUTS, HELD_OUT_PAIRS, HELD_OUT_ARTWORK)


def small(column: Column, first: int = 0) -> Scenes:
    assert column.split is not None
    return Scenes(column, column.split, first, size=64)


def couples(column: Column) -> list[bool]:
    """Of each caption's picture, whether a held-out pair is in it."""
    items = scene_items(small(column), "caption", 30)
    return [any(held_out_pair(a, b) for a, b in combinations(i.concepts, 2)) for i in items]


def test_pairs_are_in_every_picture_of_theirs_and_in_no_other():
    assert all(couples(HELD_OUT_PAIRS))
    assert not any(couples(NEW_LAYOUTS))
    assert not any(couples(HELD_OUT_ARTWORK))


@pytest.mark.parametrize("column", SCENES, ids=lambda column: column.name)
def test_only_the_artwork_column_shows_the_held_out_style(column):
    items = scene_items(small(column), "detect", 12)
    styles = {thing.style for item in items for thing in item.things}
    assert styles == {HELD_OUT_STYLE} if column is HELD_OUT_ARTWORK else styles <= {*TRAIN_STYLES}


@pytest.mark.parametrize("column", SCENES, ids=lambda column: column.name)
def test_kinds_of_question_are_asked_equally_often(column):
    count = Counter(item.kind for item in scene_items(small(column), "ask", 24))
    assert count == {"what": 6, "how_many": 6, "colour": 6, "where": 6, "exists": 6}


def test_a_kind_is_asked_at_most_once_of_a_picture():
    items = scene_items(small(NEW_LAYOUTS), "ask", 24)
    assert max(Counter((i.picture, i.kind) for i in items).values()) == 1


def test_detection_asks_for_everything_there_and_now_and_then_for_more():
    items = scene_items(small(NEW_LAYOUTS), "detect", 60)
    extra = 0
    for item in items:
        there = {thing.concept.name for thing in item.things}
        assert there <= set(item.labels)
        assert len(set(item.labels)) == len(item.labels)
        extra += len(item.labels) - len(there)
    assert 5 <= extra <= 27  # a quarter of 60, four deviations either way


def test_segmentation_asks_for_the_only_thing_of_its_kind():
    for item in scene_items(small(HELD_OUT_PAIRS), "segment", 20):
        (thing,) = item.things
        assert item.labels == (thing.concept.name,)
        assert thing.mask.any()


def test_prompts_are_those_of_the_verbs():
    scenes = small(NEW_LAYOUTS)
    captions = scene_items(scenes, "caption", 5)
    assert [i.prompt for i in captions[:5]] == [prompt.caption("en")] * 5
    assert {i.prompt for i in captions[5:]} == {prompt.caption(c) for c in LANGUAGES[1:]}
    for item in scene_items(scenes, "detect", 5):
        assert item.prompt == prompt.detect(item.labels)
    for item in scene_items(scenes, "segment", 5):
        assert item.prompt == prompt.segment(item.labels)
    for item in scene_items(scenes, "ask", 5):
        assert item.prompt == prompt.ask(item.prompt.removeprefix("answer en "), "en")
    (read,) = build_exam(HELD_OUT_FONTS, ["read"], 1, 0).items
    assert read.prompt == prompt.read()


def test_pictures_and_questions_follow_from_the_seed():
    one, same, other = (build_exam(NEW_LAYOUTS, ["ask"], 4, seed) for seed in (3, 3, 4))
    assert [i.prompt for i in one.items] == [i.prompt for i in same.items]
    assert all(np.array_equal(a, b) for a, b in zip(one.pictures, same.pictures, strict=True))
    assert [i.prompt for i in one.items] != [i.prompt for i in other.items]
    assert not np.array_equal(one.pictures[0], other.pictures[0])


def test_a_task_does_not_change_the_questions_of_another():
    alone = build_exam(NEW_LAYOUTS, ["segment"], 3, 0)
    among = build_exam(NEW_LAYOUTS, TASKS, 3, 0)
    assert [(i.prompt, i.picture) for i in alone.items] == [
        (i.prompt, i.picture) for i in among.items if i.task == "segment"
    ]


def test_text_is_only_on_pictures_of_text():
    assert {i.task for i in build_exam(HELD_OUT_FONTS, TASKS, 2, 0).items} == {"read", "document"}
    assert "read" not in {i.task for i in build_exam(NEW_LAYOUTS, TASKS, 1, 0).items}
    assert build_exam(NEW_LAYOUTS, ["read"], 2, 0).items == ()


def test_lines_have_one_to_five_words_and_their_kind_says_how_many():
    items = build_exam(HELD_OUT_FONTS, ["read"], 30, 0).items
    for item in items:
        words = len(item.truth.split())
        assert 1 <= words <= 5
        assert item.kind.split() == [str(words), "word" if words == 1 else "words"]
    assert len({item.kind for item in items}) == 5


def test_too_few_pictures_for_a_question_are_reported(monkeypatch):
    monkeypatch.setattr(exams, "_PATIENCE", 1)
    monkeypatch.setattr(exams, "kinds_of", lambda _: {concept_named("bee"): (0, 1)})
    with pytest.raises(DataError, match=r"only 0 of 3 examples of 'segment'.*fewer examples"):
        scene_items(Scenes(NEW_LAYOUTS, Split.LAYOUTS, 0, size=64), "segment", 3)
