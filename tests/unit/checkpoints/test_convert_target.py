"""Converting onto something, or into trouble: what stands at the target is safe."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.checkpoints.small import ALL, TABLE, WEIGHTS, made

from heliodor.checkpoints import contents as contents_module
from heliodor.checkpoints import convert as convert_module
from heliodor.checkpoints.convert import convert
from heliodor.errors import CheckpointError, HeliodorError, InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("source") / "model")


class TestTarget:
    """What stands at the target is safe."""

    def test_an_existing_target_is_left_alone(self, folder: Path, tmp_path: Path) -> None:
        target = tmp_path / "x.safetensors"
        target.write_text("mine")
        with pytest.raises(InputError, match="exists; name another target, or give --force"):
            convert(folder, target)
        assert target.read_text() == "mine"
        convert(folder, target, force=True)
        assert "projector.weight" in load_file(target)

    def test_a_checkpoint_folder_is_replaced_by_force(self, folder: Path, tmp_path: Path) -> None:
        target = made(tmp_path / "old", max_shard_size=20_000)
        convert(folder, target, force=True, dtype="bfloat16")
        assert load_file(target / WEIGHTS)[TABLE].dtype == torch.bfloat16
        assert sorted(p.name for p in target.iterdir()) == sorted(p.name for p in folder.iterdir())
        assert [path.name for path in tmp_path.iterdir()] == ["old"]

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (["config.json", "photo.jpg"], r"holds photo\.jpg too: only a folder with a checkpo"),
            (["config.json", "README.md"], r"holds README\.md too"),
            (["tokenizer.json"], r"has no config\.json"),
        ],
    )
    def test_a_folder_with_anything_else_is_never_replaced(
        self, folder: Path, tmp_path: Path, files: list[str], message: str
    ) -> None:
        target = tmp_path / "mine"
        target.mkdir()
        for name in files:
            (target / name).write_text(name)
        with pytest.raises(InputError, match=message):
            convert(folder, target, force=True)
        assert sorted(path.name for path in target.iterdir()) == sorted(files)

    def test_other_files_are_never_replaced(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(InputError, match="is no checkpoint file, and nothing else is replac"):
            convert(folder, tmp_path / "mine.txt", force=True)

    @pytest.mark.parametrize("where", [".", "..", "inside", "inside.safetensors"])
    def test_the_source_is_never_the_target(self, tmp_path: Path, where: str) -> None:
        source = made(tmp_path / "deep" / "a")
        with pytest.raises(InputError, match="are one, or one holds the other"):
            convert(source, source / where, force=True)
        (tmp_path / "link").symlink_to(source)
        with pytest.raises(InputError, match="are one, or one holds the other"):
            convert(source, tmp_path / "link", force=True)

    @pytest.mark.parametrize(
        ("target", "format", "message"),
        [
            ("x.npz", "native", r"x\.npz does not name a native checkpoint; give .*\.safetensors"),
            ("x", "big_vision", r"x does not name a big_vision checkpoint; give .* ends in \.npz"),
            ("x.npz", "transformers", r"does not name a transformers checkpoint; give a folder's"),
            ("x", "gguf", "format 'gguf' is not written; there are transformers, big_vision, nat"),
            ("no/where/x", None, "there is no folder"),
        ],
    )
    def test_a_target_that_says_something_else_is_refused(
        self, folder: Path, tmp_path: Path, target: str, format: str | None, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            convert(folder, tmp_path / target, format=format)

    def test_an_unknown_thing_to_drop_is_refused(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="'codex' cannot be dropped; tokenizer, padding, cod"):
            convert(folder, tmp_path / "x.npz", drop=["codex"])


class TestTrouble:
    """Full disks, failing disks, and kill -9."""

    def test_a_full_disk_leaves_what_was_there(self, folder: Path, tmp_path: Path) -> None:
        target = tmp_path / "x.safetensors"
        convert(folder, target)
        before = target.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
        try:
            with pytest.raises(
                CheckpointError, match=r"failed, nothing .* changed: File too large"
            ):
                convert(folder, target, force=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert target.read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]

    @pytest.mark.parametrize("target", ["x.safetensors", "x.npz", "x"])
    def test_what_reads_back_otherwise_is_thrown_away(
        self, folder: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk that turns one bit between writing and reading."""

        def worn(kind: Any) -> Callable[..., None]:
            def write(contents: Any, stage: Path, dtype: Any) -> None:
                kind(contents, stage, dtype)
                path = stage / WEIGHTS if stage.is_dir() else stage
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 1
                path.write_bytes(data)

            return write

        writers = {key: worn(write) for key, write in convert_module._WRITERS.items()}
        monkeypatch.setattr(convert_module, "_WRITERS", writers)
        with pytest.raises(
            HeliodorError, match=r"reads back|not those|cannot be read|damaged|JSON"
        ):
            convert(folder, tmp_path / target, drop=ALL)
        assert list(tmp_path.iterdir()) == []

    def test_one_wrong_value_is_seen(self) -> None:
        values = torch.randn(300, 7)
        wrong = values.clone()
        wrong[299, 6] += 1
        one, two = (contents_module.Weight.of("w", t) for t in (values, wrong))
        strided = contents_module.Weight.of("w", values.T.contiguous().T)
        assert contents_module.same_values(one, strided, torch.float32)
        assert not contents_module.same_values(one, two, torch.float32)
        assert not contents_module.same_values(one, one, torch.float16)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("stage", "target"), [("writing", "x.safetensors"), ("verifying", "x")]
    )
    def test_kill_9_leaves_what_was_there(
        self, folder: Path, tmp_path: Path, stage: str, target: str
    ) -> None:
        old = tmp_path / target
        convert(folder, old)
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        code = f"""
import os, signal
from heliodor.checkpoints.convert import convert
def progress(stage, done, total):
    if stage == {stage!r} and done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
convert({str(folder)!r}, {str(old)!r}, force=True, dtype="bfloat16", progress=progress)
"""
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert {path: path.read_bytes() for path in before} == before
        hidden = [p.name for p in tmp_path.iterdir() if p.name != target]
        assert len(hidden) == 1
        assert hidden[0].startswith(f".{target}.")
        assert hidden[0].endswith(".partial")
        convert(folder, old, force=True, dtype="bfloat16")

    def test_ctrl_c_leaves_nothing(self, folder: Path, tmp_path: Path) -> None:
        def stop(stage: str, done: int, total: int) -> None:
            if stage == "verifying":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            convert(folder, tmp_path / "x", progress=stop)
        assert list(tmp_path.iterdir()) == []

    def test_a_swap_that_fails_puts_the_old_folder_back(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = made(tmp_path / "old", dtype="float16")
        before = (target / WEIGHTS).read_bytes()
        rename = Path.replace

        def failing(self: Path, other: Path) -> Path:
            if other == target and self.name == target.name:
                raise OSError(5, "Input/output error")
            return rename(self, other)

        monkeypatch.setattr(Path, "replace", failing)
        with pytest.raises(CheckpointError, match="nothing was changed: Input/output error"):
            convert(folder, target, force=True)
        monkeypatch.setattr(Path, "replace", rename)
        assert (target / WEIGHTS).read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["old"]
