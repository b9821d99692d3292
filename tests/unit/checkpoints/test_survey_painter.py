"""What a painter's files say of it, against the network that wrote them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests import painting
from tests.unit.paint import small
from tests.unit.paint.small import write_folder

from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.diffusers_transformer import STEM, save_transformer
from heliodor.checkpoints.expected_painter import nextdit_shapes
from heliodor.checkpoints.lumina import save_lumina
from heliodor.checkpoints.survey import survey
from heliodor.errors import ConfigError
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NEXTDIT_2B_16_CHANNELS, NEXTDIT_2B_GQA, NextDiTConfig

safetensors = pytest.importorskip("safetensors.torch")

CONFIGS = [
    NEXTDIT_2B_GQA,
    NEXTDIT_2B_16_CHANNELS,
    replace(painting.SMALL, qk_norm=False, learns_sigma=False, patch_size=1),
]
SAVERS = {"lumina": save_lumina, "diffusers": save_transformer}


@pytest.mark.parametrize("layout", SAVERS)
def test_size_and_shape_are_those_of_the_network(layout: str, tmp_path: Path) -> None:
    model = painting.nextdit()
    SAVERS[layout](model, tmp_path / "painter", dtype="bfloat16")
    facts = survey(tmp_path / "painter")
    assert (facts["format"], facts["family"]) == (layout, "Lumina-Next")
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert (facts["precision"], facts["complete"], facts["broken"]) == ("bfloat16", True, [])
    wanted = {k: v for k, v in asdict(model.config).items() if k in facts["transformer"]}
    assert len(wanted) > 8
    assert {k: facts["transformer"][k] for k in wanted} == wanted


@pytest.mark.parametrize("layout", SAVERS)
def test_a_truncated_file_is_broken_and_not_an_error(layout: str, tmp_path: Path) -> None:
    SAVERS[layout](painting.nextdit(), tmp_path / "painter")
    (weights,) = (tmp_path / "painter").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-9])
    facts = survey(tmp_path / "painter")
    assert facts["complete"] is False
    assert any("truncated download?" in reason for reason in facts["broken"])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_shapes_are_the_networks(config: NextDiTConfig) -> None:
    state = unfilled(lambda: NextDiT(config)).state_dict()
    assert nextdit_shapes(config) == {name: tuple(value.shape) for name, value in state.items()}


def test_a_copy_of_the_queries_that_is_lost_is_missed(tmp_path: Path) -> None:
    save_transformer(painting.nextdit(), tmp_path)
    path = tmp_path / f"{STEM}.safetensors"
    tensors = safetensors.load_file(path)
    for name in ("layers.1.attn2.to_q.weight", "layers.0.attn1.norm_k.bias"):
        del tensors[name]
    tensors["gate.weight"] = tensors["pad_token"].clone()
    tensors["pad_token"] = tensors["pad_token"][:-1].clone()
    safetensors.save_file(tensors, path)
    facts = survey(tmp_path)
    lost = ["layers.0.attn1.norm_k.bias", "layers.1.attn2.to_q.weight"]
    assert sorted(facts["missing"]) == lost
    assert facts["broken"] == ["pad_token is [47], where [48] belongs"]
    assert "1 tensors that the model has not: gate.weight" in facts["odd"]
    assert facts["complete"] is False


def test_a_pipeline_is_told_with_its_parts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "painter")
    facts = survey(folder)
    assert facts["complete"] is True
    assert facts["files"] == [
        f"transformer/{STEM}.safetensors",
        "text_encoder/model.safetensors",
        f"vae/{STEM}.safetensors",
    ]
    assert facts["text_encoder"]["family"] == "Gemma"
    encoder = sum(p.numel() for p in small.encoder().model.parameters())
    assert facts["text_encoder"]["parameters"] == encoder
    assert facts["vae"]["size"] == "4 channels"
    assert facts["shift"] == 1.0
    shutil.rmtree(folder / "vae")
    (folder / "text_encoder" / "model.safetensors").unlink()
    facts = survey(folder)
    assert "no vae: give vae= when loading" in facts["odd"]
    assert facts["missing"] == ["text_encoder: model.safetensors"]
    assert facts["complete"] is False


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("model_index.json", {"transformer": ["diffusers", "Lumina2"]}, "other pipelines are not"),
        ("transformer/config.json", {"_class_name": "Lumina2Transformer2DModel"}, "Lumina-Image"),
    ],
)
def test_another_kind_is_named(
    file: str, values: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write_folder(tmp_path / "painter") / file
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}))
    with pytest.raises(ConfigError, match=message):
        survey(tmp_path / "painter")


def test_a_config_that_cannot_be_used_is_a_fault_and_not_an_error(tmp_path: Path) -> None:
    save_transformer(painting.nextdit(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "num_layers": "many"}))
    facts = survey(tmp_path)
    assert any("num_layers is 'many'" in said for said in facts["broken"])
    assert facts["transformer"] is None
    assert facts["complete"] is False


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    save_lumina(painting.nextdit(), tmp_path)
    code = (
        "import sys; from pathlib import Path; from heliodor.cli.inspect import describe; "
        f"assert describe({str(tmp_path)!r})['size'] == 'custom'; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
