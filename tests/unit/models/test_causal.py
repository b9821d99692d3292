"""Who sees whom when a Gemma reads on its own: masks against a plain reading of the rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests import tiny
from torch import Tensor

from heliodor.models.causal import CausalGemma
from heliodor.models.gemma import Gemma, GemmaConfig

SECOND = replace(tiny.LANGUAGE, sandwich=True, attention_cap=2.0, final_cap=3.0, window=3)
LENGTHS = [6, 2, 5]


class Watched(Gemma):
    """A decoder that notes what it was given."""

    def forward(self, x: Tensor, positions: Tensor, mask: Any, *args: Any, **named: Any) -> Tensor:
        self.positions, self.mask = positions, mask
        return super().forward(x, positions, mask, *args, **named)


def watched(config: GemmaConfig) -> Watched:
    return tiny.filled(Watched(config))


def batch(*, behind: bool) -> tuple[Tensor, Tensor]:
    """Ids and which are real, short rows padded behind or in front."""
    longest = max(LENGTHS)
    tokens = torch.randint(3, 48, (len(LENGTHS), longest), generator=torch.manual_seed(0))
    place = torch.arange(longest)
    lengths = torch.tensor(LENGTHS)[:, None]
    valid = place < lengths if behind else place >= longest - lengths
    return tokens.masked_fill(~valid, 0), valid


@pytest.mark.parametrize("config", [tiny.LANGUAGE, SECOND], ids=["gemma", "gemma2"])
@pytest.mark.parametrize("behind", [True, False], ids=["behind", "in front"])
@torch.no_grad()
def test_a_token_sees_what_came_before_it_and_padding_is_never_blind(
    config: GemmaConfig,
    behind: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    model = watched(config)
    tokens, valid = batch(behind=behind)
    run = CausalGemma(model)
    found = run.hidden(tokens, valid) if behind else run.prefill(tokens, valid)[0]
    assert torch.isfinite(found).all()
    mask = model.mask[:, 0].expand(len(LENGTHS), tokens.shape[1], tokens.shape[1])
    for row, query in torch.cartesian_prod(torch.arange(3), torch.arange(6)).tolist():
        sees = mask[row, query].nonzero().flatten().tolist()
        before = [key for key in range(query + 1) if valid[row, key]]
        if valid[row, query]:
            assert sees == before
        else:
            assert set(before) <= set(sees) <= {*before, query}
            if not before or (config.window and behind):
                assert query in sees


@torch.no_grad()
def test_positions_count_from_the_first_real_token() -> None:
    model = watched(tiny.LANGUAGE)
    tokens, valid = batch(behind=False)
    CausalGemma(model).prefill(tokens, valid)
    for row, length in enumerate(LENGTHS):
        assert model.positions[row, -length:].tolist() == list(range(length))


@pytest.mark.parametrize("config", [tiny.LANGUAGE, SECOND], ids=["gemma", "gemma2"])
@torch.no_grad()
def test_fewer_layers_leave_out_the_norm_and_the_rest(config: GemmaConfig) -> None:
    model = tiny.gemma(config)
    tokens, valid = batch(behind=True)
    run = CausalGemma(model)
    assert torch.equal(run.hidden(tokens, valid, depth=0), model.embed(tokens))
    two = run.hidden(tokens, valid, depth=2)
    for name, parameter in model.named_parameters():
        if name.startswith(("layers.2", "norm")):
            parameter.mul_(-3.0)
    assert torch.equal(run.hidden(tokens, valid, depth=2), two)
    all_but_norm = run.hidden(tokens, valid, depth=3)
    assert torch.equal(run.hidden(tokens, valid), model.norm(all_but_norm))
    assert tiny.relative_error(all_but_norm, two) > 1e-2
