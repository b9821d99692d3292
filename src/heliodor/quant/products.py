"""Which arithmetic the quantised layers use, and what of it this machine has."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from heliodor.quant import kernels, torch_products

__all__ = ["engine", "products"]


def products(device: torch.device) -> ModuleType:
    """The module whose ``quantise_rows``, ``product8``, ``linear4`` and so on are to be used.

    Args:
        device: where the weights rest; the native library works on the CPU alone.
    """
    if device.type == "cpu" and kernels.available() is not None:
        return kernels
    return torch_products


def engine() -> dict[str, Any]:
    """What runs on this machine, in JSON's own types.

    Returns:
        ``path``, the native library's ("avx512-vnni", ...) or "torch"; ``int8``, by what products
        of integers are made; ``threads``.
    """
    native = kernels.available()
    integers = "native" if native is not None else torch_products.integer_path() or "float32"
    return {"path": native or "torch", "int8": integers, "threads": torch.get_num_threads()}
