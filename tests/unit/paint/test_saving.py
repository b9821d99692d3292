"""Painters written from the files they were opened from, in both layouts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.painting import SMALL, nextdit
from tests.unit.paint.small import painter, write_folder
from torch import Tensor

from heliodor.checkpoints.lumina import save_lumina
from heliodor.errors import ConfigError, InputError
from heliodor.paint import Painter, load_painter

FAST: dict[str, Any] = {"steps": 3, "solver": "euler", "size": (48, 32), "seed": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("painter"))


def latents(of: Painter) -> Tensor:
    found = of.paint("a dog", output="latents", **FAST)
    assert isinstance(found, Tensor)
    return found


def test_a_saved_folder_is_read_again(made, tmp_path):
    load_painter(made).save(tmp_path / "saved")
    assert torch.equal(latents(load_painter(tmp_path / "saved")), latents(painter()))
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    load_painter(tmp_path / "saved").save(tmp_path / "saved")  # over the files it reads from
    assert torch.equal(latents(load_painter(tmp_path / "saved")), latents(painter()))
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    (tmp_path / "saved" / "photograph.jpg").touch()
    with pytest.raises(InputError, match=r"saved exists and holds photograph\.jpg"):
        load_painter(made).save(tmp_path / "saved")


def test_what_is_saved_is_what_was_found(made, tmp_path):
    """Value by value, whatever the type in which it was held; the autoencoder byte by byte."""
    load_painter(made, dtype="bfloat16").save(tmp_path / "saved")
    for part in ("transformer", "text_encoder", "vae"):
        (name,) = (path.name for path in (made / part).glob("*.safetensors"))
        ours = load_file(tmp_path / "saved" / part / name)
        theirs = load_file(made / part / name)
        ours = {key.removeprefix("model."): value for key, value in ours.items()}
        theirs = {key.removeprefix("model."): value for key, value in theirs.items()}
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_painter_without_an_autoencoder_is_saved_without(made, tmp_path):
    shutil.rmtree(shutil.copytree(made, tmp_path / "bare") / "vae")
    load_painter(tmp_path / "bare").save(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text("utf-8"))
    assert index["vae"] == [None, None]
    opened = load_painter(tmp_path / "saved")
    assert torch.equal(latents(opened), latents(painter()))
    with pytest.raises(ConfigError, match="has no autoencoder: pass vae="):
        opened.paint("a dog", **FAST)


def test_the_official_layout_is_written(made, tmp_path):
    load_painter(made).save(tmp_path / "official", format="lumina")
    found = load_file(tmp_path / "official" / "consolidated.00-of-01.safetensors")
    wanted = nextdit(replace(SMALL, caption_width=32)).state_dict()
    assert torch.equal(found["x_embedder.weight"], wanted["patch.weight"])
    with pytest.raises(ConfigError, match="'onnx' is not written"):
        load_painter(made).save(tmp_path / "onnx", format="onnx")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="put together in memory"):
        painter().save(tmp_path / "none")


def test_a_moving_average_stays_one_by_its_name(made, tmp_path):
    save_lumina(nextdit(replace(SMALL, caption_width=32)), tmp_path / "official", which="ema")
    opened = load_painter(
        tmp_path / "official", text_encoder=made / "text_encoder", tokenizer=made / "tokenizer"
    )
    opened.save(tmp_path / "again", format="lumina")
    name = "consolidated_ema.00-of-01.safetensors"
    written = (tmp_path / "again" / name).read_bytes()
    assert written == (tmp_path / "official" / name).read_bytes()
