"""The drawing's points, from seconds made up here."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

PLOT = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "roofline_plot.py"))
RECORD = {
    "size": "3b <224>",
    "machine": {"processor": "a processor", "threads": 2},
    "parts": {
        "first": {
            "limits": {"float32": [2e11], "int8": [1.6e12], "read": [20e9, 30e9, 25e9]},
            "costs": {
                "vision_operations": 2e11,
                "decoder_operations": 1e12,
                "step_operations": 5e9,
                "step_bytes": {"float32": 10e9, "int8": 2.5e9},
                "resting_bytes": {"float32": 12e9, "int8": 3e9},
            },
            "gemm": {"int8": [8e11]},
            "samples": {
                "int8": {"first": [2.0, 3.0, 1.0], "step": [[0.1, 0.1], [0.2, 0.2], [0.1, 0.1]]},
                "transformers": {"first": [6.0], "step": [[0.5]]},
            },
        },
        "batch": {"rows": 8, "samples": {"int8": {"1": [0.1], "8": [0.2]}}},
    },
}


def test_points_from_their_seconds():
    found = {(p.engine, p.what): (p.intensity, p.rate) for p in PLOT["points"](RECORD["parts"])}
    assert found == {
        ("int8", "a step"): pytest.approx((2.0, 50.0)),
        ("int8", "first token, picture included"): pytest.approx((400.0, 600.0)),
        ("int8", "products of a prefill alone"): pytest.approx((400.0, 800.0)),
        ("int8", "a step of eight rows"): pytest.approx((16.0, 200.0)),
        ("transformers", "a step"): pytest.approx((0.5, 10.0)),
        ("transformers", "first token, picture included"): pytest.approx((100.0, 200.0)),
    }


def test_a_point_at_the_limit_lies_on_the_line():
    """Equal ratios are equal distances; the ends of the axes are the ends of the drawing."""
    across, up = PLOT["across"], PLOT["up"]
    assert across(0.25) == PLOT["LEFT"]
    assert across(2048.0) == PLOT["WIDTH"] - PLOT["RIGHT"]
    assert across(8.0) - across(4.0) == pytest.approx(across(128.0) - across(64.0))
    assert up(4096.0) == PLOT["TOP"]
    assert up(8.0) < up(4.0)


def test_the_drawing_is_xml_with_a_mark_for_each_point(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(RECORD))
    assert PLOT["main"]([str(tmp_path / "bench.json"), str(tmp_path / "roof.svg")]) == 0
    text = (tmp_path / "roof.svg").read_text()
    root = ET.fromstring(text)
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 6
    assert "int8, a step: 50 GOPS" in titles
    assert "reading 25.0 GB/s" in text
    assert "3b &lt;224&gt;" in text


def test_without_two_names_it_says_how_it_is_used(capsys):
    assert PLOT["main"]([]) == 2
    assert "Draw the roofline" in capsys.readouterr().err
