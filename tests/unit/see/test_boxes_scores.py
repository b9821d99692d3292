"""Scores from token probabilities, and pixels to and from location tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliodor.errors import InputError
from heliodor.see.boxes import (
    Box,
    LocScale,
    encode_box,
    parse,
    parse_tokens,
    to_detections,
    to_pixels,
)


def tokens(*pairs: tuple[str, float]) -> list[tuple[str, float]]:
    return [(text, math.log(probability)) for text, probability in pairs]


BOX = [("<loc0100>", 0.9), ("<loc0200>", 0.8), ("<loc0300>", 0.5), ("<loc0400>", 0.4)]
BOX_MEAN = (0.9 * 0.8 * 0.5 * 0.4) ** 0.25


def test_a_box_scores_the_geometric_mean_of_its_locations_times_its_label():
    (found,) = parse_tokens(tokens(*BOX, (" red", 0.5), (" car", 0.6)))
    assert found.box == pytest.approx(BOX_MEAN)
    assert found.label == pytest.approx(0.3)
    assert found.presence == 1.0
    assert found.mask is None
    assert found.score == pytest.approx(BOX_MEAN * 0.3)


def test_a_mask_shares_the_place_of_the_box():
    codes = [(f"<seg{number:03d}>", 0.25 if number % 2 else 1.0) for number in range(16)]
    (found,) = parse_tokens(tokens(*BOX, *codes, (" car", 1.0)))
    assert found.mask == pytest.approx(0.5)
    assert found.score == pytest.approx(math.sqrt(BOX_MEAN * 0.5))


def test_the_next_object_counts_how_sure_the_list_went_on():
    stream = tokens(*BOX, (" car", 1.0), (" ;", 0.5), (" ", 0.5), *BOX, (" cat", 1.0), ("", 0.1))
    first, second = parse_tokens(stream)
    assert first.presence == 1.0
    assert second.presence == pytest.approx(0.25)
    assert second.score == pytest.approx(0.25 * BOX_MEAN)


def test_bytes_of_a_character_count_for_the_label_they_spell():
    (found,) = parse_tokens(tokens(*BOX, (" ", 1.0), ("", 0.5), ("", 0.5), ("蜂", 0.8)))
    assert found.parsed.label == "蜂"
    assert found.label == pytest.approx(0.2)


def test_without_label_the_label_costs_nothing():
    (found,) = parse_tokens(tokens(*BOX))
    assert found.label == 1.0
    assert found.score == pytest.approx(BOX_MEAN)


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_a_probability_that_is_none_counts_as_zero(logprob):
    (found,) = parse_tokens([*tokens(*BOX), (" car", logprob)])
    assert found.score == 0.0


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["<loc0001>", "<loc0900>", "<seg001>", " ; ", " cat", "", "é"]),
            st.floats(max_value=0) | st.just(math.nan),
        ),
        max_size=80,
    )
)
def test_scores_lie_between_zero_and_one_and_the_objects_are_those_of_the_text(stream):
    found = parse_tokens(stream)
    assert tuple(item.parsed for item in found) == parse("".join(text for text, _ in stream))
    assert all(0.0 <= item.score <= 1.0 for item in found)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(LocScale.BIG_VISION, (640.0, 0.0)), (LocScale.HUGGING_FACE, (640 * 1023 / 1024, 0.0))],
)
def test_the_last_bin_is_the_edge_in_one_scale_and_just_short_of_it_in_the_other(scale, expected):
    x0, y0, x1, y1 = to_pixels((0, 0, 1023, 1023), (640, 480), scale)
    assert (x1, x0) == pytest.approx(expected)
    assert (y1, y0) == pytest.approx((480 * 1023 / scale.value, 0.0))


def test_detections_are_in_x_y_pixels_and_improper_boxes_are_left_out():
    text = "<loc0100><loc0200><loc0300><loc0400> a ; <loc0500><loc0200><loc0300><loc0400> b"
    found = to_detections(parse(text), (1023, 2046))
    assert list(found) == [Box(label="a", xyxy=(200.0, 200.0, 400.0, 600.0), score=1.0)]
    assert found.size == (1023, 2046)


def test_detections_carry_the_scores():
    (box,) = to_detections(parse_tokens(tokens(*BOX, (" car", 0.5))), (100, 100))
    assert box.score == pytest.approx(BOX_MEAN / 2)


def test_a_box_is_written_y_first_rounded_to_1023():
    assert encode_box((119.4, 40.0, 640.0, 240.0), (640, 480)) == (
        f"<loc{round(40 / 480 * 1023):04d}>",
        f"<loc{round(119.4 / 640 * 1023):04d}>",
        f"<loc{round(0.5 * 1023):04d}>",
        "<loc1023>",
    )


@settings(deadline=None)  # the machine may be busy
@given(
    st.tuples(*[st.floats(0, 1)] * 4).filter(lambda v: v[0] != v[2] and v[1] != v[3]),
    st.integers(1, 4000),
    st.integers(1, 4000),
)
def test_a_box_comes_back_within_half_a_bin(shares, width, height):
    (x0, x1), (y0, y1) = sorted(shares[::2]), sorted(shares[1::2])
    box = (x0 * width, y0 * height, x1 * width, y1 * height)
    if not (box[0] < box[2] and box[1] < box[3]):
        return
    text = "".join(encode_box(box, (width, height)))
    back = to_pixels(parse(text)[0].loc, (width, height))
    bin_size = np.array([width, height, width, height]) / 1023
    assert np.all(np.abs(np.array(back) - box) <= bin_size * 0.5001)


@pytest.mark.parametrize(
    "xyxy",
    [
        (0, 0, 0, 10),
        (10, 0, 5, 10),
        (-1, 0, 5, 5),
        (0, 0, 101, 5),
        (0, 0, 5, 101),
        (math.nan, 0, 5, 5),
        (0, 0, math.inf, 5),
        (0, 0, 5),
    ],
)
def test_a_box_that_cannot_be_is_refused(xyxy):
    with pytest.raises(InputError, match="a box must"):
        encode_box(xyxy, (100, 100))
