"""Where an autoencoder comes from: a folder of diffusers, read without diffusers' own loading.

Its weights go through the library's reader, so that nothing is ever unpickled and every name and
shape is checked. Old files call the parts of attention otherwise; both names are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.tensors import Tensors, open_tensors
from heliodor.checkpoints.variants import chosen_names, variants_in
from heliodor.checkpoints.weights import READABLE, parse_dtype
from heliodor.errors import CheckpointError, ConfigError, FileFormatError, KeyMismatchError
from heliodor.paint.vae import Autoencoder, decoding_work

__all__ = ["WEIGHTS", "VaeSource", "open_vae"]

CONFIG = "config.json"
STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
_CLASS = "AutoencoderKL"
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeSource:
    """An autoencoder on this machine, not loaded yet.

    Attributes:
        folder: holds ``config.json`` and the weights.
        values: of ``config.json``.
        variant: of the name of the weights, such as "fp16"; read where it is there.
    """

    folder: Path
    values: dict[str, Any]
    variant: str | None = None

    @property
    def channels(self) -> int:
        """Of a latent."""
        return int(self.values.get("latent_channels", 4))

    @property
    def widths(self) -> list[int]:
        """Channels of the blocks, the finest first."""
        found: Any = self.values.get("block_out_channels", [64])
        listed = cast("list[Any]", found) if isinstance(found, list) else []
        if not listed or not all(type(each) is int for each in listed):
            raise ConfigError(
                f"{self.folder / CONFIG}: block_out_channels is {found!r}; expected a list of "
                "numbers of channels"
            )
        return listed

    @property
    def factor(self) -> int:
        """Pixels of a side that one latent stands for."""
        return 2 ** (len(self.widths) - 1)

    def tensors(self) -> Tensors:
        """The weights, none of them read.

        Raises:
            FileFormatError: none there, or broken.
        """
        path = self.folder / chosen_names(self.folder, STEM, self.variant)[0]
        if not path.is_file():
            others = sorted(entry.name for entry in self.folder.glob("*.bin"))
            hint = f"; {others[0]} is a pickle and is not read" if others else ""
            if variants := variants_in(self.folder, STEM):
                hint = f", only those of a variant: ask for variant='{variants[0]}'"
            raise FileFormatError(f"{self.folder} holds no {WEIGHTS}{hint}")
        return open_tensors(path)

    def nbytes(self, dtype: str | torch.dtype) -> int:
        """Bytes of the weights once loaded.

        Raises:
            ConfigError: a type in which they do not rest.
        """
        tensors, size = self.tensors(), check_dtype(dtype).itemsize
        return sum(tensors.weight(name).count for name in tensors) * size

    def work(self, latent: tuple[int, int]) -> int:
        """Bytes that decoding one picture needs beside the weights."""
        return decoding_work(self.widths, latent)

    def load(
        self,
        kind: Any,
        *,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device = "cpu",
    ) -> Autoencoder:
        """The network with its weights.

        Args:
            kind: diffusers' class.
            dtype: in which they rest: float32 or bfloat16.
            device: where they rest.

        Raises:
            CheckpointError: a weight of a type that is not read.
            ConfigError: float16, or a configuration that diffusers refuses.
            KeyMismatchError: names or shapes are not those that the configuration asks for.
        """
        chosen = check_dtype(dtype)
        try:
            module = unfilled(lambda: kind.from_config(self.values))
        except (TypeError, ValueError, KeyError, AssertionError) as error:
            raise ConfigError(f"{self.folder / CONFIG} makes no {_CLASS}: {error}") from error
        tensors = self.tensors()
        wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        source = {_today(name): name for name in tensors}
        self._check(tensors, source, wanted)
        state: dict[str, torch.Tensor] = {}
        for name, shape in wanted.items():
            target = torch.empty(shape, dtype=chosen, device=device)
            weight = tensors.weight(source[name])
            weight.copy_to(target.view(weight.shape))
            state[name] = target
        module.load_state_dict(state, strict=True, assign=True)
        return Autoencoder(module)

    def _check(
        self, tensors: Tensors, source: dict[str, str], wanted: dict[str, tuple[int, ...]]
    ) -> None:
        missing, extra = (
            sorted(wanted.keys() - source.keys()),
            sorted(source.keys() - wanted.keys()),
        )
        if missing or extra:
            raise KeyMismatchError(
                f"{self.folder / WEIGHTS} does not fit {CONFIG}: missing {missing[:3]}, not "
                f"expected {extra[:3]} ({len(missing)} and {len(extra)} in all)"
            )
        for name, theirs in source.items():
            entry = tensors.entry(theirs)
            if _without_ones(entry.shape) != _without_ones(wanted[name]):
                raise KeyMismatchError(
                    f"{self.folder / WEIGHTS}: {theirs} is {list(entry.shape)}, expected "
                    f"{list(wanted[name])}"
                )
            if entry.dtype not in READABLE:
                raise CheckpointError(
                    f"{self.folder / WEIGHTS}: {theirs} is stored as {entry.dtype}, which is not "
                    "read as a weight"
                )


def open_vae(folder: str | Path, *, variant: str | None = None) -> VaeSource:
    """Look at a folder of diffusers: an autoencoder's own, or a pipeline's with one in ``vae``.

    Args:
        folder: which.
        variant: of the name of the weights, such as "fp16"; read where it is there.

    Raises:
        ConfigError: there is none, or one of another kind.
        FileFormatError: its ``config.json`` is not JSON.
    """
    folder = Path(folder)
    place = folder / "vae" if (folder / "vae" / CONFIG).is_file() else folder
    values = read_json(place / CONFIG)
    if values.get("_class_name") != _CLASS:
        raise ConfigError(
            f"{place / CONFIG} describes {values.get('_class_name')!r}; expected an {_CLASS} of "
            "diffusers, such as stabilityai/sdxl-vae"
        )
    return VaeSource(folder=place, values=values, variant=variant)


def check_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A type in which an autoencoder may rest.

    Raises:
        ConfigError: float16, or no such type.
    """
    chosen = parse_dtype(dtype)
    if chosen == torch.float16:
        raise ConfigError(
            "an autoencoder in float16 overflows to black pictures: load it as bfloat16, which "
            "takes the same room, or as float32"
        )
    return chosen


def _today(name: str) -> str:
    """A tensor's name as diffusers writes it today."""
    found = _OLD_NAME.fullmatch(name)
    return name if found is None else f"{found[1]}{_OLD_ATTENTION[found[2]]}{found[3]}"


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Old attention weights are 1x1 convolutions: [512 512 1 1] for [512 512]."""
    return shape[:2] if shape[2:] == (1, 1) else shape
