"""Quantised networks as files: written once, so that a later run need not quantise again."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from heliodor.checkpoints import open_paligemma
from heliodor.checkpoints.contents import Contents
from heliodor.checkpoints.native import save
from heliodor.checkpoints.recognise import Kind
from heliodor.checkpoints.weights import Weight
from heliodor.models.paligemma import PaliGemma
from heliodor.quant.apply import recipe_of
from heliodor.quant.scheme import recipe

__all__ = ["kept_path", "read_file", "write_file"]


def kept_path(folder: Path, size: str, seed: int, scheme: str) -> Path:
    """Where a network of random weights is kept; another recipe of the same name is another file.

    Raises:
        ConfigError: an unknown recipe.
    """
    rules = json.dumps(recipe(scheme).to_dict(), sort_keys=True)
    digest = zlib.crc32(rules.encode())
    return folder / f"{size}-{seed}-{scheme}-{digest:08x}.heliodor.safetensors"


def read_file(path: Path) -> PaliGemma:
    """The network in memory of its own, as if it had just been quantised."""
    model = open_paligemma(path).load()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def write_file(model: PaliGemma, path: Path) -> None:
    """The network as a native file, without words: the benchmark's prompt is made of ids."""
    state = model.state_dict()
    contents = Contents(
        kind=Kind.NATIVE,
        family="paligemma",
        config=model.config,
        weights={name: Weight.of(name, tensor) for name, tensor in state.items()},
        tokenizer=None,
        processor=None,
        codec=None,
        recipe=recipe_of(model),
    )
    save(contents, path)
