"""Eleven named colours, far enough apart that a picture settles which one it shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

__all__ = ["COLOURS", "NamedColour", "colour_named", "tint", "vary"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedColour:
    """A colour and how dark and light its shades may grow before they need another name.

    Attributes:
        name: English name.
        rgb: Its middle value, 0..255.
        darkest: Factor of the darkest shade (1.0 is ``rgb`` itself).
        lightest: Factor of the lightest; beyond 1.0 coloured shades turn towards white.
        pale: How far a flat area may be mixed with white and keep its name, 0..1.
    """

    name: str
    rgb: tuple[int, int, int]
    darkest: float
    lightest: float
    pale: float


COLOURS = (
    NamedColour(name="red", rgb=(222, 32, 36), darkest=0.55, lightest=1.12, pale=0.0),
    NamedColour(name="orange", rgb=(248, 136, 20), darkest=0.75, lightest=1.12, pale=0.1),
    NamedColour(name="yellow", rgb=(250, 222, 40), darkest=0.72, lightest=1.2, pale=0.35),
    NamedColour(name="green", rgb=(48, 165, 62), darkest=0.5, lightest=1.2, pale=0.4),
    NamedColour(name="blue", rgb=(42, 98, 226), darkest=0.5, lightest=1.2, pale=0.5),
    NamedColour(name="purple", rgb=(138, 52, 186), darkest=0.55, lightest=1.15, pale=0.3),
    NamedColour(name="pink", rgb=(250, 142, 196), darkest=0.8, lightest=1.12, pale=0.2),
    NamedColour(name="brown", rgb=(122, 74, 38), darkest=0.55, lightest=1.08, pale=0.0),
    NamedColour(name="black", rgb=(36, 36, 40), darkest=0.2, lightest=2.2, pale=0.0),
    NamedColour(name="white", rgb=(246, 246, 244), darkest=0.78, lightest=1.0, pale=0.0),
    NamedColour(name="grey", rgb=(134, 136, 139), darkest=0.7, lightest=1.2, pale=0.0),
)
_BY_NAME = {colour.name: colour for colour in COLOURS}


def colour_named(name: str) -> NamedColour:
    """The colour with that English name.

    Raises:
        KeyError: no such colour.
    """
    return _BY_NAME[name]


def vary(rng: np.random.Generator, colour: NamedColour) -> tuple[int, int, int]:
    """A value near the colour's own that still deserves its name, to fill a flat area with."""
    value = np.asarray(colour.rgb, np.float64) + rng.normal(0.0, 5.0, 3)
    if colour.name in {"black", "white", "grey"}:  # neutral: all channels move together
        value = np.asarray(colour.rgb, np.float64) + rng.normal(0.0, 5.0)
    white = rng.uniform(0.0, colour.pale)
    value = value * (1.0 - white) + 255.0 * white
    red, green, blue = np.clip(value, 0, 255).astype(int).tolist()
    return red, green, blue


def tint(
    grey: Image.Image, colour: NamedColour, low: float, high: float, mean: float
) -> Image.Image:
    """Paint a grey picture in shades of one colour.

    Args:
        grey: Mode "L".
        colour: The colour.
        low: Grey value that becomes the darkest shade.
        high: Grey value that becomes the lightest.
        mean: Mean of the picture after stretching to low..high, 0..1; it is moved to 0.6, so that
            dark drawings get the colour as clearly as bright ones.

    Returns:
        Mode "RGB", same size.
    """
    ramp = np.clip((np.arange(256) - low) / max(high - low, 1.0), 0.0, 1.0)
    ramp = ramp ** (np.log(0.6) / np.log(np.clip(mean, 0.05, 0.95)))
    shade = colour.darkest + (colour.lightest - colour.darkest) * ramp
    tables: list[Image.Image] = []
    for channel in colour.rgb:
        value = channel * np.minimum(shade, 1.0 if max(colour.rgb) > 200 else 9.0)
        value = value + (255.0 - value) * np.maximum(shade - 1.0, 0.0) * (max(colour.rgb) > 200)
        tables.append(grey.point(np.clip(value, 0, 255).astype(np.uint8).tolist()))
    return Image.merge("RGB", tables)
