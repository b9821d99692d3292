"""The parser of detection and segmentation text: what it reads, and that nothing stops it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliodor.see.boxes import ParsedBox, Span, format_object, parse

LOC = "<loc0405><loc0119><loc0771><loc0955>"
LOC2 = "<loc0001><loc0002><loc0003><loc1023>"
SEG = "".join(f"<seg{code:03d}>" for code in range(112, 128))


def read(text: str) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(box.label, box.loc, box.codes is not None) for box in parse(text)]


FIRST, SECOND = (405, 119, 771, 955), (1, 2, 3, 1023)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{LOC} car", [("car", FIRST, False)]),
        (f"{LOC} car ; {LOC2} red bus", [("car", FIRST, False), ("red bus", SECOND, False)]),
        (f"{LOC}{SEG} car ; {LOC2}{SEG} cat", [("car", FIRST, True), ("cat", SECOND, True)]),
        (f"{LOC} dog's bowl", [("dog's bowl", FIRST, False)]),
        (f"{LOC} t-shirt, red", [("t-shirt, red", FIRST, False)]),
        (f"{LOC} a < b > c", [("a < b > c", FIRST, False)]),
        (f"{LOC} 蜜蜂 ; {LOC2} 🐝", [("蜜蜂", FIRST, False), ("🐝", SECOND, False)]),
        (LOC, [("", FIRST, False)]),
        (f"{LOC}{SEG}", [("", FIRST, True)]),
        (f"{LOC}{SEG}{LOC2}{SEG}", [("", FIRST, True), ("", SECOND, True)]),
        (f"{LOC}{LOC2} cat", [("", FIRST, False), ("cat", SECOND, False)]),
        (f"{LOC}car;{LOC2}cat", [("car", FIRST, False), ("cat", SECOND, False)]),
        (f"{LOC} car {LOC2} cat", [("car", FIRST, False), ("cat", SECOND, False)]),
        (f"{LOC} car ; ; ; {LOC2} cat ;", [("car", FIRST, False), ("cat", SECOND, False)]),
        (f"detect car\n{LOC} car<eos>", [("car", FIRST, False)]),
        (f"<bos>{LOC} car {LOC2} cat<eos>", [("car", FIRST, False), ("cat", SECOND, False)]),
        (f"{LOC}, car", [("car", FIRST, False)]),
    ],
)
def test_objects_are_read_with_their_labels(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"car {LOC} ; cat {LOC2}", [("car", FIRST, False), ("cat", SECOND, False)]),
        (f"car {LOC} cat {LOC2}", [("car", FIRST, False), ("cat", SECOND, False)]),
        (f"car {LOC}{SEG}", [("car", FIRST, True)]),
        (f"I see {LOC} car", [("car", FIRST, False)]),
    ],
)
def test_labels_may_stand_before_their_boxes(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a red car", []),
        (SEG, []),
        ("<loc0405><loc0119><loc0771> car", []),
        (f"{LOC} car ; <loc0001><loc0002>", [("car", FIRST, False)]),
        (f"{LOC} car ; {LOC2} ca", [("car", FIRST, False), ("ca", SECOND, False)]),
        (f"{LOC} car ; <loc00", [("car", FIRST, False)]),
        (f"{LOC} car <loc00", [("car", FIRST, False)]),
        (f"{LOC}<seg001><seg002>", [("", FIRST, False)]),
        (f"{LOC}{SEG[:-8]} car", [("car", FIRST, False)]),
        (f"{LOC}{SEG}<seg005> car", [("car", FIRST, True)]),
        (f"{LOC}<loc0007> car", [("car", FIRST, False)]),
        (f"<loc9999>{LOC} car", [("car", FIRST, False)]),
        (f"{LOC} car <loc1024>", [("car", FIRST, False)]),
        (f"{LOC}<seg128> car", [("car", FIRST, False)]),
        (f"<loc<loc0405>{LOC2} cat", [("cat", (405, 1, 2, 3), False)]),
        ("<loc٠٤٠٥>" * 4, []),
        ("<loc0405> <loc0119>,<loc0771> , <loc0955>", [("", FIRST, False)]),
        ("<loc0405><loc0119> and <loc0771><loc0955>", []),
    ],
)
def test_broken_text_gives_what_is_whole_in_it(text, expected):
    assert read(text) == expected


def test_spans_point_at_the_parts():
    text = f"so: {LOC}{SEG} red car ; x"
    (box,) = parse(text)
    parts = [box.span, box.loc_span, box.codes_span, box.label_span]
    assert [text[part.start : part.stop] for part in parts if part] == [
        f"{LOC}{SEG} red car",
        LOC,
        SEG,
        "red car",
    ]


def test_codes_are_the_numbers_of_the_tokens():
    assert parse(LOC + SEG)[0].codes == tuple(range(112, 128))


@settings(deadline=None)  # the machine may be busy
@given(st.text())
def test_any_text_parses(text):
    assert isinstance(parse(text), tuple)


pieces = st.one_of(
    st.integers(0, 1100).map(lambda number: f"<loc{number:04d}>"),
    st.integers(0, 140).map(lambda number: f"<seg{number:03d}>"),
    st.sampled_from(
        [
            "<loc",
            "<seg",
            ">",
            " ; ",
            ";",
            " ",
            ",",
            "\n",
            "cat",
            "dog's",
            "<eos>",
            LOC,
            SEG,
            "é",
            "<",
        ]
    ),
)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(pieces, max_size=60).map("".join))
def test_token_soup_gives_well_formed_objects_in_order(text):
    boxes = parse(text)
    for box in boxes:
        assert all(0 <= number <= 1023 for number in box.loc)
        assert box.codes is None or (len(box.codes) == 16 and max(box.codes) <= 127)
        assert ";" not in box.label
        assert box.label == box.label.strip()
        numbers = [f"<loc{number:04d}>" for number in box.loc]
        assert "".join(text[slice(*box.loc_span)].replace(",", "").split()) == "".join(numbers)
        assert 0 <= box.span.start <= box.loc_span.start < box.loc_span.stop <= box.span.stop
    starts = [box.loc_span.start for box in boxes]
    assert starts == sorted(starts)
    assert len(boxes) <= text.count("<loc") // 4


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(
            st.tuples(*[st.integers(0, 1023)] * 4),
            st.text(st.characters(exclude_characters=";<>,", exclude_categories=("C", "Z"))),
            st.none() | st.tuples(*[st.integers(0, 127)] * 16),
        ),
        max_size=5,
    )
)
def test_what_is_written_is_read_back(objects):
    text = " ; ".join(
        format_object([f"<loc{number:04d}>" for number in loc], label, codes or ())
        for loc, label, codes in objects
    )
    assert [(box.loc, box.label, box.codes) for box in parse(text)] == [
        (loc, label, codes) for loc, label, codes in objects
    ]


def test_a_long_answer_is_read_in_linear_time():
    assert len(parse(f"{LOC}{SEG} car ; " * 5000)) == 5000


@pytest.mark.parametrize(
    ("loc", "proper"), [(FIRST, True), ((5, 1, 5, 9), False), ((9, 1, 5, 9), False)]
)
def test_swapped_and_empty_boxes_are_known(loc, proper):
    box = ParsedBox(label="", loc=loc, codes=None, span=Span(0, 0), loc_span=Span(0, 0))
    assert box.proper is proper


def test_boxes_load_no_torch():
    code = "import sys, heliodor.see.boxes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
