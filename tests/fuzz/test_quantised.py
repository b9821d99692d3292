"""Hostile quantised files: loaded, or refused with the library's own error, and nothing else."""

from __future__ import annotations

import contextlib
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests import hostile, tiny

from heliodor.checkpoints.survey import survey
from heliodor.errors import HeliodorError
from heliodor.quant import recipe
from heliodor.quant.apply import quantise

VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=4)
    | st.lists(st.text(max_size=2), max_size=3)
)
PATTERNS = st.sampled_from(
    ["*", "**", "*.up", "language.*", "[", "?", "", "vision.blocks.0.mlp.up"]
)
SCHEMES = st.sampled_from(["int8", "int4", "float", "int2", ""])


@cache
def quantised() -> bytes:
    """An honest quantised file."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.safetensors"
        model = tiny.vlm()
        quantise(model.model, recipe("int4"))
        model.save(path, format="native")
        return path.read_bytes()


def look(path: Path) -> None:
    """Load and describe it."""
    with contextlib.suppress(HeliodorError):
        survey(path)
    hostile.read_native(path)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_recipe(data: st.DataObject) -> None:
    honest = quantised()
    size = int.from_bytes(honest[:8], "little")
    text = json.loads(honest[8 : 8 + size])["__metadata__"]["heliodor.recipe"]
    values: dict[str, Any] = json.loads(text)
    if data.draw(st.booleans()):
        rules = data.draw(st.lists(st.tuples(PATTERNS, SCHEMES).map(list) | VALUES, max_size=3))
        values["rules"] = data.draw(st.sampled_from([rules, rules + values["rules"]]))
    else:
        values[data.draw(st.sampled_from(sorted(values)) | st.text(max_size=3))] = data.draw(VALUES)
    changes = {"heliodor.recipe": json.dumps(values)}
    hostile.refusal(hostile.with_strings(honest, changes), look)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_bytes(data: st.DataObject) -> None:
    whole = bytearray(quantised())
    head = int.from_bytes(whole[:8], "little")
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    for _ in range(data.draw(st.integers(0 if cut < len(whole) else 1, 4))):
        whole[data.draw(st.integers(0, head + 8))] = data.draw(st.integers(0, 255))
    hostile.refusal(bytes(whole[:cut]), look)


def test_the_honest_file_is_read() -> None:
    assert hostile.refusal(quantised(), look) is None
