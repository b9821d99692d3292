"""The conversion matrix: every format into every other, in every type, each tensor compared.

    python benchmarks/conversions.py

Small models with random weights are written in each format. A cell converts one of them into
another format and type, and back into the first format; then the files of the first format are
read with other libraries (safetensors, numpy) and compared key by key: each array must be the
original one in the type asked for, bit for bit.

Prints a table of the number of tensors that came back and one JSON line; exits 1 if any cell fails.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from heliodor import zoo
from heliodor.checkpoints import transformers as transformers_layout
from heliodor.checkpoints.convert import DROPPABLE, convert
from heliodor.checkpoints.language import save_language
from heliodor.checkpoints.siglip import save_pair
from heliodor.errors import HeliodorError
from heliodor.image import ImageProcessor, Resize
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.pair import SiglipPair, SiglipPairConfig, SiglipTextConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig
from heliodor.text import Tokenizer
from heliodor.text.fixed import FixedTokenizer

NAMES = {"transformers": "model", "big_vision": "model.npz", "native": "model.safetensors"}
DTYPES = ("float32", "bfloat16", "float16")
VISION = SiglipVisionConfig(
    image_size=16, patch_size=4, width=24, depth=2, num_heads=3, mlp_width=40
)
LANGUAGE = GemmaConfig(width=32, depth=2, num_heads=4, num_kv_heads=2, head_dim=12, mlp_width=56)
LANGUAGE2 = replace(LANGUAGE, sandwich=True, attention_cap=50.0, final_cap=30.0, window=4096)
PROCESSOR = ImageProcessor(size=16, resize=Resize.BIG_VISION)


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model and the formats that have a layout for it.

    Attributes:
        name: for the table.
        formats: of ``NAMES``.
        write: makes a folder in transformers layout.
        words: the tokenizer's file, inside that folder or elsewhere.
    """

    name: str
    formats: tuple[str, ...]
    write: Callable[[Path], None]
    words: Callable[[Path], Path]


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """Normal numbers everywhere, those of norms too."""
    for parameter in network.parameters():
        parameter.normal_()


def write_paligemma(folder: Path, language: GemmaConfig) -> None:
    """Without rows of padding, which an npz does not hold."""
    words = Tokenizer.from_file(zoo.TOKENIZER)
    assert words.image_token is not None
    config = PaliGemmaConfig(
        vision=VISION,
        language=replace(language, vocab_size=words.image_token),
        image_token=words.image_token,
    )
    network = PaliGemma(config)
    randomise(network)
    transformers_layout.save(network, words, PROCESSOR, folder)


def write_siglip(folder: Path) -> None:
    """With a vocabulary of its own."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a bee on a tulip in the garden", "two dogs and a red ball"] * 8),
        model_writer=model,
        model_type="unigram",
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        control_symbols=["<pad>"],
        minloglevel=2,
    )
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "spiece.model"
        path.write_bytes(model.getvalue())
        words = FixedTokenizer.from_file(path, length=8)
    text = SiglipTextConfig(
        vocab_size=words.vocab_size, length=8, width=24, depth=2, num_heads=3, mlp_width=36
    )
    network = SiglipPair(SiglipPairConfig(vision=VISION, text=text))
    randomise(network)
    save_pair(network, words, PROCESSOR, folder)


def write_gemma(folder: Path, language: GemmaConfig) -> None:
    """With a chat template, and an id beside <eos> at which answers end."""
    words = Tokenizer.from_file(zoo.TOKENIZER)
    network = Gemma(replace(language, vocab_size=words.vocab_size))
    randomise(network)
    save_language(network, words, folder, ends=(107,), chat_template="{{ bos_token }}")


EVERY = tuple(NAMES)
WITHOUT_NPZ = ("transformers", "native")
SUBJECTS = (
    Subject(
        name="PaliGemma",
        formats=EVERY,
        write=lambda folder: write_paligemma(folder, LANGUAGE),
        words=lambda folder: folder / "tokenizer.json",
    ),
    Subject(
        name="PaliGemma 2",
        formats=EVERY,
        write=lambda folder: write_paligemma(folder, LANGUAGE2),
        words=lambda folder: folder / "tokenizer.json",
    ),
    Subject(
        name="SigLIP",
        formats=EVERY,
        write=write_siglip,
        words=lambda folder: folder / "spiece.model",
    ),
    Subject(
        name="Gemma",
        formats=WITHOUT_NPZ,
        write=lambda folder: write_gemma(folder, LANGUAGE),
        words=lambda folder: folder / "tokenizer.json",
    ),
    Subject(
        name="Gemma 2",
        formats=WITHOUT_NPZ,
        write=lambda folder: write_gemma(folder, LANGUAGE2),
        words=lambda folder: folder / "tokenizer.json",
    ),
)


def stored(place: Path) -> dict[str, Tensor]:
    """The tensors in a checkpoint, as other libraries read them."""
    if place.is_dir():
        return load_file(place / "model.safetensors")
    if place.suffix == ".safetensors":
        return load_file(place)
    found: dict[str, Tensor] = {}
    with np.load(place, allow_pickle=False) as arrays:
        for name, array in arrays.items():
            if array.dtype.itemsize == 2 and array.dtype.kind == "V":  # bfloat16, to numpy
                found[name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            else:
                found[name] = torch.from_numpy(array)
    return found


def cell(subject: Subject, source: Path, target: str, dtype: str, words: Path) -> int:
    """Convert there and back; the number of tensors that are what they should be.

    Raises:
        AssertionError: one is not.
        HeliodorError: a conversion was refused.
    """
    with tempfile.TemporaryDirectory() as place:
        there, back = Path(place) / "there", Path(place) / "back"
        there.mkdir()
        back.mkdir()
        first = convert(source, there / NAMES[target], dtype=dtype, tokenizer=words, drop=DROPPABLE)
        second = convert(first.path, back / source.name, tokenizer=words, drop=DROPPABLE)
        assert {*first.dropped, *second.dropped} <= {"tokenizer"}, subject.name
        before, after = stored(source), stored(second.path)
    assert before.keys() == after.keys(), before.keys() ^ after.keys()
    kind = getattr(torch, dtype)
    for name, tensor in before.items():
        assert after[name].dtype == kind, name
        assert torch.equal(after[name], tensor.to(kind)), name
    return len(before)


def main() -> int:
    """Run all cells, print the table, return the exit code."""
    began = time.perf_counter()
    cells, failed = 0, 0
    print(
        f"| {'model':11} | {'from':12} | {'to':12} | " + " | ".join(f"{d:8}" for d in DTYPES), "|"
    )
    print(f"|{'-' * 13}|{'-' * 14}|{'-' * 14}|" + f"{'-' * 10}|" * len(DTYPES))
    for subject in SUBJECTS:
        with tempfile.TemporaryDirectory() as place:
            first = Path(place) / NAMES["transformers"]
            subject.write(first)
            words = subject.words(first)
            for source in subject.formats:
                path = Path(place) / NAMES[source]
                if path != first:
                    convert(first, path, drop=DROPPABLE)
                for target in subject.formats:
                    shown: list[str] = []
                    for dtype in DTYPES:
                        cells += 1
                        try:
                            shown.append(f"{cell(subject, path, target, dtype, words)} equal")
                        except (AssertionError, HeliodorError) as error:
                            failed += 1
                            shown.append("FAILED")
                            print(
                                f"{subject.name} {source} {target} {dtype}: {error}",
                                file=sys.stderr,
                            )
                    row = " | ".join(f"{text:8}" for text in shown)
                    print(f"| {subject.name:11} | {source:12} | {target:12} | {row} |", flush=True)
    seconds = round(time.perf_counter() - began, 1)
    summary = {"cells": cells, "failed": failed, "seconds": seconds, "torch": torch.__version__}
    print(json.dumps(summary))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
