"""Embeddings in files: what numpy and pyarrow read of them, and what is refused."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from heliodor.errors import ConfigError, FileFormatError, InputError, MissingExtraError
from heliodor.see.vectors import read_vectors, writing

ROWS = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
NAMES = ["a.png", "späte Blüte.png", "b/c.png", 'quote".png', "line\nbreak.png"]


def write(path: Path, rows: int = 5) -> Path:
    with writing(path, width=3, kind="image", model="google/x") as out:
        for start in range(0, rows, 2):
            out.add(NAMES[start : start + 2][: rows - start], ROWS[start : min(start + 2, rows)])
    return path


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_numpy_reads_an_npy(tmp_path: Path, rows: int) -> None:
    found = np.load(write(tmp_path / "x.npy", rows), allow_pickle=False)
    assert found.dtype == np.float32
    assert found.shape == (rows, 3)
    assert np.array_equal(found, ROWS[:rows])
    assert np.load(tmp_path / "x.npy", mmap_mode="r" if rows else None).shape == (rows, 3)
    about = json.loads((tmp_path / "x.names.json").read_text("utf-8"))
    assert about == {"kind": "image", "model": "google/x", "names": NAMES[:rows]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.names.json", "x.npy"]


def test_pyarrow_reads_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(write(tmp_path / "x.parquet"))
    assert table.column_names == ["name", "embedding"]
    assert table["name"].to_pylist() == NAMES
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), ROWS)
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[3]"
    assert table.schema.metadata[b"kind"] == b"image"
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


@pytest.mark.parametrize("name", ["x.npy", "x.parquet"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    found = read_vectors(write(tmp_path / name))
    assert found.names == tuple(NAMES)
    assert np.array_equal(found.values, ROWS)
    assert (found.kind, found.model) == ("image", "google/x")


@pytest.mark.parametrize("name", ["x.npy", "x.parquet"])
def test_an_error_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"old")

    def fail() -> None:
        with writing(tmp_path / name, width=3, kind="text", model="m") as out:
            out.add(NAMES[:2], ROWS[:2])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError):
        importlib.import_module("pyarrow")
    with pytest.raises(MissingExtraError, match=r"pip install 'heliodor\[parquet\]'"):
        write(tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.csv", "x", "none/x.npy"])
def test_a_target_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"must end in \.npy or \.parquet|there is no folder"):
        write(tmp_path / name)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npy")
    np.save(path, ROWS[:4])
    with pytest.raises(FileFormatError, match=r"float32 \[4, 3\] for 5 names"):
        read_vectors(path)
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(FileFormatError, match="cannot be read as an npy"):
        read_vectors(path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FileFormatError, match="cannot be read as an npy"):
        read_vectors(path)
    (tmp_path / "x.names.json").write_text('{"names": 3}')
    with pytest.raises(FileFormatError, match='no list of "names"'):
        read_vectors(path)
    (tmp_path / "x.names.json").unlink()
    with pytest.raises(ConfigError, match=r"x\.names\.json"):
        read_vectors(path)
    with pytest.raises(InputError, match=r"must end in"):
        read_vectors(tmp_path / "x.csv")


def test_broken_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(FileFormatError, match="cannot be read as Parquet"):
        read_vectors(tmp_path / "x.parquet")
