"""LoRA adapters in peft's layout, merged into the weights that they were trained beside.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors``. For each adapted linear
layer the file has two matrices, and the layer's weight becomes

    W + scale * B A    A [r in], B [out r], W [out in]

with scale = lora_alpha / r, or lora_alpha / sqrt(r) with ``use_rslora``. Names of layers are those
of transformers, old and new, behind ``base_model.model.``. Sources: arXiv 2106.09685; peft's saved
files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from heliodor.checkpoints import locate
from heliodor.checkpoints.config import Section
from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.keymap import paligemma_keys
from heliodor.checkpoints.recognise import ADAPTER_CONFIG
from heliodor.checkpoints.tensors import open_tensors
from heliodor.checkpoints.weights import READABLE, Weight
from heliodor.errors import ConfigError, FileFormatError, KeyMismatchError
from heliodor.models.paligemma import PaliGemmaConfig

ADAPTER_WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_COPY = re.compile(r"(?P<layer>.+?)(?:\.modules_to_save(?:\.default)?)?\.(?P<kind>weight|bias)")
_ONLY_PLAIN = {
    "use_dora": "weight-decomposed (DoRA)",
    "lora_bias": "biased",
    "fan_in_fan_out": "transposed",
    "use_qalora": "quantisation-aware",
    "trainable_token_indices": "token-wise",
    "target_parameters": "parameter-wise",
    "alora_invocation_tokens": "activated (aLoRA)",
}
"""Fields that make another method of it when they are set."""
_MOVED_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways of starting that change the base model's weights too, which are not in the file."""
_LISTED = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """What ``adapter_config.json`` says.

    Attributes:
        rank: r; layers may differ, the file's shapes count.
        alpha: lora_alpha, where ``alphas`` says nothing else.
        rank_stabilised: whether the scale falls with sqrt(r) rather than r.
        alphas: exceptions by pattern of layer names.
        base: what the adapter was trained beside; empty where the file does not say.
    """

    rank: int
    alpha: float
    rank_stabilised: bool
    alphas: Mapping[str, float]
    base: str

    def scale(self, layer: str, rank: int) -> float:
        """The factor on B A of a layer."""
        alpha = _exception(self.alphas, layer, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Factors:
    """The two matrices of a layer, and the factor on their product."""

    down: Weight
    up: Weight
    scale: float


def find_adapter(source: str | Path) -> Path:
    """The folder of an adapter, which is downloaded where ``source`` is a hub id.

    Raises:
        ConfigError: neither a folder nor a hub id.
        HubError: the download failed.
    """
    path = locate(source, adapter=True)
    if not path.is_dir():
        raise ConfigError(f"{path} is a file; give the folder that holds it and {ADAPTER_CONFIG}")
    return path


def read_adapter_config(folder: Path) -> AdapterConfig:
    """``adapter_config.json``, if it describes plain LoRA.

    Raises:
        ConfigError: there is none, or it describes another method.
        FileFormatError: it is not JSON.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no {ADAPTER_CONFIG}: give the folder that peft's save_pretrained wrote"
        )
    section = Section(read_json(path), f"{path}: ")
    section.require("peft_type", ["LORA"], "other methods than LoRA are not read")
    if section.values.get("peft_type") is None:
        raise section.wrong("peft_type", "'LORA'")
    for field, what in _ONLY_PLAIN.items():
        if section.values.get(field):
            raise section.wrong(field, f"nothing: {what} LoRA is not read, merge it with peft")
    section.require("bias", ["none"], "trained biases are not read, merge the adapter with peft")
    start: Any = section.values.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_MOVED_BASE):
        raise section.wrong(
            "init_lora_weights",
            "true: this start changed the base model's weights too, which are not in the adapter. "
            "Save it with peft's path_initial_model_for_weight_conversion, or merge it with peft",
        )
    base: Any = section.values.get("base_model_name_or_path")
    return AdapterConfig(
        rank=section.count("r"),
        alpha=section.number("lora_alpha", 8.0),  # peft's own default
        rank_stabilised=section.values.get("use_rslora") is True,
        alphas=_pattern(section, "alpha_pattern"),
        base=base if isinstance(base, str) else "",
    )


def merged(
    weights: Mapping[str, Weight], folder: str | Path, config: PaliGemmaConfig
) -> dict[str, Weight]:
    """A model's weights with an adapter in them; nothing is read or computed before its turn.

    The sum is formed in float32 and rounded once to the type of the weight.

    Args:
        weights: of the base model, by our names.
        folder: of the adapter.
        config: of the base model.

    Raises:
        ConfigError: the adapter is not plain LoRA.
        FileFormatError: its file is missing or broken.
        KeyMismatchError: it belongs to another model, or is not whole.
    """
    folder = Path(folder)
    adapter = read_adapter_config(folder)
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise FileFormatError(
            f"{folder} has no {ADAPTER_WEIGHTS}; a pickled adapter_model.bin is not read, save it "
            "as safetensors"
        )
    factors, copies = _sort(path, adapter, config)
    _check(weights, factors, copies, path, adapter)
    found = dict(weights)
    for name, weight in copies.items():
        found[name] = replace(weight, name=weights[name].name)
    for name, pair in factors.items():
        base = found[name]
        found[name] = replace(base, read=partial(_sum, base, pair))
    return found


def _sort(
    path: Path, adapter: AdapterConfig, config: PaliGemmaConfig
) -> tuple[dict[str, _Factors], dict[str, Weight]]:
    """The file's tensors by our names: pairs of factors, and whole tensors that replace ours."""
    tensors, keys = open_tensors(path), paligemma_keys(config)
    halves: dict[str, dict[str, Weight]] = {}
    copies: dict[str, Weight] = {}
    layers: dict[str, str] = {}
    strange: list[str] = []
    for name in tensors:
        layer = name.removeprefix(_PREFIX)
        half, copy = _FACTOR.fullmatch(layer), _COPY.fullmatch(layer)
        theirs = f"{half['layer']}.weight" if half else ""
        if copy and not half and "lora_" not in layer:
            theirs = f"{copy['layer']}.{copy['kind']}"
        ours = keys.to_ours(theirs) if theirs else None
        if ours is None or tensors.entry(name).dtype not in READABLE:
            strange.append(name)
        elif half is not None:
            halves.setdefault(ours, {})[half["side"]] = tensors.weight(name)
            layers[ours] = half["layer"]
        else:
            copies[ours] = tensors.weight(name)
    single = [name for name, sides in halves.items() if len(sides) != 2]
    if strange or single or not (halves or copies):
        raise KeyMismatchError(_report(path, adapter, strange, single))
    return (
        {
            name: _Factors(
                down=sides["A"],
                up=sides["B"],
                scale=adapter.scale(layers[name], max(1, sides["A"].shape[0])),
            )
            for name, sides in halves.items()
        },
        copies,
    )


def _report(
    path: Path, adapter: AdapterConfig, strange: Sequence[str], single: Sequence[str]
) -> str:
    said: list[str] = []
    if strange:
        said.append(f"{len(strange)} tensors fit no layer of a PaliGemma: {_few(strange)}")
    if single:
        said.append(f"{len(single)} layers have only one of lora_A and lora_B: {_few(single)}")
    where = f" (it names {adapter.base} as its base model)" if adapter.base else ""
    return f"{path}{where}: {'; '.join(said) or 'it holds no tensors'}"


def _check(
    weights: Mapping[str, Weight],
    factors: Mapping[str, _Factors],
    copies: Mapping[str, Weight],
    path: Path,
    adapter: AdapterConfig,
) -> None:
    """Every tensor of the adapter has a tensor of the model to go with, in its shape."""
    wrong = [
        f"{n}: [{p.up.shape[0]} r] times [r {p.down.shape[1]}] onto {list(weights[n].shape)}"
        for n, p in factors.items()
        if n in weights and not _fits(p, weights[n])
    ]
    wrong += [
        f"{name}: {list(weight.shape)} for {list(weights[name].shape)}"
        for name, weight in copies.items()
        if name in weights and weight.shape != weights[name].shape
    ]
    absent = [name for name in (*factors, *copies) if name not in weights]
    if wrong or absent:
        where = f", which was trained beside {adapter.base or 'an unnamed model'}"
        faults = [f"{len(absent)} layers are not in the model: {_few(absent)}"] if absent else []
        faults += [f"{len(wrong)} have another shape: {_few(wrong)}"] if wrong else []
        raise KeyMismatchError(f"{path}{where}, is for another model. {'; '.join(faults)}")


def _fits(pair: _Factors, weight: Weight) -> bool:
    down, up = pair.down.shape, pair.up.shape
    if not len(down) == len(up) == len(weight.shape) == 2:
        return False
    return down[0] == up[1] and (up[0], down[1]) == weight.shape


def _sum(base: Weight, pair: _Factors) -> Tensor:
    """W + scale B A in float32, rounded to the type of W."""
    product = pair.up.read().float() @ pair.down.read().float()
    return product.mul_(pair.scale).add_(base.read()).to(base.dtype)


def _pattern(section: Section, field: str) -> dict[str, Any]:
    value: Any = section.values.get(field) or {}
    if not isinstance(value, dict):
        raise section.wrong(field, "an object of patterns and numbers")
    found = cast("dict[str, Any]", value)
    for number in found.values():
        if isinstance(number, bool) or not isinstance(number, int | float) or number <= 0:
            raise section.wrong(field, "an object of patterns and numbers above 0")
    return found


def _exception(patterns: Mapping[str, float], layer: str, usual: float) -> float:
    """The number of the first pattern that the end of a layer's name fits, as in peft."""
    for pattern, number in patterns.items():
        try:
            if re.fullmatch(rf"(.*\.)?({pattern})", layer):
                return number
        except re.error as error:
            raise ConfigError(f"alpha_pattern {pattern!r} is no regular expression") from error
    return usual


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
