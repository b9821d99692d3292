"""SigLIP pairs against transformers: ids, pixels, embeddings and logits, in both directions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny
from tests.sentences import write_spiece

from heliodor.checkpoints.siglip import SIGLIP, SiglipCheckpoint, save_pair
from heliodor.image import ImageProcessor
from heliodor.models.pair import SiglipPair, SiglipTextConfig
from heliodor.models.siglip import SiglipVisionConfig
from heliodor.see.pair import load_siglip
from heliodor.text.fixed import FixedTokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

LENGTH = 9
VISION = SiglipVisionConfig(
    image_size=32, patch_size=8, width=24, depth=2, num_heads=3, mlp_width=40, norm_eps=1e-5
)
TEXT = SiglipTextConfig(
    vocab_size=110, length=LENGTH, width=24, depth=2, num_heads=4, mlp_width=36, norm_eps=2e-5
)
TEXTS = [
    "a photo of a cat",
    "A Photo OF two DOGS!",
    "don't stop: the bee, 3 bees & more",
    "",
    "...",
    "  ! in Zürich\n\n the\tzoo ",
    " (a) red-tulip_garden",
    "▁a ▁ photo ß İ ΑΣ 猫",
    "a photo of a cat on the mat, this is a photo of two dogs",
]


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(3)
    return [
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
        for size in ((50, 70), (32, 32), (9, 40))
    ]


def our_pair(text: SiglipTextConfig = TEXT) -> SiglipPair:
    pair = tiny.pair(VISION, text)
    with torch.no_grad():
        pair.logit_scale.fill_(1.1)
        pair.logit_bias.fill_(-0.7)
    return pair


def our_folder(folder: Path, pair: SiglipPair, **options: Any) -> Path:
    vocabulary = write_spiece(folder.parent / "vocabulary")
    tokenizer = FixedTokenizer.from_file(vocabulary, length=pair.config.text.length)
    processor = ImageProcessor(size=VISION.image_size)
    save_pair(pair, tokenizer, processor, folder, **options)
    return folder


def their_model(folder: Path, **options: Any) -> Any:
    found, report = transformers.SiglipModel.from_pretrained(
        folder, output_loading_info=True, **options
    )
    assert not any(report.values()), report
    return found.eval()


def their_processor(folder: Path) -> Any:
    found = transformers.AutoProcessor.from_pretrained(folder)
    assert type(found).__name__ == "SiglipProcessor"
    return found


@torch.no_grad()
def their_answers(folder: Path, pictures: list[Image.Image]) -> dict[str, torch.Tensor]:
    """Everything from pictures and texts to logits, by their code alone."""
    inputs = their_processor(folder)(
        images=pictures,
        text=TEXTS,
        padding="max_length",
        truncation=True,
        max_length=LENGTH,
        return_tensors="pt",
    )
    out = their_model(folder, dtype=torch.float32)(**inputs)
    return {
        "ids": inputs["input_ids"],
        "pixels": inputs["pixel_values"],
        "images": out.image_embeds,
        "texts": out.text_embeds,
        "logits": out.logits_per_image,
    }


def our_answers(folder: Path, pictures: list[Image.Image]) -> dict[str, torch.Tensor]:
    pair = load_siglip(folder, dtype="float32")
    return {
        "ids": torch.tensor(pair.tokenizer.encode_batch(TEXTS)),
        "pixels": torch.from_numpy(pair.processor(pictures)),
        "images": pair.embed_images(pictures, batch=2),
        "texts": pair.embed_texts(TEXTS, batch=4),
        "logits": pair.logits(pictures, TEXTS),
    }


def assert_same_answers(folder: Path, pictures: list[Image.Image]) -> None:
    theirs, ours = their_answers(folder, pictures), our_answers(folder, pictures)
    assert ours["ids"].tolist() == theirs["ids"].tolist()
    for name in ("pixels", "images", "texts", "logits"):
        worst = (ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()
        assert worst <= 1e-5, name
    spread = theirs["logits"]
    assert spread.std(0).min() > 1e-3, "pictures must matter"
    assert spread.std(1).min() > 1e-2, "texts must matter"


@pytest.mark.parametrize("limit", [10**9, 20_000], ids=["single", "sharded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_we_save_transformers_loads_and_answers_the_same(
    tmp_path: Path, pictures: list[Image.Image], dtype: str, limit: int
) -> None:
    folder = our_folder(tmp_path / "ours", our_pair(), dtype=dtype, max_shard_size=limit)
    assert_same_answers(folder, pictures)
    theirs = their_model(folder)
    assert theirs.dtype == getattr(torch, dtype)
    assert theirs.config.text_config.pad_token_id == 1
    assert theirs.config.vision_config.layer_norm_eps == 1e-5
    assert theirs.config.text_config.layer_norm_eps == 2e-5


@pytest.mark.parametrize("limit", ["1GB", "20KB"], ids=["single", "sharded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_transformers_saves_we_load_and_answer_the_same(
    tmp_path: Path, pictures: list[Image.Image], dtype: str, limit: str
) -> None:
    source = our_folder(tmp_path / "ours", our_pair())
    folder = tmp_path / "theirs"
    their_model(source, dtype=dtype).save_pretrained(folder, max_shard_size=limit)
    their_processor(source).save_pretrained(folder)
    assert_same_answers(folder, pictures)


def test_every_tensor_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    pair = our_pair()
    theirs = their_model(our_folder(tmp_path / "ours", pair)).state_dict()
    ours = {SIGLIP.to_theirs(name): value for name, value in pair.state_dict().items()}
    fused = {name for name in theirs if "in_proj" in name}
    assert {name.partition("[")[0] for name in ours} == theirs.keys()
    for name in theirs.keys() - fused:
        assert torch.equal(theirs[name], ours[name]), name
    assert len(fused) == 2
    for name in fused:
        assert torch.equal(theirs[name], torch.cat([ours[f"{name}[{i}]"] for i in range(3)]))
    again = SiglipCheckpoint(folder=tmp_path / "ours", source="").load()
    for name, value in again.state_dict().items():
        assert torch.equal(value, pair.state_dict()[name]), name


def test_a_text_tower_of_another_width(tmp_path: Path, pictures: list[Image.Image]) -> None:
    text = replace(TEXT, width=16, num_heads=2, out_width=24)
    assert_same_answers(our_folder(tmp_path / "ours", our_pair(text)), pictures)


def test_a_config_with_nothing_in_it_is_siglip_base(tmp_path: Path) -> None:
    """As published: only model types; both read the same shapes from it."""
    values = {
        "model_type": "siglip",
        "text_config": {"model_type": "siglip_text_model"},
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    ours = SiglipCheckpoint(folder=tmp_path, source="").config()
    theirs = transformers.SiglipConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        state = transformers.SiglipModel(theirs).state_dict()
        expected = SiglipPair(ours).state_dict()
    shapes = {SIGLIP.to_theirs(n): tuple(v.shape) for n, v in expected.items()}
    plain = {n: s for n, s in shapes.items() if "in_proj" not in n}
    assert plain == {n: tuple(v.shape) for n, v in state.items() if "in_proj" not in n}
    for ours_part, theirs_part in (
        (ours.vision, theirs.vision_config),
        (ours.text, theirs.text_config),
    ):
        assert ours_part.num_heads == theirs_part.num_attention_heads == 12
        assert ours_part.norm_eps == theirs_part.layer_norm_eps
    assert ours.text.length == theirs.text_config.max_position_embeddings


def test_so400m_has_as_many_parameters_as_published(tmp_path: Path) -> None:
    tower = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
    }
    values = {
        "model_type": "siglip",
        "text_config": {"model_type": "siglip_text_model", **tower},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "image_size": 384,
            "patch_size": 14,
            **tower,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    with torch.device("meta"):
        pair = SiglipPair(SiglipCheckpoint(folder=tmp_path, source="").config())
    assert sum(p.numel() for p in pair.parameters()) == 877_960_498


def test_a_tokenizer_json_is_written_with_its_rules(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """A vocabulary that is no SentencePiece file: transformers cleans as we do."""
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace

    from heliodor.text.fixed import Cleaning
    from heliodor.text.pieces import JsonPieces

    words = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁photo", "▁of", "▁cat", "▁two", "▁dogs"]
    pieces = [(word, -1.0 - i / 10) for i, word in enumerate(words)]
    pieces += [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyzABDOP!.,&-"]
    backend = Tokenizer(Unigram(pieces, 2, byte_fallback=False))
    backend.pre_tokenizer = Metaspace()
    for cleaning in (Cleaning.TRANSFORMERS, Cleaning.LOWER, Cleaning.VERBATIM):
        tokenizer = FixedTokenizer(JsonPieces(backend), length=LENGTH, cleaning=cleaning)
        folder = tmp_path / cleaning.value
        save_pair(our_pair(), tokenizer, ImageProcessor(size=32), folder)
        theirs = their_processor(folder).tokenizer
        ours = load_siglip(folder)
        for text in TEXTS:
            expected = theirs(text, padding="max_length", truncation=True, max_length=LENGTH)
            assert ours.tokenizer.encode(text) == expected["input_ids"], (cleaning, text)
        again = tmp_path / f"{cleaning.value} again"
        ours.save(again)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            first, second = (json.loads((f / name).read_text()) for f in (folder, again))
            assert first == second
