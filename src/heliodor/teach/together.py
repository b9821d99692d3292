"""Several turns about one picture in one pass: they share its image tokens.

B rows, M image tokens, T text tokens of all turns, W width. Most tokens of a short turn are the
picture's: with eight turns to a row, a step costs a third of what eight rows cost, and less the
larger the picture is.

What is given up: in PaliGemma the image tokens look at the prompt too, here they look at each other
only. Everything else is as if each turn stood alone. So the last stage of a training has its turns
apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heliodor.errors import TrainingError
from heliodor.models.paligemma import PaliGemma
from heliodor.nn.mask import Masks


def hidden_together(
    model: PaliGemma, tokens: Tensor, features: Tensor, turn: Tensor, asked: Tensor
) -> Tensor:
    """Final hidden states of the text positions, each turn seeing the picture and itself.

    Args:
        model: its window, if it has one, must be at least M + T.
        tokens: int64 [B T].
        features: [B M W], image tokens.
        turn: int64 [B T], rising, each turn in one piece; -1 on padding behind.
        asked: bool [B T], True on the two-way part of a turn.

    Returns:
        float32 [B T W].

    Raises:
        TrainingError: the row is longer than the model's window.
    """
    x = model.join(features, tokens)
    images = features.shape[1]
    window = model.config.language.window
    if window is not None and x.shape[1] > window:
        raise TrainingError(
            f"turns together make a row of {x.shape[1]} tokens, the model's window is {window}: "
            "ask fewer at once, or one at a time"
        )
    first = torch.arange(images, device=tokens.device).expand(len(tokens), images)
    positions = torch.cat((first, images + places(turn)), dim=1)
    mask = sight(turn, asked, images)
    return model.language(x, positions, Masks(full=mask, local=mask), keep=tokens.shape[1])


def places(turn: Tensor) -> Tensor:
    """How many tokens of its turn come before each one: int64 [B T] -> int64 [B T]."""
    place = torch.arange(turn.shape[1], device=turn.device).expand_as(turn)
    new = turn[:, 1:] != turn[:, :-1]
    begins = torch.cat((torch.ones_like(new[:, :1]), new), dim=1)
    return place - (place * begins).cummax(-1).values


def sight(turn: Tensor, asked: Tensor, images: int) -> Tensor:
    """Which position looks at which, bool [B 1 M+T M+T].

    With two image tokens, a turn of three tokens, two of them asked, and one of two::

              key image  turn 0  turn 1
        image     x x    . . .   . .
                  x x    . . .   . .
        turn 0    x x    x x .   . .
                  x x    x x .   . .
                  x x    x x x   . .
        turn 1    x x    . . .   x .
                  x x    . . .   x x

    Args:
        turn: int64 [B T].
        asked: bool [B T].
        images: M.
    """
    batch, length = turn.shape
    place = torch.arange(length, device=turn.device)
    behind = place[None, :] <= place[:, None]
    text = (turn[:, :, None] == turn[:, None, :]) & (behind | asked[:, None, :])
    mask = torch.zeros(batch, images + length, images + length, dtype=torch.bool)
    mask = mask.to(turn.device)
    mask[:, :, :images] = True
    mask[:, images:, images:] = text
    return mask[:, None]
