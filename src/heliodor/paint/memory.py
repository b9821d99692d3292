"""What painting needs of memory, said before anything is loaded, and parts held one at a time.

The three parts of a painter, text encoder, transformer and autoencoder, work one after another. A
machine that holds them all keeps them; a smaller one holds one, and reads the next from its file
when it is its turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from heliodor.errors import InputError
from heliodor.models.gemma import GemmaConfig
from heliodor.models.nextdit_config import NextDiTConfig

__all__ = ["Part", "Plan", "Stages", "machine_memory", "sampling_work", "text_work"]

T = TypeVar("T")

_FLOAT = 4  # bytes of what is computed with, whatever the weights rest in
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Bytes that a painting needs, an estimate: weights are counted, what is computed is bounded.

    Attributes:
        text_encoder: its weights.
        transformer: its weights.
        autoencoder: its weights.
        encoding: what reading the prompts needs besides.
        sampling: what a step needs besides.
        decoding: what decoding one picture needs besides.
        staged: whether one part is held at a time, rather than all.
        previews: whether the autoencoder is held beside the transformer for previews.
    """

    text_encoder: int
    transformer: int
    autoencoder: int
    encoding: int
    sampling: int
    decoding: int
    staged: bool
    previews: bool = False

    @property
    def stages(self) -> dict[str, int]:
        """Bytes held in each of the three stages."""
        together = self.text_encoder + self.transformer + self.autoencoder
        beside = self.autoencoder if self.previews else 0
        return {
            "text": (self.text_encoder if self.staged else together) + self.encoding,
            "sampling": (self.transformer + beside if self.staged else together) + self.sampling,
            "decoding": (self.autoencoder if self.staged else together) + self.decoding,
        }

    @property
    def peak(self) -> int:
        """Bytes in the stage that needs most."""
        return max(self.stages.values())

    def describe(self) -> str:
        """One line for people."""
        held = "one part at a time" if self.staged else "all parts held"
        stages = ", ".join(f"{name} {_size(count)}" for name, count in self.stages.items())
        return f"about {_size(self.peak)} at the peak ({held}: {stages})"

    def check(self, limit: int | None) -> None:
        """Refuse what cannot fit.

        Args:
            limit: bytes of the machine; None where it is not known.

        Raises:
            InputError: the peak is above it.
        """
        if limit is not None and self.peak > limit:
            raise InputError(
                f"this painting needs {self.describe()}, the machine has {_size(limit)}: take a "
                "smaller size or batch_size, dtype='bfloat16', quantize='int8' or memory='staged'"
            )


@dataclass(kw_only=True, slots=True, eq=False)
class Part(Generic[T]):
    """A network that is loaded when it is its turn.

    Attributes:
        name: for messages.
        nbytes: its weights in memory.
        load: makes it.
        lasting: whether it was given as an object, so that dropping it would free nothing.
    """

    name: str
    nbytes: int
    load: Callable[[], T] = field(repr=False)
    lasting: bool = False


class Stages:
    """Which parts are in memory."""

    def __init__(self, *, staged: bool) -> None:
        """Hold one part at a time, or all that were ever used.

        Args:
            staged: whether the others are dropped when one is used.
        """
        self.staged = staged
        self._held: dict[int, tuple[Part[Any], Any]] = {}

    def use(self, part: Part[T], *, beside: Part[Any] | None = None) -> T:
        """A part, loaded if it is not there; one that stands ``beside`` it stays."""
        if self.staged:
            wanted = {id(part), id(beside)}
            self._held = {key: held for key, held in self._held.items() if key in wanted}
        if id(part) not in self._held:
            self._held[id(part)] = (part, part.load())
        return self._held[id(part)][1]

    def held(self) -> list[str]:
        """Names of the parts in memory."""
        return [part.name for part, _ in self._held.values()]

    def drop(self) -> None:
        """Let all of them go; they are loaded again when they are used."""
        self._held = {}


def machine_memory() -> int | None:
    """Bytes of memory that this process may use; None where the system does not say."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    try:
        limit = _CGROUP.read_text("ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def text_work(config: GemmaConfig, prompts: int, tokens: int) -> int:
    """Bytes that reading prompts needs beside the weights."""
    row = 3 * config.mlp_width + 6 * config.width + config.num_heads * (config.head_dim + tokens)
    return prompts * tokens * row * _FLOAT


def sampling_work(config: NextDiTConfig, rows: int, latent: tuple[int, int], weight: int) -> int:
    """Bytes that one call of the transformer needs beside the weights.

    Args:
        config: its shape.
        rows: pictures in the call, twice as many as are painted where guidance is on.
        latent: height and width of a latent.
        weight: bytes of a value of the weights; what is narrower than float32 is widened, one
            matrix at a time.
    """
    patches = latent[0] * latent[1] // config.patch_size**2
    activations = rows * patches * (4 * config.mlp_width + 8 * config.width) * _FLOAT
    widened = config.mlp_width * config.width * _FLOAT if weight < _FLOAT else 0
    return activations + widened


def _size(count: int) -> str:
    """Bytes for people: 1.5 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.1f} MB"
