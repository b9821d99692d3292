"""The tokenizer over both file formats: ids, control names, decoding, errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import heliodor
from heliodor.errors import InputError, PromptError, TokenizerError
from heliodor.text import Tokenizer

SHIPPED = Path(heliodor.__file__).parent / "zoo" / "tiny" / "tokenizer.json"
CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<image>")


def load_json() -> Tokenizer:
    return Tokenizer.from_file(SHIPPED)


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model with Gemma's settings and 700 pieces, trained on the word list."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sp")
    words = (SHIPPED.parents[2] / "teach/data/words.txt").read_text("utf-8").splitlines()
    corpus = [f"{a} {b} {a}" for a, b in zip(words, words[7:], strict=False)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=700,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        user_defined_symbols=["\n"],
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.fixture(params=["json", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "json":
        return load_json()
    return Tokenizer.from_file(request.getfixturevalue("sentencepiece_file"))


def test_special_ids_of_the_shipped_vocabulary() -> None:
    t = load_json()
    assert (t.pad, t.eos, t.bos, t.unk, t.newline) == (0, 1, 2, 3, 10)
    assert (t.loc_start, t.seg_start, t.image_token, t.vocab_size) == (2560, 3584, 3712, 3713)


def test_sentencepiece_model_is_extended_by_loc_then_seg(sentencepiece_file: Path) -> None:
    t = Tokenizer.from_file(sentencepiece_file)
    assert (t.pad, t.eos, t.bos, t.unk) == (0, 1, 2, 3)
    assert (t.loc_start, t.seg_start, t.vocab_size, t.image_token) == (700, 1724, 1852, None)


def test_loc_and_seg_become_single_ids_wherever_they_stand(tokenizer: Tokenizer) -> None:
    t = tokenizer
    text = "<loc0000><loc1023> dog<seg127>x<seg000>"
    ids = t.encode(text)
    assert ids[:2] == [t.loc_start, t.loc_start + 1023]
    assert ids[2:] == [
        *t.encode(" dog"),
        t.seg_start + 127,
        *t.encode("x"),
        t.seg_start,
    ]
    assert t.decode(ids) == text


@pytest.mark.parametrize("name", ["<loc1024>", "<loc12>", "<seg128>", "<LOC0000>", "<loc00000>"])
def test_names_that_are_no_location_are_text(tokenizer: Tokenizer, name: str) -> None:
    ids = tokenizer.encode(name)
    assert len(ids) > 1
    assert max(ids) < tokenizer.loc_start
    assert tokenizer.decode(ids) == name


@pytest.mark.parametrize("name", CONTROL)
def test_control_names_in_a_text_stay_text(tokenizer: Tokenizer, name: str) -> None:
    text = f"a{name}{name} b"
    ids = tokenizer.encode(text)
    control = {tokenizer.pad, tokenizer.eos, tokenizer.bos, tokenizer.unk, tokenizer.image_token}
    assert control.isdisjoint(ids)
    assert tokenizer.decode(ids) == text


def test_control_names_stay_text_when_the_file_forgets_to_mark_them(tmp_path: Path) -> None:
    document = json.loads(SHIPPED.read_text("utf-8"))
    for token in document["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    t = Tokenizer.from_folder(tmp_path)
    assert t.encode("x<bos><eos>y") == load_json().encode("x<bos><eos>y")
    assert t.decode([t.bos, *t.encode("dog"), t.eos, t.pad, 3712]) == "dog"


def test_prefix_is_bos_prompt_newline_and_suffix_ends_in_eos(tokenizer: Tokenizer) -> None:
    t = tokenizer
    assert t.encode_prefix("detect cat") == [t.bos, *t.encode("detect cat"), t.newline]
    assert t.encode_suffix("cat") == [*t.encode("cat"), t.eos]
    assert t.encode_prefix("") == [t.bos, t.newline]


def test_leading_spaces_are_neither_added_nor_dropped(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("dog") != tokenizer.encode(" dog")
    for text in ("dog", " dog", "  dog  ", " ", "", "\n dog\n\n", "a\tb"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_read_one_by_one() -> None:
    t = load_json()
    assert [t.decode([i]) for i in t.encode("2024.50")] == ["2", "0", "2", "4", ".", "5", "0"]


def test_a_character_without_a_piece_is_spelled_in_its_utf8_bytes(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🦊")
    assert len(ids) == 4
    assert tokenizer.decode(ids) == "🦊"
    assert tokenizer.decode(ids[:3]) == "\ufffd"


def test_stream_holds_a_character_back_until_its_last_byte(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    pieces = [stream.push(i) for i in tokenizer.encode("🦊")]
    assert pieces == ["", "", "", "🦊"]
    assert stream.flush() == ""


def test_stream_gives_half_a_character_up_as_soon_as_it_is_broken(tokenizer: Tokenizer) -> None:
    first, *_ = tokenizer.encode("🦊")
    (letter,) = tokenizer.encode("a")
    stream = tokenizer.stream()
    assert [stream.push(first), stream.push(letter), stream.flush()] == ["", "\ufffda", ""]


def test_stream_flush_reports_an_unfinished_character(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    assert stream.push(tokenizer.encode("🦊")[0]) == ""
    assert stream.flush() == "\ufffd"


def test_control_tokens_are_dropped_from_decoded_text(tokenizer: Tokenizer) -> None:
    t = tokenizer
    assert t.decode([t.pad, t.bos, *t.encode("a b"), t.newline, t.eos, t.unk]) == "a b\n"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 3712), max_size=40))
def test_streamed_text_joins_to_decoded_text_for_any_ids(ids: list[int]) -> None:
    t = load_once()
    stream = t.stream()
    assert "".join([*map(stream.push, ids), stream.flush()]) == t.decode(ids)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(11, 266), max_size=12))
def test_byte_runs_decode_as_python_decodes_the_bytes(ids: list[int]) -> None:
    expected = bytes(i - 11 for i in ids).decode("utf-8", "replace")
    assert load_once().decode(ids) == expected


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60).filter(lambda text: "▁" not in text))
def test_any_text_survives_encode_and_decode(text: str) -> None:
    t = load_once()
    ids = t.encode(text)
    assert t.decode(ids) == text
    assert {0, 1, 2, 3, 4, 3712}.isdisjoint(ids)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40).filter(lambda text: "▁" not in text))
def test_spelled_text_is_the_same_text_a_character_at_a_time(text: str) -> None:
    t = load_once()
    spelled = t.spell(text)
    assert spelled == [token for letter in text for token in t.encode(letter)]
    assert t.decode(spelled) == text


def test_a_word_of_one_piece_is_spelled_in_its_letters() -> None:
    t = load_json()
    assert len(t.encode("apple")) == 1
    assert [t.decode([token]) for token in t.spell("an apple")] == list("an apple")


_LOADED: list[Tokenizer] = []


def load_once() -> Tokenizer:
    """The shipped tokenizer, read once for the property tests."""
    if not _LOADED:
        _LOADED.append(load_json())
    return _LOADED[0]


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match="half a surrogate pair at position 1"):
        tokenizer.encode("a\ud83d")


@pytest.mark.parametrize("token", [-1, 3713, 10**9])
def test_ids_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(InputError, match="ids run from 0 to 3712"):
        load_json().decode([token])
    with pytest.raises(InputError, match="ids run from 0 to 3712"):
        load_json().stream().push(token)


def test_folder_without_a_vocabulary_lists_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"no tokenizer.model \(it has config.json\)"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(TokenizerError, match="empty or not a folder"):
        Tokenizer.from_folder(tmp_path / "none")


def test_paths_that_are_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="is a folder, not a file"):
        Tokenizer.from_file(tmp_path)
    with pytest.raises(TokenizerError, match="does not exist"):
        Tokenizer.from_file(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"", "is not JSON"),
        ("tokenizer.json", b"{oops", "is not JSON"),
        ("tokenizer.json", b"\xff\xfe", "is not JSON"),
        ("tokenizer.json", b"[1, 2]", "JSON but not a tokenizer"),
        ("tokenizer.json", b"{}", "JSON but not a tokenizer"),
        ("tokenizer.model", b"", r"\(0 bytes\) is not a SentencePiece model"),
        ("tokenizer.model", b"not a model at all", "is not a SentencePiece model"),
        ("vocabulary", b"{}", "JSON but not a tokenizer"),
        ("vocabulary", b"\x00\x01\x02", "is not a SentencePiece model"),
    ],
)
def test_files_of_another_kind_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_file(tmp_path / name)


def test_a_truncated_sentencepiece_model_is_refused(
    tmp_path: Path, sentencepiece_file: Path
) -> None:
    data = sentencepiece_file.read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(data[: len(data) // 2])
    with pytest.raises(TokenizerError, match="is not a SentencePiece model"):
        Tokenizer.from_folder(tmp_path)


def without(document: dict[str, Any], *names: str) -> None:
    """Rename pieces and drop added tokens, so that no id is known by these names."""
    vocab = document["model"]["vocab"]
    for name in names:
        if name in vocab:
            vocab[f"<was {name.strip('<>')}>"] = vocab.pop(name)
    kept = [token for token in document["added_tokens"] if token["content"] not in names]
    document["added_tokens"] = kept


def swap_two_locs(document: dict[str, Any]) -> None:
    by_name = {token["content"]: token for token in document["added_tokens"]}
    a, b = by_name["<loc0005>"], by_name["<loc0006>"]
    a["content"], b["content"] = b["content"], a["content"]


def put_seg_before_loc(document: dict[str, Any]) -> None:
    for token in document["added_tokens"]:
        name = token["content"]
        if name.startswith("<seg"):
            token["id"] = 2560 + int(name[4:7])
        elif name.startswith("<loc"):
            token["id"] = 2560 + 128 + int(name[4:8])
    document["added_tokens"].sort(key=lambda token: token["id"])


def invent_a_space(document: dict[str, Any]) -> None:
    """Before every word, and not before a newline, which is checked on its own."""
    prefix = {"type": "Replace", "pattern": {"Regex": "^(?=[a-z])"}, "content": "▁"}
    document["normalizer"] = {"type": "Sequence", "normalizers": [document["normalizer"], prefix]}


def split_newlines(document: dict[str, Any]) -> None:
    double = {"type": "Replace", "pattern": {"String": "\n"}, "content": "\n\n"}
    document["normalizer"] = {"type": "Sequence", "normalizers": [document["normalizer"], double]}


LOCS = [f"<loc{i:04d}>" for i in range(1024)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: without(d, "<bos>"), "has no '<bos>' token"),
        (lambda d: without(d, "<eos>"), "has no '<eos>' token"),
        (lambda d: without(d, "<pad>"), "has no '<pad>' token"),
        (lambda d: without(d, "\n"), r"has no '\\n' token"),
        (lambda d: without(d, *LOCS), r"lacks 1024 of the 1024 tokens .*\(first <loc0000>\)"),
        (lambda d: without(d, "<loc1023>"), r"lacks 1 of the 1024 tokens .*\(first <loc1023>\)"),
        (lambda d: without(d, "<seg000>"), r"lacks 1 of the 128 tokens .*\(first <seg000>\)"),
        (swap_two_locs, "<loc0005> has id 2566, but <loc0000> has 2560"),
        (put_seg_before_loc, "<seg000> has id 2560, expected 3712"),
        (split_newlines, r"cuts a newline into \[10, 10\]"),
        (invent_a_space, "puts a space before every text"),
    ],
)
def test_a_vocabulary_without_what_paligemma_needs_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    document = json.loads(SHIPPED.read_text("utf-8"))
    change(document)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_folder(tmp_path)


def test_saved_vocabulary_reads_back_with_the_same_ids(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    names = [path.name for path in tokenizer.save(tmp_path)]
    assert names == ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    again = Tokenizer.from_folder(tmp_path)
    assert again.image_token == (tokenizer.image_token or tokenizer.vocab_size)
    for text in ("detect dog ; cat", "the three houses 12.50 €", "<loc0001><seg002> ñ 猫 🦊\n\n"):
        assert again.encode(text) == tokenizer.encode(text)


def test_a_model_that_is_not_bpe_is_not_saved(tmp_path: Path) -> None:
    import sentencepiece

    words = (SHIPPED.parents[2] / "teach/data/words.txt").read_text("utf-8").splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{a} {b}" for a, b in zip(words, words[5:], strict=False)]),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="unigram",
        vocab_size=900,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=["\n"],
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    with pytest.raises(TokenizerError, match=r"cannot be written as a tokenizer\.json"):
        Tokenizer.from_folder(tmp_path).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
