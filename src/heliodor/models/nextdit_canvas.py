"""Pictures as rows of patches, and what pictures of given sizes need at every step.

B pictures, C channels, H and W sides of a latent, P patch, T patches of the longest picture,
D head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from heliodor.errors import InputError
from heliodor.models.nextdit_rope import Scaling, turns

_TABLES = 4  # kept at a time: two serve the released rule, the paper's needs a new one each step


def patchify(latents: Tensor, patch: int) -> Tensor:
    """Cut into patches, row by row: latents [B C H W] -> [B T C*P*P], in the order C, P, P."""
    batch, channels, height, width = latents.shape
    rows, columns = height // patch, width // patch
    x = latents.reshape(batch, channels, rows, patch, columns, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * patch * patch)


def unpatchify(tokens: Tensor, rows: int, columns: int, patch: int, keep: int) -> Tensor:
    """Patches back to pictures; unlike on the way in, channels come last in a patch.

    Args:
        tokens: [B T P*P*C] in the order P, P, C; those behind rows * columns are left out.
        rows: of patches.
        columns: of patches.
        patch: P.
        keep: how many of the C channels to return, the first ones.

    Returns:
        [B keep rows*P columns*P].
    """
    x = tokens[:, : rows * columns].reshape(tokens.shape[0], rows, columns, patch, patch, -1)
    x = x[..., :keep].permute(0, 5, 1, 3, 2, 4)
    return x.reshape(tokens.shape[0], keep, rows * patch, columns * patch)


class Canvas:
    """Positions, mask and attention scale of a batch of pictures, made once for all steps.

    Attributes:
        sizes: rows and columns of patches of each picture.
        length: T.
        valid: bool [B T], False behind the end of a picture; None where all are equally long.
        focus: factor on the scores of self-attention, a number or float32 [B 1 1 1].
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        *,
        head_dim: int,
        base: float,
        native: int,
        scaling: Scaling,
        proportional: bool,
        device: torch.device,
    ) -> None:
        """Lay out the pictures.

        Args:
            sizes: rows and columns of patches of each picture.
            head_dim: channels of a head, a multiple of 4.
            base: wave length base of the positions.
            native: patches of a picture at the size trained for.
            scaling: how positions stretch on larger pictures.
            proportional: whether attention grows sharper with the number of patches, so that its
                entropy stays what it was at the trained size (arXiv 2406.18583).
            device: of the pictures.

        Raises:
            InputError: no picture, or one without a patch.
        """
        if not sizes or min(min(size) for size in sizes) < 1:
            raise InputError(f"sizes are {list(sizes)}; expected pictures of at least one patch")
        self.sizes = tuple(sizes)
        counts = [rows * columns for rows, columns in sizes]
        self.length = max(counts)
        self.valid: Tensor | None = None
        if min(counts) < self.length:
            places = torch.arange(self.length, device=device)
            self.valid = places < torch.tensor(counts, device=device)[:, None]
        focus = [_focus(count, native) if proportional else 1.0 for count in counts]
        self.focus: float | Tensor = focus[0]
        if len(set(focus)) > 1:
            self.focus = torch.tensor(focus, device=device).view(-1, 1, 1, 1)
        self._scaling = scaling
        self._head_dim, self._base, self._native, self._device = head_dim, base, native, device
        self._tables: dict[tuple[float, ...], Tensor] = {}

    @property
    def mask(self) -> Tensor | None:
        """Which patches may be looked at: bool [B 1 1 T], None for all."""
        return None if self.valid is None else self.valid[:, None, None, :]

    def turn(self, times: Tensor | float) -> Tensor:
        """What turns queries and keys at a time, looked up where it was needed before.

        Args:
            times: one time, or float [B], one for each picture.

        Returns:
            complex64 [B T 1 D/2], or [1 T 1 D/2] where it is the same for all pictures. Behind the
            end of a picture its last patch is repeated.
        """
        rounded = torch.as_tensor(times, dtype=torch.float32)  # what the network sees of the time
        values = [float(t) for t in rounded.reshape(-1).cpu()]
        stages = [self._scaling.stage(t) for t in values]
        if len(set(stages)) == 1 and len(set(self.sizes)) == 1:
            stages = stages[:1]
        elif len(stages) == 1:
            stages *= len(self.sizes)
        key = tuple(stages)
        if key not in self._tables:
            while len(self._tables) >= _TABLES:
                del self._tables[next(iter(self._tables))]
            self._tables[key] = self._table(stages)
        return self._tables[key]

    def _table(self, stages: Sequence[float]) -> Tensor:
        made: dict[tuple[tuple[int, int], float], Tensor] = {}
        for each in zip(self.sizes, stages, strict=len(stages) > 1):
            if each not in made:
                made[each] = self._padded(*each)
        rows = [made[each] for each in zip(self.sizes, stages, strict=len(stages) > 1)]
        return torch.stack(rows)[:, :, None].to(self._device)

    def _padded(self, size: tuple[int, int], stage: float) -> Tensor:
        ratio = math.sqrt(size[0] * size[1] / self._native)
        frequencies = self._scaling.frequencies(
            stage, ratio=ratio, head_dim=self._head_dim, base=self._base
        )
        table = turns(*size, frequencies)
        missing = self.length - table.shape[0]
        return torch.cat((table, table[-1:].expand(missing, -1))) if missing else table


def _focus(count: int, native: int) -> float:
    """sqrt(log_native(count)), one at the size trained for."""
    return math.sqrt(math.log(count) / math.log(native))
