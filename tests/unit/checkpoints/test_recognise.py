"""What lies at a path is said by its files; what is nothing that is read is named."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from heliodor import zoo
from heliodor.checkpoints import open_checkpoint, open_paligemma
from heliodor.checkpoints.recognise import Kind, recognise
from heliodor.errors import CheckpointError, ConfigError


def config(folder: Path, **values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def npz(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, np.zeros(1))
    return path


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("paligemma", "paligemma"),
        ("siglip", "siglip"),
        ("gemma", "gemma"),
        ("gemma2", "gemma"),
    ],
)
def test_a_folder_is_what_its_config_says(tmp_path: Path, kind: str, family: str) -> None:
    found = recognise(config(tmp_path, model_type=kind))
    assert (found.kind, found.family, found.path) == (Kind.TRANSFORMERS, family, tmp_path)


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (("params/llm/final_norm/scale", "params/img/head/bias"), "paligemma"),
        (("llm/final_norm/scale",), "paligemma"),
        (("opt/target/llm/final_norm/scale",), "paligemma"),
        (("params/txt/head/bias", "params/t"), "siglip"),
    ],
)
def test_an_npz_is_what_its_arrays_say(tmp_path: Path, names: tuple[str, ...], family: str) -> None:
    path = npz(tmp_path / "x.npz", *names)
    assert (recognise(path).kind, recognise(path).family) == (Kind.BIG_VISION, family)
    assert recognise(tmp_path).path == path, "a folder with one npz is that npz"
    data = path.read_bytes()
    path.unlink()
    for number, start in enumerate(range(0, len(data), 100)):
        (tmp_path / f"x.npz.part{number}").write_bytes(data[start : start + 100])
    assert recognise(tmp_path).family == family
    assert recognise(path).family == family


def test_a_marked_file_is_native(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    marks = {"heliodor.format": "9", "heliodor.family": "paligemma"}
    save_file({"a": torch.zeros(1)}, path, metadata=marks)
    assert recognise(path).kind is Kind.NATIVE
    assert recognise(tmp_path).path == path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no config\.json and no \.npz \(it is empty\); what can be read is a folder in"),
        ({"a.bin": b"x", "b.gguf": b"x"}, r"\(it has a\.bin, b\.gguf\); what can be read"),
        (
            {"config.json": b'{"model_type": "llava"}'},
            "model_type 'llava'; what is read are palige",
        ),
        ({"config.json": b"{}"}, "no model_type; what is read are paligemma, siglip, gemma"),
        ({"config.json": b'{"model_type": ["x"]}'}, "model_type"),
        ({"config.json": b"{"}, "not valid JSON"),
        ({"a.npz": b"x", "b.npz.part0": b"x"}, r"holds a\.npz, b\.npz: give one of them"),
        ({"a.npz": b"no zip"}, r"a\.npz cannot be read as an npz"),
        ({"vae-oid.npz": b"x"}, r"\(it has vae-oid\.npz\)"),
    ],
)
def test_what_a_folder_holds_instead_is_said(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        recognise(tmp_path)


def test_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a mask codec: pass it as codec="):
        recognise(zoo.MASK_CODEC)
    with pytest.raises(ConfigError, match=r"holds 1 arrays \(x\), which are neither a PaliGemma's"):
        recognise(npz(tmp_path / "x.npz", "x"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"model\.gguf is a file of another kind; what can be"):
        recognise(tmp_path / "model.gguf")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="without a word on what model it belongs to"):
        recognise(tmp_path / "a.safetensors")
    config(tmp_path, model_type="paligemma")
    with pytest.raises(ConfigError, match="is a file; give the folder that holds it"):
        recognise(tmp_path / "a.safetensors")


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert recognise(tmp_path).kind is Kind.ADAPTER
    for open_ in (open_checkpoint, open_paligemma):
        with pytest.raises(ConfigError, match=r"is an adapter, not a model: .* adapter="):
            open_(tmp_path)


def test_another_family_names_the_call_that_loads_it(tmp_path: Path) -> None:
    for kind, call in (("siglip", "load_siglip"), ("gemma2", "load_gemma")):
        with pytest.raises(ConfigError, match=rf"not a PaliGemma: heliodor\.{call}\(\) loads it"):
            open_paligemma(config(tmp_path, model_type=kind))


def test_looking_needs_no_torch(tmp_path: Path) -> None:
    npz(tmp_path / "x.npz", "params/llm/final_norm/scale")
    code = (
        "import sys; from pathlib import Path;"
        "from heliodor.checkpoints.recognise import recognise;"
        f"recognise(Path({str(zoo.TINY)!r})); recognise(Path({str(tmp_path)!r}));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
