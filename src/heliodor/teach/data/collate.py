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
        cover: uint8 [K N KINDS+EDGES], what lies in the patches of K of the pictures.
        covered: int64 [K], which pictures those are.
    """

    pixels: Tensor
    groups: tuple[Rows, ...]
    cover: Tensor
    covered: Tensor


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
    covers = {i: example.cover for i, example in enumerate(examples) if example.cover is not None}
    cover = torch.as_tensor(np.stack(list(covers.values()))) if covers else torch.zeros(0, 0, 0)
    return Batch(
        pixels=torch.as_tensor(pixels),
        groups=tuple(groups),
        cover=cover,
        covered=torch.tensor(list(covers), dtype=torch.long),
    )


def divide(batch: Batch, parts: int) -> list[tuple[float, Batch]]:
    """Cut a batch between its pictures into parts of about equally many text tokens.

    Args:
        batch: at least one row.
        parts: how many at most; a part without rows is left out.

    Returns:
        Parts with the share of all rows that each holds, adding up to 1.
    """
    load = torch.zeros(len(batch.pixels))
    for rows in batch.groups:
        load.index_add_(0, rows.image, torch.full((len(rows.tasks),), float(rows.tokens.shape[1])))
    middle = load.cumsum(0) - load / 2
    part_of = (middle * parts / load.sum()).long().clamp_max(parts - 1)
    total = sum(len(rows.tasks) for rows in batch.groups)
    found: list[tuple[float, Batch]] = []
    for part in range(parts):
        chosen = (part_of == part).nonzero().flatten()
        groups = [cut for rows in batch.groups if (cut := _select(rows, chosen)) is not None]
        if groups:
            share = sum(len(rows.tasks) for rows in groups) / total
            known = torch.isin(batch.covered, chosen)
            cut = Batch(
                pixels=batch.pixels[chosen],
                groups=tuple(groups),
                cover=batch.cover[known],
                covered=torch.searchsorted(chosen, batch.covered[known]),
            )
            found.append((share, cut))
    return found


def _select(rows: Rows, images: Tensor) -> Rows | None:
    """The rows about some pictures, which are counted anew; None if there are none."""
    kept = torch.isin(rows.image, images).nonzero().flatten()
    if not len(kept):
        return None
    return Rows(
        tokens=rows.tokens[kept],
        prefix=rows.prefix[kept],
        length=rows.length[kept],
        image=torch.searchsorted(images, rows.image[kept]),
        tasks=tuple(rows.tasks[int(index)] for index in kept),
    )


def _pad(rows: Sequence[tuple[list[int], int, int, str]], pad: int) -> Rows:
    longest = max(len(ids) for ids, *_ in rows)
    return Rows(
        tokens=torch.tensor([ids + [pad] * (longest - len(ids)) for ids, *_ in rows]),
        prefix=torch.tensor([row[1] for row in rows]),
        length=torch.tensor([len(row[0]) for row in rows]),
        image=torch.tensor([row[2] for row in rows]),
        tasks=tuple(row[3] for row in rows),
    )
