"""The transformer with its prompts and guidance as one velocity, which a solver can follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_canvas import Canvas
from heliodor.models.nextdit_prompt import Prompt
from heliodor.paint.settings import Settings
from heliodor.paint.text import TextFeatures, join_features

__all__ = ["Denoiser"]


class Denoiser:
    """(time, latents) -> velocity, for the pictures of one batch, all of one size.

    Captions, positions and masks are made once. With guidance the model is called once on twice
    the pictures, first those with their prompts, then those without.

    Attributes:
        calls: of the model so far.
        rows: pictures that went through it in these calls.
    """

    def __init__(
        self,
        model: NextDiT,
        with_prompt: Sequence[TextFeatures],
        without: Sequence[TextFeatures],
        size: tuple[int, int],
        settings: Settings,
    ) -> None:
        """Read the prompts.

        Args:
            model: the transformer.
            with_prompt: of each picture.
            without: of each picture, what guidance leads away from; not used where there is none.
            size: height and width of a latent.
            settings: how to sample.
        """
        self.calls, self.rows = 0, 0
        self._model = model
        self._guidance = settings.guidance
        self._device = model.pad_token.device
        self._size = size
        self._settings = settings
        self._both: tuple[Prompt, Canvas] | None = None
        self._alone: tuple[Prompt, Canvas] | None = None
        if self._guidance.ever:
            self._both = self._prepared([*with_prompt, *without])
        if not self._guidance.always:
            self._alone = self._prepared(with_prompt)

    @torch.no_grad()
    def __call__(self, time: Tensor, x: Tensor) -> Tensor:
        """Time [], x float32 [B C H W] -> float32 [B C H W]."""
        now = float(time)
        if self._both is not None and self._guidance.active(now):
            found = self._run(torch.cat((x, x)), now, *self._both)
            return self._guidance.combine(*found.chunk(2))
        assert self._alone is not None
        return self._run(x, now, *self._alone)

    def _run(self, x: Tensor, now: float, prompt: Prompt, canvas: Canvas) -> Tensor:
        self.calls += 1
        self.rows += x.shape[0]
        found = self._model(x, now, prompt, canvas)
        assert isinstance(found, Tensor)
        return found

    @torch.no_grad()
    def _prepared(self, features: Sequence[TextFeatures]) -> tuple[Prompt, Canvas]:
        prompt = self._model.prepare(*join_features(features, self._device))
        canvas = self._model.canvas(
            [self._size] * len(features),
            scaling=self._settings.scaling,
            proportional=self._settings.proportional,
        )
        return prompt, canvas
