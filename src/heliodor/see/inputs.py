"""Pictures and prompts as padded tensors. B rows, M image tokens, T text tokens, W width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from heliodor.errors import InputError, PromptError
from heliodor.image import ImageSource

__all__ = ["ImageFeatures", "Picture", "Pictures", "collect_features", "pad_left", "pad_right"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageFeatures:
    """What the image tower made of one picture: accepted wherever a picture is.

    Only these can be reused between prompts. Keys and values of a decoder cannot: image tokens
    attend to the prompt.

    Attributes:
        tokens: float32 [N W], as they enter the decoder.
        size: width and height of the picture in pixels.
    """

    tokens: Tensor = field(repr=False)
    size: tuple[int, int]

    def __post_init__(self) -> None:
        """Refuse a batch.

        Raises:
            InputError: tokens that are not [N W].
        """
        if self.tokens.ndim != 2:
            raise InputError(
                f"features of one picture are [N W], not {list(self.tokens.shape)}: make one "
                "ImageFeatures for each picture of a batch"
            )


Picture = ImageSource | ImageFeatures
"""A picture in any form: PIL image, HWC uint8 array, bytes, path, or its features."""

Pictures = Picture | Sequence[Picture] | None
"""What one prompt is about: a picture, several in order, or none."""


def collect_features(
    rows: Sequence[Sequence[Picture]], encode: Callable[[list[ImageSource]], list[ImageFeatures]]
) -> list[list[ImageFeatures]]:
    """Features of every row's pictures; each distinct object goes through the tower once."""
    fresh: dict[int, ImageSource] = {}
    for row in rows:
        for picture in row:
            if not isinstance(picture, ImageFeatures):
                fresh[id(picture)] = picture
    encoded = dict(zip(fresh, encode(list(fresh.values())), strict=True)) if fresh else {}
    return [[p if isinstance(p, ImageFeatures) else encoded[id(p)] for p in row] for row in rows]


def join_features(
    rows: Sequence[Sequence[ImageFeatures]], width: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Features side by side: float32 [B M W] and bool [B M], None where nothing is to say.

    Shorter rows are padded behind their pictures.

    Raises:
        InputError: features of another model's width.
    """
    wrong = {f.tokens.shape[-1] for row in rows for f in row} - {width}
    if wrong:
        raise InputError(
            f"image features of width {wrong.pop()} came to a model of width {width}: encode the "
            "picture with this model"
        )
    lengths = [sum(f.tokens.shape[0] for f in row) for row in rows]
    longest = max(lengths)
    if longest == 0:
        return None, None
    joined = torch.zeros(len(rows), longest, width, device=device)
    valid = torch.zeros(len(rows), longest, dtype=torch.bool, device=device)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if length:
            joined[index, :length] = torch.cat([f.tokens for f in row]).to(device)
            valid[index, :length] = True
    return joined, None if min(lengths) == longest else valid


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Ids, and which are real: int64 [B T] and bool [B T], short rows padded in front."""
    longest = max(len(row) for row in rows)
    tokens = [[pad] * (longest - len(row)) + list(row) for row in rows]
    valid = [[False] * (longest - len(row)) + [True] * len(row) for row in rows]
    return torch.tensor(tokens, device=device), torch.tensor(valid, device=device)


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Ids int64 [B T], short rows padded behind."""
    longest = max(len(row) for row in rows)
    return torch.tensor([list(row) + [pad] * (longest - len(row)) for row in rows], device=device)


def pair_up(images: Sequence[Pictures], prompts: Sequence[str]) -> list[tuple[Picture, ...]]:
    """The pictures of every prompt; one picture serves all prompts.

    Raises:
        InputError: counts that do not pair up, or one thing where a list is expected.
        PromptError: a prompt that is not a string.
    """
    check_list(images, "pictures")
    check_texts(prompts, "prompt", "prompts")
    if not prompts:
        raise InputError("no prompts were given")
    rows = [_several(entry) for entry in images]
    if len(rows) == 1:
        rows = rows * len(prompts)
    if len(rows) != len(prompts):
        raise InputError(
            f"{len(rows)} pictures came with {len(prompts)} prompts: give one (or a list of "
            "several, or None) for each prompt, or one for all"
        )
    return rows


def check_list(given: object, what: str) -> None:
    """Refuse one thing where several are expected.

    Raises:
        InputError: no sequence, or one whose members mean something else: a string, bytes.
    """
    if not isinstance(given, Sequence) or isinstance(given, str | bytes | bytearray):
        raise InputError(
            f"a list of {what} is expected, not a {type(given).__name__}: put it in brackets"
        )


def check_texts(given: Sequence[object], what: str, several: str) -> None:
    """Refuse anything but a list of strings; ``what`` one is called, and ``several``.

    Raises:
        InputError: no list.
        PromptError: one of them is no string.
    """
    check_list(given, several)
    for text in given:
        if not isinstance(text, str):
            raise PromptError(f"a {what} must be a string, not {type(text).__name__}")


def check_device(device: str | torch.device) -> None:
    """Refuse a device that is not there.

    Raises:
        InputError: no such device here.
    """
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device '{device}' cannot be used here ({reason}): 'cpu' always can, 'cuda' where "
            "torch was built for it and a card is present"
        ) from error


def _several(entry: Pictures) -> tuple[Picture, ...]:
    if entry is None:
        return ()
    if isinstance(entry, list | tuple):
        return tuple(entry)
    return (entry,)  # pyright: ignore[reportReturnType]
