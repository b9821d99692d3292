"""What text is written on, in which colours, and what a camera then does to it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from heliodor.teach.data.words import pick

__all__ = ["Colour", "Surface", "contrast", "ink_for", "surface", "tone", "wear"]

Rng = np.random.Generator
Colour = tuple[int, int, int]

MIN_CONTRAST = 4.0
"""Ink against every tone under it, as the WCAG ratio; 4.5 is asked of body text, 3 of headings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """A background.

    Attributes:
        pixels: uint8 [H W 3].
        tones: the extreme colours in it, noise aside; ink must stand out from each.
    """

    pixels: np.ndarray
    tones: tuple[Colour, ...]


def _luminance(colour: Colour) -> float:
    """WCAG 2 relative luminance, 0 to 1."""
    channels = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: Colour, second: Colour) -> float:
    """The WCAG 2 contrast ratio of two colours: 1 (the same) to 21 (black on white)."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def tone(rng: Rng, *, dark: bool) -> Colour:
    """A dark or a light colour, greyish more often than vivid."""
    low, high = (0, 75) if dark else (185, 256)
    red, green, blue = (int(v) for v in rng.integers(low, high, 3))
    if rng.random() < 0.4:
        grey = (red + green + blue) // 3
        return (grey, grey, grey)
    return (red, green, blue)


def ink_for(rng: Rng, tones: tuple[Colour, ...], *, least: float = MIN_CONTRAST) -> Colour:
    """A colour that contrasts with each of `tones` by `least`, black or white if luck fails."""
    for _ in range(12):
        red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
        colour = (red, green, blue)
        if min(contrast(colour, other) for other in tones) >= least:
            return colour
    choices: tuple[Colour, ...] = ((15, 15, 15), (245, 245, 245))
    return max(choices, key=lambda colour: min(contrast(colour, other) for other in tones))


def _near(rng: Rng, colour: Colour, spread: int) -> Colour:
    """A colour within `spread` levels of `colour` in each channel."""
    red, green, blue = np.clip(np.array(colour) + rng.integers(-spread, spread + 1, 3), 0, 255)
    return (int(red), int(green), int(blue))


def _gradient(rng: Rng, width: int, height: int, tones: tuple[Colour, Colour]) -> np.ndarray:
    """From the first tone to the second along a random direction."""
    across, down = rng.uniform(-1, 1, 2)
    ramp = across * np.linspace(0, 1, width, dtype=np.float32)[None, :]
    ramp = ramp + down * np.linspace(0, 1, height, dtype=np.float32)[:, None]
    ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
    first, second = (np.array(colour, np.float32) for colour in tones)
    return (first + ramp[..., None] * (second - first)).astype(np.uint8)


def _stripes(rng: Rng, width: int, height: int, tones: tuple[Colour, Colour]) -> np.ndarray:
    """Upright, level or slanted stripes of the two tones."""
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    slope = pick(rng, ((1, 0), (0, 1), (1, 1), (1, -1)))
    band = (slope[0] * x + slope[1] * y) // int(rng.integers(6, 28)) % 2
    return np.array(tones, np.uint8)[np.broadcast_to(band, (height, width))]


def _noise(rng: Rng, width: int, height: int, amplitude: int) -> np.ndarray:
    """int16 [H W 1], uniform grain."""
    grain = rng.integers(-amplitude, amplitude + 1, (height, width, 1), dtype=np.int8)
    return grain.astype(np.int16)


def _paper(rng: Rng, width: int, height: int, base: Colour) -> np.ndarray:
    """Blotches a few dozen pixels wide over `base`, with fine grain."""
    blotches = rng.integers(0, 256, (7, 7), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(blotches).resize((width, height), Image.Resampling.BICUBIC))
    shift = (soft.astype(np.int16)[..., None] - 128) // 9
    return _lift(base, width, height, shift + _noise(rng, width, height, 5))


def _lift(base: Colour, width: int, height: int, shift: np.ndarray) -> np.ndarray:
    """`base` plus a brightness shift, int16 [H W 1], kept in 0..255."""
    flat = np.broadcast_to(np.array(base, np.int16), (height, width, 3))
    return np.clip(flat + shift, 0, 255).astype(np.uint8)


def surface(rng: Rng, width: int, height: int) -> Surface:
    """A light or dark background: plain, gradient, grainy, paper-like or striped."""
    base = tone(rng, dark=rng.random() < 0.4)
    other = _near(rng, base, 30)
    kind = rng.random()
    if kind < 0.3:
        pixels, tones = np.full((height, width, 3), base, np.uint8), (base,)
    elif kind < 0.52:
        tones = (base, other)
        pixels = _gradient(rng, width, height, tones)
    elif kind < 0.66:
        pixels, tones = _lift(base, width, height, _noise(rng, width, height, 14)), (base,)
    elif kind < 0.86:
        pixels, tones = _paper(rng, width, height, base), (base,)
    else:
        tones = (base, other)
        pixels = _stripes(rng, width, height, tones)
    return Surface(pixels=pixels, tones=tones)


def wear(rng: Rng, image: Image.Image, *, font_size: int) -> Image.Image:
    """What a camera may do: soften, add grain, compress. Small letters are treated gently.

    Args:
        rng: the source of every choice.
        image: RGB.
        font_size: pixels to the em of the smallest text in the picture.
    """
    gentle = font_size < 16
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.45 if gentle else 1.0)))
    if rng.random() < 0.25:
        grain = _noise(rng, image.width, image.height, 7 if gentle else 14)
        pixels = np.asarray(image).astype(np.int16) + grain
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=int(rng.integers(70 if gentle else 40, 96)))
        image = Image.open(packed).convert("RGB")
    return image
