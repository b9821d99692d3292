"""Position embeddings of an image tower at another resolution."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from heliodor.errors import ConfigError


def resize_positions(positions: Tensor, num_tokens: int) -> Tensor:
    """Stretch a square grid of learned positions bilinearly, its corners staying corners.

    As big_vision does between its training stages (``models/vit.py`` ``resample_posemb``: scipy's
    ``zoom`` with order 1). The arithmetic is in float64, as scipy's.

    Args:
        positions: [N D], row by row from the top left, N a square number.
        num_tokens: N' of the new grid, a square number.

    Returns:
        [N' D] in the dtype of ``positions``; the same tensor if N' is N.

    Raises:
        ConfigError: either count is not a square number.
    """
    if positions.shape[0] == num_tokens:
        return positions
    old, new = math.isqrt(positions.shape[0]), math.isqrt(num_tokens)
    if old * old != positions.shape[0] or new * new != num_tokens or not old or not new:
        raise ConfigError(
            f"{positions.shape[0]} positions cannot be resized to {num_tokens}: "
            "both must form a square grid"
        )
    grid = positions.double().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bilinear", align_corners=True)
    return grid.permute(0, 2, 3, 1).reshape(num_tokens, -1).to(positions.dtype)
