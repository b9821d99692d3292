"""Reading safetensors: what the format's own library writes, and what no honest file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from heliodor.checkpoints.tensors import open_tensors
from heliodor.errors import FileFormatError


def write_raw(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    """A file whose header is whatever it is told to be."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def raw(tensor: torch.Tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.uint8).tolist()


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ],
)
def test_reads_what_the_safetensors_library_writes(tmp_path: Path, dtype: torch.dtype) -> None:
    values = (torch.randn(3, 5) * 10).abs().to(dtype)
    scalar = torch.tensor(1).to(dtype)
    empty = torch.zeros(0, 4).to(dtype)
    save_file({"a": values, "b": scalar, "c": empty}, tmp_path / "x.safetensors")
    tensors = open_tensors(tmp_path / "x.safetensors")
    assert sorted(tensors) == ["a", "b", "c"]
    for name, expected in (("a", values), ("b", scalar), ("c", empty)):
        got = tensors.read(name)
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        assert raw(got) == raw(expected)


def test_a_read_tensor_shares_the_map_and_never_writes_to_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.arange(6.0)}, tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()
    tensors = open_tensors(tmp_path / "x.safetensors")
    tensors.read("a").add_(1)
    assert tensors.read("a").tolist() == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "x.safetensors").read_bytes() == before


def test_tensors_off_their_natural_boundary_are_read_right(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.25])
    path = tmp_path / "x.safetensors"
    for pad in range(4):
        header = json.dumps({"a": entry(0, 8, [2])}).encode() + b" " * pad
        write_raw(path, header, values.numpy().tobytes())
        assert open_tensors(path).read("a").tolist() == [1.5, -2.25]


def test_copy_converts_in_pieces_and_equals_a_plain_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliodor.checkpoints.weights._CHUNK", 4096)
    values = torch.randn(300, 41)
    save_file({"a": values}, tmp_path / "x.safetensors")
    tensors = open_tensors(tmp_path / "x.safetensors")
    target = torch.empty(300, 41, dtype=torch.bfloat16)
    tensors.copy("a", target)
    assert torch.equal(target, values.bfloat16())
    assert torch.equal(tensors.read("a"), values), "released pages come back from the file"


def test_equal_compares_values_of_two_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliodor.checkpoints.tensors._CHUNK", 4096)
    values = torch.randn(60, 41)
    other = values.clone()
    other[-1, -1] += 1
    save_file(
        {"a": values, "b": values.clone(), "c": other, "d": values[:3].clone()},
        tmp_path / "x.safetensors",
    )
    tensors = open_tensors(tmp_path / "x.safetensors")
    assert tensors.equal("a", "b")
    assert not tensors.equal("a", "c")
    assert not tensors.equal("a", "d")


LIES: list[tuple[str, Any, bytes, str]] = [
    ("empty header", b"", b"", "not valid JSON"),
    ("not utf-8", b"{\xff}", b"", "not valid JSON"),
    ("a list", [1], b"", "list where an object"),
    ("a key twice", b'{"a":1,"a":2}', b"", "'a' is given twice"),
    ("deep nesting", b'{"a":' + b"[" * 200_000, b"", "nested too deeply|not valid JSON"),
    ("no fields", {"a": {}}, b"", "dtype, shape and data_offsets"),
    ("a field too many", {"a": entry(0, 4, [1]) | {"x": 1}}, b"1234", "nothing else"),
    ("unknown type", {"a": entry(0, 4, [1], "F7")}, b"1234", "type 'F7'; known are F64"),
    ("type no string", {"a": entry(0, 4, [1]) | {"dtype": 3}}, b"1234", "type 3"),
    ("negative size", {"a": entry(0, 4, [-1])}, b"1234", "bad shape"),
    ("size a float", {"a": entry(0, 4, [1.0])}, b"1234", "bad shape"),  # pyright: ignore[reportArgumentType]
    ("size a bool", {"a": entry(0, 4, [True])}, b"1234", "bad shape"),
    ("huge shape of nothing", {"a": entry(0, 0, [0, 2**40, 2**40])}, b"", "bad shape"),
    ("too many axes", {"a": entry(0, 4, [1] * 99)}, b"1234", "bad shape"),
    ("one offset", {"a": entry(0, 4, [1]) | {"data_offsets": [0]}}, b"1234", "bad offsets"),
    ("backwards", {"a": entry(4, 0, [1])}, b"1234", "bad offsets"),
    ("shape lies", {"a": entry(0, 4, [2])}, b"1234", "takes 8 bytes, but its offsets span 4"),
    ("beyond the file", {"a": entry(0, 8, [2])}, b"1234", "truncated download"),
    ("a hole first", {"a": entry(4, 8, [1])}, b"12345678", "hole behind the header"),
    (
        "a hole between",
        {"a": entry(0, 4, [1]), "b": entry(8, 12, [1])},
        b"123456789012",
        "'b' leaves a hole behind 'a'",
    ),
    (
        "overlap",
        {"a": entry(0, 8, [2]), "b": entry(4, 12, [2])},
        b"123456789012",
        "'b' overlaps with 'a'",
    ),
    ("bytes left over", {"a": entry(0, 4, [1])}, b"12345", "1 bytes behind its last tensor"),
    ("metadata of numbers", {"__metadata__": {"a": 1}}, b"", "__metadata__"),
    ("metadata no object", {"__metadata__": 3}, b"", "__metadata__"),
]


@pytest.mark.parametrize(
    ("header", "data", "message"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES]
)
def test_a_lying_header_is_refused_by_name(
    tmp_path: Path, header: Any, data: bytes, message: str
) -> None:
    path = write_raw(tmp_path / "x.safetensors", header, data)
    with pytest.raises(FileFormatError, match=message) as caught:
        open_tensors(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("length", [3, 2**31, 2**63, 2**64 - 1])
def test_a_header_length_beyond_the_file_is_refused(tmp_path: Path, length: int) -> None:
    path = write_raw(tmp_path / "x.safetensors", b"{}", length=length)
    with pytest.raises(FileFormatError, match=f"promises a header of {length} bytes"):
        open_tensors(path)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_shorter_than_its_first_field_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\0" * size)
    with pytest.raises(FileFormatError, match=f"is {size} bytes long"):
        open_tensors(tmp_path / "x.safetensors")


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0), "b": torch.arange(2)}, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "y.safetensors").write_bytes(whole[:size])
        with pytest.raises(FileFormatError):
            open_tensors(tmp_path / "y.safetensors")


def write_shards(folder: Path, weight_map: dict[str, Any]) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0)}, tmp_path / "one.safetensors")
    save_file({"b": torch.arange(4.0)}, tmp_path / "two.safetensors")
    tensors = open_tensors(write_shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}))
    assert sorted(tensors) == ["a", "b"]
    assert tensors.read("a").tolist() == [0, 1, 2]
    assert tensors.read("b").tolist() == [0, 1, 2, 3]
    assert tensors.file("b") == tmp_path / "two.safetensors"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "one.safetensors", "b": "two.safetensors"}, "shard two.safetensors, which is not"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "one.safetensors holds b, but it does"),
        ({}, 'no "weight_map"'),
        ({"a": 3}, "maps a to 3, which is no safetensors file"),
        ({"a": "one.bin"}, "no safetensors file"),
        ({"a": "../one.safetensors"}, "outside the folder"),
        ({"a": "/etc/one.safetensors"}, "outside the folder"),
        ({"a": "sub/one.safetensors"}, "outside the folder"),
        ({"a": "..\\one.safetensors"}, "outside the folder"),
        ({"a": "c:one.safetensors"}, "outside the folder"),
        ({"a": "one\0.safetensors"}, "outside the folder"),
    ],
)
def test_a_lying_index_is_refused(tmp_path: Path, weight_map: dict[str, Any], message: str) -> None:
    save_file({"a": torch.arange(3.0)}, tmp_path / "one.safetensors")
    with pytest.raises(FileFormatError, match=message):
        open_tensors(write_shards(tmp_path, weight_map))


def test_a_tensor_that_the_index_does_not_name_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0), "b": torch.arange(3.0)}, tmp_path / "one.safetensors")
    with pytest.raises(FileFormatError, match="holds b, of which"):
        open_tensors(write_shards(tmp_path, {"a": "one.safetensors"}))


def test_a_folder_of_pickles_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"no model\.safetensors.*pytorch_model\.bin is not"):
        open_tensors(tmp_path)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="No such file"):
        open_tensors(tmp_path / "absent.safetensors")
