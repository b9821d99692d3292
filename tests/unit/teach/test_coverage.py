"""What lies in each patch, counted again patch by patch and pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from heliodor.teach.data.artwork import TRAIN_STYLES
from heliodor.teach.data.concepts import load_concepts
from heliodor.teach.data.coverage import (
    EDGES,
    KINDS,
    THINGS,
    cover_codes,
    cover_letters,
    cover_things,
)
from heliodor.teach.data.documents import DocumentKind, document_example
from heliodor.teach.data.fonts import TextSplit
from heliodor.teach.data.palette import COLOURS
from heliodor.teach.data.questions import TaskMix
from heliodor.teach.data.reading import draw_reading
from heliodor.teach.data.scenes import Scene, Thing, render_scene, render_single
from heliodor.teach.data.sheets import draw_sheet
from heliodor.teach.data.sources import (
    DocumentSource,
    LettersSource,
    ReadingSource,
    SceneSource,
)

COLOUR_NAMES = [colour.name for colour in COLOURS]
LETTERS = THINGS + len(COLOURS)
TEST = TextSplit.TEST
TASKS = TaskMix(tasks={"caption": 1.0})

Patches = list[tuple[slice, slice]]


def patches(size: int, patch: int) -> Patches:
    """Row by row from the top left."""
    starts = range(0, size, patch)
    return [(slice(y, y + patch), slice(x, x + patch)) for y in starts for x in starts]


def halves(window: tuple[slice, slice]) -> Patches:
    """The left and the right half of a patch."""
    rows, columns = window
    middle = (columns.start + columns.stop) // 2
    return [(rows, slice(columns.start, middle)), (rows, slice(middle, columns.stop))]


def column(letter: str, half: int) -> int:
    return LETTERS + 94 * half + ord(letter) - ord("!")


def test_columns_are_concepts_colours_and_printable_characters() -> None:
    assert len(load_concepts()) == THINGS
    assert [concept.id for concept in load_concepts()] == list(range(THINGS))
    assert (column("~", 1) + 1, EDGES) == (KINDS, 4)
    assert column("~", 0) + 1 == column("!", 1)
    assert THINGS + len(COLOURS) + 2 * 94 == KINDS


def covered_by_things(scene: Scene, patch: int) -> NDArray[np.int64]:
    found = np.zeros(((scene.size // patch) ** 2, KINDS + EDGES), np.int64)
    for row, window in zip(found, patches(scene.size, patch), strict=True):
        seen = [int(thing.mask[window].sum()) for thing in scene.things]
        for thing, pixels in zip(scene.things, seen, strict=True):
            row[thing.concept.id] += pixels
            if thing.colour is not None:
                row[THINGS + COLOUR_NAMES.index(thing.colour)] += pixels
        row[:KINDS] = [math.ceil(255 * pixels / patch**2) for pixels in row[:KINDS]]
        if max(seen, default=0) > 0:
            largest = scene.things[seen.index(max(seen))]
            row[KINDS:] = [math.ceil(255 * edge / scene.size) for edge in largest.box]
    return found


@pytest.mark.parametrize("patch", [8, 16])
def test_things_cover_as_much_of_a_patch_as_their_masks_do(patch: int) -> None:
    rng = np.random.default_rng(5)
    scenes = [render_scene(rng, size=64, styles=TRAIN_STYLES) for _ in range(12)]
    scenes += [render_single(rng, size=64) for _ in range(4)]
    for scene in scenes:
        found = cover_things(scene, patch)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, covered_by_things(scene, patch))
        assert (found[:, LETTERS:KINDS] == 0).all()
    assert any(thing.colour is not None for scene in scenes for thing in scene.things)


def test_two_of_a_kind_add_up_and_the_larger_one_has_its_edges_told() -> None:
    """One patch of 4 by 4 pixels: three and five of them, of the same concept in two colours."""
    cat = load_concepts()[3]

    def thing(rows: slice, columns: slice, colour: str | None) -> Thing:
        mask = np.zeros((4, 4), bool)
        mask[rows, columns] = True
        box = (columns.start, rows.start, columns.stop, rows.stop)
        return Thing(concept=cat, style="noto", box=box, mask=mask, colour=colour, visible=1.0)

    few = thing(slice(0, 1), slice(0, 3), COLOURS[0].name)
    many = thing(slice(2, 4), slice(1, 3), COLOURS[2].name)
    scene = Scene(
        image=np.zeros((4, 4, 3), np.uint8), things=(few, many), background_colour=None, size=4
    )
    (row,) = cover_things(scene, 4).astype(int)
    assert row[3] == math.ceil(255 * 7 / 16)
    assert row[THINGS] == math.ceil(255 * 3 / 16)
    assert row[THINGS + 2] == math.ceil(255 * 4 / 16)
    assert row[KINDS:].tolist() == [64, 128, 192, 255]
    assert np.count_nonzero(row) == 3 + 4


def test_a_bare_scene_covers_nothing() -> None:
    scene = Scene(image=np.zeros((8, 8, 3), np.uint8), things=(), background_colour=None, size=8)
    assert cover_things(scene, 4).tolist() == [[0] * (KINDS + EDGES)] * 4


@pytest.mark.parametrize("size", [64, 112])
def test_a_letter_lies_where_its_pixels_do_and_where_most_pixels_are_its_own(size: int) -> None:
    twice = 0
    for index in range(12):
        reading = draw_reading(TEST.rng(index), size=size, split=TEST)
        found = cover_letters(reading, 16)
        assert found.dtype == np.uint8
        wanted = np.zeros(found.shape, np.int64)
        for row, window in zip(wanted, patches(size, 16), strict=True):
            for number, letter in enumerate(reading.text, start=1):
                for half, place in enumerate(halves(window) if "!" <= letter <= "~" else ()):
                    here = int((reading.glyphs[place] == number).sum())
                    share = here / max(1, int((reading.glyphs == number).sum()))
                    share = max(share, here / max(12, np.count_nonzero(reading.glyphs[place])))
                    at = column(letter, half)
                    row[at] = max(row[at], round(255 * share))
        np.testing.assert_allclose(found, wanted, atol=1)  # halves may round either way
        assert (found != wanted).mean() < 0.001
        twice += len(reading.text) - len(set(reading.text))
    assert twice > 5


@pytest.mark.parametrize("kind", DocumentKind)
def test_letters_of_a_document_are_counted_in_letters_of_middling_size(kind: DocumentKind) -> None:
    for index in range(3):
        document = document_example(TEST.rng(index), size=112, split=TEST, kind=kind)
        found = cover_codes(document, 16)
        assert found.dtype == np.uint8
        wanted = np.zeros(found.shape, np.int64)
        for letter in map(chr, range(ord("!"), ord("~") + 1)):
            pixels = document.glyphs == ord(letter)
            middling = pixels.sum() / max(1, document.letters.count(letter))
            for row, window in zip(wanted, patches(112, 16), strict=True):
                for half, place in enumerate(halves(window)):
                    if here := int(pixels[place].sum()):
                        share = here / max(12, np.count_nonzero(document.glyphs[place]))
                        share = max(share, min(1.0, here / middling))
                        row[column(letter, half)] = round(255 * share)
        np.testing.assert_allclose(found, wanted, atol=1)
        assert (found != wanted).mean() < 0.001
        shown = {letter for letter in document.letters if "!" <= letter <= "~"}
        told = np.nonzero(found[:, LETTERS:KINDS].any(0))[0] % 94
        assert {chr(ord("!") + i) for i in told} == shown


@pytest.mark.parametrize("size", [64, 112])
def test_sources_tell_the_cover_only_where_patches_are_named(size: int) -> None:
    rng = np.random.default_rng
    scenes = SceneSource(size=size, turns=1, codec=None, mix=TASKS, patch=16, most=2)
    bare = SceneSource(size=size, turns=1, codec=None, mix=TASKS)
    lines, plain = ReadingSource(size=size, patch=16), ReadingSource(size=size)
    pages, unknown = DocumentSource(size=112, turns=1, patch=16), DocumentSource(size=112, turns=1)
    assert all(source(rng(1)).cover is None for source in (bare, plain, unknown))
    for source, columns in (
        (scenes, slice(0, THINGS)),
        (lines, slice(LETTERS, KINDS)),
        (pages, slice(LETTERS, KINDS)),
    ):
        example = source(rng(1))
        assert example.cover is not None
        assert example.cover.shape == ((example.image.shape[0] // 16) ** 2, KINDS + EDGES)
        assert example.cover[:, columns].any()
    for told, silent in ((lines, plain), (pages, unknown)):
        np.testing.assert_array_equal(told(rng(1)).image, silent(rng(1)).image)


def test_letters_of_a_sheet_are_told_and_nothing_is_asked() -> None:
    example = LettersSource(size=112, patch=16)(np.random.default_rng(4))
    sheet = draw_sheet(np.random.default_rng(4), size=112)
    assert example.turns == ()
    np.testing.assert_array_equal(example.image, sheet.image)
    assert example.cover is not None
    np.testing.assert_array_equal(example.cover, cover_codes(sheet, 16))
    assert np.count_nonzero(example.cover[:, LETTERS:KINDS]) > 40
