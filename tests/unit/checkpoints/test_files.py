"""Files replaced whole or not at all, and shards written without gathering them."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.shards import write_tensors
from heliodor.checkpoints.tensors import open_tensors
from heliodor.errors import CheckpointError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class FullDisk:
    """A file on a disk that has room for some bytes more."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self.file = file
        self.room = room

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        size = memoryview(data).nbytes
        if size > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= size
        return self.file.write(data)


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, *, after: int, room: int) -> None:
    """From the file after ``after`` others on, only ``room`` bytes fit."""
    real, opened = Replacement.open, []

    def open_(self: Replacement, name: str) -> BinaryIO | FullDisk:
        opened.append(name)
        file = real(self, name)
        return file if len(opened) <= after else FullDisk(file, room)

    monkeypatch.setattr(Replacement, "open", open_)


def test_files_appear_together_and_stale_ones_go(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "both").write_bytes(b"old")
    with Replacement(tmp_path) as new:
        new.remove_afterwards("old")
        new.remove_afterwards("both")
        new.remove_afterwards("never was")
        new.write("both", b"new")
        new.write("fresh", b"fresh")
        assert (tmp_path / "both").read_bytes() == b"old"
        assert not (tmp_path / "fresh").exists()
    assert contents(tmp_path) == {"both": b"new", "fresh": b"fresh"}


def write_and_fail(folder: Path, error: type[BaseException]) -> None:
    with Replacement(folder) as new:
        new.write("a", b"new")
        new.remove_afterwards("a")
        raise error


def test_an_exception_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(tmp_path, KeyboardInterrupt)
    assert contents(tmp_path) == {"a": b"old"}


def test_a_folder_made_for_a_failed_save_is_removed_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_and_fail(tmp_path / "x" / "y", RuntimeError)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(CheckpointError, match="cannot be made"),
        Replacement(tmp_path / "file" / "x"),
    ):
        pass


def test_a_failing_rename_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"saving to .* failed"), Replacement(tmp_path) as new:
        new.write("a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def write(folder: Path, tensors: dict[str, torch.Tensor], limit: int, dtype: object = None) -> None:
    assert dtype is None or isinstance(dtype, torch.dtype)
    with Replacement(folder) as new:
        write_tensors(new, tensors, dtype, limit)


def sample() -> dict[str, torch.Tensor]:
    return {
        "a": torch.randn(10, 10),
        "b": torch.randn(7),
        "c": torch.randn(20, 10),
        "d": torch.tensor(2.5),
        "e": torch.zeros(0, 3),
    }


def test_one_file_is_read_by_the_safetensors_library(tmp_path: Path) -> None:
    tensors = sample() | {"f": torch.randn(3).bfloat16(), "g": torch.arange(3)}
    write(tmp_path, tensors, 10**6)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_fill_up_to_the_limit_and_the_index_says_where(tmp_path: Path) -> None:
    tensors = sample()
    write(tmp_path, tensors, 500)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 308, "total_size": 1232}
    one, two, three = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
    assert index["weight_map"] == {"a": one, "b": one, "c": two, "d": three, "e": three}
    read = open_tensors(tmp_path)
    assert all(torch.equal(read.read(name), tensor) for name, tensor in tensors.items())


def test_another_dtype_and_layout_are_written_as_plain_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliodor.checkpoints.weights._CHUNK", 7)
    tensors = {"a": torch.randn(9, 11).T, "b": torch.randn(40)[::2].requires_grad_()}
    write(tmp_path, tensors, 10**6, torch.bfloat16)
    loaded = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(loaded[name], tensor.bfloat16()) for name, tensor in tensors.items())


def test_a_value_beyond_float16_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"b holds values that torch\.float16 cannot"):
        write(tmp_path, {"a": torch.ones(2), "b": torch.tensor([1e5])}, 10**6, torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_an_earlier_save_do_not_stay_beside_the_new(tmp_path: Path) -> None:
    tensors = sample()
    write(tmp_path, tensors, 100)
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 4
    write(tmp_path, tensors, 500)
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 3
    write(tmp_path, tensors, 10**6)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    write(tmp_path, tensors, 500)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(("after", "room"), [(0, 0), (0, 300), (1, 0), (2, 200), (3, 10)])
def test_a_full_disk_leaves_the_old_weights_and_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, room: int
) -> None:
    write(tmp_path, sample(), 500)
    before = contents(tmp_path)
    fill_the_disk(monkeypatch, after=after, room=room)
    with pytest.raises(CheckpointError, match="nothing there was changed: No space left"):
        write(tmp_path, sample(), 500)
    assert contents(tmp_path) == before


def test_a_loaded_tensor_survives_the_replacement_of_its_file(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0)}, tmp_path / "model.safetensors")
    tensors = open_tensors(tmp_path)
    write(tmp_path, {"a": torch.zeros(3)}, 10**6)
    assert tensors.read("a").tolist() == [0, 1, 2]
    assert open_tensors(tmp_path).read("a").tolist() == [0, 0, 0]
