"""A SentencePiece vocabulary of SigLIP's kind, trained in a moment, and a whole pair with it."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import sentencepiece
from tests import tiny

from heliodor.checkpoints.siglip import save_pair
from heliodor.image import ImageProcessor
from heliodor.models.pair import SiglipTextConfig
from heliodor.text.fixed import FixedTokenizer

TEXT = SiglipTextConfig(vocab_size=110, length=32, width=24, depth=2, num_heads=4, mlp_width=36)

SENTENCES = (
    "a photo of a cat on the mat",
    "this is a photo of two dogs",
    "a red tulip in the garden",
    "don't stop: the bee, 3 bees & more!",
    "A Photo OF THE Zoo (in Zürich).",
)


@cache
def spiece() -> bytes:
    """The model file: </s> is 1, <unk> is 2, and fewer than 110 pieces in all."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 8),
        model_writer=model,
        model_type="unigram",
        vocab_size=100,
        hard_vocab_limit=False,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        control_symbols=["<pad>"],
        minloglevel=2,
    )
    return model.getvalue()


def write_spiece(folder: Path, name: str = "spiece.model") -> Path:
    """The file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(spiece())
    return folder / name


def pair_folder(folder: Path) -> Path:
    """A random pair in transformers layout, whose scores are neither 0 nor 1."""
    pair = tiny.pair(tiny.VISION, TEXT)
    pair.logit_scale.data.fill_(1.1)
    pair.logit_bias.data.fill_(-0.7)
    folder.mkdir(parents=True)
    vocabulary = write_spiece(folder, "vocabulary.model")
    tokenizer = FixedTokenizer.from_file(vocabulary, length=TEXT.length)
    save_pair(pair, tokenizer, ImageProcessor(size=tiny.VISION.image_size), folder)
    vocabulary.unlink()
    return folder
