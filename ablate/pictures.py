"""Sample grids, as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_GAP, _TARGET = 2, 64  # pixels between tiles; small images are enlarged to about this height


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Images [n,3,H,W] in [0,1], row by row; points [n,2] are drawn as one scatter picture.

    Written beside and renamed, so that a kill leaves no half picture.
    """
    tiles = images if images.dim() == 4 else _scatter(images)
    scale = max(1, _TARGET // tiles.shape[2])
    pixels = (tiles.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    height, width = pixels.shape[1] + _GAP, pixels.shape[2] + _GAP
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    canvas = np.full((rows * height - _GAP, columns * width - _GAP, 3), 255, np.uint8)
    for number, tile in enumerate(pixels):
        top, left = number // columns * height, number % columns * width
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial.png")
    Image.fromarray(canvas).save(partial)
    partial.replace(path)


def _scatter(points: Tensor, size: int = 192, extent: float = 5.0) -> Tensor:
    """Points [n,2] in the square of half-width ``extent`` -> image [1,3,size,size], dark where they are."""
    place = ((points.cpu() / extent + 1) / 2 * (size - 1)).round().long()
    inside = ((place >= 0) & (place < size)).all(1)
    x, y = place[inside].unbind(1)
    counts = torch.zeros(size, size).index_put_((size - 1 - y, x), torch.ones(len(x)), accumulate=True)
    shade = 1 - (counts / max(1.0, float(counts.max()))).sqrt()
    return shade.expand(1, 3, size, size)
