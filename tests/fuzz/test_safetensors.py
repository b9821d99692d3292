"""Hostile safetensors files: read, or refused with the library's own error, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import hostile

from heliodor.checkpoints.config import read_config
from heliodor.checkpoints.keymap import PALIGEMMA
from heliodor.errors import CheckpointError, KeyMismatchError

HONEST = hostile.SAFETENSORS
HEADER = int.from_bytes(HONEST[:8], "little")
read_file = hostile.read_safetensors


def refused_or_read(data: bytes, read: Callable[[Path], object]) -> bool:
    """Whether a file of these bytes was read; anything but CheckpointError escapes."""
    error = hostile.refusal(data, read)
    if error is not None and not isinstance(error, CheckpointError):
        raise error
    return error is None


def test_the_honest_file_is_read() -> None:
    assert refused_or_read(HONEST, read_file)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    refused_or_read(data, read_file)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(HONEST) - 1), st.integers(0, 255)), min_size=1, max_size=8
    )
)
def test_changed_bytes(changes: list[tuple[int, int]]) -> None:
    data = bytearray(HONEST)
    for place, value in changes:
        data[place] = value
    refused_or_read(bytes(data), read_file)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(HONEST)), st.integers(0, len(HONEST)), st.binary(max_size=40))
def test_bytes_cut_out_and_put_in(start: int, end: int, piece: bytes) -> None:
    data = HONEST[:start] + piece + HONEST[end:]
    if data != HONEST:
        refused_or_read(data, read_file)


NUMBERS = st.one_of(
    st.integers(0, 40), st.integers(-(2**70), 2**70), st.floats(), st.none(), st.booleans()
)
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "", None, 3]),
            "shape": st.one_of(st.lists(NUMBERS, max_size=4), NUMBERS),
            "data_offsets": st.one_of(st.lists(NUMBERS, max_size=3), NUMBERS),
        }
    ),
    NUMBERS,
    st.lists(NUMBERS, max_size=2),
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "\ud800", "__metadata__"]), ENTRIES, max_size=3),
    st.binary(max_size=60),
)
def test_lying_headers(header: dict[str, Any], data: bytes) -> None:
    refused_or_read(hostile.with_header(header, data), read_file)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["F32", "BF16", "U8", "F64", "I16"]),
            st.lists(st.integers(0, 4), max_size=4),
        ),
        max_size=5,
    ),
    st.integers(0, 7),
)
def test_every_honest_header_is_read(layout: list[tuple[str, list[int]]], spaces: int) -> None:
    """Valid files of any shapes, with headers that leave tensors off their natural boundary."""
    sizes = {"F32": 4, "BF16": 2, "U8": 1, "F64": 8, "I16": 2}
    header: dict[str, Any] = {}
    place = 0
    for index, (dtype, shape) in enumerate(layout):
        size = sizes[dtype] * int(torch.tensor(shape, dtype=torch.int64).prod())
        offsets = [place, place + size]
        header[str(index)] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        place += size
    text = json.dumps(header).encode() + b" " * spaces
    assert refused_or_read(len(text).to_bytes(8, "little") + text + bytes(place), read_file)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        NUMBERS | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["weight_map", "a", "b", "../x", "model.safetensors"]), inner
            )
        ),
    )
)
def test_lying_indexes(index: object) -> None:
    refused_or_read(HONEST, hostile.read_index(index))


JSON = st.recursive(
    NUMBERS | st.text(max_size=9), lambda i: st.lists(i, max_size=3) | st.dictionaries(st.text(), i)
)
FIELDS = [
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "model_type"),
    *(
        "vocab_size",
        "head_dim",
        "num_key_value_heads",
        "patch_size",
        "image_size",
        "rope_parameters",
    ),
]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["", "text_config", "vision_config"]),
    st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=2),
)
def test_lying_configs(section: str, changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {
        "model_type": "paligemma",
        "image_token_index": 30,
        "text_config": {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 8,
            "vocab_size": 32,
        },
        "vision_config": {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "patch_size": 4,
            "image_size": 8,
        },
    }
    (values if section == "" else values[section]).update(changes)

    def read(path: Path) -> None:
        (path.parent / "config.json").write_text(json.dumps(values))
        read_config(path.parent)

    refused_or_read(b"", read)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=40), st.lists(st.integers(0, 9)).map(tuple), max_size=30))
def test_any_names_are_refused_in_one_printable_message(found: dict[str, Any]) -> None:
    try:
        PALIGEMMA.match({"projector.bias": (3,)}, found, Path("folder"))
    except KeyMismatchError as error:
        message = str(error).encode().decode()
    else:
        message = "accepted"
    assert "projector.bias (multi_modal_projector.linear.bias)" in message
