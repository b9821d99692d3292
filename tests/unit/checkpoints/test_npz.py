"""Npz files: read as numpy reads them, written as numpy writes them, refused where they lie."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.mapped import find_pieces
from heliodor.checkpoints.npz import NpzFile, Stack, write_npz
from heliodor.errors import CheckpointError, FileFormatError

RANDOM = np.random.default_rng(0)
ARRAYS: dict[str, Any] = {
    "params/a": RANDOM.standard_normal((3, 4, 5)).astype(np.float32),
    "params/b": RANDOM.standard_normal((7, 2)).astype(np.float16),
    "c": np.asfortranarray(RANDOM.standard_normal((4, 3, 2)).astype(np.float32)),
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 3), np.float32),
    "long": RANDOM.standard_normal(1000).astype(np.float64),
    "step": np.int64(7),
}
SAVERS = {"stored": np.savez, "deflated": np.savez_compressed}


@pytest.fixture(params=SAVERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    SAVERS[request.param](tmp_path / "x.npz", **ARRAYS)
    return tmp_path / "x.npz"


def test_arrays_are_what_numpy_saved(path: Path) -> None:
    file = NpzFile(path)
    assert file.entries.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert file.entries[name].shape == array.shape
        np.testing.assert_array_equal(file.read(name).numpy(), array)


@pytest.mark.parametrize("rows", [1, 2, 3, 400])
def test_blocks_follow_one_another_along_the_first_axis(path: Path, rows: int) -> None:
    file = NpzFile(path)
    for name, array in ARRAYS.items():
        if array.ndim:
            blocks = [block.clone() for block in file.blocks(name, rows)]
            assert all(len(block) <= rows for block in blocks)
            np.testing.assert_array_equal(torch.cat(blocks).numpy(), array)


def test_parts_come_in_any_order(path: Path) -> None:
    file = NpzFile(path)
    for name in ("params/a", "c", "params/b"):
        array = ARRAYS[name]
        last = len(array) - 1
        for index in ((0,), (0, 1), (1, 0), (2,), (1,), (0,), (last, 1), (last,), ()):
            np.testing.assert_array_equal(file.part(name, index).numpy(), array[index])
            file.release(name, index)
        np.testing.assert_array_equal(file.read(name).numpy(), array)


def test_copying_converts_and_fills_any_strides(path: Path) -> None:
    file = NpzFile(path)
    target = torch.zeros(4, 5, 3, dtype=torch.bfloat16).permute(2, 0, 1)
    file.copy("params/a", target)
    expected = torch.from_numpy(ARRAYS["params/a"]).bfloat16()
    assert torch.equal(target, expected)
    part = torch.zeros(5, 4).T
    file.copy("params/a", part, (1,))
    assert torch.equal(part, torch.from_numpy(ARRAYS["params/a"][1]))
    value = torch.zeros((), dtype=torch.float64)
    file.copy("params/b", value, (3, 1))
    assert value == float(ARRAYS["params/b"][3, 1])
    file.copy("scalar", value)
    assert value == 2.5


def test_what_is_larger_than_a_chunk_is_copied_whole(tmp_path: Path) -> None:
    big = RANDOM.standard_normal((2, 3, 1_000_003)).astype(np.float32)
    np.savez(tmp_path / "x.npz", big=big)
    file = NpzFile(tmp_path / "x.npz")
    for index in ((), (1,), (1, 2)):
        target = torch.zeros(big[index].shape, dtype=torch.float64)
        file.copy("big", target, index)
        np.testing.assert_array_equal(target.numpy(), big[index])


def test_writing_to_an_array_never_reaches_the_file(path: Path) -> None:
    before = path.read_bytes()
    NpzFile(path).read("params/a").zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("descr", ["<V2", "|V2", "V2", "bfloat16"])
def test_two_bytes_without_a_meaning_are_bfloat16(tmp_path: Path, descr: str) -> None:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    raw = values.view(torch.int16).numpy()
    write_raw(tmp_path / "x.npz", {"w.npy": npy(descr, (3, 5), raw.tobytes())})
    found = NpzFile(tmp_path / "x.npz").read("w")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, values)


@pytest.mark.parametrize(
    "names", [["0", "1", "2"], ["-00001-of-00003", "-00002-of-00003", "-00003-of-00003"],
              ["aa", "ab", "ac"], ["9", "10", "11"]]
)  # fmt: skip
@pytest.mark.parametrize("given", ["whole", "first"])
def test_pieces_are_read_as_one_file(path: Path, names: list[str], given: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if names[0] == "9":
        names = [str(n) for n in range(12)]
    step = -(-len(data) // len(names))
    for index, name in enumerate(names):
        piece = path.with_name(f"x.npz.part{name}")
        piece.write_bytes(data[index * step : (index + 1) * step])
    file = NpzFile(path if given == "whole" else path.with_name(f"x.npz.part{names[0]}"))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(file.read(name).numpy(), array)
        if array.ndim:
            joined = torch.cat(
                [block.clone() for block in file.blocks(name, 1)] or [file.read(name)]
            )
            np.testing.assert_array_equal(joined.numpy(), array)


def test_missing_pieces_are_named(path: Path) -> None:
    for number in (0, 1, 3):
        path.with_name(f"y.npz.part{number}").write_bytes(b"x")
    with pytest.raises(FileFormatError, match="piece 2 is missing"):
        find_pieces(path.with_name("y.npz"))
    for number in (1, 2):
        path.with_name(f"z.npz.part{number}-of-3").write_bytes(b"x")
    with pytest.raises(FileFormatError, match="some miss"):
        find_pieces(path.with_name("z.npz"))
    path.with_name("z.npz.parta").write_bytes(b"x")
    with pytest.raises(FileFormatError, match="more than one way"):
        find_pieces(path.with_name("z.npz"))


def test_a_whole_file_counts_before_pieces(path: Path) -> None:
    path.with_name("x.npz.part0").write_bytes(b"other")
    assert find_pieces(path) == [path]


def npy(descr: str, shape: tuple[int, ...], data: bytes = b"", *, fortran: object = False) -> bytes:
    """An array's header written by hand, whatever it claims."""
    literal = descr if descr.startswith("[") else f"'{descr}'"
    text = f"{{'descr': {literal}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def write_raw(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


GOOD = npy("<f4", (2,), bytes(8))


@pytest.mark.parametrize(
    ("member", "data", "message"),
    [
        ("w.npy", npy("|O", (2,), bytes(16)), "pickled Python objects"),
        ("w.npy", npy("[('a', '|O')]", (2,), bytes(16)), "pickled Python objects|has the type"),
        ("w.npy", npy(">f4", (2,), bytes(8)), "has the type '>f4'"),
        ("w.npy", npy("<U4", (2,), bytes(32)), "has the type '<U4'"),
        ("w.npy", npy("<f4", (3,), bytes(8)), "takes .* bytes"),
        ("w.npy", npy("<f4", (1,), bytes(8)), "takes .* bytes"),
        ("w.npy", npy("<f4", (2**61,)), "bad shape"),
        ("w.npy", npy("<f4", (2**40, 2**40)), "too large for any file"),
        ("w.npy", npy("<f4", (-1,)), "bad shape"),
        ("w.npy", npy("<f4", (True,), bytes(4)), "bad shape"),
        ("w.npy", npy("<f4", (2,), bytes(8), fortran=0), "must be True or False"),
        ("w.npy", b"", "does not begin"),
        ("w.npy", b"\x93NUMPY\x09\x00" + bytes(90), "does not begin"),
        ("w.npy", b"\x93NUMPY\x01\x00\xff\xff" + bytes(90), "promises a header"),
        ("w.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16, "not the description"),
        ("w.npy", b"\x93NUMPY\x01\x00\x04\x00{}  ", "must have descr"),
        ("readme.txt", b"hello", "no .npy array"),
        (".npy", GOOD, "no .npy array"),
    ],
)
def test_lying_arrays_are_refused(tmp_path: Path, member: str, data: bytes, message: str) -> None:
    write_raw(tmp_path / "x.npz", {"good.npy": GOOD, member: data})
    with pytest.raises(FileFormatError, match=message):
        NpzFile(tmp_path / "x.npz")


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    for data, message in (
        (b"", "is empty"),
        (b"PK\x03\x04 not really", "cannot be read as an npz"),
    ):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(FileFormatError, match=message):
            NpzFile(tmp_path / "x.npz")
    with pytest.raises(FileFormatError, match="cannot be read"):
        NpzFile(tmp_path / "absent.npz")
    with pytest.raises(FileFormatError, match="cannot be read"):
        NpzFile(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_given_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("w.npy", GOOD)
        archive.writestr("w.npy", GOOD)
    with pytest.raises(FileFormatError, match="twice"):
        NpzFile(tmp_path / "x.npz")


def changed(path: Path, field: str, value: int) -> None:
    """Change a number in the directory's only entry."""
    layout = {"flags": (8, "<H"), "method": (10, "<H"), "packed": (20, "<I"), "size": (24, "<I"),
              "crc": (16, "<I"), "offset": (42, "<I")}  # fmt: skip
    data = bytearray(path.read_bytes())
    place, code = layout[field]
    struct.pack_into(code, data, data.index(b"PK\x01\x02") + place, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("flags", 1, "encrypted"),
        ("method", 12, "compressed by method 12"),
        ("method", 8, "does not begin as"),
        ("packed", 10**6, "cannot be|ends at byte"),
        ("size", 10**6, "cannot be"),
        ("offset", 10**6, "outside the file"),
        ("offset", 7, "not where the directory says"),
    ],
)
def test_lying_directories_are_refused(
    tmp_path: Path, field: str, value: int, message: str
) -> None:
    write_raw(tmp_path / "x.npz", {"w.npy": GOOD})
    changed(tmp_path / "x.npz", field, value)
    with pytest.raises(FileFormatError, match=message):
        NpzFile(tmp_path / "x.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A member that claims a gigabyte from a few hundred bytes."""
    write_raw(
        tmp_path / "x.npz", {"w.npy": npy("<f4", (2**28,), bytes(10**5))}, zipfile.ZIP_DEFLATED
    )
    changed(tmp_path / "x.npz", "size", 2**30 + 63)
    with pytest.raises(FileFormatError, match="claims to unpack"):
        NpzFile(tmp_path / "x.npz")


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """The first array claims the bytes of the second as its values, as in a zip bomb."""
    second = 30 + len("b.npy") + len(GOOD)
    first = npy("|u1", (8 + second,), bytes(8))
    write_raw(tmp_path / "x.npz", {"a.npy": first, "b.npy": GOOD})
    changed(tmp_path / "x.npz", "packed", len(first) + second)
    changed(tmp_path / "x.npz", "size", len(first) + second)
    with pytest.raises(FileFormatError, match="'b' overlaps"):
        NpzFile(tmp_path / "x.npz")


def test_damage_in_compressed_bytes_is_found(tmp_path: Path) -> None:
    write_raw(
        tmp_path / "x.npz", {"w.npy": npy("<f4", (64,), bytes(range(256)))}, zipfile.ZIP_DEFLATED
    )
    changed(tmp_path / "x.npz", "crc", 12345)
    file = NpzFile(tmp_path / "x.npz")
    for read in (lambda: file.read("w"), lambda: list(file.blocks("w", 3))):
        with pytest.raises(FileFormatError, match="checksum"):
            read()


def saved(folder: Path, tensors: dict[str, Any], dtype: torch.dtype | None = None) -> Path:
    with Replacement(folder) as new:
        write_npz(new, "y.npz", tensors, dtype)
    return folder / "y.npz"


def test_what_is_written_is_what_numpy_writes_byte_by_byte(tmp_path: Path) -> None:
    arrays = {n: np.ascontiguousarray(a) if a.ndim else a for n, a in ARRAYS.items()}
    expected = io.BytesIO()
    np.savez(expected, allow_pickle=False, **arrays)
    path = saved(tmp_path, {name: torch.from_numpy(np.asarray(a)) for name, a in arrays.items()})
    assert path.read_bytes() == expected.getvalue()


def test_tensors_made_late_and_in_parts(tmp_path: Path) -> None:
    layers = torch.arange(24.0).reshape(2, 3, 4)

    def parts() -> Iterator[torch.Tensor]:
        yield from (layer.T.contiguous().T for layer in layers)

    made: list[str] = []

    def late() -> torch.Tensor:
        made.append("late")
        return layers.permute(2, 0, 1)

    sources: dict[str, torch.Tensor | Callable[[], torch.Tensor] | Stack] = {
        "stack": Stack(shape=(2, 3, 4), parts=parts),
        "late": late,
    }
    path = saved(tmp_path, sources)
    with np.load(path) as file:
        np.testing.assert_array_equal(file["stack"], layers.numpy())
        np.testing.assert_array_equal(file["late"], layers.permute(2, 0, 1).numpy())
    assert made == ["late"]


def test_bfloat16_is_written_as_ml_dtypes_writes_it(tmp_path: Path) -> None:
    values = torch.tensor([1.0, -2.5, 3.0])
    path = saved(tmp_path, {"w": values, "n": torch.tensor(3)}, torch.bfloat16)
    with np.load(path) as file:
        assert file["w"].dtype == np.dtype("V2")
        assert file["w"].tobytes() == values.bfloat16().view(torch.int16).numpy().tobytes()
        assert file["n"] == 3
    assert b"'descr': '<V2'" in path.read_bytes()
    assert torch.equal(NpzFile(path).read("w"), values.bfloat16())


def test_a_value_that_does_not_fit_stops_the_save(tmp_path: Path) -> None:
    saved(tmp_path, {"w": torch.ones(2)})
    before = (tmp_path / "y.npz").read_bytes()
    with pytest.raises(CheckpointError, match=r"w holds values that torch\.float16 cannot"):
        saved(tmp_path, {"w": torch.tensor([1.0, 1e6])}, torch.float16)
    assert (tmp_path / "y.npz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["y.npz"]


def test_a_large_archive_with_zip64_numbers(tmp_path: Path) -> None:
    """The directory's 64-bit fields are used where its 32-bit ones say so."""
    write_raw(tmp_path / "x.npz", {"w.npy": GOOD})
    data = bytearray((tmp_path / "x.npz").read_bytes())
    entry, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    extra = struct.pack("<HHQQQ", 1, 24, len(GOOD), len(GOOD), 0)
    central = bytearray(data[entry:end]) + extra
    struct.pack_into("<II", central, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", central, 30, len(extra))
    struct.pack_into("<I", central, 42, 0xFFFFFFFF)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(central), entry)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, entry + len(central), 1)
    last = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    (tmp_path / "x.npz").write_bytes(bytes(data[:entry]) + bytes(central) + record + locator + last)
    assert torch.equal(NpzFile(tmp_path / "x.npz").read("w"), torch.zeros(2))
