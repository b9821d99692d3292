"""The tokenizer against transformers and SentencePiece, and the real Gemma vocabulary if given."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import heliodor
from heliodor.image import ImageProcessor
from heliodor.text import Tokenizer

pytestmark = pytest.mark.parity
SHIPPED = Path(heliodor.__file__).parent / "zoo" / "tiny" / "tokenizer.json"
PROMPTS = [
    "caption en",
    "answer en what is on the left of the dog?",
    "detect dog ; bow and arrow ; t-shirt",
    "segment cat",
    "ocr",
    "描述这张图片里的猫和狗",
    "combien de chiens y a-t-il à gauche ?",
    "wie viele Äpfel und Bären gibt es? Straße",
    "¿de qué color es el paraguas? ñandú",
    "左のイヌは何色ですか。サッカーボール",
    "개 두 마리, 사과",
    "  two  spaces ",
    "tab\tand 12.50 € — “quotes” 🦊",
    "<loc0000><loc1023><loc0512><loc0100> dog ; <loc0001><seg000><seg127>",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder without weights: tokenizer, image processor, and the model's type."""
    path = tmp_path_factory.mktemp("checkpoint")
    Tokenizer.from_file(SHIPPED).save(path)
    config = ImageProcessor(size=56).to_preprocessor_config(16)
    (path / "preprocessor_config.json").write_text(json.dumps(config))
    (path / "config.json").write_text('{"model_type": "paligemma"}')
    return path


@pytest.mark.parametrize("prompt", PROMPTS)
def test_ids_equal_those_of_auto_tokenizer(folder: Path, prompt: str) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folder)
    ids = Tokenizer.from_folder(folder).encode(prompt)
    assert ids == reference(prompt, add_special_tokens=False).input_ids
    assert Tokenizer.from_folder(folder).decode(ids) == reference.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def test_auto_tokenizer_knows_the_special_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    assert len(reference) == ours.vocab_size
    assert reference.image_token_id == ours.image_token
    found = (
        reference.pad_token_id,
        reference.eos_token_id,
        reference.bos_token_id,
        reference.unk_token_id,
    )
    assert found == (ours.pad, ours.eos, ours.bos, ours.unk)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_processor_builds_image_tokens_then_our_prefix(folder: Path, prompt: str) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    image = Image.new("RGB", (70, 90), "teal")
    out = processor(images=image, text="<image>" + prompt, return_tensors="np")
    assert out["input_ids"][0].tolist() == [ours.image_token] * 16 + ours.encode_prefix(prompt)
    assert len(processor.tokenizer) == ours.vocab_size


def test_processor_appends_our_suffix_and_marks_it(folder: Path) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    suffix = "<loc0100><loc0200><loc0300><loc0400> dog ; <loc0001><loc0002><loc0003><loc0004> cat"
    out = processor(
        images=Image.new("RGB", (9, 9)), text="<image>detect dog ; cat", suffix=suffix,
        return_tensors="np",
    )  # fmt: skip
    prefix = [ours.image_token] * 16 + ours.encode_prefix("detect dog ; cat")
    answer = ours.encode_suffix(suffix)
    assert out["input_ids"][0].tolist() == prefix + answer
    assert out["token_type_ids"][0].tolist() == [0] * len(prefix) + [1] * len(answer)


def test_processor_and_ours_make_the_same_pixels(folder: Path) -> None:
    from transformers import AutoProcessor

    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (70, 90, 3), dtype=np.uint8))
    out = AutoProcessor.from_pretrained(folder)(
        images=image, text="<image>ocr", return_tensors="np"
    )
    ours = ImageProcessor(size=56)([image])
    assert (
        np.abs(out["pixel_values"] - ours).max() <= 6 / 255 + 1e-6
    )  # torchvision's three levels, if it is installed


def test_extended_sentencepiece_model_agrees_with_pieces_added_to_its_file(tmp_path: Path) -> None:
    """big_vision adds loc and seg to the model file as user-defined pieces with score 0."""
    pytest.importorskip("google.protobuf")
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    words = (SHIPPED.parents[2] / "teach/data/words.txt").read_text("utf-8").splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{a} {b}" for a, b in zip(words, words[3:], strict=False)]),
        model_prefix=str(tmp_path / "plain"), model_type="bpe", vocab_size=600, pad_id=0, eos_id=1,
        bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
        user_defined_symbols=["\n"], byte_fallback=True, add_dummy_prefix=False,
        remove_extra_whitespaces=False, normalization_rule_name="identity", minloglevel=2,
    )  # fmt: skip
    model = vars(sentencepiece_model_pb2)["ModelProto"].FromString(
        (tmp_path / "plain.model").read_bytes()
    )
    for name in [f"<loc{i:04d}>" for i in range(1024)] + [f"<seg{i:03d}>" for i in range(128)]:
        model.pieces.add(piece=name, score=0.0, type=4)
    (tmp_path / "extended.model").write_bytes(model.SerializeToString())
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "extended.model"))
    plain = Tokenizer.from_file(tmp_path / "plain.model")
    extended = Tokenizer.from_file(tmp_path / "extended.model")
    assert (plain.loc_start, plain.vocab_size) == (extended.loc_start, extended.vocab_size)
    for prompt in PROMPTS:
        expected = reference.encode(prompt)
        assert plain.encode(prompt) == expected
        assert extended.encode(prompt) == expected


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Gemma's own 256,000 pieces, extended by loc, seg and <image>."""
    given = os.environ.get("HELIODOR_GEMMA_TOKENIZER")
    if not given:
        pytest.skip("HELIODOR_GEMMA_TOKENIZER names no Gemma tokenizer.json (it is not shipped)")
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(given)
    names = [f"<loc{i:04d}>" for i in range(1024)] + [f"<seg{i:03d}>" for i in range(128)]
    backend.add_tokens([AddedToken(name, normalized=False) for name in names])
    backend.add_special_tokens([AddedToken("<image>", normalized=False)])
    path = tmp_path_factory.mktemp("gemma") / "tokenizer.json"
    backend.save(str(path))
    return Tokenizer.from_file(path)


def test_gemma_special_ids(gemma: Tokenizer) -> None:
    assert (gemma.pad, gemma.eos, gemma.bos, gemma.unk, gemma.newline) == (0, 1, 2, 3, 108)
    assert (gemma.loc_start, gemma.seg_start) == (256000, 257024)
    assert (gemma.image_token, gemma.vocab_size) == (257152, 257153)


def test_gemma_ids_of_the_documented_example(gemma: Tokenizer) -> None:
    question = [6006, 603, 573, 13910, 9980, 235336]
    assert gemma.encode_prefix("Where is the cow standing?") == [2, *question, 108]
    assert gemma.encode_suffix("on the beach") == [477, 573, 8318, 1]
    assert gemma.encode("<loc0000><seg000>") == [256000, 257024]
    assert gemma.encode(" ; <loc0001>") == [2161, 235248, 256001]


def test_gemma_control_names_stay_text(gemma: Tokenizer) -> None:
    text = "<bos>a<eos><pad><image>"
    ids = gemma.encode(text)
    assert {0, 1, 2, 3, 257152}.isdisjoint(ids)
    assert gemma.decode(ids) == text


def test_gemma_vocabulary_saves_to_a_folder_that_auto_tokenizer_reads(
    gemma: Tokenizer, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    gemma.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "paligemma"}')
    reference = AutoTokenizer.from_pretrained(tmp_path)
    for prompt in PROMPTS:
        assert gemma.encode(prompt) == reference(prompt, add_special_tokens=False).input_ids
    assert re.fullmatch("Gemma.*", type(reference).__name__)
