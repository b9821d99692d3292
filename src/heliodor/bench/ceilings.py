"""The machine's limits, measured: float32 and int8 operations in registers, and reading memory.

They come from ``ceilings.c``, which the machine's own C compiler translates for the processor at
hand: a second, each time the benchmark runs. Without a compiler torch's matrix products and sums
stand in, which stay below the limits; the figures say which they are.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from heliodor.bench.timing import timed

__all__ = ["Ceilings", "Limits", "NativeCeilings", "TorchCeilings", "open_ceilings"]

_SOURCE = Path(__file__).with_name("ceilings.c")
_FLOAT, _INT8, _READ = 0, 1, 2
_FIRST = 20_000  # rounds of the first try, from which the number is chosen
_SPAN = 0.05  # seconds that one try shall take
_TRIES = 3  # of which the best counts: a limit is what the machine can do, not what it did
_ALIGN = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """One measurement of what the machine can do.

    Attributes:
        float32: operations a second, a multiply-add counted as two.
        int8: the same of products of 8-bit numbers summed in 32 bits; 0 where unknown.
        read: bytes a second from memory.
    """

    float32: float
    int8: float
    read: float


class Ceilings(Protocol):
    """Whatever measures the limits."""

    source: str
    """Which way, for the table."""

    def measure(self) -> Limits:
        """Measure all of them now; a few tenths of a second."""
        ...


def open_ceilings(threads: int, memory: Tensor) -> Ceilings:
    """Our own code where a compiler is, torch elsewhere.

    Args:
        threads: how many work at once.
        memory: any tensor; its bytes are what is read, so it should be far larger than the caches.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None or os.name != "posix":
        return TorchCeilings(memory)
    try:
        return NativeCeilings(_build(compiler), threads, memory)
    except (OSError, subprocess.CalledProcessError):
        return TorchCeilings(memory)


class NativeCeilings:
    """Measured by ``ceilings.c``."""

    source = "registers and memory, our own code"

    def __init__(self, library: ctypes.CDLL, threads: int, memory: Tensor) -> None:
        self._run = library.heliodor_ceiling
        self._run.restype = ctypes.c_double
        self._run.argtypes = [
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_long,
            ctypes.c_void_p,
            ctypes.c_size_t,
        ]
        library.heliodor_operations.restype = ctypes.c_long
        self._operations = [int(library.heliodor_operations(kind)) for kind in (_FLOAT, _INT8)]
        self._threads = threads
        self._memory = memory
        self._start = -(-memory.data_ptr() // _ALIGN) * _ALIGN
        end = memory.data_ptr() + memory.numel() * memory.element_size()
        self._bytes = max(0, end - self._start) // (_ALIGN * threads) * _ALIGN * threads
        self._rounds = [self._enough(kind) for kind in (_FLOAT, _INT8)]

    def measure(self) -> Limits:
        """Each of the three, the best of some tries."""
        float32, int8 = (max(self._rate(kind) for _ in range(_TRIES)) for kind in (_FLOAT, _INT8))
        return Limits(float32=float32, int8=int8, read=max(self._reading() for _ in range(_TRIES)))

    def _rate(self, kind: int) -> float:
        rounds = self._rounds[kind]
        if not rounds:
            return 0.0
        span = self._run(kind, self._threads, rounds, None, 0)
        return self._operations[kind] * rounds * self._threads / span if span > 0 else 0.0

    def _reading(self) -> float:
        span = self._run(_READ, self._threads, 0, self._start, self._bytes)
        return self._bytes / span if span > 0 else 0.0

    def _enough(self, kind: int) -> int:
        """Rounds that take about ``_SPAN``; none where the processor has no such instruction."""
        if not self._operations[kind]:
            return 0
        span = self._run(kind, self._threads, _FIRST, None, 0)
        return max(_FIRST, int(_FIRST * _SPAN / max(span, 1e-6)))


class TorchCeilings:
    """Estimated from torch's own products and sums: lower bounds."""

    source = "torch's products and sums (no C compiler here): lower bounds"

    def __init__(self, memory: Tensor) -> None:
        self._memory = memory.detach().view(-1)
        self._matrix = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))

    def measure(self) -> Limits:
        """Each once, after a product that warms up."""
        product: Any = getattr(torch, "_int_mm")  # noqa: B009 - torch offers it without naming it
        matrix, side = self._matrix, self._matrix.shape[0]
        codes = matrix.mul(10).to(torch.int8)
        torch.mm(matrix, matrix)
        span, _ = timed(lambda: torch.mm(matrix, matrix))
        whole, _ = timed(lambda: product(codes, codes))
        reading, _ = timed(lambda: self._memory.view(torch.uint8).view(torch.int64).sum())
        return Limits(
            float32=2 * side**3 / span,
            int8=2 * side**3 / whole,
            read=self._memory.numel() * self._memory.element_size() / reading,
        )


def _build(compiler: str) -> ctypes.CDLL:
    """Translate the source for this processor and load it; the file is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "ceilings.so"
        flags = ["-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread"]
        for native in ("-march=native", "-mcpu=native", None):
            command = [compiler, *flags, *([native] if native else []), str(_SOURCE)]
            command += ["-o", str(target)]
            done = subprocess.run(command, check=native is None, capture_output=True)
            if done.returncode == 0:
                break
        return ctypes.CDLL(str(target))
