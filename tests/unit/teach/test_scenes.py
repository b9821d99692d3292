"""Scenes: labels against pixels, the rules of the splits, determinism, colours."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from heliodor.errors import DataError
from heliodor.teach.data.artwork import HELD_OUT_STYLE
from heliodor.teach.data.casting import available, choose_concepts
from heliodor.teach.data.concepts import concept_named, held_out_pair
from heliodor.teach.data.layout import Drawn, arrange, measure
from heliodor.teach.data.looks import Look, draw_look
from heliodor.teach.data.palette import COLOURS, colour_named
from heliodor.teach.data.scenes import Scene, render_scene, render_single
from heliodor.teach.data.splits import Split, scene_rng


def scenes(split: Split, count: int, size: int = 112) -> list[Scene]:
    return [render_scene(scene_rng(split, i), size=size, split=split) for i in range(count)]


@pytest.fixture(scope="module")
def training() -> list[Scene]:
    return scenes(Split.TRAIN, 500, 64)


def held_out_pairs(scene: Scene) -> int:
    things = scene.things
    return sum(held_out_pair(a.concept, b.concept) for a in things for b in things)


def test_training_scenes_never_show_a_held_out_pair(training: list[Scene]) -> None:
    assert sum(held_out_pairs(scene) for scene in training) == 0
    assert sum(held_out_pairs(scene) for scene in scenes(Split.LAYOUTS, 200, 64)) == 0


def test_every_scene_of_the_pairs_split_shows_one() -> None:
    assert all(held_out_pairs(scene) > 0 for scene in scenes(Split.PAIRS, 200, 64))


def test_numbers_of_things_and_repeats_cover_one_to_five(training: list[Scene]) -> None:
    numbers = np.bincount([len(scene.things) for scene in training], minlength=6)
    assert numbers[0] == 0
    assert len(numbers) == 6
    assert numbers[1:].min() > 40
    repeats = [len(s.things) - len({t.concept for t in s.things}) for s in training]
    assert 0.15 < np.mean([r > 0 for r in repeats]) < 0.5
    assert max(repeats) == 4


@pytest.mark.parametrize("most", [1, 2, 4])
def test_no_more_things_than_asked_for_and_as_often_as_without_a_limit(most: int) -> None:
    """Shares of 0.22, 0.26, 0.22, 0.16, 0.14 for one to five, among those allowed."""
    rng = np.random.default_rng(6)
    pool = available(("noto",))
    numbers = [len(choose_concepts(rng, Split.TRAIN, pool, most)) for _ in range(900)]
    shares = np.array([0.22, 0.26, 0.22, 0.16, 0.14][:most])
    found = np.bincount(numbers, minlength=most + 1) / 900
    assert found[1:].tolist() == pytest.approx((shares / shares.sum()).tolist(), abs=0.07)
    drawn = [len(render_scene(rng, size=32, most=most).things) for _ in range(30)]
    assert (min(drawn), max(drawn)) == (1, most)


def test_the_usual_most_draws_what_was_always_drawn() -> None:
    scene = render_scene(np.random.default_rng(2), size=48, most=5)
    usual = render_scene(np.random.default_rng(2), size=48)
    np.testing.assert_array_equal(scene.image, usual.image)


@pytest.mark.parametrize("size", [64, 224])
def test_boxes_are_the_extents_of_masks_and_masks_do_not_meet(size: int) -> None:
    for scene in scenes(Split.LAYOUTS, 60, size):
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        taken = np.zeros((size, size), int)
        for thing in scene.things:
            x0, y0, x1, y1 = (int(v) for v in thing.box)
            ys, xs = np.nonzero(thing.mask)
            assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x0, y0, x1, y1)
            assert 0.35 <= thing.visible <= 1.0
            taken += thing.mask
        assert taken.max() == 1
        middles = [thing.centre[0] for thing in scene.things]
        assert middles == sorted(middles)


def test_a_mask_covers_the_pixels_that_a_thing_changed() -> None:
    ground = Image.new("RGB", (112, 112), (250, 0, 250))
    look = Look(concept=concept_named("tree"), style="noto", side=60, colour=None)
    (thing,) = arrange(np.random.default_rng(3), [look], ground, 0.0)
    canvas = ground.copy()
    canvas.paste(thing.rgb, (thing.x, thing.y), thing.alpha)
    changed = np.abs(np.asarray(canvas, int) - np.asarray(ground, int)).max(axis=-1) > 4
    assert not (thing.mask & ~changed).any()
    edge = changed & ~thing.mask  # only half-transparent rims
    assert edge.sum() < 0.25 * thing.mask.sum()


def drawing(x: int, y: int, alpha: Image.Image) -> Drawn:
    look = Look(concept=concept_named("box"), style="noto", side=10, colour=None)
    rgb = Image.new("RGB", alpha.size)
    return Drawn(look=look, rgb=rgb, alpha=alpha, x=x, y=y)


def test_later_things_cover_earlier_ones_and_borders_cut() -> None:
    back = drawing(0, 0, Image.new("L", (10, 10), 255))
    front = drawing(5, 0, Image.new("L", (10, 10), 255))
    cut = drawing(14, 15, Image.new("L", (10, 10), 255))
    assert measure([back, front, cut], 20, 0.2)
    assert back.mask.sum() == 50
    assert back.visible == 0.5
    assert not (back.mask & front.mask).any()
    assert cut.visible == pytest.approx(6 * 5 / 100)
    assert not measure([back, front], 20, 0.6)


def test_the_same_seed_gives_the_same_scene_and_splits_differ() -> None:
    first, second = (render_scene(scene_rng(Split.TRAIN, 7)) for _ in range(2))
    assert (first.image == second.image).all()
    assert [t.box for t in first.things] == [t.box for t in second.things]
    other = render_scene(scene_rng(Split.LAYOUTS, 7))
    assert (first.image != other.image).any()


def test_streams_of_splits_indices_and_purposes_never_meet() -> None:
    draws = {
        scene_rng(split, index, purpose).integers(2**62)
        for split in Split
        for index in range(50)
        for purpose in (0, 1)
    }
    assert len(draws) == 3 * 50 * 2


def test_scenes_keep_to_the_styles_asked_for() -> None:
    for index in range(20):
        scene = render_scene(scene_rng(Split.LAYOUTS, index), size=64, styles=(HELD_OUT_STYLE,))
        assert {thing.style for thing in scene.things} == {HELD_OUT_STYLE}
    with pytest.raises(DataError, match="no artwork style was given"):
        render_scene(scene_rng(Split.TRAIN, 0), styles=())


def test_a_single_fills_most_of_its_picture() -> None:
    for index in range(40):
        scene = render_single(scene_rng(Split.TRAIN, index), size=64)
        (thing,) = scene.things
        x0, y0, x1, y1 = thing.box
        assert scene.image.shape == (64, 64, 3)
        assert max(x1 - x0, y1 - y0) > 32


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: colour.name)
@pytest.mark.parametrize("name", ["cat", "bat", "snowman", "strawberry"])
def test_a_painted_thing_has_its_colour(colour, name: str) -> None:
    look = Look(concept=concept_named(name), style="noto", side=80, colour=colour, strength=1e-9)
    rgb, alpha = draw_look(np.random.default_rng(0), look)
    mean = np.asarray(rgb, float)[np.asarray(alpha) > 200].mean(axis=0) / 255
    hue, saturation, value = colorsys.rgb_to_hsv(*mean)
    if colour.name in {"black", "white", "grey"}:
        low, high = {"black": (0.0, 0.3), "grey": (0.4, 0.7), "white": (0.82, 1.0)}[colour.name]
        assert saturation < 0.12
        assert low <= value <= high
        return
    wanted = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour.rgb))[0]
    assert abs((hue - wanted + 0.5) % 1.0 - 0.5) < 0.03
    nearest = min(COLOURS, key=lambda c: np.abs(np.asarray(c.rgb) / 255 - mean).sum())
    assert nearest.name == colour.name


def test_plain_grounds_have_the_colour_they_are_named_for(training: list[Scene]) -> None:
    plain = [scene for scene in training if scene.background_colour is not None]
    assert 0.3 < len(plain) / len(training) < 0.5
    errors = []
    for scene in plain:
        free = ~np.any([thing.mask for thing in scene.things], axis=0)
        middle = np.median(scene.image[free], axis=0)
        wanted = colour_named(str(scene.background_colour)).rgb
        nearest = min(COLOURS, key=lambda c: np.abs(np.asarray(c.rgb) - middle).sum())
        errors.append(nearest.name != scene.background_colour)
        assert np.abs(np.asarray(wanted) - middle).max() < 140
    assert np.mean(errors) < 0.15  # pale grounds lie nearer to white or grey, not often


def test_painted_things_avoid_the_colour_of_a_plain_ground(training: list[Scene]) -> None:
    for scene in training:
        if scene.background_colour is not None:
            assert scene.background_colour not in {thing.colour for thing in scene.things}
