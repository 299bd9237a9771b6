"""From arrays to what a page can carry: upright, small, and as text.

Axes: slice, height, width as the networks have them; slice, row, column on a page.
"""

import base64
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy import ndimage

from maskmend.data.preprocess import SliceGrid

MOST_SLICES = 24
"""Slices of an image on a page; of more, every second, third, ..."""
MOST_PIXELS = 256
"""Side of a slice on a page; a larger one is made coarser."""

_THUMBNAIL = 112
_LEAST_CROP = 24  # pixels, so that a tiny structure keeps its surroundings


@dataclass(frozen=True)
class View:
    """Which slices and pixels of an image are on the page."""

    grid: SliceGrid
    every: int
    """One slice of so many."""
    first: int
    """The first of them."""
    coarser: int
    """Pixels of the networks to one on the page, along each side."""

    @classmethod
    def of(cls, grid: SliceGrid, covered: Sequence[bool]) -> "View":
        """A view that is small enough.

        Args:
            grid: Of the slices.
            covered: Whether there is a mask on each; the view holds the middle one of these.
        """
        every = math.ceil(len(covered) / MOST_SLICES)
        first = middle_of(covered) % every
        return cls(grid, every, first, math.ceil(grid.size / MOST_PIXELS))

    def slices(self, array: np.ndarray) -> np.ndarray:
        """Upright slices of intensities."""
        return pooled(self._upright(array).astype(np.float32), self.coarser)

    def labels(self, array: UInt8[np.ndarray, "slice height width"]) -> np.ndarray:
        """Upright slices of labels, the pixels in the middle of those that become one."""
        side = array.shape[1] // self.coarser * self.coarser
        part = slice(self.coarser // 2, side, self.coarser)
        return np.ascontiguousarray(self._upright(array)[:, part, part])

    @property
    def axes(self) -> str:
        """Where columns, rows and slices lead: left, posterior, superior, ..."""
        return self.grid.axes

    def _upright(self, array: np.ndarray) -> np.ndarray:
        # Networks have along the height what people have along the width.
        return array[self.first :: self.every].swapaxes(1, 2)


def pooled(frames: np.ndarray, factor: int) -> np.ndarray:
    """Slices of which each pixel is the mean of some, along each side a factor fewer."""
    side = frames.shape[1] // factor
    part = frames[:, : side * factor, : side * factor]
    return part.reshape(len(frames), side, factor, side, factor).mean((2, 4))


def middle_of(covered: Sequence[bool]) -> int:
    """The middle of the slices that a mask covers; of all if it covers none."""
    (numbers,) = np.nonzero(np.array(covered))
    return int(numbers[len(numbers) // 2]) if len(numbers) else len(covered) // 2


def crop_around(
    masks: Sequence[UInt8[np.ndarray, "slice row column"]],
) -> tuple[int, int, int]:
    """First row, first column and side of a square around masks, a third of it margin.

    Everything if all are empty.
    """
    covered = np.any([mask.any(axis=0) for mask in masks], axis=0)
    size = len(covered)
    if not covered.any():
        return 0, 0, size
    corners = np.argwhere(covered)
    first, last = corners.min(axis=0), corners.max(axis=0) + 1
    side = min(size, max(_LEAST_CROP, math.ceil(1.5 * (last - first).max())))
    row, column = ((first + last - side) // 2).clip(0, size - side).tolist()
    return row, column, side


def atlas(frames: np.ndarray) -> tuple[str, int]:
    """All slices of an image in one picture, row by row, and how many are in a row.

    Args:
        frames: Array [slice, row, column], from 0 to 255.

    Returns:
        The picture in base64, and the number.
    """
    n, height, width = frames.shape
    across = math.ceil(math.sqrt(n))
    down = math.ceil(n / across)
    sheet = np.zeros((down * across, height, width), np.uint8)
    sheet[:n] = frames.round().clip(0, 255)
    tiled = sheet.reshape(down, across, height, width).swapaxes(1, 2)
    return _webp(tiled.reshape(down * height, across * width)), across


def grey_change(change: np.ndarray) -> tuple[np.ndarray, float]:
    """A change of intensities as grey, to be coloured by the page: 127.5 where there is none.

    Args:
        change: Array [slice, row, column].

    Returns:
        The same from 0 to 255; and the change that is 255: all but one pixel of a thousand change
        less.
    """
    most = float(np.percentile(np.abs(change), 99.9)) or float(np.abs(change).max())
    return 127.5 * (1 + (change / most).clip(-1, 1)), most


def thumbnail(
    image: np.ndarray,
    labels: UInt8[np.ndarray, "row column"],
    crop: tuple[int, int, int],
    colours: Mapping[int, str],
) -> str:
    """One slice with outlines, as a data URL.

    Args:
        image: Array [row, column], from 0 to 255.
        labels: Of the mask.
        crop: See `crop_around`.
        colours: Of the labels that are outlined.
    """
    row, column, side = crop
    part = slice(row, row + side), slice(column, column + side)
    pixels = np.repeat(_enlarged(image[part])[..., None], 3, axis=-1)
    for label, colour in colours.items():
        share = _enlarged(ndimage.gaussian_filter((labels[part] == label) * 1.0, 0.6))
        inside = share > 0.5
        outline = inside & ~ndimage.binary_erosion(inside, iterations=2, border_value=1)
        pixels[outline] = _rgb(colour)
    return "data:image/webp;base64," + _webp(pixels.round().clip(0, 255).astype(np.uint8))


def packed(labels: UInt8[np.ndarray, "slice row column"]) -> str:
    """Labels, deflated, in base64."""
    return _text(zlib.compress(labels.tobytes(), 9))


def _enlarged(picture: np.ndarray) -> np.ndarray:
    factor = _THUMBNAIL / len(picture)
    return ndimage.zoom(picture.astype(np.float32), factor, order=1, grid_mode=True, mode="nearest")


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def _webp(pixels: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "WEBP", quality=80, method=4)
    return _text(content.getvalue())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
