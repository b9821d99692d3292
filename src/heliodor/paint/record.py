"""What a picture was made from, in the metadata of its PNG file.

One text field of the file, ``heliodor``, holds JSON; beside it the prompt stands as the standard
``Description``, for programs that show it. Reading trusts nothing: only PNG is opened, its pixels
are not, and what the field says goes through the same checks as what a caller passes.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from heliodor import __version__
from heliodor.checkpoints.files import Replacement, parse_json_object
from heliodor.errors import FileFormatError, ImageError, InputError
from heliodor.paint.settings import Settings

__all__ = ["FIELD", "Record", "read_record", "save_png"]

FIELD = "heliodor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A picture's origin.

    Attributes:
        prompt: as it was typed.
        negative: likewise.
        seed: of its noise.
        size: width and height in pixels.
        settings: how it was sampled.
        model: what the painter was loaded from.
        dtype: in which its transformer rested.
        version: of heliodor.
        noise: "seed", or "given" where the caller passed latents: these are not recorded.
    """

    prompt: str
    negative: str
    seed: int
    size: tuple[int, int]
    settings: Settings
    model: str = ""
    dtype: str = ""
    version: str = field(default=__version__)
    noise: str = "seed"

    def to_dict(self) -> dict[str, Any]:
        """In JSON's own types."""
        return {
            "prompt": self.prompt,
            "negative": self.negative,
            "seed": self.seed,
            "size": list(self.size),
            **self.settings.to_dict(),
            "model": self.model,
            "dtype": self.dtype,
            "noise": self.noise,
            "version": self.version,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """What :meth:`to_dict` wrote.

        Raises:
            InputError: something in it is missing, of another kind, or not known here.
        """
        settings = Settings.from_dict(values)
        try:
            width, height = values["size"]
            texts = [values[name] for name in ("prompt", "negative")]
            seed: Any = values["seed"]
        except KeyError as error:
            raise InputError(f"the record has no {error}") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"the record's size is no width and height: {error}") from error
        if not all(isinstance(text, str) for text in texts) or any(
            type(number) is not int for number in (seed, width, height)
        ):
            raise InputError("the record's prompt, seed or size is not of the kind expected")
        return cls(
            prompt=texts[0],
            negative=texts[1],
            seed=seed,
            size=(width, height),
            settings=settings,
            **{name: str(values.get(name, "")) for name in ("model", "dtype", "version", "noise")},
        )


def read_record(path: str | Path) -> Record:
    """What a picture of :func:`save_png` was made from.

    Raises:
        ImageError: no PNG file, or a broken one.
        InputError: a PNG without a record, or with one that cannot be used.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            text: Any = picture.info.get(FIELD)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is not read: {error}; expected a PNG picture") from error
    if not isinstance(text, str):
        raise InputError(
            f"{path} does not say what it was made from: expected a PNG that heliodor painted, as "
            "it was saved"
        )
    try:
        return Record.from_dict(parse_json_object(text.encode(), source=f"{path}: its record"))
    except (FileFormatError, UnicodeEncodeError) as error:
        raise InputError(str(error)) from error


def save_png(picture: Image.Image, record: Record, path: str | Path) -> None:
    """Write a PNG with its record, whole or not at all.

    Args:
        picture: RGB.
        record: what it was made from.
        path: ends in ``.png``; its folder exists.

    Raises:
        CheckpointError: the disk refused.
        InputError: a name of another kind, or no such folder.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path.name} does not end in .png, the format that keeps the record")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to save {path.name} in")
    info = PngImagePlugin.PngInfo()
    info.add_itxt(FIELD, json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False))
    info.add_itxt("Description", record.prompt)
    info.add_itxt("Software", f"heliodor {record.version}")
    content = io.BytesIO()
    picture.save(content, "PNG", pnginfo=info)
    with Replacement(path.parent) as new:
        new.write(path.name, content.getvalue())
