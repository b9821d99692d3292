"""What a painter gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from heliodor.paint.record import Record, save_png

if TYPE_CHECKING:
    from heliodor.paint.batch import Painted
    from heliodor.paint.request import Job
    from heliodor.paint.settings import Settings
    from heliodor.paint.sources import Sources

__all__ = ["Painting", "develop"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Painting:
    """A picture and what it was made from.

    Attributes:
        image: RGB.
        record: prompt, seed, size and settings; :meth:`save` writes them into the file.
        latents: float32 [C h w], from which the image was decoded.
        cut: what was left out at the prompt's end, "" if it fitted.
        skipped: steps that went on with an old velocity; 0 unless skipping was asked for.
        seconds: that the sampling of this picture's batch took.
    """

    image: Image.Image = field(repr=False)
    record: Record
    latents: Tensor = field(repr=False)
    cut: str = ""
    skipped: int = 0
    seconds: float = 0.0

    @property
    def seed(self) -> int:
        """The seed that paints it again."""
        return self.record.seed

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.record.size

    def save(self, path: str | Path) -> None:
        """Write a PNG whose metadata say how it was made.

        Raises:
            CheckpointError: the disk refused.
            InputError: a name that does not end in .png, or no such folder.
        """
        save_png(self.image, self.record, path)

    def to_dict(self) -> dict[str, Any]:
        """The record with what is known afterwards, in JSON's own types."""
        return {
            **self.record.to_dict(),
            "cut": self.cut,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
        }


def develop(
    picture: Image.Image, job: Job, painted: Painted, settings: Settings, sources: Sources
) -> Painting:
    """A decoded picture with what it was made from."""
    record = Record(
        prompt=job.prompt,
        negative=job.negative,
        seed=job.seed,
        size=job.size,
        settings=settings,
        model=sources.name,
        dtype=sources.dtype_name,
        noise="seed" if job.noise is None else "given",
    )
    return Painting(
        image=picture,
        record=record,
        latents=painted.latents,
        cut=painted.cut,
        skipped=painted.skipped,
        seconds=painted.seconds,
    )
