"""A network without memory, whose tensors a checkpoint then provides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig

Network = TypeVar("Network", bound=nn.Module)


class _Unfilled(TorchFunctionMode):
    """Leaves out the random numbers of initialisation.

    On the meta device they fill nothing, but the first call loads some 800 modules of torch's
    compiler: three seconds and 90 MB.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if (
            getattr(func, "__module__", None) == "torch.nn.init"
        ):  # each takes the tensor first, and returns it
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def blueprint(config: PaliGemmaConfig) -> PaliGemma:
    """The network on the meta device: names, shapes and modules, no values."""
    return unfilled(lambda: PaliGemma(config))


def unfilled(build: Callable[[], Network]) -> Network:
    """Any network, built on the meta device."""
    with torch.device("meta"), _Unfilled():
        return build()
