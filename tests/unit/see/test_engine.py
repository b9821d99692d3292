"""The engine on random weights and the shipped tokenizer: batches, streams, seeds, scores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.reference.decoding import beam as reference_beam
from torch import Tensor

from heliodor.errors import InputError, PromptError
from heliodor.generation import (
    Beam,
    ChoiceGrammar,
    GemmaReader,
    Greedy,
    PromptLookup,
    Temperature,
    TopK,
    TopP,
)
from heliodor.see.engine import Engine, Generation
from heliodor.see.vlm import VisionLanguageModel

PROMPTS = ["caption en", "x", "answer en how many bees are there?", ""]
CLOSE = 2e-4  # of a log-probability; confident logits magnify float32 roundings


@pytest.fixture(scope="module")
def engine() -> VisionLanguageModel:
    return tiny.vlm()


class Calls:
    """The sizes of the batches that passed through the image tower."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        encode = engine.model.encode_images

        def counted(pixels: Tensor) -> Tensor:
            self.sizes.append(len(pixels))
            return encode(pixels)

        monkeypatch.setattr(engine.model, "encode_images", counted)


def assert_same(one: Generation, other: Generation) -> None:
    assert (one.text, one.tokens, one.finish) == (other.text, other.tokens, other.finish)
    assert one.logprobs == pytest.approx(other.logprobs, abs=CLOSE)


def real_logprobs(engine: Engine, logits: Tensor) -> Tensor:
    """Log-softmax over the ids that may be an answer."""
    tokenizer = engine.tokenizer
    logits = logits.clone()
    logits[..., engine.model.config.num_predicted :] = -math.inf
    logits[..., [tokenizer.pad, tokenizer.bos]] = -math.inf
    return logits.log_softmax(-1)


def answer_grammar(engine: Engine, text: str) -> ChoiceGrammar:
    return ChoiceGrammar(choices=(tuple(engine.tokenizer.encode(text)),), eos=engine.tokenizer.eos)


# ------------------------------------------------------------------------------ batches and seeds

PICTURES = [tiny.picture(1), [tiny.picture(2), tiny.picture(3)], None, tiny.picture(4, (9, 70))]


@pytest.mark.parametrize("sampler", [Greedy(), Temperature(0.8), TopK(20), TopP(0.9)], ids=repr)
def test_a_row_is_the_same_alone_and_in_a_batch(engine: Engine, sampler: Any) -> None:
    together = engine.generate(PICTURES, PROMPTS, max_new_tokens=9, sampler=sampler, seed=5)
    assert len({row.logprobs for row in together}) == 4
    for row, (images, prompt) in enumerate(zip(PICTURES, PROMPTS, strict=True)):
        (alone,) = engine.generate(
            [images], [prompt], max_new_tokens=9, sampler=sampler, seed=5 + row
        )
        assert_same(together[row], alone)


def test_a_seed_means_the_same_text_and_another_seed_another(engine: Engine) -> None:
    def text(seed: int) -> str:
        found = engine.generate(
            [PICTURES[0]], ["x"], max_new_tokens=9, sampler=Temperature(1.0), seed=seed
        )
        return found[0].text

    assert text(3) == text(3)
    assert len({text(seed) for seed in range(4)}) > 1


def test_without_a_seed_torch_decides(engine: Engine) -> None:
    def text(seed: int) -> str:
        torch.manual_seed(seed)
        found = engine.generate([PICTURES[0]], ["x"], max_new_tokens=9, sampler=Temperature(1.0))
        return found[0].text

    assert text(3) == text(3)
    assert len({text(seed) for seed in range(4)}) > 1


# -------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sampler", [Greedy(), Temperature(1.5)], ids=repr)
def test_a_stream_joins_to_the_generated_text(engine: Engine, sampler: Any, seed: int) -> None:
    options: dict[str, Any] = {"max_new_tokens": 20, "sampler": sampler, "seed": seed}
    pieces = list(engine.stream(PICTURES[0], "caption en", **options))
    (whole,) = engine.generate([PICTURES[0]], ["caption en"], **options)
    assert "".join(pieces) == whole.text
    assert all(pieces)


def test_a_stream_never_gives_half_a_character(engine: Engine) -> None:
    said = "née 🐝 蜂"
    grammar = answer_grammar(engine, said)
    tokens = engine.tokenizer.encode(said)
    assert len(tokens) > len(engine.tokenizer.decode(tokens)), "bytes were to be split"
    pieces = list(engine.stream(None, "x", constraint=grammar))
    assert "".join(pieces) == said
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stream_works_only_as_far_as_it_is_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    read = GemmaReader.read
    monkeypatch.setattr(GemmaReader, "read", lambda *args: (steps.append(1), read(*args))[1])
    stream = engine.stream(PICTURES[0], "caption en", max_new_tokens=50)
    next(stream)
    next(stream)
    assert 1 <= len(steps) <= 4


# --------------------------------------------------------------------------------- pictures, once


def test_encoded_pictures_give_the_same_answers_without_the_tower(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(engine, monkeypatch)
    picture = tiny.picture(1, (40, 30))
    features = engine.encode_image(picture)
    assert calls.sizes == [1]
    assert features.size == (40, 30)
    assert features.tokens.shape == (16, 32)
    assert engine.encode_image(features) is features
    for prompt in PROMPTS:
        (reused,) = engine.generate([features], [prompt], max_new_tokens=6)
        (fresh,) = engine.generate([picture], [prompt], max_new_tokens=6)
        assert reused == fresh
    assert calls.sizes == [1] * 5


def test_many_prompts_about_one_picture_run_the_tower_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(engine, monkeypatch)
    rows = engine.generate([PICTURES[0]], PROMPTS, max_new_tokens=4)
    assert calls.sizes == [1]
    assert len({row.logprobs for row in rows}) == 4
    engine.generate([PICTURES[0]] * 4, PROMPTS, max_new_tokens=1)
    assert calls.sizes == [1, 1]


def test_the_tower_is_not_run_without_a_picture(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(engine, monkeypatch)
    (nothing,) = engine.generate([None], ["x"], max_new_tokens=4)
    (empty,) = engine.generate([[]], ["x"], max_new_tokens=4)
    assert calls.sizes == []
    assert nothing == empty
    (seen,) = engine.generate([PICTURES[0]], ["x"], max_new_tokens=4)
    assert seen.logprobs != nothing.logprobs


def test_several_pictures_enter_in_their_order(engine: Engine) -> None:
    one, other = engine.encode_image(tiny.picture(2)), engine.encode_image(tiny.picture(3))
    tokens = torch.tensor([engine.tokenizer.encode_prefix("x")])
    prefix = torch.tensor([tokens.shape[1]])
    for pictures in ([one, other], [other, one], [one, one, other]):
        joined = torch.cat([picture.tokens for picture in pictures])[None]
        with torch.no_grad():
            expected = real_logprobs(engine, engine.model(tokens, joined, prefix)[0, -1])
        (found,) = engine.generate([pictures], ["x"], max_new_tokens=1)
        assert found.tokens == (int(expected.argmax()),)
        assert found.logprobs == pytest.approx([float(expected.max())], abs=CLOSE)


# ---------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    "prompt", ["<bos>", "<eos>", "<image>", "a <pad><bos><image> b", "", "日本語 🐝 e\u0301", " x "]
)
def test_prompts_reach_the_model_as_plain_text(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    seen: list[list[int]] = []
    prefill = engine.model.read_prompt

    def spy(tokens: Tensor, *rest: Any, **options: Any) -> Any:
        seen.extend(tokens.tolist())
        return prefill(tokens, *rest, **options)

    monkeypatch.setattr(engine.model, "read_prompt", spy)
    engine.generate([PICTURES[0]], [prompt], max_new_tokens=1)
    (ids,) = seen
    words = engine.tokenizer
    assert ids[0] == words.bos
    assert ids[-1] == words.newline
    assert not {words.bos, words.eos, words.pad, words.image_token} & set(ids[1:])
    assert words.decode(ids) == prompt + "\n"


def test_half_a_surrogate_pair_is_refused(engine: Engine) -> None:
    with pytest.raises(PromptError, match="half a surrogate pair at position 2"):
        engine.generate([None], ["ab\ud83d"])


def test_a_prompt_may_fill_the_context_and_not_a_token_more() -> None:
    engine = tiny.vlm(context=60)
    words = engine.tokenizer.encode_prefix("a")
    room = 60 - 16 - len(words)
    (full,) = engine.generate([PICTURES[0]], ["a"], max_new_tokens=room)
    assert len(full.logprobs) == room
    with pytest.raises(PromptError, match=rf"16 image tokens, 3 tokens of prompt and {room + 1} "):
        engine.generate([PICTURES[0]], ["a"], max_new_tokens=room + 1)
    with pytest.raises(PromptError, match=r"context of 60: shorten the prompt"):
        next(engine.stream(PICTURES[0], "bee ; " * 50))
    with pytest.raises(PromptError, match=r"and 0 of answer exceed"):
        engine.logits([PICTURES[0]], ["a"], ["b " * 60])


# --------------------------------------------------------------------------- results and scores


def test_an_answer_that_ends_keeps_the_chance_of_ending(engine: Engine) -> None:
    grammar = answer_grammar(engine, " bee")
    (found,) = engine.generate([PICTURES[0]], ["x"], constraint=grammar)
    assert found.text == " bee"
    assert found.finish == "stop"
    assert found.tokens == tuple(engine.tokenizer.encode(" bee"))
    assert len(found.logprobs) == len(found.tokens) + 1


def test_an_answer_that_is_cut_says_so(engine: Engine) -> None:
    (found,) = engine.generate([PICTURES[0]], ["x"], max_new_tokens=5)
    assert found.finish == "length"
    assert len(found.tokens) == len(found.logprobs) == 5
    assert found.text == engine.tokenizer.decode(found.tokens)


def test_scores_are_geometric_means_of_probabilities(engine: Engine) -> None:
    for found in engine.generate(PICTURES, PROMPTS, max_new_tokens=7):
        assert 0.0 < found.score <= 1.0
        mean = sum(found.logprobs) / len(found.logprobs)
        assert found.score == pytest.approx(math.exp(mean), rel=1e-12)
        assert found.to_dict() == {"text": found.text, "score": found.score, "finish": "length"}


def test_a_score_is_half_where_every_token_was_a_coin_toss() -> None:
    found = Generation(text="ab", tokens=(1, 2), logprobs=(math.log(0.5),) * 2, finish="length")
    assert found.score == pytest.approx(0.5)
    assert Generation(text="", tokens=(), logprobs=(), finish="constraint").score == 1.0


def test_padding_rows_and_control_tokens_are_never_said() -> None:
    engine = tiny.vlm()
    words, table = engine.tokenizer, engine.model.language.embedding.weight
    control = [words.pad, words.bos, *range(words.vocab_size - 1, len(table))]
    with torch.no_grad():
        table[control] *= 20.0
    first = engine.logits([PICTURES[0]], ["x"])[0, -1]
    assert int(first.argmax()) in control, "the network alone was to choose one"
    for sampler in (Greedy(), Temperature(2.0)):
        (found,) = engine.generate([PICTURES[0]], ["x"], max_new_tokens=30, sampler=sampler, seed=0)
        assert not set(found.tokens) & set(control)
        assert all(value <= 0.0 for value in found.logprobs)


def test_rows_that_the_tokenizer_cannot_name_are_never_said() -> None:
    """A table rounded up in size, in a model whose config names no placeholder."""
    engine = tiny.vlm()
    engine.model.config = replace(engine.model.config, image_token=None)
    table = engine.model.language.embedding.weight
    with torch.no_grad():
        table[engine.tokenizer.vocab_size - 1 :] *= 20.0
    (found,) = engine.generate(
        [PICTURES[0]], ["x"], max_new_tokens=30, sampler=Temperature(2.0), seed=0
    )
    assert max(found.tokens) < engine.tokenizer.vocab_size - 1


# ----------------------------------------------------------------------------------------- search


def test_beam_search_finds_what_plain_python_finds(engine: Engine) -> None:
    words = engine.tokenizer
    features = engine.encode_image(tiny.picture(1))
    prompt = words.encode_prefix("x")

    def after(tokens: tuple[int, ...]) -> np.ndarray:
        with torch.no_grad():
            logits = engine.model(
                torch.tensor([[*prompt, *tokens]]),
                features.tokens[None],
                torch.tensor([len(prompt)]),
            )
        return real_logprobs(engine, logits[0, -1]).numpy()

    size = engine.model.config.language.vocab_size
    tokens, total = reference_beam(after, vocabulary=size, eos=words.eos, depth=3, size=2)
    (found,) = engine.generate([features], ["x"], max_new_tokens=3, sampler=Beam(2))
    assert (*found.tokens, words.eos) == tokens
    assert found.finish == "stop"
    assert sum(found.logprobs) == pytest.approx(total, abs=CLOSE)


def test_beam_search_of_a_batch_is_that_of_its_rows(engine: Engine) -> None:
    together = engine.generate(PICTURES, PROMPTS, max_new_tokens=4, sampler=Beam(3))
    for row, (images, prompt) in enumerate(zip(PICTURES, PROMPTS, strict=True)):
        (alone,) = engine.generate([images], [prompt], max_new_tokens=4, sampler=Beam(3))
        assert_same(together[row], alone)


def test_beam_search_takes_no_constraint_and_does_not_stream(engine: Engine) -> None:
    grammar = answer_grammar(engine, " bee")
    with pytest.raises(InputError, match=r"Beam .*takes no constraint"):
        engine.generate([None], ["x"], sampler=Beam(2), constraint=grammar)
    with pytest.raises(InputError, match=r"Beam .*cannot be streamed"):
        next(engine.stream(None, "x", sampler=Beam(2)))


# ------------------------------------------------------------------------------ rows of their own


def test_each_row_may_have_a_constraint_of_its_own(engine: Engine) -> None:
    grammars = [answer_grammar(engine, " bee"), None, answer_grammar(engine, " a flower")]
    rows = engine.generate(
        [PICTURES[0]], ["x", "y", "z"], constraint=grammars, max_new_tokens=9, seed=0
    )
    (free,) = engine.generate([PICTURES[0]], ["y"], max_new_tokens=9)
    assert [row.text for row in rows] == [" bee", free.text, " a flower"]
    assert [row.finish for row in rows] == ["stop", "length", "stop"]
    with pytest.raises(InputError, match="got 3 constraints for 2 rows"):
        engine.generate([PICTURES[0]], ["x", "y"], constraint=grammars)


def test_pictures_encoded_together_are_those_encoded_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(engine, monkeypatch)
    one, other = tiny.picture(1), tiny.picture(4, (9, 70))
    together = engine.encode_images([one, other, one])
    assert calls.sizes == [2]
    assert together[2] is together[0]
    for features, picture in zip(together, (one, other), strict=False):
        alone = engine.encode_image(picture)
        assert features.size == picture.size
        assert tiny.relative_error(features.tokens, alone.tokens) < 1e-6


# ------------------------------------------------------------------------- fewer bytes, same words


@pytest.mark.parametrize("sampler", [Greedy(), TopK(20), TopP(0.9)], ids=repr)
def test_a_scanned_head_and_guesses_leave_answers_as_they_are(sampler: Any) -> None:
    engine = tiny.vlm()
    options: dict[str, Any] = {"max_new_tokens": 16, "sampler": sampler, "seed": 5}
    plain = engine.generate(PICTURES, PROMPTS, **options)
    guess = PromptLookup(min_ngram=1)
    for one, other in zip(
        engine.generate(PICTURES, PROMPTS, speculate=guess, **options), plain, strict=True
    ):
        assert_same(one, other)
    engine.scan_head()
    for one, other in zip(
        engine.generate(PICTURES, PROMPTS, speculate=guess, **options), plain, strict=True
    ):
        assert_same(one, other)
    pieces = engine.stream(PICTURES[0], PROMPTS[0], speculate=guess, **options)
    assert "".join(pieces) == plain[0].text
    wrong: Any = 3
    with pytest.raises(InputError, match=r"got speculate=3; expected PromptLookup\(\) or None"):
        engine.generate(PICTURES, PROMPTS, speculate=wrong)
