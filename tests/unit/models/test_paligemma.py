"""The whole network: cached equals uncached, whatever the batch holds."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from tests import tiny
from torch import Tensor

from heliodor.models.paligemma import PaliGemma
from heliodor.nn.cache import KVCache

PROMPTS = [[2, 9, 31, 7, 7, 3], [2, 3], [2, 40, 11, 3]]
SUFFIX = torch.tensor([[8, 5, 30, 12, 44, 8], [20, 21, 22, 23, 24, 25], [6, 6, 6, 1, 9, 2]])
CLOSE = 3e-6  # a few float32 roundings through three layers


@dataclass(frozen=True)
class Batch:
    """Prompts left-padded, each row with its own number of pictures."""

    tokens: Tensor
    valid: Tensor
    features: Tensor | None
    feature_valid: Tensor | None
    rows: list[Tensor | None]  # features of each row alone, [1 M W]


def make_batch(model: PaliGemma, images: list[int]) -> Batch:
    longest = max(map(len, PROMPTS))
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in PROMPTS])
    valid = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in PROMPTS])
    per_image, most = model.config.vision.num_tokens, max(images)
    if most == 0:
        return Batch(tokens, valid, None, None, [None] * len(PROMPTS))
    with torch.no_grad():
        encoded = model.encode_images(tiny.pixels(sum(images), model.config.vision, seed=5))
    features = torch.full((3, most * per_image, encoded.shape[2]), 7.0)  # padding that would show
    feature_valid = torch.zeros(3, most * per_image, dtype=torch.bool)
    rows: list[Tensor | None] = []
    for row, group in enumerate(encoded.split(images)):
        filled = group.flatten(0, 1)
        features[row, : len(filled)], feature_valid[row, : len(filled)] = filled, True
        rows.append(filled[None] if len(filled) else None)
    full = bool(feature_valid.all())
    return Batch(tokens, valid, features, None if full else feature_valid, rows)


@torch.no_grad()
def uncached(model: PaliGemma, batch: Batch, row: int, suffix: int) -> Tensor:
    """Logits after the prompt and after each of the first ``suffix`` tokens, [1+suffix V]."""
    prompt = PROMPTS[row]
    tokens = torch.tensor([prompt + SUFFIX[row, :suffix].tolist()])
    logits = model(tokens, batch.rows[row], torch.tensor([len(prompt)]))
    return logits[0, len(prompt) - 1 :]


def prefill(model: PaliGemma, batch: Batch) -> tuple[Tensor, KVCache]:
    return model.prefill(batch.tokens, batch.features, batch.valid, batch.feature_valid)


IMAGES = [[1, 1, 1], [2, 2, 2], [0, 0, 0], [1, 3, 2], [0, 2, 1]]


@pytest.mark.parametrize("images", IMAGES, ids=str)
@pytest.mark.parametrize(("heads", "groups"), [(4, 1), (4, 2), (4, 4)])
@torch.no_grad()
def test_prefill_and_steps_equal_one_forward_pass(
    heads: int, groups: int, images: list[int]
) -> None:
    language = replace(tiny.LANGUAGE, num_heads=heads, num_kv_heads=groups)
    model = tiny.paligemma(language=language)
    batch = make_batch(model, images)
    logits, cache = prefill(model, batch)
    found = [logits] + [model.step(SUFFIX[:, place], cache) for place in range(6)]
    for row in range(3):
        expected = uncached(model, batch, row, 6)
        assert tiny.relative_error(torch.stack([x[row] for x in found]), expected) < CLOSE


@torch.no_grad()
def test_long_answers_outgrow_the_first_block_of_slots() -> None:
    model = tiny.paligemma()
    batch = make_batch(model, [1, 0, 2])
    suffix = torch.randint(3, 45, (3, 150), generator=torch.Generator().manual_seed(1))
    logits, cache = prefill(model, batch)
    found = [logits] + [model.step(suffix[:, place], cache) for place in range(150)]
    for row, prompt in enumerate(PROMPTS):
        tokens = torch.tensor([prompt + suffix[row].tolist()])
        whole = model(tokens, batch.rows[row], torch.tensor([len(prompt)]))[0, len(prompt) - 1 :]
        assert tiny.relative_error(torch.stack([x[row] for x in found]), whole) < 2e-5


@torch.no_grad()
def test_reserved_room_changes_no_logit() -> None:
    model = tiny.paligemma()
    batch = make_batch(model, [1, 0, 2])
    _, plain = prefill(model, batch)
    _, roomy = prefill(model, batch)
    roomy.reserve(3)
    for place in range(5):  # two more than were reserved
        token = SUFFIX[:, place]
        assert torch.equal(model.step(token, roomy), model.step(token, plain))


@torch.no_grad()
def test_selected_rows_go_on_as_if_they_had_always_been_alone() -> None:
    model = tiny.paligemma()
    batch = make_batch(model, [1, 3, 2])
    _, cache = prefill(model, batch)
    model.step(SUFFIX[:, 0], cache)
    order = [2, 0, 0, 1]
    chosen = cache.select(torch.tensor(order))
    found = model.step(SUFFIX[order, 1], chosen)
    for place, row in enumerate(order):
        expected = uncached(model, batch, row, 2)[-1]
        assert tiny.relative_error(found[place], expected) < CLOSE
    again = model.step(SUFFIX[:, 1], cache)  # the cache it was taken from is untouched
    assert tiny.relative_error(again[1], uncached(model, batch, 1, 2)[-1]) < CLOSE


@torch.no_grad()
def test_padding_behind_a_row_changes_nothing_before_it() -> None:
    model = tiny.paligemma()
    batch = make_batch(model, [1, 1, 1])
    texts = [p + SUFFIX[row, :4].tolist() for row, p in enumerate(PROMPTS)]
    longest = max(map(len, texts))
    tokens = torch.tensor([t + [0] * (longest - len(t)) for t in texts])
    together = model(tokens, batch.features, torch.tensor([len(p) for p in PROMPTS]))
    for row, prompt in enumerate(PROMPTS):
        found = together[row, len(prompt) - 1 : len(texts[row])]
        assert tiny.relative_error(found, uncached(model, batch, row, 4)) < CLOSE


@torch.no_grad()
def test_image_prompt_and_newline_see_each_other_and_the_suffix_looks_back_alone() -> None:
    model = tiny.paligemma()
    features = make_batch(model, [1, 1, 1]).features
    assert features is not None
    features = features[:1]
    tokens, prefix = torch.tensor([[2, 9, 3, 8, 5, 30]]), torch.tensor([3])
    before = model.hidden(tokens, features, prefix)

    def moved(place: int) -> list[int]:
        changed = tokens.clone()
        changed[0, place] = 17
        far = (model.hidden(changed, features, prefix) - before).abs().amax(2)[0] > 1e-4
        return far.nonzero().flatten().tolist()

    assert moved(2) == [0, 1, 2, 3, 4, 5]  # the newline reaches <bos>
    assert moved(3) == [3, 4, 5]
    assert moved(4) == [4, 5]
    assert moved(5) == [5]
    shifted = features.clone()
    shifted[:, -1] += 1.0
    far = (model.hidden(tokens, shifted, prefix) - before).abs().amax(2)[0]
    assert float(far.min()) > 1e-4


@torch.no_grad()
def test_image_tokens_enter_unscaled_and_in_front() -> None:
    model = tiny.paligemma()
    features = torch.ones(1, 4, 32)
    joined = model.join(features, torch.tensor([[2, 3]]))
    assert joined.shape == (1, 6, 32)
    assert torch.equal(joined[:, :4], features)
    assert torch.equal(joined[:, 4:], model.language.embed(torch.tensor([[2, 3]])))


@torch.no_grad()
def test_image_tokens_are_the_projected_tower() -> None:
    model = tiny.paligemma()
    pixels = tiny.pixels(2)
    tower = model.vision(pixels)
    expected = tower @ model.projector.weight.T + model.projector.bias
    found = model.encode_images(pixels)
    assert found.shape == (2, 16, 32)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_order_of_pictures_matters() -> None:
    model = tiny.paligemma()
    one, other = model.encode_images(tiny.pixels(2))
    prompt, prefix = torch.tensor([PROMPTS[0]]), torch.tensor([6])
    forth = model(prompt, torch.cat((one, other))[None], prefix)
    back = model(prompt, torch.cat((other, one))[None], prefix)
    assert tiny.relative_error(forth, back) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_narrow_weights_give_what_float32_gives_on_them(dtype: torch.dtype) -> None:
    narrow = tiny.paligemma().to(dtype)
    wide = copy.deepcopy(narrow).float()
    batch = make_batch(wide, [1, 3, 0])
    assert torch.equal(narrow.encode_images(tiny.pixels(2)), wide.encode_images(tiny.pixels(2)))
    found, narrow_cache = prefill(narrow, batch)
    expected, wide_cache = prefill(wide, batch)
    assert found.dtype == torch.float32
    # the same products, but a matrix library may order its sums by where a matrix lies in memory
    assert tiny.relative_error(found, expected) < 1e-6
    step = SUFFIX[:, 0]
    found, expected = narrow.step(step, narrow_cache), wide.step(step, wide_cache)
    assert tiny.relative_error(found, expected) < 1e-6
    exact = tiny.paligemma()
    first, _ = prefill(exact, batch)
    assert tiny.relative_error(first, expected) > 1e-4, "rounding the weights was to show"


@pytest.mark.parametrize("rows", [(3, 9), torch.tensor([40, 2, 2])], ids=["range", "ids"])
@torch.no_grad()
def test_logits_of_some_rows_are_those_of_all(rows: tuple[int, int] | Tensor) -> None:
    model = tiny.paligemma()
    batch = make_batch(model, [1, 1, 1])
    chosen = slice(*rows) if isinstance(rows, tuple) else rows
    whole, cache = prefill(model, batch)
    some, other = model.prefill(batch.tokens, batch.features, batch.valid, rows=rows)
    assert tiny.relative_error(some, whole[:, chosen]) < 1e-6
    found = model.step(SUFFIX[:, 0], other, rows)
    assert tiny.relative_error(found, model.step(SUFFIX[:, 0], cache)[:, chosen]) < 1e-6
