from __future__ import annotations

import torch
from torch import nn

from heliodor.bench.roofline import (
    decoder_operations,
    resting_bytes,
    step_bytes,
    vision_operations,
)
from heliodor.bench.sizes import SIZES
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.siglip import SiglipVisionConfig

SMALL = GemmaConfig(
    vocab_size=10, width=4, depth=2, num_heads=2, num_kv_heads=1, head_dim=2, mlp_width=8
)


def test_operations_of_a_small_decoder_counted_by_hand():
    projections = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4  # q, k, v, out
    mlp = 3 * 4 * 8
    layer = 2 * 3 * (projections + mlp) + 2 * (2 * 3 * 3 * 4)  # three positions look at three
    assert decoder_operations(SMALL, 3) == 2 * layer + 2 * 4 * 10


def test_operations_of_the_large_decoder_are_those_that_were_published_with_it():
    """1.06 TOP for 268 positions: 18 layers of 110.1 M weights, and the head once."""
    size = SIZES["3b-224"]
    assert size.prefix == 268
    found = decoder_operations(size.config.language, size.prefix)
    assert abs(found / 1e12 - 1.07) < 0.01


def test_operations_of_a_small_tower_counted_by_hand():
    config = SiglipVisionConfig(
        image_size=4, patch_size=2, width=6, depth=1, num_heads=2, mlp_width=5
    )
    block = 2 * 4 * (4 * 36 + 2 * 30) + 2 * 2 * 4 * 4 * 6
    patches = 2 * 4 * 12 * 6
    assert vision_operations(config, 3) == block + patches + 2 * 4 * 6 * 3


def test_bytes_count_buffers_and_count_a_shared_tensor_once():
    module = nn.Module()
    weight = nn.Parameter(torch.zeros(3, 5))
    module.one = nn.Linear(5, 3, bias=False)
    module.two = nn.Linear(5, 3, bias=False)
    module.one.weight = module.two.weight = weight
    module.register_buffer("codes", torch.zeros(7, dtype=torch.uint8))
    assert resting_bytes(module) == 3 * 5 * 4 + 7


def test_a_step_reads_every_weight_and_what_is_cached():
    model = Gemma(SMALL)
    weights = sum(p.numel() for p in model.parameters())
    assert step_bytes(model, SMALL, 9) == 4 * weights + 2 * 2 * 1 * 2 * 9 * 4
