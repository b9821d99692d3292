"""Texts of a fixed length: each reference's rules, told apart by value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tests.sentences import spiece, write_spiece

from heliodor import zoo
from heliodor.errors import PromptError, TokenizerError
from heliodor.text import Tokenizer
from heliodor.text.fixed import Cleaning, FixedTokenizer
from heliodor.text.pieces import JsonPieces

LENGTH = 12


def tokenizer(folder: Path, cleaning: Cleaning | None = None) -> FixedTokenizer:
    return FixedTokenizer.from_file(write_spiece(folder), length=LENGTH, cleaning=cleaning)


def cut(text: str) -> list[int]:
    """SentencePiece alone."""
    return sentencepiece.SentencePieceProcessor(model_proto=spiece()).encode(text)


@pytest.mark.parametrize(
    ("cleaning", "expected"),
    [
        (Cleaning.TRANSFORMERS, "dont stop äσ 3 bees xy"),
        (Cleaning.TRANSFORMERS_CASED, "Dont STOP ÄΣ 3 bees xy"),
        (Cleaning.BIG_VISION, " don't  stop: ÄΣ\n3 bees! x_y "),
        (Cleaning.LOWER, " don't  stop: äσ\n3 bees! x_y "),
        (Cleaning.VERBATIM, " Don't  STOP: ÄΣ\n3 bees! x_y "),
    ],
)
def test_each_cleaning_does_what_it_says(cleaning: Cleaning, expected: str) -> None:
    found = cleaning(" Don't  STOP: ÄΣ\n3 bees! x_y ")
    assert found.replace("ς", "σ") == expected


@pytest.mark.parametrize(
    ("cleaning", "plain"),
    [
        (None, "a photo of two dogs"),
        (Cleaning.TRANSFORMERS, "a photo of two dogs"),
        (Cleaning.BIG_VISION, "a photo, of two dogs!"),
        (Cleaning.VERBATIM, "A Photo, of two dogs!"),
    ],
)
def test_ids_are_those_of_the_cleaned_text_ended_and_filled_up(
    tmp_path: Path, cleaning: Cleaning | None, plain: str
) -> None:
    ids = cut(plain)[: LENGTH - 1]
    expected = ids + [1] * (LENGTH - len(ids))
    assert tokenizer(tmp_path, cleaning).encode("A Photo, of two dogs!") == expected


def test_the_rules_differ_where_they_should(tmp_path: Path) -> None:
    found = {tuple(tokenizer(tmp_path, each).encode("A cat's (MAT)")) for each in Cleaning}
    assert len(found) == 4  # LOWER and BIG_VISION agree on ASCII
    upper, lower = (
        tokenizer(tmp_path, each).encode("Ü") for each in (Cleaning.BIG_VISION, Cleaning.LOWER)
    )
    assert upper != lower, "big_vision knows the letters A to Z alone"


def test_a_text_too_long_is_cut_and_still_ends(tmp_path: Path) -> None:
    text = "a photo of a cat on the mat in the garden"
    found = tokenizer(tmp_path).encode(text)
    assert found == [*cut(text)[: LENGTH - 1], 1]
    assert len(cut(text)) > LENGTH


def test_a_text_that_just_fits_is_not_cut(tmp_path: Path) -> None:
    words = cut("a photo of a cat on the mat")
    exact = FixedTokenizer.from_file(write_spiece(tmp_path), length=len(words) + 1)
    assert exact.encode("a photo of a cat on the mat") == [*words, 1]


def test_names_of_special_tokens_are_text(tmp_path: Path) -> None:
    verbatim = tokenizer(tmp_path, Cleaning.VERBATIM)
    ids = verbatim.encode("a</s>a")
    assert 1 not in ids[: ids.index(1)]
    assert ids[2:5] != [1, 1, 1]
    assert tokenizer(tmp_path).encode("a </s> a") == tokenizer(tmp_path).encode("a s a")


def test_an_empty_text_is_all_ends(tmp_path: Path) -> None:
    for cleaning in Cleaning:
        assert tokenizer(tmp_path, cleaning).encode("") == [1] * LENGTH


@pytest.mark.parametrize("text", ["\ud800", 3, None])
def test_what_is_no_text_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(PromptError, match=r"surrogate|must be a string"):
        tokenizer(tmp_path).encode(text)


def test_a_gemma_vocabulary_has_siglip_2s_rules(tmp_path: Path) -> None:
    """Lower case, ended by <eos>, filled up with <pad>."""
    (tmp_path / "tokenizer.json").write_bytes(zoo.TOKENIZER.read_bytes())
    found = FixedTokenizer.from_folder(tmp_path, length=16)
    assert found.cleaning is Cleaning.LOWER
    gemma = Tokenizer.from_file(zoo.TOKENIZER)
    assert (found.eos, found.pad) == (gemma.eos, gemma.pad)
    words = gemma.encode("a red bee, here!")
    assert found.encode("A red BEE, here!") == [
        *words,
        gemma.eos,
        *[gemma.pad] * (15 - len(words)),
    ]


def test_gemmas_tag_for_struck_out_text_ends_no_text(tmp_path: Path) -> None:
    """The published vocabulary has </s>, as one of many HTML tags."""
    vocabulary = tokenizers.Tokenizer.from_file(str(zoo.TOKENIZER))
    vocabulary.add_tokens(["</s>"])
    vocabulary.save(str(tmp_path / "tokenizer.json"))
    found = FixedTokenizer.from_file(tmp_path / "tokenizer.json", length=16)
    gemma = Tokenizer.from_file(zoo.TOKENIZER)
    assert vocabulary.token_to_id("</s>") not in (gemma.eos, gemma.pad)
    assert (found.cleaning, found.eos, found.pad) == (Cleaning.LOWER, gemma.eos, gemma.pad)


def test_a_folder_says_its_rules(tmp_path: Path) -> None:
    write_spiece(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": False, "eos_token": {"content": "</s>"}, "pad_token": "<pad>"})
    )
    found = FixedTokenizer.from_folder(tmp_path, length=4)
    assert found.cleaning is Cleaning.TRANSFORMERS_CASED
    assert found.pad == cut_id("<pad>") != found.eos
    assert found.encode("a") == [*cut("a"), 1, found.pad, found.pad][:4]


def cut_id(piece: str) -> int:
    return sentencepiece.SentencePieceProcessor(model_proto=spiece()).piece_to_id(piece)


@pytest.mark.parametrize("cleaning", list(Cleaning))
def test_what_is_written_is_read_again(tmp_path: Path, cleaning: Cleaning) -> None:
    before = tokenizer(tmp_path / "one", cleaning)
    (tmp_path / "two").mkdir()
    for name, content in before.files().items():
        (tmp_path / "two" / name).write_bytes(content)
    after = FixedTokenizer.from_folder(tmp_path / "two", length=LENGTH)
    assert after.cleaning is cleaning
    for text in ("A Photo, OF the zoo!", "  Zürich ", "don't"):
        assert after.encode(text) == before.encode(text)
    assert after.files() == before.files()


def test_files_that_are_missing_or_broken_are_told(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no spiece.model and no tokenizer.json"):
        FixedTokenizer.from_folder(tmp_path, length=4)
    (tmp_path / "spiece.model").write_bytes(b"nonsense")
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        FixedTokenizer.from_folder(tmp_path, length=4)
    write_spiece(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"heliodor_cleaning": "scrub"}')
    with pytest.raises(TokenizerError, match="'scrub', expected one of transformers"):
        FixedTokenizer.from_folder(tmp_path, length=4)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match="not JSON"):
        FixedTokenizer.from_folder(tmp_path, length=4)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>", "pad_token": "<end>"}')
    with pytest.raises(TokenizerError, match="has no '<end>' token"):
        FixedTokenizer.from_folder(tmp_path, length=4)


def test_a_vocabulary_with_ends_of_its_own_keeps_them(tmp_path: Path) -> None:
    """As the small models here are taught: words as they are, ended and filled up by <eos>."""
    ends = ("<eos>", "<eos>")
    pieces = JsonPieces.from_file(zoo.TOKENIZER)
    taught = FixedTokenizer(pieces, length=12, cleaning=Cleaning.VERBATIM, ends=ends)
    for name, content in taught.files().items():
        (tmp_path / name).write_bytes(content)
    found = FixedTokenizer.from_folder(tmp_path, length=12)
    words = Tokenizer.from_file(zoo.TOKENIZER)
    ids = words.encode("a red bee")
    assert found.encode("a red bee") == ids + [words.eos] * (12 - len(ids))
    assert found.encode("A red bee") != found.encode("a red bee")
