"""The layouts that ``layouts.py`` measures, written from one block of noise, a tensor at a time.

Nothing of the library is imported before something is written: the process that measures another
library must not hold this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PRESETS = ("3b", "small")
_BLOCK = 2**22  # numbers of noise


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One way to lay the model down.

    Attributes:
        name: for the table.
        path: of the file or folder in the scratch folder.
        dtype: of the weights in it.
        write: lays it down.
    """

    name: str
    path: str
    dtype: str
    write: Callable[[Path, str, str], None]


def model_config(preset: str) -> Any:
    """Shapes of PaliGemma 3B at 224 pixels, or of something like it."""
    from heliodor.models.presets import PUBLISHED  # noqa: PLC0415 - the other side must not load it

    config = PUBLISHED["google/paligemma-3b-pt-224"]
    if preset == "3b":
        return config
    vision = replace(config.vision, image_size=28, width=48, depth=2, num_heads=3, mlp_width=80)
    language = replace(
        config.language, vocab_size=640, width=64, depth=2, head_dim=16, mlp_width=96
    )
    return replace(config, vision=vision, language=language, image_token=600)


def noise_weights(preset: str) -> tuple[Any, dict[str, Any]]:
    """The configuration, and weights by our names that come into being when they are written."""
    from heliodor.checkpoints.blueprint import blueprint  # noqa: PLC0415 - see model_config
    from heliodor.checkpoints.weights import Weight  # noqa: PLC0415

    noise = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)) * 0.02

    class Noise(Weight):
        """Numbers out of the block, from another place for each tensor."""

        __slots__ = ()

        def pieces(self) -> Iterator[Tensor]:
            rows, row = self.shape[0], math.prod(self.shape[1:])
            step = max(1, _BLOCK // (4 * row))
            for begin in range(0, rows, step):
                count = min(step, rows - begin)
                start = (hash_of(self.name) + begin * 7919) % (_BLOCK - count * row)
                yield noise[start : start + count * row].view(count, *self.shape[1:])

    def weight(name: str, shape: tuple[int, ...]) -> Noise:
        def read() -> Tensor:
            whole = torch.empty(shape)
            start = 0
            for piece in made.pieces():
                whole[start : start + len(piece)] = piece
                start += len(piece)
            return whole

        made = Noise(name=name, dtype=torch.float32, shape=shape, read=read)
        return made

    config = model_config(preset)
    state = blueprint(config).state_dict()
    return config, {name: weight(name, tuple(value.shape)) for name, value in state.items()}


def hash_of(name: str) -> int:
    """The same number in every process."""
    return sum(ord(letter) * 131 ** (place % 5) for place, letter in enumerate(name))


def write_folder(path: Path, preset: str, dtype: str) -> None:
    """Transformers layout without a tokenizer; float32 in shards."""
    from heliodor.checkpoints.config import CONFIG, config_values  # noqa: PLC0415
    from heliodor.checkpoints.files import Replacement, to_json  # noqa: PLC0415
    from heliodor.checkpoints.keymap import paligemma_keys  # noqa: PLC0415
    from heliodor.checkpoints.processor import PROCESSOR  # noqa: PLC0415
    from heliodor.checkpoints.shards import write_tensors  # noqa: PLC0415
    from heliodor.checkpoints.weights import parse_dtype  # noqa: PLC0415
    from heliodor.image import ImageProcessor  # noqa: PLC0415

    config, weights = noise_weights(preset)
    keys = paligemma_keys(config)
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    values = config_values(config, image_token=config.image_token, special=special, dtype=dtype)
    processor = ImageProcessor(size=config.vision.image_size)
    limit = 5 * 10**9 if preset == "3b" else 100_000
    with Replacement(path) as new:
        new.write(CONFIG, to_json(values))
        new.write(PROCESSOR, to_json(processor.to_preprocessor_config(config.vision.num_tokens)))
        write_tensors(
            new,
            {keys.to_theirs(name): weight for name, weight in weights.items()},
            parse_dtype(dtype),
            limit if dtype == "float32" else 2**60,
        )


def write_npz(path: Path, preset: str, dtype: str) -> None:
    """big_vision's arrays; a layer of one is in memory at a time."""
    from heliodor.checkpoints import bigvision  # noqa: PLC0415

    config, weights = noise_weights(preset)
    bigvision.write(config, weights, path, dtype=dtype)


def write_native(path: Path, preset: str, dtype: str) -> None:
    """The single file, without a tokenizer."""
    from heliodor.checkpoints.contents import Contents  # noqa: PLC0415
    from heliodor.checkpoints.native import save  # noqa: PLC0415
    from heliodor.checkpoints.recognise import Kind  # noqa: PLC0415
    from heliodor.image import ImageProcessor  # noqa: PLC0415

    config, weights = noise_weights(preset)
    contents = Contents(
        kind=Kind.NATIVE,
        family="paligemma",
        config=config,
        weights=weights,
        tokenizer=None,
        processor=ImageProcessor(size=config.vision.image_size),
    )
    save(contents, path, dtype=dtype)


LAYOUTS = (
    Layout(name="transformers, shards", path="float32", dtype="float32", write=write_folder),
    Layout(name="transformers, one file", path="bfloat16", dtype="bfloat16", write=write_folder),
    Layout(name="big_vision npz", path="float32.npz", dtype="float32", write=write_npz),
    Layout(name="big_vision npz", path="bfloat16.npz", dtype="bfloat16", write=write_npz),
    Layout(
        name="native", path="bfloat16.heliodor.safetensors", dtype="bfloat16", write=write_native
    ),
)
