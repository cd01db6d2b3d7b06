"""Draws a scene: 16x16 RGB, white ground, 7x7 shapes in the corners of the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ablate.shapes.scenes import Scene

Image = NDArray[np.float32]  # [H,W,3] in [0,1]
Mask = NDArray[np.bool_]  # [7,7]

SIZE = 16
EXTENT = (
    7  # side of a shape; 8-pixel cells leave two pixels between neighbours, so that like colours stay apart
)
ORIGIN = (0, SIZE - EXTENT)  # first pixel of a shape by row or column of the grid

GROUND = (1.0, 1.0, 1.0)
PALETTE = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
}  # corners of the colour cube: any two differ by at least 1, and so does each from the ground


def _templates() -> dict[str, Mask]:
    """Masks whose overlap (intersection over union) is at most 0.76 for any two shapes."""
    y, x = np.mgrid[-3:4, -3:4]
    return {
        "circle": x**2 + y**2 <= 12,
        "square": np.ones((EXTENT, EXTENT), dtype=np.bool_),
        "triangle": 2 * abs(x) <= y + 4,
        "cross": abs(abs(x) - abs(y)) <= 1,
    }


TEMPLATES = _templates()


def render(scene: Scene, noise_std: float = 0.0, rng: np.random.Generator | None = None) -> Image:
    """The image of a scene [16,16,3], with pixel noise (clipped to [0,1]) if asked for.

    Raises:
        ValueError: noise without a generator to draw it.
    """
    image = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    image[:] = GROUND
    for thing in scene.objects:
        top, left = ORIGIN[thing.row], ORIGIN[thing.column]
        image[top : top + EXTENT, left : left + EXTENT][TEMPLATES[thing.shape]] = PALETTE[thing.color]
    if noise_std == 0:
        return image
    if rng is None:
        raise ValueError(f"noise_std={noise_std} needs a generator: pass rng=np.random.default_rng(seed)")
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + np.float32(noise_std) * noise, 0, 1)
