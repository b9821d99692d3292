"""What inspect says of tensors that are missing or of another shape, in every family and format."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests import sentences, talking, tiny

import heliodor
from heliodor.checkpoints import bigvision
from heliodor.checkpoints.siglip_npz import save_pair_npz
from heliodor.checkpoints.survey import survey

WEIGHTS = "model.safetensors"
LANGUAGE = replace(tiny.LANGUAGE, norm_eps=1e-6, rope_base=10000.0)


def change(path: Path, **tensors: torch.Tensor | None) -> None:
    """Other tensors in a file, with the strings that it has."""
    with safe_open(path, "pt") as file:
        strings = file.metadata()
    found: dict[str, torch.Tensor | None] = dict(load_file(path)) | tensors
    save_file({n: t for n, t in found.items() if t is not None}, path, metadata=strings)


def faults(path: Path) -> tuple[list[str], list[str]]:
    facts = survey(path)
    assert facts["complete"] == (not facts["missing"] and not facts["broken"])
    return facts["missing"], facts["broken"]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return sentences.pair_folder(tmp_path / "pair")


@pytest.fixture(params=["first", "second"])
def gemma(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    config = talking.FIRST if request.param == "first" else talking.SECOND
    talking.lm(config).save(tmp_path / "gemma")
    return tmp_path / "gemma"


def test_a_whole_pair(pair: Path) -> None:
    facts = survey(pair)
    assert (facts["family"], facts["tower"], facts["resolution"]) == ("SigLIP", "custom/8", 32)
    assert (facts["complete"], facts["missing"], facts["broken"]) == (True, [], [])
    assert facts["odd"] == []
    assert facts["text"] == {
        "vocab_size": 110, "length": 32, "width": 24, "depth": 2, "num_heads": 4, "mlp_width": 36,
        "out_width": 24,
    }  # fmt: skip
    assert facts["language"] is None


def test_a_broken_pair(pair: Path) -> None:
    change(
        pair / WEIGHTS,
        **{
            "text_model.embeddings.position_embedding.weight": torch.zeros(16, 24),
            "vision_model.head.attention.in_proj_weight": None,
            "text_model.encoder.layers.1.mlp.fc2.bias": None,
            "text_model.embeddings.position_ids": torch.arange(32)[None],
        },
    )
    missing, broken = faults(pair)
    assert set(missing) == {
        "vision_model.head.attention.in_proj_weight",
        "text_model.encoder.layers.1.mlp.fc2.bias",
    }
    assert broken == [
        "text_model.embeddings.position_embedding.weight is [16, 24], where [32, 24] belongs"
    ]
    assert not any("has not" in odd for odd in survey(pair)["odd"]), "the buffer is harmless"


def test_a_pooling_head_of_another_width(pair: Path) -> None:
    change(
        pair / WEIGHTS,
        **{"vision_model.head.attention.in_proj_weight": torch.zeros(60, 24), "x": torch.zeros(1)},
    )
    assert faults(pair) == (
        [],
        [
            f"vision_model.head.attention.in_proj_weight[{n}] is [20, 24], where [24, 24] belongs"
            for n in range(3)
        ],
    )
    assert "1 tensors that the model has not: x" in survey(pair)["odd"]


def test_what_a_published_pair_leaves_out_is_base(pair: Path) -> None:
    path = pair / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "vision_config": {}, "text_config": {}}))
    facts = survey(pair)
    assert (facts["tower"], facts["resolution"]) == ("base/16", 224)
    assert (
        "vision_model.embeddings.patch_embedding.bias is [24], where [768] belongs"
        in (facts["broken"])
    )


def test_a_whole_gemma(gemma: Path) -> None:
    facts = survey(gemma)
    assert facts["family"] in ("Gemma", "Gemma 2")
    assert (facts["complete"], facts["odd"], facts["vision"]) == (True, [], None)


def test_a_broken_gemma(gemma: Path) -> None:
    change(
        gemma / WEIGHTS,
        **{
            "model.layers.1.self_attn.o_proj.weight": torch.zeros(32, 32),
            "model.layers.2.post_attention_layernorm.weight": None,
            "model.layers.3.input_layernorm.weight": torch.zeros(32),
        },
    )
    missing, broken = faults(gemma)
    assert missing == ["model.layers.2.post_attention_layernorm.weight"]
    assert broken == ["model.layers.1.self_attn.o_proj.weight is [32, 32], where [32, 48] belongs"]


def test_a_config_that_does_not_say_its_sizes(gemma: Path) -> None:
    path = gemma / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "hidden_size": "wide", "vocab_size": None}))
    missing, broken = faults(gemma)
    assert (missing, len(broken)) == ([], 1)
    assert "does not say language.vocab_size, language.width in whole" in broken[0]


def test_a_broken_paligemma(tmp_path: Path) -> None:
    tiny.vlm().save(tmp_path / "x")
    change(
        tmp_path / "x" / WEIGHTS,
        **{"multi_modal_projector.linear.weight": torch.zeros(32, 25)},
    )
    assert faults(tmp_path / "x") == (
        [],
        ["multi_modal_projector.linear.weight is [32, 25], where [32, 24] belongs"],
    )


@pytest.mark.parametrize("family", ["paligemma", "siglip", "gemma"])
def test_native_files(tmp_path: Path, pair: Path, family: str) -> None:
    path = tmp_path / "x.safetensors"
    model = {
        "paligemma": tiny.vlm,
        "siglip": lambda: heliodor.load_siglip(pair),
        "gemma": lambda: talking.lm(talking.SECOND),
    }[family]()
    model.save(path, format="native")
    names = {"paligemma": "PaliGemma", "siglip": "SigLIP", "gemma": "Gemma 2"}
    facts = survey(path)
    assert (facts["family"], facts["complete"]) == (names[family], True)
    lost, wrong = {
        "paligemma": ("language.norm.scale", "vision.position"),
        "siglip": ("pool.q.bias", "text.position"),
        "gemma": ("layers.0.post_mlp_norm.scale", "embedding.weight"),
    }[family]
    shape = load_file(path)[wrong].shape
    change(path, **{lost: None, wrong: torch.zeros(3, shape[1]), "more": torch.zeros(1)})
    assert faults(path) == ([lost], [f"{wrong} is {[3, shape[1]]}, where {list(shape)} belongs"])
    assert "1 tensors that the model has not: more" in survey(path)["odd"]


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as found:
        return dict(found)


def test_npz_files(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    bigvision.save(tiny.paligemma(language=LANGUAGE, image_token=None), path)
    found = arrays(path)
    assert faults(path) == ([], [])
    del found["params/img/head/bias"]
    found["params/llm/layers/attn/kv_einsum/w"] = np.zeros((3, 2, 2, 30, 12), np.float32)
    found["params/llm/more"] = np.zeros(1, np.float32)
    found["opt/count"] = np.zeros(1, np.float32)
    np.savez(path, **found)
    assert faults(path) == (
        ["params/img/head/bias"],
        [
            "params/llm/layers/attn/kv_einsum/w is [3, 2, 2, 30, 12], where [3, 2, 2, 32, 12] "
            "belongs"
        ],
    )
    assert "1 arrays that the model has not: llm/more" in survey(path)["odd"]
    del found["params/llm/layers/mlp/linear"]
    np.savez(path, **found)
    assert faults(path) == (["params/llm/layers/mlp/linear"], [])


def test_npz_files_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_pair_npz(tiny.pair(), path)
    facts = survey(path)
    assert (facts["family"], facts["resolution"], facts["complete"]) == ("SigLIP", 32, True)
    assert facts["text"]["length"] == 7
    found = arrays(path)
    name = "params/txt/Encoder_0/encoderblock_1/MlpBlock_0/Dense_1/bias"
    del found[name]
    found["params/img/MAPHead_0/probe"] = np.zeros((1, 24), np.float32)
    np.savez(path, **found)
    assert faults(path) == (
        [name], ["params/img/MAPHead_0/probe is [1, 24], where [1, 1, 24] belongs"]
    )  # fmt: skip


def test_a_large_pair_is_described_in_under_two_seconds(tmp_path: Path) -> None:
    """888 tensors of So400m at its published depth, thinner."""
    from heliodor.checkpoints.siglip import save_pair
    from heliodor.image import ImageProcessor
    from heliodor.text.fixed import FixedTokenizer

    vision = replace(tiny.VISION, depth=27)
    words = FixedTokenizer.from_file(sentences.write_spiece(tmp_path), length=32)
    model = tiny.pair(vision, replace(sentences.TEXT, depth=27))
    save_pair(model, words, ImageProcessor(size=32), tmp_path / "x")
    before = time.process_time()
    assert survey(tmp_path / "x")["complete"]
    assert time.process_time() - before < 2
    shutil.rmtree(tmp_path / "x")
