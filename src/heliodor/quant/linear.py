"""Layers whose weights are codes: linear ones in 8 and 4 bits, and the embedding table in 8.

They stand where :class:`torch.nn.Linear` and :class:`torch.nn.Embedding` stood, take the same
inputs and give float32. Each row of the input is quantised on its own, so that what a row gives
does not depend on its neighbours. There are no gradients.

K channels in, N channels out, V rows of a table, W its width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Self, TypeAlias, cast

import torch
from torch import Tensor, nn

from heliodor.errors import ConfigError, InputError
from heliodor.quant.pack import decode, encode, pack, take_rows
from heliodor.quant.products import products
from heliodor.quant.scheme import COLUMNS, INT4, INT8, Scheme

__all__ = ["QuantEmbedding", "QuantLinear", "QuantLinear4", "QuantLinear8", "empty", "quantised"]


Codes: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Rows of an input as the kernels quantise them: codes, scales and sums."""


class _Quantised(nn.Module):
    """A weight [N K] as codes and scales.

    Attributes:
        packed: the codes as the kernels read them.
        scale: what the codes are multiplied with.
    """

    packed: Tensor
    scale: Tensor
    scheme: Scheme

    def __init__(self, rows: int, width: int) -> None:
        """Room for a weight; its values mean nothing yet.

        Args:
            rows: N.
            width: K.
        """
        super().__init__()
        self._rows = rows
        self._width = width
        for name, (dtype, shape) in self.scheme.parts(rows, width).items():
            self.register_buffer(name, torch.empty(shape, dtype=getattr(torch, dtype)))

    def put(self, parts: Mapping[str, Tensor]) -> Self:
        """Take tensors of :func:`~heliodor.quant.pack.encode` for its own."""
        for name, part in parts.items():
            setattr(self, name, part)
        return self

    def dequantised(self) -> Tensor:
        """The weight that the codes stand for, float32 [N K]."""
        return decode({"packed": self.packed, "scale": self.scale}, self.scheme, *self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight: N, K."""
        return self._rows, self._width

    def extra_repr(self) -> str:
        """For people, as torch's own layers have it."""
        return f"{self._width}, {self._rows}, {self.scheme.name}"

    def _apply(self, fn: Any, recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's name
        """Moved to another device, but never turned into another type: codes are not numbers."""

        def keep_type(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_type, recurse)  # pyright: ignore[reportUnknownMemberType]


class _QuantLinear(_Quantised, ABC):
    """``y = x W^T + b``.

    Attributes:
        in_features: K.
        out_features: N.
        bias: float32 [N], or None.
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        """Room for a layer; see :meth:`from_linear` for one with values."""
        super().__init__(out_features, in_features)
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("bias", torch.empty(out_features) if bias else None)

    @classmethod
    def from_linear(cls, layer: nn.Linear, scheme: Scheme | None = None) -> Self:
        """A layer of the same function, but for rounding.

        Args:
            layer: as it was; its weights are not changed.
            scheme: None for the class's own.

        Raises:
            ConfigError: another class's scheme.
            InputError: a weight that is NaN or infinite.
        """
        if scheme is not None and scheme != cls.scheme:
            raise ConfigError(f"{cls.__name__} stores {cls.scheme.name}, not {scheme.name}")
        with torch.device("meta"):
            made = cls(layer.in_features, layer.out_features, bias=_bias_of(layer) is not None)
        parts = encode(layer.weight, cls.scheme)
        return made.put({name: t.to(layer.weight.device) for name, t in parts.items()})._take_bias(
            _bias_of(layer)
        )

    @classmethod
    def from_codes(cls, codes: Tensor, scale: Tensor, bias: Tensor | None = None) -> Self:
        """A layer of codes that another rounding chose.

        Args:
            codes: int8 [N K], in -127..127 for int8, in -8..7 for int4.
            scale: float32 [N] for int8; for int4 [N G], rounded to bfloat16.
            bias: [N], or None.
        """
        rows, width = codes.shape
        with torch.device("meta"):
            made = cls(width, rows, bias=bias is not None)
        return made.put(pack(codes, scale, cls.scheme))._take_bias(bias)

    def _take_bias(self, bias: Tensor | None) -> Self:
        if bias is not None:
            self.bias = bias.detach().float().clone()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """X [... K] of any float type -> float32 [... N]."""
        (found,) = self.together([self], x)
        return found

    @staticmethod
    def together(layers: Sequence[_QuantLinear], x: Tensor) -> tuple[Tensor, ...]:
        """Several layers on one input x [... K], which is quantised once -> [... N] each."""
        rows = _rows_of(x, layers[0].in_features)
        work = products(rows.device)
        codes = work.quantise_rows(rows)
        return tuple(layer.product(work, codes, x.shape[:-1]) for layer in layers)

    @staticmethod
    def gated(x: Tensor, gate: _QuantLinear, up: _QuantLinear, down: _QuantLinear) -> Tensor:
        """``down(gelu(gate(x)) * up(x))`` with the tanh form of GELU: x [... K] -> [... N]."""
        rows = _rows_of(x, gate.in_features)
        work = products(rows.device)
        codes = work.quantise_rows(rows)
        left, right = (layer.product(work, codes, rows.shape[:1]) for layer in (gate, up))
        return down.product(work, work.geglu_quantise(left, right), x.shape[:-1])

    @abstractmethod
    def product(self, work: ModuleType, codes: Codes, shape: Sequence[int]) -> Tensor:
        """The layer on rows that are quantised already.

        Args:
            work: the module to multiply with, from :func:`~heliodor.quant.products.products`.
            codes: what its ``quantise_rows`` gave, M rows.
            shape: of the result without its last axis, M in all.

        Returns:
            float32 [*shape N].
        """


class QuantLinear8(_QuantLinear):
    """A linear layer in 8 bits, one scale an output channel."""

    scheme = INT8

    def product(self, work: ModuleType, codes: Codes, shape: Sequence[int]) -> Tensor:
        """See :class:`_QuantLinear`."""
        y: Tensor = work.product8(*codes, self.packed, self.scale, self.bias)
        return y.view(*shape, self.out_features)


class QuantLinear4(_QuantLinear):
    """A linear layer in 4 bits, one scale for every 64 weights of an output channel."""

    scheme = INT4

    def product(self, work: ModuleType, codes: Codes, shape: Sequence[int]) -> Tensor:
        """See :class:`_QuantLinear`."""
        y: Tensor = work.product4(
            *codes, self.packed, self.scale, self.bias, channels=self.out_features
        )
        return y.view(*shape, self.out_features)


class QuantEmbedding(_Quantised):
    """An embedding table in 8 bits, which is an output head too.

    Attributes:
        num_embeddings: V.
        embedding_dim: W.
    """

    scheme = INT8

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        """Room for a table; see :meth:`from_embedding` for one with values."""
        super().__init__(num_embeddings, embedding_dim)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim

    @classmethod
    def from_embedding(cls, table: nn.Embedding, scheme: Scheme | None = None) -> Self:
        """A table of the same rows, but for rounding.

        Raises:
            ConfigError: a scheme of 4 bits, in which no table is stored.
            InputError: a weight that is NaN or infinite.
        """
        _check_table(scheme)
        with torch.device("meta"):
            made = cls(table.num_embeddings, table.embedding_dim)
        parts = encode(table.weight, cls.scheme)
        return made.put({name: t.to(table.weight.device) for name, t in parts.items()})

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows of the table: tokens int64 [...] -> float32 [... W]."""
        return take_rows(self.packed, self.scale, tokens, self.embedding_dim)

    def head(self, hidden: Tensor, rows: tuple[int, int] | Tensor | None = None) -> Tensor:
        """Products of hidden states with rows of the table.

        Args:
            hidden: [... W] of any float type.
            rows: None for all, a range (first, end), or ids int64 [R]; no others are read, but for
                what is left of a block of 16.

        Returns:
            float32 [... R], in the order of ``rows``.

        Raises:
            InputError: a range that the table does not have.
        """
        flat = _rows_of(hidden, self.embedding_dim)
        linear8 = products(flat.device).linear8
        if isinstance(rows, tuple):
            first, end = rows
            if not 0 <= first < end <= self.num_embeddings:
                raise InputError(
                    f"rows {first} to {end} of a table of {self.num_embeddings} were asked for; a "
                    "range begins at 0 or later, ends behind its beginning and within the table"
                )
            start = first // COLUMNS * COLUMNS
            stop = min(-(-end // COLUMNS) * COLUMNS, self.num_embeddings)
            found: Tensor = linear8(flat, self.packed, self.scale, None, (start, stop))
            found = found[:, first - start : end - start]
        else:
            found = linear8(flat, self.packed, self.scale, None, rows)
        return found.reshape(*hidden.shape[:-1], found.shape[-1])


QuantLinear: TypeAlias = QuantLinear8 | QuantLinear4
_LINEAR: dict[Scheme, type[QuantLinear8 | QuantLinear4]] = {
    INT8: QuantLinear8,
    INT4: QuantLinear4,
}


def quantised(layer: nn.Linear | nn.Embedding, scheme: Scheme) -> QuantLinear | QuantEmbedding:
    """The quantised layer of a float one.

    Raises:
        ConfigError: 4 bits for an embedding table.
        InputError: a weight that is NaN or infinite.
    """
    if isinstance(layer, nn.Embedding):
        return QuantEmbedding.from_embedding(layer, scheme)
    return _LINEAR[scheme].from_linear(layer)


def empty(layer: nn.Linear | nn.Embedding, scheme: Scheme) -> QuantLinear | QuantEmbedding:
    """Room for the quantised layer of a float one, on the meta device.

    Raises:
        ConfigError: 4 bits for an embedding table.
    """
    with torch.device("meta"):
        if isinstance(layer, nn.Embedding):
            _check_table(scheme)
            return QuantEmbedding(layer.num_embeddings, layer.embedding_dim)
        return _LINEAR[scheme](
            layer.in_features, layer.out_features, bias=_bias_of(layer) is not None
        )


def _check_table(scheme: Scheme | None) -> None:
    if scheme not in (None, INT8):
        raise ConfigError(
            f"an embedding table is stored in 8 bits, not as {scheme.name}: give it {INT8.name} in "
            "the recipe, before the rule that says otherwise"
        )


def _bias_of(layer: nn.Linear) -> Tensor | None:
    return cast("Tensor | None", layer.bias)


def _rows_of(x: Tensor, width: int) -> Tensor:
    """X [... K] as the kernels take it, float32 [M K].

    Raises:
        InputError: gradients are wanted, or another width.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise InputError(
            "a quantised layer has no gradient: train the model as it was before, or run it under "
            "torch.no_grad()"
        )
    if x.shape[-1] != width:
        raise InputError(f"the input has {x.shape[-1]} channels, the layer takes {width}")
    return x.detach().reshape(-1, width).float().contiguous()
