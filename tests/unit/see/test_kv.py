"""How the machines under the verbs keep keys and values, and that they make room once."""

from __future__ import annotations

from typing import Any

import pytest
from tests import talking, tiny

from heliodor.errors import InputError
from heliodor.generation import Greedy, PromptLookup, Temperature, TopP
from heliodor.nn import cache as caches
from heliodor.nn.cache import KVCache


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[KVCache]:
    """Every cache that is made from now on."""
    seen: list[KVCache] = []
    begin = KVCache.__init__

    def noted(self: KVCache, *args: Any, **named: Any) -> None:
        begin(self, *args, **named)
        seen.append(self)

    monkeypatch.setattr(caches.KVCache, "__init__", noted)
    return seen


def test_a_picture_and_its_answer_in_eight_bits(made: list[KVCache]) -> None:
    model = tiny.vlm()
    exact = model.generate([tiny.picture()], ["caption en"], max_new_tokens=12)[0]
    model.kv = "int8"
    near = model.generate([tiny.picture()], ["caption en"], max_new_tokens=12)[0]
    whole, small = made
    assert (whole.kv, small.kv) == ("float", "int8")
    slots = {store.room for cache in made for store in (*cache._keys, *cache._values)}
    assert slots == {prompt_length(model) + 12}
    assert small.nbytes * 3 == whole.nbytes  # heads of 12 numbers: 48 bytes against 16
    assert near.tokens[0] == exact.tokens[0]  # prefill's own
    assert near.logprobs[0] == pytest.approx(exact.logprobs[0], abs=1e-6)
    assert near.score != exact.score
    assert near.score == pytest.approx(exact.score, abs=0.05)


def prompt_length(model: Any) -> int:
    """Positions of the picture and of ``<bos> caption en newline``."""
    words = model.tokenizer.encode_prefix("caption en")
    return model.model.config.vision.num_tokens + len(words)


def test_a_gemma_alone_too(made: list[KVCache]) -> None:
    lm = talking.lm()
    lm.kv = "int8"
    lm.generate(["a red"], max_new_tokens=5)
    assert [cache.kv for cache in made] == ["int8"]


PICTURES = [tiny.picture(1), None, tiny.picture(3)]
PROMPTS = ["caption en", "answer en how many bees are there?", "x"]
GUESS = PromptLookup(min_ngram=1)


@pytest.mark.parametrize("sampler", [Greedy(), Temperature(0.8), TopP(0.9)], ids=repr)
@pytest.mark.parametrize("scanned", [False, True], ids=["head", "scan"])
def test_guesses_leave_answers_in_eight_bits_as_they_are(
    made: list[KVCache], sampler: Any, *, scanned: bool
) -> None:
    """Whole batches, rows of a length of their own and a stream, beside one token a pass."""
    model = tiny.vlm(seed=3)
    options: dict[str, Any] = {"max_new_tokens": 24, "sampler": sampler, "seed": 5}
    exact = model.generate(PICTURES, PROMPTS, **options)
    model.kv = "int8"
    plain = model.generate(PICTURES, PROMPTS, **options)
    assert [row.logprobs for row in plain] != [row.logprobs for row in exact]
    if scanned:
        model.scan_head()
    found = model.generate(PICTURES, PROMPTS, speculate=GUESS, **options)
    for one, other in zip(found, plain, strict=True):
        assert (one.text, one.tokens, one.finish) == (other.text, other.tokens, other.finish)
        assert one.logprobs == pytest.approx(other.logprobs, abs=5e-3)  # codes may round otherwise
    pieces = model.stream(PICTURES[0], PROMPTS[0], speculate=GUESS, **options)
    assert "".join(pieces) == plain[0].text
    assert [cache.kv for cache in made if cache.length] == ["float", *["int8"] * 3]


def test_guesses_leave_a_gemma_in_eight_bits_as_it_is() -> None:
    for seed in range(3):
        lm = talking.lm(talking.SECOND, seed=seed)
        lm.kv = "int8"
        plain = lm.generate(["a red bee", "garden"], max_new_tokens=24)
        found = lm.generate(["a red bee", "garden"], max_new_tokens=24, speculate=GUESS)
        assert [row.tokens for row in found] == [row.tokens for row in plain]


def test_another_way_is_refused_when_it_is_used() -> None:
    model = tiny.vlm()
    model.kv = "int3"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="kept as 'int3'; say 'float' or 'int8'"):
        model.generate([tiny.picture()], ["caption en"], max_new_tokens=2)
