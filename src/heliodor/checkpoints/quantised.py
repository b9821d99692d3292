"""Quantised tensors on their way from a file to a network or to another file.

Whatever the format, a checkpoint opens to float weights that are read when it is their turn. Here
they become the tensors of a quantised network, which are made when *they* are read: loading and
converting go on as they do, and hold one layer's float weights at a time, a megabyte of them in
float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heliodor.checkpoints.adapters import find_adapter, merged
from heliodor.checkpoints.blueprint import blueprint, unfilled
from heliodor.checkpoints.contents import NETWORKS, Contents
from heliodor.checkpoints.language import assemble_gemma
from heliodor.checkpoints.siglip import assemble_pair
from heliodor.checkpoints.weights import Weight, assemble, at_size
from heliodor.errors import CheckpointError, ConfigError, InputError
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.pair import SiglipPair, SiglipPairConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.quant.apply import apply_empty, quantisable, recipe_of
from heliodor.quant.pack import encode_pieces
from heliodor.quant.scheme import COLUMNS, Recipe, Scheme
from heliodor.quant.scheme import recipe as find_recipe

_DECODER = "language."
ALONE = "a quantised model is written in the native format alone, as one .safetensors file"


def quantised_weights(
    weights: Mapping[str, Weight], network: nn.Module, recipe: Recipe
) -> dict[str, Weight]:
    """The tensors of a quantised network, from those of the network as it was.

    Args:
        weights: float ones by our names, one for each tensor of the network; others are left out.
        network: as it was, on the meta device.
        recipe: which layer becomes what.

    Returns:
        By the names of :func:`~heliodor.quant.apply.apply_empty`'s network. Reading ``packed``
        quantises; ``scale`` comes of the same work if it is read afterwards.

    Raises:
        CheckpointError: when read, of a weight that is NaN or infinite.
    """
    schemes = recipe.named(name for name, _ in quantisable(network))
    found: dict[str, Weight] = {}
    for name in network.state_dict():
        layer, _, part = name.rpartition(".")
        scheme = schemes.get(layer)
        weight = weights[name]
        if scheme is None:
            found[name] = weight
        elif part == "weight":
            found |= {f"{layer}.{key}": each for key, each in _encoded(weight, scheme).items()}
        else:
            found[name] = replace(weight, dtype=torch.float32, read=partial(_wide, weight))
    return found


def _wide(weight: Weight) -> Tensor:
    wide = weight.read().detach().to(torch.float32, copy=True)
    weight.release()
    return wide


def _encoded(weight: Weight, scheme: Scheme) -> dict[str, Weight]:
    """The tensors that stand for one weight."""
    rows, width = weight.shape
    work = _Encoding(weight, scheme)
    return {
        part: Weight(
            name=f"{weight.name} ({part})",
            dtype=getattr(torch, dtype),
            shape=shape,
            read=partial(work.read, part),
        )
        for part, (dtype, shape) in scheme.parts(rows, width).items()
    }


class _Encoding:
    """One weight's codes and scales, made together; of what was not asked for, scales are kept."""

    def __init__(self, weight: Weight, scheme: Scheme) -> None:
        self._weight = weight
        self._scheme = scheme
        self._scale: Tensor | None = None

    def read(self, part: str) -> Tensor:
        """Codes or scales; the latter cost nothing after the former."""
        kept, self._scale = self._scale, None
        if part == "scale" and kept is not None:
            return kept
        try:
            rows, width = self._weight.shape
            parts = encode_pieces(self._weight.pieces(COLUMNS), (rows, width), self._scheme)
        except InputError as error:
            raise CheckpointError(f"{self._weight.name}: {error}") from error
        if part != "scale":
            self._scale = parts["scale"]
        return parts[part]


def quantised_contents(contents: Contents, recipe: Recipe) -> Contents:
    """A checkpoint's contents, to be quantised as they are written.

    Raises:
        ConfigError: they are quantised already.
    """
    if contents.recipe is not None:
        raise ConfigError(
            f"the source is quantised already ({contents.recipe.name}): give the checkpoint that "
            "it was made from"
        )
    network = unfilled(lambda: NETWORKS[contents.family](contents.config))
    weights = quantised_weights(contents.weights, network, recipe)
    exact = recipe_of(apply_empty(network, recipe))
    assert exact is not None
    return replace(contents, weights=weights, recipe=replace(exact, name=recipe.name))


def check_float(model: nn.Module | Contents, format: str) -> None:  # noqa: A002 - the public name
    """Refuse to write a quantised model in a format that has no place for codes.

    Raises:
        ConfigError: it is quantised.
    """
    found = model.recipe if isinstance(model, Contents) else recipe_of(model)
    if found is not None:
        raise ConfigError(
            f"the model is quantised ({found.name}) and the format {format} holds none such: "
            f"{ALONE} (format='native')"
        )


def chosen_recipe(checkpoint: Any, wish: str | Recipe | None, *, adapter: bool) -> Recipe | None:
    """How weights are to be quantised on the way from a checkpoint; None where they come as stored.

    Args:
        checkpoint: of any format; a native file may hold a quantised model.
        wish: what the caller asks for.
        adapter: whether one is to be merged.

    Raises:
        ConfigError: the file is quantised in another way than wished, or an adapter would have to
            be merged into codes.
    """
    wished = None if wish is None else find_recipe(wish)
    stored: Recipe | None = checkpoint.recipe() if hasattr(checkpoint, "recipe") else None
    if stored is None:
        return wished
    origin = "give the checkpoint that it was made from"
    if adapter:
        raise ConfigError(
            f"{checkpoint.source} is quantised, and an adapter is merged into numbers, not into "
            f"codes: {origin}, with quantize={stored.name!r}"
        )
    if wished is not None and stored.name != wished.name:
        raise ConfigError(
            f"{checkpoint.source} is quantised as {stored.name} already, and {wished.name} is "
            f"asked for: load it without quantize, or {origin}"
        )
    return None


def load_quantised(
    checkpoint: Any,
    recipe: Recipe,
    *,
    adapter: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    final_cap: bool = True,
) -> PaliGemma:
    """A PaliGemma whose weights are quantised as they are read.

    Args:
        checkpoint: of a PaliGemma, not quantised yet.
        recipe: which layer is stored how.
        adapter: a LoRA adapter to merge before.
        dtype: in which the weights rest that stay numbers.
        device: where all of them rest.
        image_size: another resolution than the checkpoint's.
        final_cap: False leaves out PaliGemma 2's soft cap on logits.

    Raises:
        CheckpointError: a weight that is NaN or infinite, or what loading raises without a recipe.
    """
    stored: PaliGemmaConfig = checkpoint.config()
    weights: Mapping[str, Weight] = checkpoint.weights()
    if adapter is not None:
        weights = merged(weights, find_adapter(adapter), stored)
    config = at_size(stored, image_size)
    if not final_cap:
        config = replace(config, language=replace(config.language, final_cap=None))
    return assemble(
        config,
        quantised_weights(weights, blueprint(stored), recipe),
        place=Path(checkpoint.source),
        dtype=dtype,
        device=device,
        recipe=recipe,
    )


def load_quantised_pair(
    checkpoint: Any,
    recipe: Recipe,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> SiglipPair:
    """The same for a SigLIP pair; see :func:`load_quantised`."""
    config: SiglipPairConfig = checkpoint.config()
    network = unfilled(lambda: SiglipPair(config))
    return assemble_pair(
        config,
        quantised_weights(checkpoint.weights(), network, recipe),
        place=Path(checkpoint.source),
        dtype=dtype,
        device=device,
        recipe=recipe,
    )


def load_quantised_gemma(
    checkpoint: Any,
    recipe: Recipe,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Gemma:
    """The same for a Gemma, or for a PaliGemma's decoder; see :func:`load_quantised`."""
    config: GemmaConfig | PaliGemmaConfig = checkpoint.config()
    weights: Mapping[str, Weight] = checkpoint.weights()
    if isinstance(config, PaliGemmaConfig):
        config = config.language
        weights = {n.removeprefix(_DECODER): w for n, w in weights.items() if _DECODER in n}
    network = unfilled(lambda: Gemma(config))
    return assemble_gemma(
        config,
        quantised_weights(weights, network, recipe),
        place=Path(checkpoint.source),
        dtype=dtype,
        device=device,
        recipe=recipe,
    )
