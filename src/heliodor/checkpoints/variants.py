"""What files of weights are called: plainly, or of a variant, as diffusers and transformers do.

    diffusion_pytorch_model.safetensors         diffusion_pytorch_model.safetensors.index.json
    diffusion_pytorch_model.fp16.safetensors    diffusion_pytorch_model.safetensors.index.fp16.json

A variant holds the same network in another type. Importing this module loads no torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from heliodor.checkpoints.header import STEM
from heliodor.errors import InputError

_VARIANT = re.compile(r"[A-Za-z0-9_-]{1,40}")
_SHARD = re.compile(r"-\d+-of-\d+$")


def weight_names(stem: str = STEM, variant: str | None = None) -> tuple[str, str]:
    """The names of one file of weights, and of the index of several.

    Raises:
        InputError: a variant that is no plain word.
    """
    if variant is None:
        return f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    if _VARIANT.fullmatch(variant) is None:
        raise InputError(f"variant is {variant[:60]!r}; expected a word such as 'fp16'")
    return f"{stem}.{variant}.safetensors", f"{stem}.safetensors.index.{variant}.json"


def chosen_names(folder: Path, stem: str = STEM, variant: str | None = None) -> tuple[str, str]:
    """The names to read in a folder: the variant's where it is there, else the plain ones.

    Raises:
        InputError: a variant that is no plain word.
    """
    named = weight_names(stem, variant)
    if any((folder / name).is_file() for name in named):
        return named
    return weight_names(stem)


def variants_in(folder: Path, stem: str = STEM) -> list[str]:
    """The variants whose weights lie in a folder, by name."""
    single = re.compile(rf"{re.escape(stem)}\.({_VARIANT.pattern})\.safetensors")
    index = re.compile(rf"{re.escape(stem)}\.safetensors\.index\.({_VARIANT.pattern})\.json")
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    found = [single.fullmatch(name) or index.fullmatch(name) for name in names]
    words = {match[1] for match in found if match is not None}
    return sorted(word for word in words if _SHARD.search(word) is None)


def weight_patterns(stem: str = STEM, variant: str | None = None) -> tuple[str, ...]:
    """What to fetch of a repository: the weights' names, shards' too, and of one variant alone.

    Raises:
        InputError: a variant that is no plain word.
    """
    single, index = weight_names(stem, variant)
    if variant is None:
        return single, index, f"{stem}-?????-of-?????.safetensors"
    return (
        single,
        index,
        f"{stem}.{variant}-*-of-*.safetensors",
        f"{stem}-*-of-*.{variant}.safetensors",
    )
