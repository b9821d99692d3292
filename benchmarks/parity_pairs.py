"""SigLIP pairs for ``parity.py``: the same random weights in transformers and here, by file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from heliodor.checkpoints.siglip import SiglipCheckpoint

TOKENS = 90


@dataclass(frozen=True, kw_only=True, slots=True)
class PairCase:
    """One shape of both towers.

    Attributes:
        name: for the table.
        dtype: in which the weights rest in the file.
        image: pixels of a side, and of a patch.
        width: of both towers, with their layers and heads.
        length: tokens of a text.
    """

    name: str
    dtype: str = "float32"
    image: tuple[int, int] = (28, 7)
    width: tuple[int, int, int] = (48, 3, 4)
    length: int = 12


PAIRS = (
    PairCase(name="SigLIP, both towers"),
    PairCase(name="SigLIP, a rim that is cropped", image=(31, 7), width=(36, 2, 3), length=5),
    PairCase(name="SigLIP, deep", width=(32, 8, 2), length=24),
    PairCase(name="SigLIP", dtype="bfloat16"),
    PairCase(name="SigLIP", dtype="float16"),
)


def their_pair(case: PairCase) -> transformers.SiglipModel:
    """A fresh pair of that shape."""
    width, depth, heads = case.width
    both = {
        "hidden_size": width,
        "intermediate_size": 2 * width + 3,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
    }
    config = transformers.SiglipConfig(
        text_config=both
        | {"vocab_size": TOKENS, "max_position_embeddings": case.length, "projection_size": width},
        vision_config=both | {"image_size": case.image[0], "patch_size": case.image[1]},
    )
    return transformers.SiglipModel(config).eval()


@torch.no_grad()
def pair_error(case: PairCase, seed: int, randomise: Callable[[nn.Module], None]) -> float:
    """Largest difference of embeddings and logits, relative to the largest of theirs.

    Args:
        case: what to build.
        seed: of weights, pictures and texts.
        randomise: fills every tensor.
    """
    torch.manual_seed(seed)
    made = their_pair(case)
    randomise(made)
    pixels = torch.rand(3, 3, case.image[0], case.image[0]) * 2 - 1
    tokens = torch.randint(0, TOKENS, (4, case.length))
    with tempfile.TemporaryDirectory() as folder:
        made.to(getattr(torch, case.dtype)).save_pretrained(folder)
        ours = SiglipCheckpoint(folder=Path(folder), source=folder).load()
        theirs = transformers.SiglipModel.from_pretrained(folder, dtype="float32").eval()
        out = theirs(pixel_values=pixels, input_ids=tokens)
        found = (ours.embed_images(pixels), ours.embed_texts(tokens), ours(pixels, tokens))
    wanted: tuple[Tensor, ...] = (out.image_embeds, out.text_embeds, out.logits_per_image)
    return max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)
    )
