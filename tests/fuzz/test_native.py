"""Hostile native files: loaded, or refused with the library's own error, and nothing else."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests import tiny

from heliodor.checkpoints import NativeCheckpoint
from heliodor.errors import HeliodorError

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


@cache
def honest() -> tuple[dict[str, torch.Tensor], dict[str, str], bytes]:
    """Tensors, strings and bytes of a small file."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.safetensors"
        tiny.vlm().save(path, format="native")
        with safe_open(path, "pt") as file:
            return load_file(path), dict(file.metadata()), path.read_bytes()


def refused_or_read(path: Path) -> None:
    """Everything a file can be asked for; anything but HeliodorError escapes."""
    checkpoint = NativeCheckpoint(path=path, source="x")
    for ask in (
        checkpoint.config,
        checkpoint.load,
        checkpoint.processor,
        checkpoint.tokenizer,
        checkpoint.mask_codec,
    ):
        try:
            ask()
        except HeliodorError as error:
            message = str(error).encode()
        else:
            message = b"none"
        assert 0 < len(message) < 4000


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_value_in_the_header(data: st.DataObject) -> None:
    tensors, strings, _ = honest()
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
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.safetensors"
        save_file(tensors, path, metadata=strings | {key: text})
        refused_or_read(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_bytes(data: st.DataObject) -> None:
    whole = bytearray(honest()[2])
    head = int.from_bytes(whole[:8], "little")
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    for _ in range(data.draw(st.integers(0 if cut < len(whole) else 1, 4))):
        whole[data.draw(st.integers(0, min(head + 8, len(whole) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.safetensors"
        path.write_bytes(bytes(whole[:cut]))
        refused_or_read(path)
