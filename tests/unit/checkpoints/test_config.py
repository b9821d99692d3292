"""config.json: what published files say, what they leave out, and what contradicts itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliodor.checkpoints.config import (
    Section,
    config_values,
    language_values,
    read_config,
    read_language,
)
from heliodor.errors import ConfigError, FileFormatError
from heliodor.models.gemma import GemmaConfig
from heliodor.models.presets import (
    GEMMA2_2B,
    GEMMA2_27B,
    PALIGEMMA_3B_224,
    PALIGEMMA_3B_448,
    PUBLISHED,
    tiny,
)

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


def second(size: str, pixels: int) -> dict[str, Any]:
    """The fields of google/paligemma2-{size}-pt-{pixels}'s config.json.

    What was a default of Gemma2Config when they were written is left out, and ``hidden_size``
    outside ``text_config`` is 2048 in all of them.
    """
    text: dict[str, Any] = {
        "3b": {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26},
        "10b": {"hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42},
        "28b": {"hidden_size": 4608, "intermediate_size": 36864, "num_hidden_layers": 46},
    }[size]
    text |= {
        "3b": {"num_key_value_heads": 4, "query_pre_attn_scalar": 256},
        "10b": {"num_key_value_heads": 8, "num_attention_heads": 16},
        "28b": {
            "num_key_value_heads": 16,
            "num_attention_heads": 32,
            "head_dim": 128,
            "query_pre_attn_scalar": 144,
        },
    }[size]
    tokens = (pixels // 14) ** 2
    values = published()
    values["vision_config"] |= {
        "image_size": pixels,
        "num_image_tokens": tokens,
        "num_positions": 256,
        "projection_dim": text["hidden_size"],
    }
    values |= {
        "_vocab_size": 257152,
        "num_hidden_layers": text["num_hidden_layers"],
        "projection_dim": text["hidden_size"],
        "torch_dtype": "bfloat16",
        "text_config": text
        | {
            "architectures": ["Gemma2ForCausalLM"],
            "attn_logit_softcapping": 50.0,
            "cache_implementation": "hybrid",
            "eos_token_id": [1, 107],
            "final_logit_softcapping": 30.0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "model_type": "gemma2",
            "num_image_tokens": tokens,
            "sliding_window": 4096,
            "torch_dtype": "bfloat16",
            "vocab_size": 257216,
        },
    }
    return values


@pytest.mark.parametrize("pixels", [224, 448, 896])
@pytest.mark.parametrize("size", ["3b", "10b", "28b"])
def test_published_files_of_the_second_generation_give_their_presets(
    tmp_path: Path, size: str, pixels: int
) -> None:
    values = second(size, pixels)
    assert values["hidden_size"] == 2048
    expected = PUBLISHED[f"google/paligemma2-{size}-pt-{pixels}"]
    assert read_config(write(tmp_path, values)) == expected


@pytest.mark.parametrize(
    ("field", "value", "attribute", "expected"),
    [
        ("num_attention_heads", ..., "num_heads", 8),
        ("query_pre_attn_scalar", ..., "query_scale", 1 / 16),
        ("query_pre_attn_scalar", 64.0, "query_scale", 1 / 8),
        ("attn_logit_softcapping", ..., "attention_cap", 50.0),
        ("attn_logit_softcapping", None, "attention_cap", None),
        ("attn_logit_softcapping", 20, "attention_cap", 20.0),
        ("final_logit_softcapping", ..., "final_cap", 30.0),
        ("final_logit_softcapping", None, "final_cap", None),
        ("sliding_window", ..., "window", 4096),
        ("sliding_window", None, "window", None),
        ("sliding_window", 512, "window", 512),
        ("layer_types", ["sliding_attention", "full_attention"] * 13, "window", 4096),
        ("layer_types", ["full_attention"] * 26, "window", None),
    ],
)
def test_what_the_second_generation_leaves_out_or_turns_off(
    tmp_path: Path, field: str, value: Any, attribute: str, expected: Any
) -> None:
    values = second("3b", 224)
    values["text_config"].pop(field, None)
    if value is not ...:
        values["text_config"][field] = value
    config = read_config(write(tmp_path, values))
    assert getattr(config.language, attribute) == expected


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("attn_logit_softcapping", 0, "attn_logit_softcapping is 0; expected a number above 0"),
        ("final_logit_softcapping", "30", "final_logit_softcapping is '30'"),
        ("query_pre_attn_scalar", -1, "query_pre_attn_scalar is -1"),
        ("sliding_window", 0, "sliding_window is 0; expected a whole number"),
        ("layer_types", ["full_attention", "sliding_attention"] * 13, "layer_types is .* by turns"),
        ("layer_types", ["sliding_attention"] * 26, "layer_types is .* by turns"),
        ("num_attention_heads", 6, "a divisor of num_attention_heads, 6"),
        ("hidden_size", ..., "text_config.hidden_size is missing"),
    ],
)
def test_a_wrong_field_of_the_second_generation_is_named(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    values = second("3b", 224)
    values["text_config"].pop(field, None)
    if value is not ...:
        values["text_config"][field] = value
    with pytest.raises(ConfigError, match=message):
        read_config(write(tmp_path, values))


@pytest.mark.parametrize(
    "config",
    [
        GEMMA2_27B,
        replace(GEMMA2_2B, attention_cap=None, final_cap=None),
        replace(GEMMA2_2B, window=None),
        replace(GEMMA2_2B, query_scale=0.3),
        GemmaConfig(context=100),
    ],
)
def test_a_decoder_is_read_as_it_is_written(config: GemmaConfig) -> None:
    values = language_values(config, dtype="float32", special={**SPECIAL, "eos_token_id": [1, 107]})
    assert values["eos_token_id"] == [1, 107]
    found = read_language(Section(json.loads(json.dumps(values)), ""))
    if config.query_scale is not None:
        assert found.query_scale == pytest.approx(config.query_scale, rel=1e-12)
        found = replace(found, query_scale=config.query_scale)
    assert found == config


@pytest.mark.parametrize(
    "changes", [{"attention_cap": 50.0}, {"final_cap": 30.0}, {"window": 8}, {"query_scale": 0.1}]
)
def test_half_a_gemma_2_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="neither 'gemma' nor 'gemma2'"):
        language_values(GemmaConfig(**changes), dtype="float32", special=SPECIAL)


def test_the_scalar_of_a_published_size_is_written_as_the_whole_number_it_is() -> None:
    values = language_values(GEMMA2_27B, dtype="bfloat16", special=SPECIAL)
    assert type(values["query_pre_attn_scalar"]) is int
    assert values["query_pre_attn_scalar"] == 144


@pytest.mark.parametrize(
    "config",
    [
        PALIGEMMA_3B_448,
        tiny(6000, 5999),
        *(PUBLISHED[name] for name in PUBLISHED if "-pt-" in name),
    ],
)
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
