"""Hostile native files: loaded, or refused with the library's own error, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests import hostile

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(0, 70)
    | st.floats()
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_value_in_the_header(data: st.DataObject) -> None:
    honest = hostile.native()
    size = int.from_bytes(honest[:8], "little")
    strings = json.loads(honest[8 : 8 + size])["__metadata__"]
    name = data.draw(
        st.sampled_from(["config", "processor", "mask_codec", "tokenizer", "scheme", "family"])
    )
    key = f"heliodor.{name}"
    if name in ("scheme", "family") or data.draw(st.booleans()):
        text = data.draw(st.text(max_size=8) | VALUES.map(json.dumps))
    else:
        values: dict[str, Any] = json.loads(strings[key])
        inside = [values, *(v for v in values.values() if isinstance(v, dict))]
        target = data.draw(st.sampled_from(inside))
        target[data.draw(st.sampled_from(sorted(target)) | st.text(max_size=3))] = data.draw(VALUES)
        text = json.dumps(values)
    hostile.refusal(hostile.with_strings(honest, {key: text}), hostile.read_native)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_bytes(data: st.DataObject) -> None:
    whole = bytearray(hostile.native())
    head = int.from_bytes(whole[:8], "little")
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    for _ in range(data.draw(st.integers(0 if cut < len(whole) else 1, 4))):
        whole[data.draw(st.integers(0, min(head + 8, len(whole) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    hostile.refusal(bytes(whole[:cut]), hostile.read_native)


def test_the_honest_file_is_read() -> None:
    assert hostile.refusal(hostile.native(), hostile.read_native) is None
