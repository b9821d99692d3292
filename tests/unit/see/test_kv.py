"""How the machines under the verbs keep keys and values, and that they make room once."""

from __future__ import annotations

from typing import Any

import pytest
from tests import talking, tiny

from heliodor.errors import InputError
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


def test_another_way_is_refused_when_it_is_used() -> None:
    model = tiny.vlm()
    model.kv = "int3"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="kept as 'int3'; say 'float' or 'int8'"):
        model.generate([tiny.picture()], ["caption en"], max_new_tokens=2)
