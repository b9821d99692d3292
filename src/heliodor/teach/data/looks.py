"""How one thing is drawn this time: pose, colour and finish, from one sprite.

Variety here is what carries a model to artwork it has not seen: the same drawing comes turned,
recoloured, outlined, blurred, posterised, sketched. Sprites go through as PIL pictures because
PIL's integer loops are several times faster than numpy on areas this small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from heliodor.teach.data.artwork import sprite
from heliodor.teach.data.concepts import Concept
from heliodor.teach.data.palette import NamedColour, tint

__all__ = ["Look", "draw_look", "outlined"]

Finish = Callable[[np.random.Generator, Image.Image, Image.Image], Image.Image]


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a thing should look like; everything else is left to chance.

    Attributes:
        concept: What it is.
        style: Artwork style.
        side: Longer side in pixels before it is turned.
        colour: Paint it all in this colour, or None for its own colours.
        strength: 1.0 for scenes; larger draws every odd finish that much more often.
    """

    concept: Concept
    style: str
    side: float
    colour: NamedColour | None
    strength: float = 1.0


@lru_cache(maxsize=8192)
def _scaled(concept: Concept, style: str, half: int) -> Image.Image:
    """A sprite with premultiplied alpha, at full (0), half (1) or quarter size (2)."""
    image = sprite(concept, style).convert("RGBa")
    return image.reduce(2**half) if half else image


@lru_cache(maxsize=4096)
def _brightness(concept: Concept, style: str) -> tuple[float, float, float]:
    """5th and 95th percentile of a sprite's grey values, and its mean stretched between them."""
    image = sprite(concept, style)
    grey = np.asarray(image.convert("L"), np.float32)[np.asarray(image.getchannel("A")) > 128]
    low, high = (float(v) for v in np.percentile(grey, (5, 95)))
    high = max(high, low + 40.0)
    return low, high, float(np.clip((grey - low) / (high - low), 0, 1).mean())


def draw_look(rng: np.random.Generator, look: Look) -> tuple[Image.Image, Image.Image]:
    """Draw it.

    Returns:
        Its colours (RGB) and its coverage (L), same size, as close as the drawing allows.
    """
    posed = _pose(rng, look)
    image = posed.convert("RGBA")
    alpha = image.getchannel("A")
    if look.colour is not None:
        grey = image.convert("L")
        rgb = tint(grey, look.colour, *_brightness(look.concept, look.style))
        rgb = _finish(rng, rgb, alpha, _PLAIN_FINISHES, look.strength)
    else:
        rgb = _recolour(rng, image.convert("RGB"), look.strength)
        rgb = _finish(rng, rgb, alpha, _PLAIN_FINISHES + _ODD_FINISHES, look.strength)
    return rgb, alpha


def _pose(rng: np.random.Generator, look: Look) -> Image.Image:
    """Scale, stretch, mirror, turn: premultiplied RGBA."""
    full = _scaled(look.concept, look.style, 0)
    half = 2 if look.side * 4 < max(full.size) else 1 if look.side * 2 < max(full.size) else 0
    image = _scaled(look.concept, look.style, half)
    stretch = float(np.exp(np.clip(rng.normal(0.0, 0.08), -0.25, 0.25)))
    width, height = image.width * stretch, image.height / stretch
    scale = look.side / max(width, height)
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    image = image.resize(size, Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    chance = rng.random()
    if chance < 0.4:
        angle = float(np.clip(rng.normal(0.0, 9.0), -25.0, 25.0))
        image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    elif chance < 0.4 + 0.12 * look.strength:
        image = _slant(rng, image)
    return image


def _slant(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Move the four corners inwards by up to an eighth, as a picture seen from aside."""
    w, h = image.size
    a, b, c, d, e, f, g, k = rng.uniform(-0.12, 0.0, 8)
    corners = (
        *(a * w, b * h),
        *(c * w, h - d * h),
        *(w - e * w, h - f * h),
        *(w - g * w, k * h),
    )
    return image.transform((w, h), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)


def _recolour(rng: np.random.Generator, rgb: Image.Image, strength: float) -> Image.Image:
    """Turn the hue a little (rarely much), change saturation, contrast, brightness and gamma."""
    if rng.random() < 0.15:
        return rgb
    wild = rng.random() < 0.06 * strength
    angle = np.deg2rad(rng.uniform(-180, 180) if wild else rng.normal(0.0, 9.0 * strength))
    saturation = 0.0 if rng.random() < 0.06 * strength else rng.uniform(0.55, 1.35)
    gain, offset = rng.uniform(0.75, 1.2), rng.uniform(-25.0, 25.0)
    luma = np.array([0.299, 0.587, 0.114])
    turn = _hue_matrix(float(angle))
    matrix = gain * (saturation * turn + (1.0 - saturation) * luma[None, :])
    offset += 128.0 * (1.0 - gain)
    rgb = rgb.convert("RGB", tuple(float(v) for row in matrix for v in (*row, offset)))
    if rng.random() < 0.3:
        gamma = float(np.exp(rng.uniform(-0.4, 0.4)))
        rgb = rgb.point([round(255.0 * (i / 255.0) ** gamma) for i in range(256)] * 3)
    return rgb


def _hue_matrix(angle: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Rotate the colour plane by an angle in radians and keep luma: [3 3]."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    return np.linalg.inv(to_yiq) @ turn @ to_yiq


def _finish(
    rng: np.random.Generator,
    rgb: Image.Image,
    alpha: Image.Image,
    finishes: tuple[tuple[float, Finish], ...],
    strength: float,
) -> Image.Image:
    """At most one of the surfaces, each with its chance (times ``strength``)."""
    chance = rng.random() / strength
    for share, finish in finishes:
        if chance < share:
            return finish(rng, rgb, alpha)
        chance -= share
    return rgb


def _soft(rng: np.random.Generator, rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    del alpha
    return rgb.filter(ImageFilter.BoxBlur(float(rng.uniform(0.4, 1.2))))


def _sharp(rng: np.random.Generator, rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    del alpha
    return rgb.filter(ImageFilter.UnsharpMask(2, int(rng.integers(80, 250)), 2))


def _posterised(rng: np.random.Generator, rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    del alpha
    return ImageOps.posterize(rgb, int(rng.integers(2, 4)))


def _embossed(rng: np.random.Generator, rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    del alpha
    return Image.blend(rgb, rgb.filter(ImageFilter.EMBOSS), float(rng.uniform(0.3, 0.6)))


def _coarse(rng: np.random.Generator, rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Down and up again, as a picture that was too small."""
    del alpha
    factor = rng.uniform(1.5, 3.0)
    small = (max(2, int(rgb.width / factor)), max(2, int(rgb.height / factor)))
    back = Image.Resampling.NEAREST if rng.random() < 0.3 else Image.Resampling.BILINEAR
    return rgb.resize(small, Image.Resampling.BOX).resize(rgb.size, back)


def _compress(rng: np.random.Generator, rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Through a JPEG of poor quality."""
    del alpha
    buffer = BytesIO()
    rgb.save(buffer, "JPEG", quality=int(rng.integers(12, 50)))
    with Image.open(buffer) as image:
        return image.convert("RGB")


def _sketch(rng: np.random.Generator, rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Dark lines on a light ground, over some of the colours."""
    flat = Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)
    lines = ImageOps.invert(flat.convert("L").filter(ImageFilter.FIND_EDGES))
    lines = lines.point([max(0, min(255, 2 * v - 255)) for v in range(256)])
    page = Image.blend(Image.new("RGB", rgb.size, "white"), rgb, float(rng.uniform(0.0, 0.5)))
    return ImageChops.multiply(page, Image.merge("RGB", (lines, lines, lines)))


_PLAIN_FINISHES: tuple[tuple[float, Finish], ...] = (
    (0.06, _soft),
    (0.06, _coarse),
    (0.04, _compress),
    (0.04, _sharp),
)
# These change colours, so they are not for things that were painted in a named one.
_ODD_FINISHES: tuple[tuple[float, Finish], ...] = (
    (0.04, _posterised),
    (0.03, _embossed),
    (0.04, _sketch),
)


def outlined(
    rng: np.random.Generator, rgb: Image.Image, alpha: Image.Image, line: str
) -> tuple[Image.Image, Image.Image]:
    """A line of one to three pixels around a drawing, as on a sticker.

    Args:
        rng: Chooses the width.
        rgb: The drawing's colours.
        alpha: Its coverage, mode "L".
        line: Colour of the line, for instance "#ffffff".

    Returns:
        Colours and coverage, two to eight pixels larger than before.
    """
    width = int(rng.integers(1, 4)) if max(rgb.size) > 60 else 1
    grown = ImageOps.expand(alpha, width + 1)
    spread = grown.filter(ImageFilter.BoxBlur(width))
    wide = spread.point([min(255, v * 6) for v in range(256)])
    canvas = Image.new("RGB", grown.size, line)
    canvas.paste(rgb, (width + 1, width + 1), alpha)
    return canvas, wide
