"""Engine.logits: which token each position predicts, and scoring of given answers."""

from __future__ import annotations

import math

import pytest
import torch
from tests import tiny
from torch import Tensor

from heliodor.errors import InputError, PromptError
from heliodor.generation import ChoiceGrammar
from heliodor.see.engine import Engine
from heliodor.see.vlm import VisionLanguageModel

CLOSE = 2e-4  # of a log-probability
PICTURES = [tiny.picture(1), tiny.picture(4, (9, 70))]


@pytest.fixture(scope="module")
def engine() -> VisionLanguageModel:
    return tiny.vlm()


def real_logprobs(engine: Engine, logits: Tensor) -> Tensor:
    """Log-softmax over the ids that may be an answer."""
    tokenizer = engine.tokenizer
    logits = logits.clone()
    logits[..., engine.model.config.num_predicted :] = -math.inf
    logits[..., [tokenizer.pad, tokenizer.bos]] = -math.inf
    return logits.log_softmax(-1)


def answer_grammar(engine: Engine, text: str) -> ChoiceGrammar:
    return ChoiceGrammar(choices=(tuple(engine.tokenizer.encode(text)),), eos=engine.tokenizer.eos)


def test_logits_at_a_position_predict_the_token_after_it(engine: Engine) -> None:
    features = engine.encode_image(tiny.picture(1))
    words = engine.tokenizer
    prefix, suffix = words.encode_prefix("what is it?"), words.encode_suffix(" a bee")
    found = engine.logits([features], ["what is it?"], [" a bee"])
    assert found.shape == (1, len(prefix) + len(suffix), engine.model.config.language.vocab_size)
    assert found.dtype == torch.float32
    with torch.no_grad():
        for place in range(len(prefix), len(prefix) + len(suffix) + 1):
            so_far = torch.tensor([(prefix + suffix)[:place]])
            expected = engine.model(so_far, features.tokens[None], torch.tensor([len(prefix)]))
            assert tiny.relative_error(found[0, place - 1], expected[0, -1]) < 1e-5


def test_logits_of_prompts_alone_are_those_that_generation_starts_from(engine: Engine) -> None:
    pictures = [tiny.picture(1), tiny.picture(2)]
    found = engine.logits(pictures, ["caption en", "x"])
    lengths = [len(engine.tokenizer.encode_prefix(prompt)) for prompt in ("caption en", "x")]
    assert found.shape[1] == max(lengths)
    rows = engine.generate(pictures, ["caption en", "x"], max_new_tokens=1)
    for row, length in enumerate(lengths):
        chances = real_logprobs(engine, found[row, length - 1])
        assert rows[row].tokens == (int(chances.argmax()),)
        assert rows[row].logprobs == pytest.approx([float(chances.max())], abs=CLOSE)


def test_a_suffix_scores_as_it_does_while_it_is_written(engine: Engine) -> None:
    said = [" a bee", "<loc0012> 蜂 on a flower"]
    prompts = ["what is it?", "x"]
    scored = engine.logits([tiny.picture(1)], prompts, said)
    for row, (prompt, text) in enumerate(zip(prompts, said, strict=True)):
        (found,) = engine.generate(
            [tiny.picture(1)], [prompt], constraint=answer_grammar(engine, text)
        )
        assert found.text == text
        start = len(engine.tokenizer.encode_prefix(prompt))
        suffix = torch.tensor(engine.tokenizer.encode_suffix(text))
        chances = real_logprobs(engine, scored[row, start - 1 : start - 1 + len(suffix)])
        expected = chances.gather(1, suffix[:, None])[:, 0]
        assert found.logprobs == pytest.approx(expected.tolist(), abs=CLOSE)


def test_logits_of_a_row_do_not_depend_on_its_neighbours(engine: Engine) -> None:
    pictures, prompts, said = [PICTURES[0], PICTURES[1]], ["caption en", "x"], [" a", " a bee ; b"]
    together = engine.logits(pictures, prompts, said)
    for row in range(2):
        alone = engine.logits(pictures[row : row + 1], prompts[row : row + 1], said[row : row + 1])
        assert tiny.relative_error(together[row : row + 1, : alone.shape[1]], alone) < 1e-5


def test_logits_refuse_what_does_not_pair_up(engine: Engine) -> None:
    with pytest.raises(InputError, match="1 suffixes came with 2 prompts"):
        engine.logits([None], ["x", "y"], ["a"])
    with pytest.raises(InputError, match="a list of suffixes is expected, not a str"):
        engine.logits([None], ["x"], "a")
    with pytest.raises(PromptError, match="a suffix must be a string, not int"):
        engine.logits([None], ["x"], [5])  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="the same number of pictures for every prompt"):
        engine.logits([None, PICTURES[0]], ["x", "y"])
    with pytest.raises(InputError, match="3 pictures came with 2 prompts"):
        engine.logits([None] * 3, ["x", "y"])
