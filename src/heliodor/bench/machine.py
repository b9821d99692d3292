"""The machine in one line, and how busy it was with other work meanwhile."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

__all__ = ["Bystanders", "describe", "line", "peak_memory"]

_TELLING = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp")
_PACKAGES = ("heliodor", "torch", "numpy", "transformers", "gguf")


def describe(threads: int) -> dict[str, Any]:
    """Processor, cores, memory and versions, in JSON's own types.

    Args:
        threads: how many the engines use.
    """
    info = _cpu()
    return {
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in _TELLING if name in info.get("flags", "").split()],
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "memory_bytes": _memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
    }


def line(machine: dict[str, Any]) -> str:
    """The same for people, in one line."""
    words = [f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"]
    if machine["instructions"]:
        words.append(" ".join(machine["instructions"]))
    if machine["memory_bytes"]:
        words.append(f"{machine['memory_bytes'] / 2**30:.0f} GiB")
    words.append(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))
    return "; ".join(words)


def peak_memory() -> int:
    """Highest resident memory of this process so far, in bytes, mapped files among it.

    0 where the system has no ``/proc``.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    for text in status.read_text(encoding="utf-8").splitlines():
        if text.startswith("VmHWM"):
            return int(text.split()[1]) * 1024
    return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bystanders:
    """How many cores worked for others between two moments.

    Attributes:
        busy: seconds of all cores that were not idle, since the machine started.
        own: those of this process and of the children it has waited for.
        wall: the clock.
    """

    busy: float
    own: float
    wall: float

    @classmethod
    def now(cls) -> Self:
        """This moment."""
        used = os.times()
        own = used.user + used.system + used.children_user + used.children_system
        return cls(busy=_busy(), own=own, wall=time.monotonic())

    def until(self, later: Bystanders) -> float:
        """Cores that others kept busy on average; 0 where it cannot be known."""
        span = later.wall - self.wall
        others = (later.busy - self.busy) - (later.own - self.own)
        return max(0.0, others / span) if span > 0 and later.busy else 0.0


def _busy() -> float:
    """Seconds that all cores have worked since the start; steal by other machines counts."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    numbers = [int(word) for word in stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]]
    idle = numbers[3] + numbers[4]  # idle and waiting for a disk
    return (sum(numbers[:8]) - idle) / os.sysconf("SC_CLK_TCK")


def _cpu() -> dict[str, str]:
    """The first processor's entry in ``/proc/cpuinfo``; on Arm its features under "flags"."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n", 1)[0]
    pairs = (text.partition(":") for text in first.splitlines())
    info = {key.strip(): value.strip() for key, _, value in pairs}
    return info | {"flags": info.get("flags") or info.get("Features", "")}


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
