"""A SentencePiece vocabulary of SigLIP's kind, trained in a moment: </s> is 1, <unk> is 2."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import sentencepiece

SENTENCES = (
    "a photo of a cat on the mat",
    "this is a photo of two dogs",
    "a red tulip in the garden",
    "don't stop: the bee, 3 bees & more!",
    "A Photo OF THE Zoo (in Zürich).",
)


@cache
def spiece() -> bytes:
    """The model file, 78 pieces or so."""
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
