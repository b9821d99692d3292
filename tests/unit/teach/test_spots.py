"""Pieces of answers lie where letters and things are drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from heliodor.teach.data.documents import document_example
from heliodor.teach.data.fonts import TextSplit
from heliodor.teach.data.language import LANGUAGES, caption
from heliodor.teach.data.questions import all_questions
from heliodor.teach.data.reading import draw_reading
from heliodor.teach.data.scenes import render_scene
from heliodor.teach.data.spots import answer_spots, letter_spots, thing_spots

PATCH, GRID = 16, 14


def test_every_letter_has_the_patches_that_show_most_of_it() -> None:
    for seed in range(4):
        reading = draw_reading(np.random.default_rng(seed), split=TextSplit.TEST)
        spots = letter_spots(reading, PATCH)
        assert [spot.start for spot in spots] == [
            index for index, letter in enumerate(reading.text) if letter != " "
        ]
        for spot in spots:
            assert spot.stop == spot.start + 1
            ink = np.zeros(GRID * GRID)
            for row, column in zip(*np.nonzero(reading.glyphs == spot.start + 1), strict=True):
                ink[row // PATCH * GRID + column // PATCH] += 1
            assert set(spot.patches) == set(np.nonzero(ink >= 0.4 * ink.max())[0].tolist())


@pytest.mark.parametrize("language", LANGUAGES)
def test_pieces_of_answers_name_what_their_patches_show(language: str) -> None:
    for seed in range(6):
        scene = render_scene(np.random.default_rng(seed), size=224)
        shown = [
            thing.mask.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)).ravel()
            for thing in scene.things
        ]
        for question in all_questions(np.random.default_rng(seed), scene, language):
            spots = thing_spots(scene, question, PATCH)
            for spot in spots:
                text = question.suffix[spot.start : spot.stop]
                owners = [i for i, share in enumerate(shown) if share[list(spot.patches)].any()]
                if question.task == "caption":
                    names = [scene.things[i].concept for i in owners]
                    assert any(
                        n.in_language(language) in text or n.plural in text or n.name in text
                        for n in names
                    )
                elif question.task == "ask":
                    assert text == question.suffix
                    assert set(question.things) & set(owners)
            if question.task == "detect":
                assert len(spots) == len(question.things)
                for spot, index in zip(spots, question.things, strict=True):
                    most = shown[index].max()
                    assert all(shown[index][patch] >= 0.39 * most for patch in spot.patches)
                    assert question.suffix[spot.start :].startswith("<loc")
        parts = thing_spots(
            scene, all_questions(np.random.default_rng(0), scene, language)[0], PATCH
        )
        assert parts[0].start == 0
        assert parts[-1].stop == len(caption(scene, language))


def test_every_mask_code_has_the_patches_under_its_cell_of_the_box() -> None:
    codes = "".join(f"<seg{number:03d}>" for number in range(16))
    for seed in range(6):
        scene = render_scene(np.random.default_rng(seed), size=224)
        for question in all_questions(np.random.default_rng(seed), scene):
            if question.task != "segment":
                continue
            whole = replace(question, suffix=question.suffix.replace("{seg}", codes))
            spots = thing_spots(scene, whole, PATCH)
            assert len(spots) == 18 * len(question.things)
            for number, index in enumerate(question.things):
                found = spots[18 * number : 18 * number + 18]
                x0, y0, x1, y1 = scene.things[index].box
                for spot in (found[0], found[17]):
                    shown = scene.things[index].mask.reshape(GRID, PATCH, GRID, PATCH)
                    assert shown.mean((1, 3)).ravel()[list(spot.patches)].all()
                assert whole.suffix[found[0].start : found[0].stop].count("<loc") == 4
                assert whole.suffix[found[17].start : found[17].stop].startswith(" ")
                for code, spot in enumerate(found[1:17]):
                    text = whole.suffix[spot.start : spot.stop]
                    assert text == f"<seg{code:03d}>"
                    row, column = divmod(code, 4)
                    middle_x = x0 + (x1 - x0) * (column + 0.5) / 4
                    middle_y = y0 + (y1 - y0) * (row + 0.5) / 4
                    under = int(middle_y) // PATCH * GRID + int(middle_x) // PATCH
                    wide = (x1 - x0) / 4 < PATCH and (y1 - y0) / 4 < PATCH
                    assert not wide or len(spot.patches) <= 4
                    near_x = min(middle_x % PATCH, PATCH - middle_x % PATCH)
                    near_y = min(middle_y % PATCH, PATCH - middle_y % PATCH)
                    if near_x > 1 and near_y > 1:
                        assert under in spot.patches


def test_colours_are_looked_up_on_the_thing_asked_about() -> None:
    asked = 0
    for seed in range(12):
        scene = render_scene(np.random.default_rng(seed), size=224)
        for question in all_questions(np.random.default_rng(seed), scene):
            if question.kind == "colour" and question.things:
                (index,) = question.things
                assert scene.things[index].concept.name in question.prompt
                assert scene.things[index].colour == question.suffix
                asked += 1
    assert asked > 3


def test_answers_of_documents_lie_where_they_are_written() -> None:
    """Told are answers that stand there once; their letters' patches hold their codes."""
    told = 0
    for seed in range(10):
        document = document_example(np.random.default_rng(seed), split=TextSplit.TEST)
        lines = document.letters.split("\n")
        for _, answer in document.questions:
            spots = answer_spots(document, answer, PATCH)
            alone = lines.count(answer) == 1
            once = alone or document.letters.count(answer) == 1
            assert bool(spots) == once
            told += once
            for spot in spots:
                letter = answer[spot.start]
                codes = document.glyphs.reshape(GRID, PATCH, GRID, PATCH)
                held = (codes == ord(letter)).sum((1, 3)).ravel()
                assert ord(letter) > 255 or all(held[patch] > 0 for patch in spot.patches)
    assert told > 40


def test_numbers_of_a_document_are_places_of_its_letters() -> None:
    for seed in range(4):
        document = document_example(np.random.default_rng(seed), split=TextSplit.TEST)
        assert document.numbers.max() <= len(document.letters)
        for number in np.unique(document.numbers)[1:]:
            letter = document.letters[number - 1]
            codes = np.unique(document.glyphs[document.numbers == number]).tolist()
            assert codes == [ord(letter) if ord(letter) < 256 else 0]
