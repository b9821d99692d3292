"""Logits and decoding of big_vision's own code, as scripts/golden/record_bigvision.py has them.

Four decoders: Gemma 1 ("first"), one whose query and key-value heads are as many ("joint"), Gemma 2
("second") and Gemma 2 with the 27B's scale of queries ("wide"). Caps bend all logits of the last
two, and the soft cap on attention as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import relative_error

from heliodor.checkpoints import bigvision
from heliodor.models.paligemma import PaliGemma

GOLDEN = Path(__file__).parents[2] / "golden/bigvision.npz"
CASES = ("first", "joint", "second", "wide")
CLOSE = 1e-5


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    with np.load(GOLDEN) as file:
        start = f"{request.param}/"
        arrays = {n.removeprefix(start): file[n] for n in file.files if n.startswith(start)}
    return request.param, arrays


def weights(arrays: dict[str, Any]) -> dict[str, Any]:
    return {n: a.astype(np.float32) for n, a in arrays.items() if n.startswith("params/")}


@pytest.fixture(scope="module")
def path(case: tuple[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("bigvision") / "x.npz"
    np.savez(found, allow_pickle=False, **weights(case[1]))
    return found


def forward(model: PaliGemma, arrays: dict[str, Any]) -> torch.Tensor:
    pixels = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2)
    text, prompt = torch.from_numpy(arrays["text"]).long(), torch.from_numpy(arrays["prompt"])
    with torch.no_grad():
        return model(text, model.encode_images(pixels), prompt)


def real(arrays: dict[str, Any]) -> torch.Tensor:
    """bool [B T]: positions that are not padding."""
    length = torch.from_numpy(arrays["length"])
    return torch.arange(arrays["text"].shape[1]) < length[:, None]


def test_the_configuration_is_found_from_the_shapes(case: Any, path: Path) -> None:
    name, _ = case
    config = bigvision.read_config(path)
    vision, language = config.vision, config.language
    assert (vision.image_size, vision.patch_size, vision.width) == (16, 4, 16)
    assert (vision.depth, vision.num_heads, vision.mlp_width) == (2, 2, 24)
    assert (language.vocab_size, language.width, language.mlp_width) == (48, 32, 40)
    heads = {"first": (4, 1, 8), "joint": (2, 2, 8), "second": (4, 2, 8), "wide": (2, 1, 128)}
    assert (language.num_heads, language.num_kv_heads, language.head_dim) == heads[name]
    assert language.is_gemma2 == (name in ("second", "wide"))
    caps = (50.0, 30.0) if language.is_gemma2 else (None, None)
    assert (language.attention_cap, language.final_cap) == caps
    scale = {"second": 8**-0.5, "wide": 16**-0.5}  # the 27B: width / heads
    assert language.query_scale == scale.get(name)
    assert config.image_token is None


def test_logits_of_the_training_forward(case: Any, path: Path) -> None:
    _, arrays = case
    model = bigvision.load(path, final_cap=False)
    expected = torch.from_numpy(arrays["logits"])
    found, valid = forward(model, arrays), real(arrays)
    assert relative_error(found[valid], expected[valid]) < CLOSE


def test_the_soft_cap_that_big_vision_leaves_out_in_training(case: Any, path: Path) -> None:
    name, arrays = case
    model = bigvision.load(path)
    uncapped = torch.from_numpy(arrays["logits"])
    capped = 30 * torch.tanh(uncapped / 30) if name in ("second", "wide") else uncapped
    found, valid = forward(model, arrays), real(arrays)
    assert relative_error(found[valid], capped[valid]) < CLOSE


def test_greedy_decoding_with_its_cap_from_the_second_token_on(case: Any, path: Path) -> None:
    """Prompts stand right-aligned, as there; prefill's logits have no cap, the others have one."""
    _, arrays = case
    first, later = bigvision.load(path, final_cap=False), bigvision.load(path)
    prompt, text = arrays["prompt"], arrays["text"]
    longest = int(prompt.max())
    tokens = torch.zeros(len(prompt), longest, dtype=torch.long)
    for row, count in enumerate(prompt):
        tokens[row, longest - count :] = torch.from_numpy(text[row, :count])
    valid = torch.arange(longest) >= longest - torch.from_numpy(prompt)[:, None]
    pixels = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2)
    steps = torch.from_numpy(arrays["steps"])
    with torch.no_grad():
        logits, cache = first.prefill(tokens, first.encode_images(pixels), valid)
        written = []
        for index in range(steps.shape[1]):
            assert relative_error(logits, steps[:, index]) < CLOSE
            written.append(logits.argmax(-1))
            logits = later.step(written[-1], cache)
    assert torch.stack(written, dim=1).tolist() == arrays["tokens"].tolist()


def test_saving_gives_back_what_big_vision_read(case: Any, path: Path, tmp_path: Path) -> None:
    _, arrays = case
    bigvision.save(bigvision.load(path), tmp_path / "y.npz")
    expected = weights(arrays)
    with np.load(tmp_path / "y.npz") as file:
        assert set(file.files) == expected.keys()
        for name in file.files:
            np.testing.assert_array_equal(file[name], expected[name])


@pytest.mark.parametrize("change", ["turned heads", "keys for values", "gate for up", "no norm"])
def test_the_recorded_logits_notice_a_wrong_reading(case: Any, path: Path, change: str) -> None:
    """What the most likely mistakes would do to logits is far beyond the tolerance."""
    _, arrays = case
    model = bigvision.load(path, final_cap=False)
    layer: Any = model.language.layers[0]
    attention = layer.attention
    with torch.no_grad():
        if change == "turned heads":
            heads = attention.q.weight.view(attention.num_heads, -1, 32)
            attention.q.weight.copy_(heads.transpose(0, 1).reshape(-1, 32))
        elif change == "keys for values":
            attention.k.weight, attention.v.weight = attention.v.weight, attention.k.weight
        elif change == "gate for up":
            layer.mlp.gate.weight, layer.mlp.up.weight = layer.mlp.up.weight, layer.mlp.gate.weight
        else:
            layer.pre_mlp_norm.scale.zero_()
    expected = torch.from_numpy(arrays["logits"])
    valid = real(arrays)
    assert relative_error(forward(model, arrays)[valid], expected[valid]) > 100 * CLOSE


@pytest.mark.parametrize("number", ["cap", "scale"])
def test_the_recorded_logits_notice_another_constant(case: Any, path: Path, number: str) -> None:
    name, arrays = case
    model = bigvision.load(path, final_cap=False)
    for layer in model.language.layers:
        attention: Any = layer.attention
        setattr(attention, number, None if number == "cap" else 0.3)
    expected = torch.from_numpy(arrays["logits"])
    valid = real(arrays)
    error = relative_error(forward(model, arrays)[valid], expected[valid])
    assert (error > 100 * CLOSE) == (number == "scale" or name in ("second", "wide"))
