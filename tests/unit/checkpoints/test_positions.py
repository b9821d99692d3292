"""Resized position embeddings against scipy, which big_vision resizes them with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from heliodor.checkpoints.positions import resize_positions
from heliodor.errors import ConfigError


@pytest.mark.parametrize(("old", "new"), [(4, 8), (16, 32), (8, 5), (3, 7), (5, 1), (2, 3)])
def test_equals_scipy_zoom_of_order_one(old: int, new: int) -> None:
    positions = torch.randn(old * old, 6)
    grid = positions.numpy().reshape(old, old, 6)
    expected = np.asarray(zoom(grid, (new / old, new / old, 1), order=1)).reshape(new * new, 6)
    got = resize_positions(positions, new * new).numpy()
    np.testing.assert_allclose(got, expected, atol=3e-7)


def test_the_same_grid_is_left_alone_and_the_type_is_kept() -> None:
    positions = torch.randn(16, 6, dtype=torch.bfloat16)
    assert resize_positions(positions, 16) is positions
    assert resize_positions(positions, 64).dtype == torch.bfloat16


@pytest.mark.parametrize(("old", "new"), [(15, 16), (16, 15), (16, 0)])
def test_what_is_no_square_grid_is_refused(old: int, new: int) -> None:
    with pytest.raises(ConfigError, match="square grid"):
        resize_positions(torch.randn(old, 2), new)
