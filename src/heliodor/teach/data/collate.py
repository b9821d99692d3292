"""Examples to tensors. B pictures, R rows (one a turn), T text positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heliodor.errors import DataError
from heliodor.teach.data.example import Example
from heliodor.text import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    r"""Rows of similar length, padded at the end.

    Attributes:
        tokens: int64 [R T], ``<bos> prompt "\\n" suffix <eos>``.
        prefix: int64 [R], tokens of ``<bos> prompt "\\n"``.
        length: int64 [R], real tokens.
        image: int64 [R], which picture of the batch a row is about.
        tasks: the task of each row.
    """

    tokens: Tensor
    prefix: Tensor
    length: Tensor
    image: Tensor
    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Pictures, and their rows in groups by length, so that little padding is computed.

    Attributes:
        pixels: uint8 [B H W 3].
        groups: rows by rising length.
    """

    pixels: Tensor
    groups: tuple[Rows, ...]


def collate(
    examples: Sequence[Example], tokenizer: Tokenizer, *, group: int = 32, longest: int = 256
) -> Batch:
    """Tokenise, sort by length and pad.

    Args:
        examples: pictures of one size.
        tokenizer: ids of words.
        group: rows of a group.
        longest: text tokens of a row at most; a longer suffix loses its end, ``<eos>`` included,
            as in big_vision.

    Raises:
        DataError: a prompt alone fills ``longest``, or pictures differ in size.
    """
    shapes = {example.image.shape for example in examples}
    if len(shapes) != 1:
        raise DataError(f"the pictures of a batch must be of one size, not {sorted(shapes)}")
    rows: list[tuple[list[int], int, int, str]] = []
    for index, example in enumerate(examples):
        for turn in example.turns:
            prefix = tokenizer.encode_prefix(turn.prompt)
            if len(prefix) >= longest:
                raise DataError(
                    f"a prompt of {len(prefix)} tokens leaves no room for an answer in {longest}: "
                    f"'{turn.prompt[:60]}...'"
                )
            ids = (prefix + tokenizer.encode_suffix(turn.suffix))[:longest]
            rows.append((ids, len(prefix), index, turn.task))
    rows.sort(key=lambda row: len(row[0]))
    groups = [
        _pad(rows[start : start + group], tokenizer.pad) for start in range(0, len(rows), group)
    ]
    pixels = np.stack([example.image for example in examples])
    return Batch(pixels=torch.as_tensor(pixels), groups=tuple(groups))


def _pad(rows: Sequence[tuple[list[int], int, int, str]], pad: int) -> Rows:
    longest = max(len(ids) for ids, *_ in rows)
    return Rows(
        tokens=torch.tensor([ids + [pad] * (longest - len(ids)) for ids, *_ in rows]),
        prefix=torch.tensor([row[1] for row in rows]),
        length=torch.tensor([len(row[0]) for row in rows]),
        image=torch.tensor([row[2] for row in rows]),
        tasks=tuple(row[3] for row in rows),
    )
