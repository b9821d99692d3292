"""The arithmetic from seconds to verdicts, on seconds made up here."""

from __future__ import annotations

import pytest

from heliodor.bench.rows import ROWS, Row, judge
from heliodor.bench.timing import Spread

FIRST = {
    "samples": {
        "int8": {"first": [2.0, 2.0, 1.0], "step": [[0.1, 0.1, 9.0], [0.2] * 3, [0.1] * 3]},
        "int4": {"first": [2.0, 2.0, 2.0], "step": [[0.05] * 3, [0.1] * 3, [0.1] * 3]},
        "float32": {"first": [7.0, 7.0, 7.0], "step": [[0.5] * 3] * 3},
        "transformers": {"first": [8.0, 6.0, 7.0], "step": [[0.4] * 3, [0.8] * 3, [0.5] * 3]},
    },
    "limits": {
        "float32": [2e11, 2e11, 2e11],
        "int8": [1e12, 2e12, 1e12],
        "read": [20e9, 20e9, 25e9],
    },
    "gemm": {"int8": [0.7e12, 1.4e12, 0.5e12]},
    "costs": {"step_bytes": {"int8": 2_000_000_000, "float32": 8_000_000_000}},
}
LLAMA = {
    "samples": {
        "int8": {"prefill": [1.0, 2.0], "step": [0.1, 0.1]},
        "llama.cpp Q8_0": {"prefill": [10.0, 10.0], "step": [0.2, 0.1]},
    },
    "skipped": {},
}
PARTS = {
    "first": FIRST,
    "llama": LLAMA,
    "head": {"samples": {"int8": {"free": [0.1, 0.2], "detect": [0.08, 0.16]}}},
    "batch": {"rows": 8, "samples": {"int8": {"1": [0.1, 0.1], "8": [0.2, 0.16]}}},
    "files": {
        "samples": {
            "int8": {
                "peak_bytes": [3.5 * 2**30, 3.7 * 2**30, 3.6 * 2**30],
                "first_s": [3.0, 2.5, 2.0],
                "warm_s": [1.5, 1.5, 1.5],
            }
        },
        "skipped": {"int4": "No space left on device"},
    },
    "bfloat16": {"failed": "out of memory"},
    "nextdit": {"absent": "this release holds no Next-DiT"},
}
FOUND = {one.row.name: one for one in judge(PARTS)}


@pytest.mark.parametrize(
    ("name", "middle", "low", "high", "verdict"),
    [
        ("first token, picture included: int8 over transformers float32", 4.0, 3.0, 7.0, "pass"),
        ("decoding: int8 over transformers float32", 4.0, 4.0, 5.0, "pass"),
        ("decoding: int4 over transformers float32", 8.0, 5.0, 8.0, "aim"),
        ("first token: exact float32 over transformers float32", 1.0, 6 / 7, 8 / 7, "pass"),
        ("decoding: exact float32 over transformers float32", 1.0, 0.8, 1.6, "pass"),
        ("int8 products of a prefill, of the machine's limit", 70.0, 50.0, 70.0, "pass"),
        ("int8 decoding, of the machine's reading limit", 80.0, 50.0, 100.0, "FAIL"),
        ("prefill: int8 over llama.cpp Q8_0", 7.5, 5.0, 10.0, "pass"),
        ("decoding: int8 over llama.cpp Q8_0", 1.5, 1.0, 2.0, "FAIL"),
        ("time a token of 'detect dog' over free text, int8", 0.8, 0.8, 0.8, "pass"),
        ("tokens/s of eight rows over one row, int8", 4.5, 4.0, 5.0, "pass"),
        ("peak memory, loading included: int8", 3.6, 3.5, 3.7, "pass"),
        (
            "from a quantised file to the first token, less the prefill: int8",
            1.0,
            0.5,
            1.5,
            "aim",
        ),
    ],
)
def test_a_row_from_its_seconds(name, middle, low, high, verdict):
    found = FOUND[name]
    assert found.spread is not None
    assert (found.spread.middle, found.spread.low, found.spread.high) == pytest.approx(
        (middle, low, high)
    )
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("prefill: int4 over llama.cpp Q4_0", "llama.cpp Q4_0 took no part"),
        ("peak memory, loading included: int4", "int4: No space left on device"),
        ("first token: weights kept in bfloat16 over transformers bfloat16", "out of memory"),
        ("Next-DiT 2B, 256 image tokens, guidance: int8 over float32", "holds no Next-DiT"),
    ],
)
def test_a_row_that_was_not_measured_says_why(name, why):
    assert FOUND[name].verdict == "not measured"
    assert why in FOUND[name].why
    assert FOUND[name].record()["value"] is None


def test_a_part_that_was_not_run_is_named():
    (found,) = judge({}, ROWS[:1])
    assert found.why == "the part 'first' was not run"


def test_an_unknown_limit_is_no_share():
    part = {**FIRST, "limits": {**FIRST["limits"], "int8": [0.0, 0.0, 0.0]}}
    found = {one.row.name: one for one in judge({"first": part})}
    assert "no int8 product" in found["int8 products of a prefill, of the machine's limit"].why


@pytest.mark.parametrize(
    ("value", "rising", "verdict"),
    [
        (0.99, True, "FAIL"),
        (1.0, True, "pass"),
        (1.99, True, "pass"),
        (2.0, True, "aim"),
        (2.01, False, "FAIL"),
        (2.0, False, "pass"),
        (1.0, False, "aim"),
    ],
)
def test_floor_and_aim_belong_to_the_better_side(value, rising, verdict):
    row = Row(
        name="row",
        part="part",
        figure=lambda _: Spread.of([value]),
        floor=1.0 if rising else 2.0,
        aim=2.0 if rising else 1.0,
        rising=rising,
    )
    assert judge({"part": {}}, (row,))[0].verdict == verdict


def test_every_line_that_must_be_shown_has_its_row():
    assert len(ROWS) == 18
    assert len({row.name for row in ROWS}) == 18
    bounds = {row.name: (row.floor, row.aim) for row in ROWS}
    assert bounds["decoding: int4 over transformers float32"] == (6.0, 8.0)
    assert bounds["prefill: int8 over llama.cpp Q8_0"] == (5.0, 8.0)
    assert all(row.reaches(row.aim, row.floor) for row in ROWS)
