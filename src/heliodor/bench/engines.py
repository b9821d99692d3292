"""What takes turns: our networks, and peers behind the same face.

A peer is a Python file of the repository's ``benchmarks/peers``, loaded by its path: transformers
and llama.cpp are no dependencies of this package, and none of its modules imports them.

T text tokens, V rows of the embedding table.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

import heliodor
from heliodor.bench.sizes import Size
from heliodor.bench.weights import shared
from heliodor.errors import HeliodorError, InputError
from heliodor.models.paligemma import PaliGemma

__all__ = [
    "Engine",
    "Inputs",
    "MissingEngineError",
    "Ours",
    "find_peers",
    "load_peer",
    "quantised",
    "refused",
]

BOS, NEWLINE = 2, 108
_LONGEST = 240  # letters of a reason
_PEERS = Path(heliodor.__file__).parents[2] / "benchmarks" / "peers"


class MissingEngineError(HeliodorError):
    """An engine that cannot take part, and why; it never ends a run."""


class Engine(Protocol):
    """Something that reads a picture and a prompt, and then token after token."""

    name: str

    def first(self, pixels: Tensor, tokens: Tensor, /) -> tuple[Tensor, Any]:
        """Pixels [1 3 H W], tokens int64 [1 T] -> logits of the first new token [V], a state."""
        ...

    def step(self, token: int, state: Any, /) -> tuple[Tensor, Any]:
        """One more token -> logits of the next [V], the new state."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inputs:
    """What every engine is given: a picture of noise, a prompt, and the tokens to go on with.

    Attributes:
        pixels: float32 [1 3 H W] in -1..1.
        tokens: int64 [1 T].
        following: as many as there are steps. All engines read the same, whatever they would have
            said themselves, so that their logits can be compared.
    """

    pixels: Tensor
    tokens: Tensor
    following: tuple[int, ...]

    @classmethod
    def draw(cls, size: Size, steps: int, seed: int = 0) -> Inputs:
        """The same for the same seed."""
        source = torch.Generator().manual_seed(seed)
        side = size.config.vision.image_size
        count = (size.words - 2 + steps,)
        drawn = torch.randint(size.first_word, size.loc_start, count, generator=source)
        words = [int(word) for word in drawn]
        prompt = [BOS, *words[: size.words - 2], NEWLINE]
        return cls(
            pixels=torch.rand(1, 3, side, side, generator=source) * 2 - 1,
            tokens=torch.tensor([prompt]),
            following=tuple(words[size.words - 2 :]),
        )


class Ours:
    """A network of this library, as the verbs run it.

    Attributes:
        name: of its scheme, "float32" or "int8".
        model: the network.
    """

    def __init__(self, name: str, model: PaliGemma) -> None:
        self.name = name
        self.model = model

    @torch.no_grad()
    def first(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Any]:
        """See :class:`Engine`."""
        return self.prefill(self.model.encode_images(pixels), tokens)

    @torch.no_grad()
    def prefill(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Any]:
        """Features [1 N W], tokens int64 [1 T] -> logits [V] and the cache: the decoder alone."""
        valid = torch.ones_like(tokens, dtype=torch.bool)
        logits, cache = self.model.prefill(tokens, features, valid)
        return logits[0], cache

    @torch.no_grad()
    def step(self, token: int, state: Any) -> tuple[Tensor, Any]:
        """See :class:`Engine`."""
        return self.model.step(torch.tensor([token]), state)[0], state


def quantised(source: PaliGemma, scheme: str) -> PaliGemma:
    """The same network with its linear layers quantised; the source keeps its own weights.

    Args:
        source: in a floating type.
        scheme: the name of a recipe, such as "int8".

    Raises:
        ConfigError: there is no such recipe.
    """
    from heliodor.quant.apply import quantise  # noqa: PLC0415 - the kernels load with it
    from heliodor.quant.scheme import recipe  # noqa: PLC0415

    wanted = recipe(scheme)
    twin = shared(source)
    quantise(twin, wanted)
    return twin


def find_peers(folder: str | None) -> Path | None:
    """Where the peers' files lie: the folder given, or the repository's if this is a checkout.

    Raises:
        InputError: a folder was given and is none.
    """
    if folder is not None:
        if not Path(folder).is_dir():
            raise InputError(f"--peers {folder}: there is no such folder")
        return Path(folder)
    return _PEERS if _PEERS.is_dir() else None


def load_peer(folder: Path | None, name: str) -> ModuleType:
    """The module of one peer, ``NAME_peer.py``.

    Raises:
        MissingEngineError: there is no file, or what it imports is not installed.
    """
    if folder is None:
        raise MissingEngineError(
            f"{name} is driven by benchmarks/peers/{name}_peer.py of the repository, which an "
            "installed package does not hold: give --peers FOLDER"
        )
    path = folder / f"{name}_peer.py"
    spec = importlib.util.spec_from_file_location(f"heliodor_peer_{name}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise MissingEngineError(f"there is no {path.name} among the peers")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise MissingEngineError(
            f"{name} needs {error.name or error}, which is not installed: pip install "
            "'heliodor[dev]', or the package named"
        ) from error
    return module


def refused(build: Callable[[], Engine], name: str, skipped: dict[str, str]) -> list[Engine]:
    """The engine in a list, or an empty list and the reason noted under its name."""
    try:
        return [build()]
    except Exception as error:  # noqa: BLE001 - an engine that breaks down ends its part alone
        skipped[name] = reason(error)
        return []


def reason(error: BaseException | str) -> str:
    """An error in one line that fits into a table."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
