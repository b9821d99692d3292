"""config.json: what published files say, what they leave out, and what contradicts itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heliodor.checkpoints.config import config_values, read_config
from heliodor.errors import ConfigError, FileFormatError
from heliodor.models.presets import PALIGEMMA_3B_224, PALIGEMMA_3B_448, tiny

SPECIAL = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}


def published() -> dict[str, Any]:
    """The fields of google/paligemma-3b-pt-224's config.json."""
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "bos_token_id": 2,
        "eos_token_id": 1,
        "hidden_size": 2048,
        "ignore_index": -100,
        "image_token_index": 257152,
        "model_type": "paligemma",
        "pad_token_id": 0,
        "projection_dim": 2048,
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "model_type": "gemma",
            "num_attention_heads": 8,
            "num_hidden_layers": 18,
            "num_image_tokens": 256,
            "num_key_value_heads": 1,
            "torch_dtype": "float32",
            "vocab_size": 257216,
        },
        "torch_dtype": "float32",
        "vision_config": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "num_image_tokens": 256,
            "patch_size": 14,
            "projection_dim": 2048,
            "projector_hidden_act": "gelu_fast",
            "vision_use_head": False,
        },
        "vocab_size": 257216,
    }


def write(folder: Path, values: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def changed(path: str, value: Any) -> dict[str, Any]:
    """The published fields with one of them set, or removed if the value is ``...``."""
    values = published()
    *sections, field = path.split(".")
    inner = values
    for section in sections:
        inner = inner[section]
    if value is ...:
        del inner[field]
    else:
        inner[field] = value
    return values


def test_the_published_3b_file_gives_the_3b_preset(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, published())) == PALIGEMMA_3B_224


def test_a_published_448_file_gives_the_448_preset(tmp_path: Path) -> None:
    values = published()
    values["vision_config"] |= {"image_size": 448, "num_image_tokens": 1024}
    values["text_config"] |= {"num_image_tokens": 1024}
    assert read_config(write(tmp_path, values)) == PALIGEMMA_3B_448


@pytest.mark.parametrize("config", [PALIGEMMA_3B_448, tiny(6000, 5999)])
def test_what_is_written_is_read_back(tmp_path: Path, config: Any) -> None:
    values = config_values(
        config, image_token=config.image_token, special=SPECIAL, dtype="bfloat16"
    )
    assert read_config(write(tmp_path, values)) == config
    assert values["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("path", "value", "attribute", "expected"),
    [
        ("text_config.head_dim", 64, "head_dim", 64),
        ("text_config.rope_theta", 5000, "rope_base", 5000.0),
        (
            "text_config.rope_parameters",
            {"rope_theta": 7e3, "rope_type": "default"},
            "rope_base",
            7e3,
        ),
        ("text_config.rms_norm_eps", 1e-5, "norm_eps", 1e-5),
        ("text_config.max_position_embeddings", 512, "context", 512),
        ("text_config.hidden_act", "gelu", "width", 2048),
        ("text_config.hidden_activation", None, "width", 2048),
        ("tie_word_embeddings", False, "width", 2048),
    ],
)
def test_fields_that_published_files_leave_out_are_read_where_given(
    tmp_path: Path, path: str, value: Any, attribute: str, expected: Any
) -> None:
    config = read_config(write(tmp_path, changed(path, value)))
    assert getattr(config.language, attribute) == expected


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model_type", "llava", "model_type is 'llava'; expected 'paligemma'"),
        ("model_type", ..., "model_type is missing"),
        ("text_config", ..., "text_config is missing; expected an object"),
        ("vision_config", [1], r"vision_config is \[1\]; expected an object"),
        (
            "text_config.model_type",
            "llama",
            r"text_config.model_type is 'llama'; expected 'gemma' or 'gemma2'",
        ),
        ("vision_config.model_type", "clip_vision_model", "'siglip_vision_model'"),
        (
            "vision_config.intermediate_size",
            ...,
            "vision_config.intermediate_size is missing.*4304",
        ),
        ("vision_config.patch_size", ..., "vision_config.patch_size is missing"),
        ("vision_config.image_size", 8, "image_size is 8; expected at least patch_size, 14"),
        ("vision_config.image_size", [224, 224], r"image_size is \[224, 224\]; expected a whole"),
        ("vision_config.image_size", 448, "num_image_tokens is 256; expected 1024: 448 pixels"),
        ("vision_config.num_image_tokens", 1024, "num_image_tokens is 1024; expected 256"),
        ("vision_config.num_attention_heads", 7, "a divisor of hidden_size, 1152"),
        ("vision_config.hidden_act", "gelu", "vision_config.hidden_act is 'gelu'"),
        ("vision_config.num_channels", 1, "num_channels is 1; expected 3"),
        ("vision_config.projection_dim", 1024, "projection_dim is 1024; expected 2048"),
        ("vision_config.layer_norm_eps", 0, "layer_norm_eps is 0; expected a number above 0"),
        ("text_config.vocab_size", ..., "text_config.vocab_size is missing"),
        ("text_config.vocab_size", "257216", "vocab_size is '257216'; expected a whole number"),
        ("text_config.vocab_size", True, "vocab_size is True; expected a whole number"),
        ("text_config.num_hidden_layers", 10**9, "expected a whole number from 1 to 1024"),
        ("text_config.hidden_size", -1, "hidden_size is -1"),
        ("text_config.num_key_value_heads", 3, "a divisor of num_attention_heads, 8"),
        ("text_config.num_key_value_heads", ..., "num_key_value_heads is missing"),
        ("text_config.head_dim", 7, "head_dim is 7; expected an even number"),
        ("text_config.hidden_act", "silu", "hidden_act is 'silu'"),
        ("text_config.attention_bias", True, "attention_bias is True"),
        ("text_config.use_bidirectional_attention", False, "read in both directions"),
        ("text_config.rope_scaling", {"type": "linear"}, "rope_scaling"),
        ("text_config.rope_parameters", {"rope_type": "yarn"}, "rope_type is 'yarn'"),
        ("projection_dim", 1024, "projection_dim is 1024; expected 2048"),
        ("image_token_index", ..., "image_token_index is missing; expected the id of <image>"),
        ("image_token_index", -5, "image_token_index is -5"),
        ("quantization_config", {"load_in_8bit": True}, "load the unquantised checkpoint"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(
    tmp_path: Path, path: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(write(tmp_path, changed(path, value)))
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufeff{}", '{"a": NaN}', '{"a": 1, "a": 2}'])
def test_what_is_not_a_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FileFormatError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_file_too_long_for_a_config_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliodor.checkpoints.files.MAX_JSON_BYTES", 100)
    with pytest.raises(FileFormatError, match="at most 100"):
        read_config(write(tmp_path, published()))


def test_a_config_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_config(tmp_path)
