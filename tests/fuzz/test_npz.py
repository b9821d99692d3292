"""Hostile npz files: read, or refused with the library's own error, and nothing else."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import hostile, tiny

from heliodor.checkpoints import bigvision
from heliodor.checkpoints.npz import NpzFile
from heliodor.errors import CheckpointError

SAMPLES = st.sampled_from(hostile.NPZ)


def refused_or_read(data: bytes, read: Callable[[Path], object] = hostile.read_npz) -> bool:
    """Whether a file of these bytes was read; anything but CheckpointError escapes."""
    error = hostile.refusal(data, read, "x.npz")
    if error is not None and not isinstance(error, CheckpointError):
        raise error
    return error is None


def test_honest_files_are_read() -> None:
    assert all(refused_or_read(data) for data in hostile.NPZ)


def test_a_scalar_that_claims_an_order_of_axes_is_read(tmp_path: Path) -> None:
    fields = {"descr": "<f4", "fortran_order": True, "shape": ()}
    data = hostile.with_array(fields, np.float32(3).tobytes(), zipfile.ZIP_STORED)
    (tmp_path / "x.npz").write_bytes(data)
    assert NpzFile(tmp_path / "x.npz").read("w").item() == 3
    assert refused_or_read(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    refused_or_read(data)


@settings(max_examples=300, deadline=None)
@given(
    SAMPLES,
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
)
def test_changed_bytes(honest: bytes, changes: list[tuple[float, int]]) -> None:
    refused_or_read(hostile.changed(honest, changes))


@settings(max_examples=300, deadline=None)
@given(SAMPLES, st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_changed_headers_and_directories(honest: bytes, place: int, value: bytes) -> None:
    """Changes near the marks of the format, where lengths, offsets and types stand."""
    refused_or_read(hostile.changed_at_marks(honest, place, value))


@settings(max_examples=200, deadline=None)
@given(SAMPLES, st.floats(0, 1), st.floats(0, 1), st.binary(max_size=40))
def test_bytes_cut_out_and_put_in(honest: bytes, start: float, end: float, piece: bytes) -> None:
    refused_or_read(hostile.spliced(honest, start, end, piece))


LITERALS = st.one_of(
    st.text(max_size=12), st.integers(-(2**70), 2**70), st.none(), st.booleans(), st.floats()
)
SHAPES = st.one_of(st.lists(st.integers(-2, 5), max_size=4).map(tuple), LITERALS)
TYPES = st.one_of(
    st.sampled_from(["<f4", "|V2", "|O", "<f2", "|u1", ">f4", "<M8[ns]", "", "|S3"]), LITERALS
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["descr", "fortran_order", "shape", "more"]), st.one_of(TYPES, SHAPES)
    ),
    st.one_of(TYPES),
    st.one_of(SHAPES),
    st.binary(max_size=60),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_lying_array_headers(
    more: dict[str, Any], descr: object, shape: object, data: bytes, method: int
) -> None:
    fields = {"descr": descr, "fortran_order": False, "shape": shape, **more}
    refused_or_read(hostile.with_array(fields, data, method))


def model_bytes() -> bytes:
    vision = replace(tiny.VISION, image_size=16, width=12, depth=1, mlp_width=8)
    language = replace(
        tiny.LANGUAGE, norm_eps=1e-6, rope_base=1e4, width=8, depth=1, mlp_width=8, vocab_size=8
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        model = tiny.paligemma(vision=vision, language=language, image_token=None)
        bigvision.save(model, path)
        return path.read_bytes()


MODEL = model_bytes()
with np.load(io.BytesIO(MODEL)) as opened:
    NAMES = {name: opened[name].shape for name in opened.files}


PRINTED = st.characters(exclude_characters="\0", codec="utf-8")  # zip ends a name at a zero


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(NAMES)),
        st.lists(st.integers(0, 9), max_size=5).map(tuple),
        min_size=1,
        max_size=3,
    ),
    st.sets(st.sampled_from(sorted(NAMES)), max_size=2),
    st.lists(st.text(PRINTED, min_size=1, max_size=20), max_size=2),
)
def test_arrays_of_any_shapes_and_names(
    changes: dict[str, Any], without: set[str], more: list[str]
) -> None:
    """A model whose shapes do not fit together is refused in one message, whatever they are."""
    shapes = {n: s for n, s in {**NAMES, **changes}.items() if n not in without}
    shapes |= {f"params/{name}": (2,) for name in more}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, shape in shapes.items():
            array = io.BytesIO()
            np.save(array, np.zeros(shape, np.float32))
            archive.writestr(f"{name}.npy", array.getvalue())
    fits = shapes == NAMES
    assert refused_or_read(file.getvalue(), bigvision.load) >= fits


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
def test_changed_bytes_of_a_model(changes: list[tuple[float, int]]) -> None:
    data = bytearray(MODEL)
    for place, value in changes:
        data[int(place * len(data))] = value
    refused_or_read(bytes(data), bigvision.load)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["0", "1", "2", "-00001-of-00002", "aa", "x", "0"]), max_size=4))
def test_pieces_of_any_names(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        step = -(-len(MODEL) // max(1, len(names)))
        for index, name in enumerate(names):
            piece = MODEL[index * step : (index + 1) * step]
            path.with_name(f"x.npz.part{name}").write_bytes(piece)
        try:
            bigvision.load(path)
        except CheckpointError as error:
            message = str(error)
        else:
            message = f"{path} was read"
            assert names
    assert str(path) in message
