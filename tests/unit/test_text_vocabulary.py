"""The trained vocabulary: its layout, what stays whole, what is never merged."""

import json
import re
from pathlib import Path

import pytest

import heliodor
from heliodor.errors import DataError
from heliodor.teach.data.vocabulary import BASE_SIZE, build_tokenizer, default_corpus

ROOT = Path(heliodor.__file__).parent
SHIPPED = json.loads((ROOT / "zoo/tiny/tokenizer.json").read_text("utf-8"))
CONCEPTS = json.loads((ROOT / "teach/data/concepts.json").read_text("utf-8"))["concepts"]


def pieces() -> list[str]:
    vocab = SHIPPED["model"]["vocab"]
    return sorted(vocab, key=vocab.__getitem__)


def test_the_shipped_file_is_what_the_corpus_gives() -> None:
    """The shipped weights hold one row a piece: a changed corpus must not change this file."""
    built = json.loads(build_tokenizer(default_corpus()).to_str())
    assert built == SHIPPED


def test_layout_of_the_ids() -> None:
    names = pieces()
    assert names[:5] == ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    assert names[5:11] == [*(f"<unused{i}>" for i in range(5)), "\n"]
    assert names[11:267] == [f"<0x{i:02X}>" for i in range(256)]
    assert len(names) == BASE_SIZE == 2560
    added = {token["content"]: token for token in SHIPPED["added_tokens"]}
    assert [added[n]["id"] for n in ("<loc0000>", "<seg127>", "<image>")] == [2560, 3711, 3712]
    special = sorted(name for name, token in added.items() if token["special"])
    assert special == ["<bos>", "<eos>", "<image>", "<mask>", "<pad>", "<unk>"]


def test_digits_newlines_and_cjk_are_never_part_of_a_longer_piece() -> None:
    alone = re.compile("[0-9\n\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
    longer = [p for p in pieces()[267:] if len(p) > 1 and not p.startswith("<unused")]
    assert len(longer) > 900
    assert [p for p in longer if alone.search(p)] == []


def test_every_character_of_the_concept_names_is_a_piece() -> None:
    names = set(pieces())
    used = {letter for c in CONCEPTS for name in c["names"].values() for letter in name} - {" "}
    assert used - names == set()


def test_english_names_are_short_and_no_name_falls_back_to_bytes() -> None:
    tokenizer = build_tokenizer(default_corpus())
    lengths = [len(tokenizer.encode(" " + c["name"]).ids) for c in CONCEPTS]
    assert sum(lengths) / len(lengths) < 1.8
    assert sum(length > 2 for length in lengths) <= 20
    every = " ".join(name for c in CONCEPTS for name in c["names"].values())
    assert [t for t in tokenizer.encode(every).tokens if t.startswith("<0x")] == []


def test_merges_never_cross_a_word() -> None:
    inner = [p for p in pieces()[267:] if "▁" in p[1:] and not p.startswith("<")]
    assert inner == []
    mixed = [p for p in pieces()[267:] if re.search(r"[^\W\d_][^\w▁]|[^\w▁][^\W\d_]", p)]
    assert [p for p in mixed if not p.startswith("<unused")] == []


def test_a_small_corpus_still_fills_the_size() -> None:
    tokenizer = build_tokenizer(["a cat", "a cat"], size=800)
    assert tokenizer.get_vocab_size() == 800 + 1153
    assert tokenizer.token_to_id("<loc0000>") == 800
    assert tokenizer.encode(" cat").tokens == ["▁cat"]


def test_the_order_of_the_corpus_does_not_matter() -> None:
    texts = ["a red cat", "two dogs", "a dog", "the cat and the dog"]
    first = build_tokenizer(texts, size=800).to_str()
    assert build_tokenizer(reversed(texts), size=800).to_str() == first


def test_a_size_below_the_characters_is_refused() -> None:
    with pytest.raises(DataError, match="ask for at least"):
        build_tokenizer(["a cat"], size=300)
