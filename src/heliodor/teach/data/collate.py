"""Examples to tensors. B pictures, R rows, T text positions, K turns of a row at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from heliodor.errors import DataError
from heliodor.teach.data.example import Example, Spot, Turn
from heliodor.text import Tokenizer

_ALIKE = 24  # tokens by which rows of one group may differ, beside being twice as long


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    r"""Rows of similar length, padded at the end; each holds one or more turns about one picture.

    Attributes:
        tokens: int64 [R T], ``<bos> prompt "\n" suffix <eos>``, turn after turn.
        turn: int64 [R T], which turn of its row a token belongs to; -1 on padding.
        asked: bool [R T], True on ``<bos> prompt "\n"``.
        image: int64 [R], which picture of the batch a row is about.
        tasks: the task of each turn of each row.
        spot: int64 [R T], which of the batch's spots a token stands for; -1 for none.
    """

    tokens: Tensor
    turn: Tensor
    asked: Tensor
    image: Tensor
    tasks: tuple[tuple[str, ...], ...]
    spot: Tensor

    @property
    def prefix(self) -> Tensor:
        """Asked tokens of each row, int64 [R]; its two-way block where a row is one turn."""
        return self.asked.sum(-1)

    @property
    def length(self) -> Tensor:
        """Real tokens of each row, int64 [R]."""
        return (self.turn >= 0).sum(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Pictures, and their rows in groups by length, so that little padding is computed.

    Attributes:
        pixels: uint8 [B H W 3].
        groups: rows by rising length.
        cover: uint8 [K N KINDS+EDGES], what lies in the patches of K of the pictures.
        covered: int64 [K], which pictures those are.
        row_share: share of the rows that are here, of the batch that this is a part of.
        cover_share: share of that batch's covered pictures.
        edge_share: share of the patches in them that things own.
        spots: bool [K N], the patches of each spot that tokens of the rows stand for.
        spot_share: share of that batch's rows with a spot.
    """

    pixels: Tensor
    groups: tuple[Rows, ...]
    cover: Tensor
    covered: Tensor
    row_share: float = 1.0
    cover_share: float = 1.0
    edge_share: float = 1.0
    spots: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    spot_share: float = 1.0

    def pointed(self) -> int:
        """Rows with a spot."""
        return sum(int((rows.spot >= 0).any(1).sum()) for rows in self.groups)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A row before it is padded: ids and their turns, how many are asked of each turn."""

    ids: tuple[int, ...]
    turn: tuple[int, ...]
    asked: tuple[bool, ...]
    image: int
    tasks: tuple[str, ...]
    spot: tuple[int, ...]


def collate(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    group: int = 32,
    longest: int = 256,
    together: bool = False,
) -> Batch:
    """Tokenise, sort by length and pad.

    Args:
        examples: pictures of one size.
        tokenizer: ids of words.
        group: turns of a group, about; rows of much different length are kept apart.
        longest: text tokens of a turn at most; a longer suffix loses its end, ``<eos>`` included,
            as in big_vision.
        together: put all turns about a picture into one row.

    Raises:
        DataError: a prompt alone fills ``longest``, or pictures differ in size.
    """
    shapes = {example.image.shape for example in examples}
    if len(shapes) != 1:
        raise DataError(f"the pictures of a batch must be of one size, not {sorted(shapes)}")
    rows: list[_Row] = []
    spots: list[Spot] = []
    for index, example in enumerate(examples):
        asked = example.turns
        if example.cover is None:
            asked = tuple(replace(turn, spots=()) for turn in asked)
        turns = [_row(turn, index, tokenizer, longest, spots) for turn in asked]
        rows += [_joined(turns)] if together and turns else turns
    rows.sort(key=lambda row: len(row.ids))
    size = max(1, group * len(rows) // max(1, sum(len(row.tasks) for row in rows)))
    groups = [_pad(alike, tokenizer.pad) for alike in _alike(rows, size)]
    pixels = np.stack([example.image for example in examples])
    covers = {i: example.cover for i, example in enumerate(examples) if example.cover is not None}
    cover = torch.as_tensor(np.stack(list(covers.values()))) if covers else torch.zeros(0, 0, 0)
    return Batch(
        pixels=torch.as_tensor(pixels),
        groups=tuple(groups),
        cover=cover,
        covered=torch.tensor(list(covers), dtype=torch.long),
        spots=_patches(spots, cover.shape[1]),
    )


def divide(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch between its pictures into parts of about equally much work.

    A picture counts as a token for every 16 by 16 of its pixels, a row as its text tokens.

    Args:
        batch: at least one picture.
        parts: how many at most; a part with neither rows nor covers is left out.

    Returns:
        Parts whose ``row_share`` and ``cover_share`` add up to those of the batch.
    """
    load = torch.full((len(batch.pixels),), batch.pixels[0, ..., 0].numel() / 16**2)
    for rows in batch.groups:
        load.index_add_(0, rows.image, torch.full((len(rows.tasks),), float(rows.tokens.shape[1])))
    middle = load.cumsum(0) - load / 2
    part_of = (middle * parts / load.sum()).long().clamp_max(parts - 1)
    total = max(1, sum(len(rows.tasks) for rows in batch.groups))
    covers = max(1, len(batch.covered))
    found: list[Batch] = []
    for part in range(parts):
        chosen = (part_of == part).nonzero().flatten()
        groups = [cut for rows in batch.groups if (cut := _select(rows, chosen)) is not None]
        known = torch.isin(batch.covered, chosen)
        if groups or bool(known.any()):
            cut = Batch(
                pixels=batch.pixels[chosen],
                groups=tuple(groups),
                cover=batch.cover[known],
                covered=torch.searchsorted(chosen, batch.covered[known]),
                row_share=batch.row_share * sum(len(rows.tasks) for rows in groups) / total,
                cover_share=batch.cover_share * int(known.sum()) / covers,
                spots=batch.spots,
            )
            found.append(cut)
    pointed = max(1, sum(cut.pointed() for cut in found))
    return [replace(cut, spot_share=batch.spot_share * cut.pointed() / pointed) for cut in found]


def _select(rows: Rows, images: Tensor) -> Rows | None:
    """The rows about some pictures, which are counted anew; None if there are none."""
    kept = torch.isin(rows.image, images).nonzero().flatten()
    if not len(kept):
        return None
    return Rows(
        tokens=rows.tokens[kept],
        turn=rows.turn[kept],
        asked=rows.asked[kept],
        image=torch.searchsorted(images, rows.image[kept]),
        tasks=tuple(rows.tasks[int(index)] for index in kept),
        spot=rows.spot[kept],
    )


def _alike(rows: Sequence[_Row], size: int) -> list[list[_Row]]:
    """Rows of rising length in groups of so many at most, none much longer than its group's first.

    A picture's row costs as many tokens as the picture and its longest neighbour have.
    """
    groups: list[list[_Row]] = []
    for row in rows:
        group = groups[-1] if groups else []
        if not group or len(group) == size or len(row.ids) > 2 * len(group[0].ids) + _ALIKE:
            groups.append([])
        groups[-1].append(row)
    return groups


def _patches(spots: Sequence[Spot], count: int) -> Tensor:
    """The spots' patches, bool [K N]."""
    found = torch.zeros(len(spots), count, dtype=torch.bool)
    for row, spot in zip(found, spots, strict=True):
        row[list(spot.patches)] = True
    return found


def _row(turn: Turn, image: int, tokenizer: Tokenizer, longest: int, spots: list[Spot]) -> _Row:
    """The turn's row; its spots join the batch's."""
    prefix = tokenizer.encode_prefix(turn.prompt)
    if len(prefix) >= longest:
        raise DataError(
            f"a prompt of {len(prefix)} tokens leaves no room for an answer in {longest}: "
            f"'{turn.prompt[:60]}...'"
        )
    suffix = (
        [*tokenizer.spell(turn.suffix), tokenizer.eos]
        if turn.spelled
        else tokenizer.encode_suffix(turn.suffix)
    )
    ids = (prefix + suffix)[:longest]
    stands = [-1] * (len(prefix) + len(suffix))
    for spot in turn.spots:
        first, behind = _tokens_of(spot, turn, suffix, tokenizer)
        if first < behind:
            stands[len(prefix) + first : len(prefix) + behind] = [len(spots)] * (behind - first)
            spots.append(spot)
    return _Row(
        ids=tuple(ids),
        turn=(0,) * len(ids),
        asked=tuple(place < len(prefix) for place in range(len(ids))),
        image=image,
        tasks=(turn.task,),
        spot=tuple(stands[:longest]),
    )


def _tokens_of(
    spot: Spot, turn: Turn, suffix: Sequence[int], tokenizer: Tokenizer
) -> tuple[int, int]:
    """The suffix's tokens that are a spot's; none where tokens straddle its ends."""
    before, upto = turn.suffix[: spot.start], turn.suffix[: spot.stop]
    if turn.spelled:
        return len(tokenizer.spell(before)), len(tokenizer.spell(upto))
    head, whole = tokenizer.encode(before.rstrip(" ")), tokenizer.encode(upto)
    straddled = head != list(suffix[: len(head)]) or whole != list(suffix[: len(whole)])
    return (0, 0) if straddled else (len(head), len(whole))


def _joined(turns: Sequence[_Row]) -> _Row:
    return _Row(
        ids=tuple(i for turn in turns for i in turn.ids),
        turn=tuple(number for number, turn in enumerate(turns) for _ in turn.ids),
        asked=tuple(a for turn in turns for a in turn.asked),
        image=turns[0].image,
        tasks=tuple(turn.tasks[0] for turn in turns),
        spot=tuple(s for turn in turns for s in turn.spot),
    )


def _pad(rows: Sequence[_Row], pad: int) -> Rows:
    longest = max(len(row.ids) for row in rows)

    def filled(values: Sequence[int], filler: int = 0) -> list[int]:
        return [*values, *[filler] * (longest - len(values))]

    return Rows(
        tokens=torch.tensor([filled(row.ids, pad) for row in rows]),
        turn=torch.tensor([filled(row.turn, -1) for row in rows]),
        asked=torch.tensor([filled(row.asked) for row in rows], dtype=torch.bool),
        image=torch.tensor([row.image for row in rows]),
        tasks=tuple(row.tasks for row in rows),
        spot=torch.tensor([filled(row.spot, -1) for row in rows]),
    )
