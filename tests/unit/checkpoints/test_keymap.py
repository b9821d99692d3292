"""The key table: both directions, every spelling, and messages that list both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from heliodor.checkpoints.keymap import (
    HUB,
    PALIGEMMA,
    PALIGEMMA2,
    TRANSFORMERS_5,
    Shape,
    decoder_rows,
    paligemma_keys,
)
from heliodor.errors import KeyMismatchError
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.presets import PALIGEMMA_3B_224, PUBLISHED
from heliodor.models.siglip import SiglipVisionConfig

PLACE = Path("folder")
SMALL = PaliGemmaConfig(
    vision=SiglipVisionConfig(
        image_size=8, patch_size=4, width=8, depth=12, num_heads=2, mlp_width=12
    ),
    language=GemmaConfig(
        vocab_size=20, width=12, depth=11, num_heads=2, num_kv_heads=1, head_dim=4, mlp_width=16
    ),
)


def shapes(config: PaliGemmaConfig) -> dict[str, Shape]:
    with torch.device("meta"):
        state = PaliGemma(config).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def hub_shapes(wanted: dict[str, Shape]) -> dict[str, Shape]:
    return {PALIGEMMA.to_theirs(name): shape for name, shape in wanted.items()}


@pytest.mark.parametrize("spelling", [HUB, TRANSFORMERS_5])
def test_every_name_of_the_3b_model_goes_there_and_back(spelling: object) -> None:
    names = list(shapes(PALIGEMMA_3B_224))
    assert len(names) == 603
    assert isinstance(spelling, type(HUB))
    theirs = [PALIGEMMA.to_theirs(name, spelling) for name in names]
    assert len(set(theirs)) == 603
    assert [PALIGEMMA.to_ours(name) for name in theirs] == names


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            "vision_tower.vision_model.embeddings.patch_embedding.weight",
            "vision.patch.weight",
        ),
        ("vision_tower.embeddings.position_embedding.weight", "vision.position"),
        (
            "model.vision_tower.vision_model.encoder.layers.26.mlp.fc1.bias",
            "vision.blocks.26.mlp.up.bias",
        ),
        (
            "model.vision_tower.encoder.layers.3.self_attn.out_proj.weight",
            "vision.blocks.3.attention.out.weight",
        ),
        ("model.multi_modal_projector.linear.bias", "projector.bias"),
        (
            "language_model.model.layers.7.post_attention_layernorm.weight",
            "language.layers.7.pre_mlp_norm.scale",
        ),
        (
            "model.language_model.layers.7.input_layernorm.weight",
            "language.layers.7.pre_attention_norm.scale",
        ),
        ("language_model.embed_tokens.weight", "language.embedding.weight"),
        ("model.language_model.model.norm.weight", "language.norm.scale"),
        ("vision_tower.vision_model.head.probe", None),
        ("language_model.model.layers.07.input_layernorm.weight", None),
        ("language_model.model.layers.1.input_layernorm.bias", None),
        ("language_model.model.norm.weight.x", None),
        ("model.model.language_model.norm.weight", None),
        ("language.norm.scale", None),
    ],
)
def test_names_of_every_release_are_read_and_others_are_not(theirs: str, ours: str | None) -> None:
    assert PALIGEMMA.to_ours(theirs) == ours


@pytest.mark.parametrize(("size", "count"), [("3b", 727), ("10b", 903), ("28b", 947)])
@pytest.mark.parametrize("spelling", [HUB, TRANSFORMERS_5])
def test_every_name_of_the_second_generation_goes_there_and_back(
    spelling: object, size: str, count: int
) -> None:
    config = PUBLISHED[f"google/paligemma2-{size}-pt-224"]
    names = list(shapes(config))
    assert isinstance(spelling, type(HUB))
    theirs = [PALIGEMMA2.to_theirs(name, spelling) for name in names]
    assert len(names) == len(set(theirs)) == count
    assert [PALIGEMMA2.to_ours(name) for name in theirs] == names
    assert paligemma_keys(config) is PALIGEMMA2
    assert paligemma_keys(PALIGEMMA_3B_224) is PALIGEMMA


def test_the_same_name_is_another_norm_in_either_generation() -> None:
    layer = "language_model.model.layers.7."
    first = {
        "input_layernorm.weight": "pre_attention_norm.scale",
        "post_attention_layernorm.weight": "pre_mlp_norm.scale",
        "pre_feedforward_layernorm.weight": None,
        "post_feedforward_layernorm.weight": None,
    }
    second = {
        "input_layernorm.weight": "pre_attention_norm.scale",
        "post_attention_layernorm.weight": "post_attention_norm.scale",
        "pre_feedforward_layernorm.weight": "pre_mlp_norm.scale",
        "post_feedforward_layernorm.weight": "post_mlp_norm.scale",
    }
    for table, names in ((PALIGEMMA, first), (PALIGEMMA2, second)):
        for theirs, ours in names.items():
            expected = None if ours is None else f"language.layers.7.{ours}"
            assert table.to_ours(layer + theirs) == expected


def test_a_file_of_the_other_generation_is_refused() -> None:
    """Its tensors would nearly fit: eleven a layer where nine are wanted."""
    wanted = shapes(SMALL)
    second = shapes(replace(SMALL, language=replace(SMALL.language, sandwich=True)))
    assert len(second) - len(wanted) == 2 * 11
    found = {PALIGEMMA2.to_theirs(name): shape for name, shape in second.items()}
    with pytest.raises(KeyMismatchError, match=r"22 in the file but unknown"):
        PALIGEMMA.match(wanted, found, PLACE)
    with pytest.raises(KeyMismatchError, match=r"22 missing from the file"):
        PALIGEMMA2.match(second, hub_shapes(wanted), PLACE)


def test_rows_of_a_decoder_alone_name_its_generation() -> None:
    first, second = SMALL.language, replace(SMALL.language, sandwich=True)
    assert len(decoder_rows(first)) == 9 + 2  # of a layer; table and last norm
    assert len(decoder_rows(second)) == 11 + 2


def test_a_file_that_fits_is_matched() -> None:
    wanted = shapes(SMALL)
    match = PALIGEMMA.match(wanted, hub_shapes(wanted), PLACE)
    assert match.tied == {}
    assert match.source.keys() == wanted.keys()
    assert match.source["language.norm.scale"] == "language_model.model.norm.weight"


@pytest.mark.parametrize(
    "head", ["lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight"]
)
def test_a_duplicate_of_the_embedding_is_set_apart(head: str) -> None:
    wanted = shapes(SMALL)
    match = PALIGEMMA.match(wanted, hub_shapes(wanted) | {head: (20, 12)}, PLACE)
    assert match.tied == {head: "language.embedding.weight"}


def test_one_message_lists_missing_unknown_doubled_and_wrong() -> None:
    wanted = shapes(SMALL)
    found = hub_shapes(wanted)
    for layer in range(12):
        del found[f"vision_tower.vision_model.encoder.layers.{layer}.mlp.fc1.bias"]
    found["language_model.model.embed_tokens.weight"] = (21, 12)
    found["model.language_model.norm.weight"] = (12,)
    found["extra\ud800"] = (1,)
    found |= {f"odd{chr(97 + i)}": (1,) for i in range(20)}
    with pytest.raises(KeyMismatchError) as caught:
        PALIGEMMA.match(wanted, found, PLACE)
    text = str(caught.value)
    assert "12 missing from the file:" in text
    assert (
        "vision.blocks.#.mlp.up.bias (vision_tower.vision_model.encoder.layers.#.mlp.fc1.bias)"
        "  (# = 0..11, 12 layers)" in text
    )
    assert "21 in the file but unknown:" in text
    assert "extra\\ud800" in text
    assert "... and 9 more kinds" in text
    assert "1 given twice:" in text
    assert "language_model.model.norm.weight and model.language_model.norm.weight" in text
    assert "embed_tokens.weight is [21, 12], the config asks for [20, 12]" in text
    assert len(text) < 2500
    text.encode()


def test_a_head_of_another_shape_is_a_wrong_shape() -> None:
    wanted = shapes(SMALL)
    with pytest.raises(KeyMismatchError, match=r"lm_head.weight is \[19, 12\]"):
        PALIGEMMA.match(wanted, hub_shapes(wanted) | {"lm_head.weight": (19, 12)}, PLACE)


def test_a_tensor_of_ours_without_a_row_is_refused() -> None:
    with pytest.raises(KeyMismatchError, match=r"no row .* names the tensor vision\.x"):
        PALIGEMMA.to_theirs("vision.x")
