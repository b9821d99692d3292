"""Record what TensorFlow makes of a few pictures: ``python scripts/golden/record_resize.py``.

Needs tensorflow-cpu (2.21.0 was used), which no test needs. Writes tests/golden/resize.npz:
``size_H_W_S_{aliased,antialiased}`` [S S 3] uint8 as big_vision's ``resize`` op returns them, and
``frame_I`` [S S 3] with the box ``box_I`` drawn by ``tf.image.draw_bounding_boxes``. The pictures
come from ``picture``, which the tests repeat.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

TARGET = Path(__file__).parents[2] / "tests/golden/resize.npz"
CASES = (
    (300, 400, 56),
    (37, 53, 56),
    (56, 56, 56),
    (500, 40, 56),
    (1, 1, 56),
    (1, 700, 56),
    (113, 2, 56),
    (448, 448, 224),
    (97, 61, 28),
)
BOXES = (
    (0.1, 0.2, 0.5, 0.9),
    (0.0, 0.0, 1.0, 1.0),
    (0.33, 0.34, 0.35, 0.36),
    (-0.2, 0.4, 0.7, 1.3),
)


def picture(height: int, width: int) -> np.ndarray:
    """uint8 [H W 3]: a quarter noise, a quarter flat, a gradient below."""
    random = np.random.default_rng(height * 10_000 + width)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[: height // 2, width // 2 :] = (200, 17, 96)
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    image[height // 2 :] = np.stack([ramp, ramp[::-1], ramp // 2], axis=-1)
    return image


def main() -> int:
    """Run TensorFlow and write the file."""
    arrays: dict[str, np.ndarray] = {}
    for height, width, size in CASES:
        for antialias in (False, True):
            resized = tf.image.resize(
                picture(height, width), (size, size), method="bilinear", antialias=antialias
            )
            name = f"size_{height}_{width}_{size}_{'antialiased' if antialias else 'aliased'}"
            arrays[name] = tf.cast(resized, tf.uint8).numpy()
    for index, (x0, y0, x1, y1) in enumerate(BOXES):
        drawn = tf.image.draw_bounding_boxes(
            tf.cast(picture(56, 56), tf.float32)[None],
            tf.constant([[[y0, x0, y1, x1]]], tf.float32),
            tf.constant([[255.0, 0.0, 0.0]]),
        )
        arrays[f"box_{index}"] = np.array((x0, y0, x1, y1))
        arrays[f"frame_{index}"] = tf.cast(drawn[0], tf.uint8).numpy()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(TARGET, allow_pickle=False, **arrays)
    print(f"{TARGET.name}: {len(arrays)} arrays, {TARGET.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
