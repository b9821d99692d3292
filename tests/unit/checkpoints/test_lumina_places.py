"""Painters on disk: what is said where another model is expected, and what loading one costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tests import painting, peak

from heliodor.checkpoints import open_checkpoint
from heliodor.checkpoints.diffusers_transformer import (
    STEM,
    DiffusersTransformer,
    save_transformer,
    write_transformer,
)
from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.lumina import LAST, LuminaCheckpoint, save_lumina, write_lumina
from heliodor.checkpoints.lumina_places import find_painter
from heliodor.errors import ConfigError, KeyMismatchError
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NextDiTConfig

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture
def lumina(tmp_path: Path) -> Path:
    save_lumina(painting.nextdit(), tmp_path / "lumina")
    return tmp_path / "lumina"


@pytest.fixture
def transformer(tmp_path: Path) -> Path:
    save_transformer(painting.nextdit(), tmp_path / "transformer")
    return tmp_path / "transformer"


def test_other_doors_point_to_the_painters(lumina: Path, transformer: Path, tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text("{}")
    for path in (lumina, lumina / LAST, transformer, pipeline):
        with pytest.raises(ConfigError, match=r"is a painter or a part of one: heliodor\.load_pai"):
            open_checkpoint(path)


def test_the_file_of_a_transformer_means_its_folder(transformer: Path) -> None:
    assert find_painter(transformer / f"{STEM}.safetensors", "") == find_painter(transformer, "")


def test_what_is_no_painter_is_listed(tmp_path: Path, transformer: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere does not exist; expected a folder of diffusers"):
        find_painter(tmp_path / "nowhere", "")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="holds no painter but nothing; what can be read is"):
        find_painter(empty, "")
    (empty / "config.json").write_text(json.dumps({"model_type": "paligemma"}))
    (empty / "photograph.jpg").touch()
    with pytest.raises(ConfigError, match=r"no painter but config\.json, photograph\.jpg; what"):
        find_painter(empty, "")
    alone = empty / f"{STEM}.safetensors"
    alone.write_bytes((transformer / alone.name).read_bytes())
    (empty / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"tensors \(pad_token, .*no Next-DiT in the official"):
        find_painter(alone, "")


def test_one_layout_is_written_from_the_others_file(lumina: Path, transformer: Path) -> None:
    """Tensor by tensor, without a network: what a conversion does."""
    official = LuminaCheckpoint(path=lumina / LAST, source="")
    theirs = DiffusersTransformer(folder=transformer, source="")
    with Replacement(lumina.parent / "there") as new:
        write_transformer(new, official.config(), official.weights())
    with Replacement(lumina.parent / "back") as new:
        write_lumina(new, theirs.config(), theirs.weights())
    for made, given in (("there", transformer), ("back", lumina)):
        for path in given.iterdir():
            assert (lumina.parent / made / path.name).read_bytes() == path.read_bytes()


TELLING = (
    "x_embedder.weight",
    "final_layer.linear.weight",
    "layers.0.attention.gate",
    "layers.0.attention.wk.weight",
    "layers.0.attention.wk_y.weight",
    "layers.0.feed_forward.w1.weight",
)
IMPOSSIBLE = [(), (0,), (7,), (0, 0), (0, 2**55), (2**55, 0), (3, 5), (1, 1, 1)]


@pytest.mark.parametrize("shape", IMPOSSIBLE, ids=str)
@pytest.mark.parametrize("name", TELLING)
def test_shapes_that_lie_are_refused(name: str, shape: tuple[int, ...], lumina: Path) -> None:
    """An empty tensor can claim any size and take no byte."""
    tensors = safetensors.load_file(lumina / LAST)
    tensors[name] = torch.zeros(shape)
    safetensors.save_file(tensors, lumina / LAST)
    (lumina / "config.json").unlink()
    with pytest.raises((KeyMismatchError, ConfigError), match=str(lumina)):
        LuminaCheckpoint(path=lumina / LAST, source="").load()


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 MB of float32 weights in the official layout."""
    place = tmp_path_factory.mktemp("heavy")
    config = NextDiTConfig(
        width=768, depth=2, num_heads=12, num_kv_heads=3, mlp_width=1024, caption_width=64
    )
    torch.manual_seed(0)
    save_lumina(NextDiT(config), place)
    return place


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_of_loading_is_the_weights_and_a_few_megabytes(heavy: Path, dtype: str) -> None:
    grown, weights = peak.loading(
        heavy / LAST,
        dtype,
        module="lumina",
        load="LuminaCheckpoint",
        call="load(path=Path(sys.argv[1]), source='').load(dtype=sys.argv[2])",
    )
    size = (heavy / LAST).stat().st_size
    assert weights == pytest.approx(size if dtype == "float32" else size / 2, rel=1e-3)
    # What is mapped is not held; otherwise 16 MB are mapped at a time.
    assert grown < (0 if dtype == "float32" else weights) + 24 * 2**20
