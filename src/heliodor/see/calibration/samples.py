"""What a model is calibrated and measured on: pictures, prompts, and the float model's answers.

The network reads a prompt and writes an answer, so layers are calibrated on both. T text tokens.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from heliodor.errors import ImageError, InputError
from heliodor.image import open_image
from heliodor.see import prompt as words
from heliodor.see.calibration.settings import Settings
from heliodor.see.inputs import ImageFeatures
from heliodor.see.vlm import VisionLanguageModel

__all__ = [
    "PROMPTS",
    "Data",
    "Example",
    "Pictures",
    "Progress",
    "find_pictures",
    "gather",
    "make_examples",
    "read_prompts",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

PROMPTS: tuple[str, ...] = (
    words.caption("en"),
    words.ask("What is in the picture?", "en"),
    words.read(),
    words.detect(("person", "animal", "flower", "car", "house", "tree")),
    words.ask("What colour is it?", "en"),
    words.segment(("animal",)),
    words.ask("How many are there?", "en"),
    words.detect(("text",)),
)
"""One and more for every task, where the user gives none."""

Progress = Callable[[str], None]
"""Told in words how far it is."""

_MOST_PROMPTS = 10_000
_HELD_SHARE = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """The pictures of a folder.

    Attributes:
        calibrating: layers are calibrated on these.
        held_out: the result is measured on these.
        apart: False where one picture has to serve as both.
    """

    calibrating: tuple[Path, ...]
    held_out: tuple[Path, ...]
    apart: bool

    def fingerprint(self) -> str:
        """Changes with any picture's content or place."""
        digest = hashlib.sha256()
        for path in (*self.calibrating, None, *self.held_out):
            digest.update(b"|" if path is None else hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Example:
    """A picture, a prompt and its answer.

    Attributes:
        picture: which of the pictures.
        tokens: int64 [T], ``<bos> prompt newline answer <eos>``.
        prefix: tokens before the answer.
    """

    picture: int
    tokens: Tensor
    prefix: int


def find_pictures(folder: str | Path, held_out: int, samples: int) -> Pictures:
    """The pictures in a folder and the folders in it, in an order that hangs on their names alone.

    Args:
        folder: where they lie.
        held_out: pictures to hold out, at most.
        samples: pictures to calibrate on, at most.

    Raises:
        InputError: no such folder, or no picture in it.
    """
    place = Path(folder)
    if not place.is_dir():
        what = "is no folder" if place.exists() else "does not exist"
        raise InputError(f"{folder} {what}; give a folder of pictures like those it will see")
    listed = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not listed:
        raise InputError(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    random.Random(0).shuffle(listed)
    held = min(held_out, round(len(listed) * _HELD_SHARE), len(listed) - 1)
    held = max(held, 1) if len(listed) > 1 else 0
    chosen = tuple(listed[held : held + samples])
    return Pictures(
        calibrating=chosen, held_out=tuple(listed[:held]) if held else chosen, apart=held > 0
    )


def read_prompts(path: str | Path | None) -> tuple[str, ...]:
    """The lines of a file that are not empty; ``PROMPTS`` for None.

    Raises:
        InputError: no such file, no text, or nothing in it.
    """
    if path is None:
        return PROMPTS
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not 0 < len(lines) <= _MOST_PROMPTS:
        raise InputError(
            f"{path} holds {len(lines)} prompts, one a line; expected 1 to {_MOST_PROMPTS}"
        )
    return tuple(lines)


def open_pixels(model: VisionLanguageModel, paths: Sequence[Path]) -> list[Tensor]:
    """Pictures as the tower takes them, float32 [3 H W] each.

    Raises:
        ImageError: one of them cannot be opened.
    """
    found: list[Tensor] = []
    for path in paths:
        try:
            picture = open_image(path)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
        found.append(torch.as_tensor(model.processor([picture]))[0])
    return found


def pair_prompts(pictures: int, prompts: int, most: int) -> list[tuple[int, int]]:
    """Which picture goes with which prompt: all pictures come first, and prompts take turns.

    Returns:
        Pairs (picture, prompt), no pair twice, ``most`` at most.
    """
    rounds = ((p, (turn + p) % prompts) for turn in range(prompts) for p in range(pictures))
    return [pair for _, pair in zip(range(most), rounds, strict=False)]


@torch.no_grad()
def make_examples(
    model: VisionLanguageModel,
    features: Sequence[Tensor],
    prompts: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    answer_tokens: int,
) -> list[Example]:
    """Let the float model answer, greedily.

    Args:
        model: in float.
        features: of each picture, [N W].
        prompts: the prompts.
        pairs: which picture with which prompt.
        answer_tokens: at most.

    Raises:
        PromptError: a prompt too long for the model.
    """
    found: list[Example] = []
    for picture, prompt in pairs:
        seen = ImageFeatures(tokens=features[picture], size=(1, 1))
        (answer,) = model.generate([seen], [prompts[prompt]], max_new_tokens=answer_tokens)
        prefix = model.tokenizer.encode_prefix(prompts[prompt])
        ended = [model.tokenizer.eos] if answer.finish == "stop" else []
        tokens = torch.tensor([*prefix, *answer.tokens, *ended])
        found.append(Example(picture=picture, tokens=tokens, prefix=len(prefix)))
    return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Data:
    """Pictures, float32 [3 H W], and what is asked about them: to calibrate on, and held out."""

    pixels: list[Tensor]
    examples: list[Example]
    held_pixels: list[Tensor]
    held: list[Example]


@torch.no_grad()
def gather(
    model: VisionLanguageModel,
    pictures: Pictures,
    prompts: Sequence[str],
    settings: Settings,
    tell: Progress,
) -> Data:
    """Open the pictures and let the float model answer.

    Raises:
        ImageError: a picture that cannot be opened.
        PromptError: a prompt too long for the model.
    """
    found: list[tuple[list[Tensor], list[Example]]] = []
    groups = ((pictures.calibrating, settings.samples), (pictures.held_out, settings.held_out))
    for paths, most in groups:
        pairs = pair_prompts(len(paths), len(prompts), most)
        tell(f"the float model reads {len(paths)} pictures and answers {len(pairs)} prompts")
        pixels = open_pixels(model, paths)
        features = [model.model.encode_images(one[None])[0] for one in pixels]
        examples = make_examples(model, features, prompts, pairs, settings.answer_tokens)
        found.append((pixels, examples))
    (pixels, examples), (held_pixels, held) = found
    return Data(pixels=pixels, examples=examples, held_pixels=held_pixels, held=held)
