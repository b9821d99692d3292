"""Draw the roofline of a run of ``heliodor bench``: where each engine stands under the limits.

    heliodor bench --json bench.json
    python benchmarks/roofline_plot.py bench.json docs/assets/roofline.svg

Across: operations for each byte of weights that is read. Up: operations a second. The slope is what
reading allows, the flat lines are what multiplying allows; all three were measured in the run.
Decoding stands at the left (a weight that is read is used once a row), a prefill at the right.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 74, 190, 58, 56
X = (0.25, 2048.0)
Y = (4.0, 4096.0)  # GOPS
INK, SOFT, GRID, PAPER = "#1a1a19", "#6b6a66", "#e4e2dc", "#ffffff"
COLOURS = {
    "float32": "#2a78d6",
    "int8": "#c2570c",
    "int4": "#0f8a6a",
    "bfloat16": "#7a4fc0",
    "transformers": "#6b6a66",
}
SHAPES = {
    "a step": "circle",
    "a step of eight rows": "triangle",
    "first token, picture included": "square",
    "products of a prefill alone": "diamond",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One engine doing one thing: operations a byte, and GOPS."""

    engine: str
    what: str
    intensity: float
    rate: float


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def points(parts: Mapping[str, Any]) -> Iterator[Point]:
    """Everything that the parts of a record say about places under the roof."""
    first = parts.get("first", {})
    costs = first.get("costs", {})
    for engine, sample in first.get("samples", {}).items():
        known = engine if engine in costs["step_bytes"] else "float32"
        if known not in costs["step_bytes"]:
            continue
        read, resting = costs["step_bytes"][known], costs["resting_bytes"][known]
        step = middle([middle(turn) for turn in sample["step"]])
        work = costs["step_operations"]
        yield Point(engine=engine, what="a step", intensity=work / read, rate=work / step / 1e9)
        whole = costs["vision_operations"] + costs["decoder_operations"]
        span = middle(sample["first"])
        yield Point(
            engine=engine,
            what="first token, picture included",
            intensity=whole / resting,
            rate=whole / span / 1e9,
        )
        if engine in first["gemm"]:
            yield Point(
                engine=engine,
                what="products of a prefill alone",
                intensity=costs["decoder_operations"] / read,
                rate=middle(first["gemm"][engine]) / 1e9,
            )
    batch = parts.get("batch", {})
    for engine, sample in batch.get("samples", {}).items():
        if engine in costs.get("step_bytes", {}):
            rows = batch["rows"]
            work = costs["step_operations"] * rows
            yield Point(
                engine=engine,
                what="a step of eight rows",
                intensity=work / costs["step_bytes"][engine],
                rate=work / middle(sample[str(rows)]) / 1e9,
            )


def across(value: float) -> float:
    """Place of an intensity on the drawing."""
    share = math.log(value / X[0]) / math.log(X[1] / X[0])
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def up(value: float) -> float:
    """Place of a rate in GOPS on the drawing."""
    share = math.log(value / Y[0]) / math.log(Y[1] / Y[0])
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def text(x: float, y: float, words: str, *, size: int = 12, ink: str = SOFT, end: str = "") -> str:
    """A line of words; ``end`` is "middle" or "end" for another anchor."""
    anchor = f' text-anchor="{end}"' if end else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{ink}"{anchor}'
    return f"<text {place}>{escape(words)}</text>"


def grid() -> Iterator[str]:
    """Lines, numbers and names of the axes."""
    for power in range(-2, 12):
        value = 2.0**power
        if X[0] <= value <= X[1]:
            x = across(value)
            yield f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{GRID}"/>'
            if power % 2 == 0:
                yield text(x, HEIGHT - BOTTOM + 18, f"{value:g}", end="middle")
    for power in range(2, 13, 2):
        y = up(2.0**power)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>'
        yield text(LEFT - 8, y + 4, f"{2**power:,}", end="end")
    middle_x = (LEFT + WIDTH - RIGHT) / 2
    yield text(middle_x, HEIGHT - 14, "operations for each byte of weights read", end="middle")
    yield text(LEFT - 8, TOP - 12, "GOPS", end="end")


def roofs(limits: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """The slope of reading and the two flat lines of multiplying."""
    reading = middle(limits["read"]) / 1e9
    float32, int8 = (middle(limits[name]) / 1e9 for name in ("float32", "int8"))
    top = max(float32, int8)
    left = max(X[0], Y[0] / reading)
    corner = top / reading
    style = f'stroke="{INK}" stroke-width="2" fill="none"'
    start, end = (f"{across(x):.1f} {up(x * reading):.1f}" for x in (left, corner))
    yield f'<path d="M{start}L{end}" {style}/>'
    place = math.sqrt(left * corner)  # halfway up the slope, on its free side
    x, y = across(place) - 10, up(place * reading) - 8
    yield text(x, y, f"reading {reading:.1f} GB/s", ink=INK, end="end")
    for name, value in (("float32", float32), ("int8", int8)):
        if not value:
            continue
        bend = f"{across(value / reading):.1f} {up(value):.1f}"
        yield f'<path d="M{bend}H{WIDTH - RIGHT}" {style}/>'
        label = f"{name} {value:,.0f} GOPS"
        yield text(WIDTH - RIGHT + 8, up(value) + 4, label, ink=INK)


def mark(what: str, x: float, y: float, colour: str) -> str:
    """The sign of one kind of work, with a ring of paper around it."""
    style = f'fill="{colour}" stroke="{PAPER}" stroke-width="2"'
    shape, r = SHAPES[what], 6.5
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {style}/>'
    corners = {
        "square": ((-6, -6), (6, -6), (6, 6), (-6, 6)),
        "diamond": ((0, -8), (8, 0), (0, 8), (-8, 0)),
        "triangle": ((0, -8), (7.5, 6), (-7.5, 6)),
    }[shape]
    places = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{places}" {style}/>'


def legend(found: Sequence[Point]) -> Iterator[str]:
    """What colours and signs mean; only those that are there."""
    x, y = WIDTH - RIGHT + 14, HEIGHT - BOTTOM - 158
    for engine in [name for name in COLOURS if any(p.engine == name for p in found)]:
        box = f'x="{x - 6}" y="{y - 9}" width="12" height="12" rx="2"'
        yield f'<rect {box} fill="{COLOURS[engine]}"/>'
        yield text(x + 14, y + 1, engine, ink=INK)
        y += 18
    y += 6
    for what in [name for name in SHAPES if any(p.what == name for p in found)]:
        yield mark(what, x, y - 3, SOFT)
        yield text(x + 14, y + 1, what, size=11, ink=INK)
        y += 18


def drawing(record: Mapping[str, Any]) -> str:
    """The whole SVG."""
    parts = record["parts"]
    limits = next(parts[n]["limits"] for n in ("first", "ceilings") if "limits" in parts.get(n, {}))
    found = [p for p in points(parts) if p.engine in COLOURS]
    found.sort(key=lambda p: p.engine != "transformers")  # ours lie above what they overlap
    marks = [
        f"<g><title>{escape(f'{p.engine}, {p.what}: {p.rate:.0f} GOPS')}</title>"
        f"{mark(p.what, across(p.intensity), up(p.rate), COLOURS[p.engine])}</g>"
        for p in found
    ]
    machine = record["machine"]
    title = f"{record['size']}, {machine['processor']}, {machine['threads']} threads"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" role="img" aria-label="Roofline of {escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        text(LEFT, 24, title, size=15, ink=INK),
        *grid(),
        *roofs(limits),
        *marks,
        *legend(found),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Read the record, write the drawing."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    record = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    Path(arguments[1]).write_text(drawing(record), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
