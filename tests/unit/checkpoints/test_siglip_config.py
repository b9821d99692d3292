"""config.json of a SigLIP pair: what is left out, what is refused, what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import tiny

from heliodor.checkpoints.siglip_config import pair_config_values, read_pair_config
from heliodor.errors import ConfigError
from heliodor.models.pair import SiglipPairConfig, SiglipTextConfig
from heliodor.models.siglip import SiglipVisionConfig

BASE: dict[str, Any] = {
    "model_type": "siglip",
    "text_config": {"model_type": "siglip_text_model"},
    "vision_config": {"model_type": "siglip_vision_model"},
}


def read(folder: Path, values: dict[str, Any]) -> SiglipPairConfig:
    (folder / "config.json").write_text(json.dumps(values))
    return read_pair_config(folder)


@pytest.mark.parametrize("values", [BASE, {"model_type": "siglip", "text_config": None}])
def test_what_is_left_out_is_siglip_base(tmp_path: Path, values: dict[str, Any]) -> None:
    found = read(tmp_path, values)
    tower = {"width": 768, "depth": 12, "num_heads": 12, "mlp_width": 3072, "norm_eps": 1e-6}
    assert found.vision == SiglipVisionConfig(image_size=224, patch_size=16, **tower)
    assert found.text == SiglipTextConfig(vocab_size=32000, length=64, **tower)


def test_what_is_there_counts(tmp_path: Path) -> None:
    values = {
        **BASE,
        "text_config": {
            "hidden_size": 24,
            "num_attention_heads": 3,
            "num_hidden_layers": 5,
            "intermediate_size": 7,
            "layer_norm_eps": 1e-5,
            "vocab_size": 256000,
            "max_position_embeddings": 16,
            "projection_size": 48,
            "bos_token_id": 49406,
        },
        "vision_config": {"hidden_size": 48, "num_attention_heads": 4, "image_size": 384},
    }
    found = read(tmp_path, values)
    assert found.text == SiglipTextConfig(
        vocab_size=256000,
        length=16,
        width=24,
        depth=5,
        num_heads=3,
        mlp_width=7,
        norm_eps=1e-5,
        out_width=48,
    )
    assert (found.vision.width, found.vision.num_heads, found.vision.image_size) == (48, 4, 384)


@pytest.mark.parametrize(
    ("tower", "field", "value", "said"),
    [
        (None, "model_type", "paligemma", r"model_type is 'paligemma'; expected 'siglip'"),
        (None, "model_type", "siglip2", "model_type is 'siglip2'"),
        (None, "quantization_config", {"bits": 4}, "unquantised"),
        (None, "text_config", [], "text_config is .*expected an object"),
        ("text_config", "model_type", "clip_text_model", r"text_config\.model_type"),
        ("text_config", "hidden_act", "gelu", r"text_config\.hidden_act is 'gelu'"),
        ("text_config", "num_attention_heads", 5, "a divisor of hidden_size, 768"),
        ("text_config", "hidden_size", 384, r"projection_size is missing; expected 768"),
        ("text_config", "projection_size", 512, r"projection_size is 512; expected 768"),
        ("text_config", "max_position_embeddings", 0, "a whole number from 1"),
        ("vision_config", "vision_use_head", False, "vision_use_head is False"),
        ("vision_config", "num_channels", 1, "num_channels is 1"),
        ("vision_config", "image_size", 8, "at least patch_size, 16"),
        ("vision_config", "image_size", [224, 224], "image_size"),
        ("vision_config", "num_hidden_layers", True, "num_hidden_layers is True"),
        ("vision_config", "layer_norm_eps", -1, "a number above 0"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, tower: str | None, field: str, value: object, said: str
) -> None:
    values = json.loads(json.dumps(BASE))
    (values if tower is None else values[tower])[field] = value
    with pytest.raises(ConfigError, match=said) as caught:
        read(tmp_path, values)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))


@pytest.mark.parametrize("out_width", [None, 24])
def test_what_is_written_is_read(tmp_path: Path, out_width: int | None) -> None:
    text = tiny.TEXT if out_width is None else replace(tiny.TEXT, width=16, out_width=24)
    config = SiglipPairConfig(vision=replace(tiny.VISION, norm_eps=3e-6), text=text)
    values = pair_config_values(config, eos=1, pad=0, dtype="bfloat16")
    assert read(tmp_path, values) == config
    assert values["text_config"]["pad_token_id"] == 0
    assert values["torch_dtype"] == "bfloat16"
