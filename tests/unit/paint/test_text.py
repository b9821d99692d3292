"""Prompts as features: against transformers' hidden states, masks, and what is cut."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from tests.tiny import gemma, tokenizer
from tests.unit.paint.small import encoder

from heliodor.errors import ConfigError, PromptError
from heliodor.models.gemma import GemmaConfig
from heliodor.paint.text import (
    PromptCutWarning,
    PromptEncoder,
    TextFeatures,
    check_prompt,
    join_features,
)

PROMPTS = ["a red apple left of a blue car", "Ein roter APFEL!", "蓝色汽车左边的红苹果", "犬", ""]


def hidden_states(texts: list[str]) -> list[torch.Tensor]:
    """transformers' hidden_states[-2], prompt by prompt, from the same weights."""
    from transformers import GemmaConfig as TheirConfig
    from transformers import GemmaModel

    ours = encoder().model
    config = ours.config
    theirs: Any = GemmaModel(
        TheirConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.mlp_width,
            rms_norm_eps=config.norm_eps,
        )
    ).eval()
    from heliodor.checkpoints.keymap import GEMMA

    state = {GEMMA.to_theirs(name): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(state)
    words = tokenizer()
    rows = [torch.tensor([[words.bos, *words.encode(text)]]) for text in texts]
    with torch.no_grad():
        return [theirs(row, output_hidden_states=True).hidden_states[-2][0] for row in rows]


def test_features_are_transformers_last_layer_but_one():
    for found, wanted in zip(encoder().encode(PROMPTS), hidden_states(PROMPTS), strict=True):
        assert found.states.shape == wanted.shape
        assert float((found.states - wanted).abs().max() / wanted.abs().max()) <= 1e-5


def test_a_prompt_is_read_as_it_was_typed():
    texts = ["A Red  apple ", "a red apple", "红苹果"]
    features = encoder().encode(texts)
    assert [each.text for each in features] == texts
    ids = [encoder().ids(text)[0] for text in texts]
    assert ids[0] != ids[1]
    assert [tokenizer().decode(row[1:]) for row in ids] == texts


def test_features_do_not_depend_on_their_neighbours():
    together = encoder().encode(PROMPTS)
    for text, found in zip(PROMPTS, together, strict=True):
        (alone,) = encoder().encode([text])
        assert torch.allclose(found.states, alone.states, atol=1e-5)


def test_equal_prompts_are_read_once():
    first, second, third = encoder().encode(["dog", "cat", "dog"])
    assert first is third
    assert first is not second


def test_an_empty_negative_prompt_is_bos_alone():
    (found,) = encoder().encode([""])
    assert found.states.shape == (1, 32)
    assert found.cut == ""


def test_every_row_has_its_own_mask():
    rows = [TextFeatures(text="x", states=torch.full((n, 2), float(n))) for n in (3, 1, 2)]
    states, valid = join_features(rows, "cpu")
    assert valid.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert states[:, :, 0].tolist() == [[3, 3, 3], [1, 0, 0], [2, 2, 0]]


def test_a_prompt_beyond_the_limit_is_cut_and_said():
    short = PromptEncoder(encoder().model, tokenizer(), limit=4)
    text = "one two three four five"
    ids = tokenizer().encode(text)
    with pytest.warns(PromptCutWarning, match="longer than 4 tokens; left out at its end") as told:
        (found,) = short.encode([text])
    assert found.cut == tokenizer().decode(ids[3:])
    assert found.cut
    assert repr(found.cut) in str(told[0].message)
    assert found.states.shape[0] == 4
    (whole,) = encoder().encode([text])
    assert torch.allclose(found.states, whole.states[:4], atol=1e-5)  # it reads one way


def test_a_prompt_at_the_limit_is_not_cut():
    text = "one two three"
    exact = PromptEncoder(encoder().model, tokenizer(), limit=1 + len(tokenizer().encode(text)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert exact.encode([text])[0].cut == ""


def test_a_control_token_in_a_prompt_is_text():
    ids = encoder().ids("<bos> <pad>")[0]
    assert ids.count(tokenizer().bos) == 1
    assert tokenizer().pad not in ids


def test_an_encoder_with_fewer_rows_than_tokens_is_refused():
    config = GemmaConfig(
        vocab_size=100, width=32, depth=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=8
    )
    with pytest.raises(ConfigError, match="they do not belong together"):
        PromptEncoder(gemma(config), tokenizer())


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_an_empty_prompt_is_refused(text):
    with pytest.raises(PromptError, match="the prompt is empty"):
        check_prompt(text)
    assert check_prompt(text, empty=True) == text


@pytest.mark.parametrize("text", [None, 7, b"dog", ["dog"]])
def test_a_prompt_is_a_string(text):
    with pytest.raises(PromptError, match="must be a string"):
        check_prompt(text)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(PromptError, match="surrogate"):
        encoder().encode(["dog \ud83d"])
