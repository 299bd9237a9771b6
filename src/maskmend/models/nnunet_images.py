"""How nnU-Net shows images to its networks, and brings logits back onto the image's grid.

Axes: an array that comes from a file has its axes reversed, z, y, x, as SimpleITK reads them; a
plan's transposition puts those of the slices in front. Arrays are [channel or class, slice, height,
width].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy import ndimage
from torch import Tensor

from maskmend.data.volume import Volume
from maskmend.errors import InputError
from maskmend.plane import Plane

Array = Float[np.ndarray, "channel slice height width"]
Inside = np.ndarray
"""Where a voxel lies in what is no black border, [slice, height, width]."""

_ANISOTROPIC = 3
"""Ratio of the largest to the smallest side of a voxel from which slices are resampled apart."""
_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class NnunetImages:
    """A plan's way from a volume to slices and back."""

    transposed: tuple[int, int, int]
    """Axes of the array in the order that slices want."""
    size: tuple[int, int]
    """Height and width of a patch."""
    spacing_mm: tuple[float, float]
    """Height and width of a pixel that the network sees."""
    schemes: Sequence[str]
    """Normalisation of each channel."""
    masked: Sequence[bool]
    """Whether it looks at voxels inside the black border alone."""
    intensities: Sequence[Mapping[str, float]]
    """Of the foreground of the training images, a channel each."""
    resampled: bool
    """Whether the plan resamples at all."""
    orders: tuple[tuple[int, int], tuple[int, int]]
    """Order of the splines, in-plane and across slices, of images and of logits."""

    def prepare(self, channels: Sequence[Volume]) -> "NnunetPrepared":
        """Slices for the network.

        Args:
            channels: The volumes of one image, on one grid.

        Raises:
            InputError: A normalisation is not made for the image's intensities.
        """
        volume = channels[0]
        spacing = _spacing_mm(volume)
        order = self.transposed
        array = np.stack([one.voxels.transpose(2, 1, 0) for one in channels]).transpose(
            0, *(axis + 1 for axis in order)
        )
        spacing = tuple(spacing[axis] for axis in order)
        whole = array.shape[1:]
        inside = ndimage.binary_fill_holes((array != 0).any(0))
        box = tuple(
            slice(int(there[0]), int(there[-1]) + 1)
            for axis in range(3)
            for there in [np.flatnonzero(inside.any(tuple({0, 1, 2} - {axis})))]
        )
        array, inside = array[:, *box], inside[box]
        normalised = np.stack(
            [
                _SCHEMES[self.schemes[number]](
                    channel.copy(),
                    inside if self.masked[number] else None,
                    self.intensities[number],
                    channels[number],
                )
                for number, channel in enumerate(array)
            ]
        )
        seen = (spacing[0], *self.spacing_mm)
        if self.resampled:
            shape = tuple(
                round(mm / target * n)
                for mm, target, n in zip(spacing, seen, array.shape[1:], strict=True)
            )
            normalised = resample(normalised, shape, spacing, seen, self.orders[0])
        slices = torch.from_numpy(np.ascontiguousarray(normalised.swapaxes(0, 1)))
        plane = Plane.of(
            volume,
            axes=(2 - order[1], 2 - order[2]),
            box=(box[1], box[2]),
        )
        return NnunetPrepared(
            volume=volume, slices=slices, plane=plane, images=self, spacing_mm=spacing,
            whole=whole, box=box,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class NnunetPrepared:
    """An image as nnU-Net's network sees it, and the way back."""

    volume: Volume
    slices: Float[Tensor, "slice channel height width"]
    plane: Plane
    images: NnunetImages
    spacing_mm: tuple[float, ...]
    """Of the array, before resampling."""
    whole: tuple[int, ...]
    """Shape of the array before the black border was cut off."""
    box: tuple[slice, ...]
    """What was left of it."""

    def labels(
        self, logits: Float[Tensor, "slice class height width"]
    ) -> UInt8[np.ndarray, "x y z"]:
        """The mask on the file's grid."""
        array = logits.cpu().numpy().swapaxes(0, 1)
        if self.images.resampled:
            shape = tuple(part.stop - part.start for part in self.box)
            seen = (self.spacing_mm[0], *self.images.spacing_mm)
            array = resample(array, shape, seen, self.spacing_mm, self.images.orders[1])
        labels = np.zeros(self.whole, np.uint8)
        labels[self.box] = array.argmax(0)
        back = np.argsort(self.images.transposed)
        return np.ascontiguousarray(labels.transpose(back).transpose(2, 1, 0))

    def truth(self, mask: Volume, classes: int) -> UInt8[Tensor, "slice height width"]:
        """A mask of the file's grid on the slices; splines of the first order, as nnU-Net does."""
        array = mask.voxels.transpose(2, 1, 0).transpose(self.images.transposed)[self.box]
        whole = np.stack([array == label for label in range(classes)]).astype(np.float32)
        if self.images.resampled:
            shape = (len(self.slices), *self.slices.shape[2:])
            seen = (self.spacing_mm[0], *self.images.spacing_mm)
            whole = resample(whole, shape, self.spacing_mm, seen, (1, 0))
        return torch.from_numpy(whole.argmax(0).astype(np.uint8))

    def cut(self, logits: Tensor) -> str:
        """Nothing: the network sees the whole image."""
        return ""


def resample(
    array: Array,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    target_mm: Sequence[float],
    orders: tuple[int, int],
) -> Array:
    """Splines over all axes, or, where voxels are far from cubes, in-plane and then across slices.

    Args:
        array: Of any float type, which the result has too.
        shape: Of a channel of the result.
        spacing_mm: Sides of a voxel.
        target_mm: Its sides in the result.
        orders: Of the splines in-plane and, in the second case, across slices.
    """
    if array.shape[1:] == tuple(shape):
        return array
    thick = _thick_axis(spacing_mm) if _far_from_cubes(spacing_mm) else None
    if thick is None and not _far_from_cubes(spacing_mm) and _far_from_cubes(target_mm):
        thick = _thick_axis(target_mm)
    result = np.zeros((len(array), *shape), array.dtype)
    for channel, to in zip(array.astype(np.float64), result, strict=True):
        if thick is None:
            to[:] = _zoom(channel, shape, orders[0])
            continue
        in_plane = [n for axis, n in enumerate(shape) if axis != thick]
        slices = np.stack(
            [_zoom(one, in_plane, orders[0]) for one in np.moveaxis(channel, thick, 0)]
        )
        resampled = np.moveaxis(slices, 0, thick)
        if resampled.shape != tuple(shape):
            scale = [a / b for a, b in zip(resampled.shape, shape, strict=True)]
            grids = np.meshgrid(
                *((np.arange(n) + 0.5) * s - 0.5 for n, s in zip(shape, scale, strict=True)),
                indexing="ij",
            )
            resampled = ndimage.map_coordinates(
                resampled,
                np.stack(grids),
                order=orders[1],
                mode="nearest",  # type: ignore[call-overload]
            )
        to[:] = resampled
    return result


def _zoom(values: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    """A spline about pixels' centres, within the range of the values (as scikit-image's resize)."""
    factors = [1 / (n / m) for n, m in zip(values.shape, shape, strict=True)]
    zoomed = ndimage.zoom(
        values,
        factors,
        order=order,  # type: ignore[call-overload]  # an int is not one of six
        mode="nearest",
        grid_mode=True,
    )
    return zoomed.clip(values.min(), values.max())


def _far_from_cubes(spacing_mm: Sequence[float]) -> bool:
    return max(spacing_mm) / min(spacing_mm) > _ANISOTROPIC


def _thick_axis(spacing_mm: Sequence[float]) -> int | None:
    """The axis of the longest side; None if two share it."""
    longest = np.flatnonzero(np.asarray(spacing_mm) == max(spacing_mm))
    return int(longest[0]) if len(longest) == 1 else None


def _spacing_mm(volume: Volume) -> tuple[float, ...]:
    """Sides of a voxel along z, y and x; the one slice of a 2D file counts as very thick."""
    x, y, z = volume.spacing_mm
    if int(volume.header["dim"][0]) == 2:
        z = 999 * max(x, y)
    return z, y, x


def _z_score(image: np.ndarray, inside: Inside | None, *_: Any) -> np.ndarray:
    there = image if inside is None else image[inside]
    mean, std = there.mean(), max(there.std(), _TINY)
    if inside is None:
        return (image - mean) / std
    image[inside] = (there - mean) / std
    return image


def _ct(
    image: np.ndarray, _: Inside | None, training: Mapping[str, float], __: Volume
) -> np.ndarray:
    clipped = image.clip(training["percentile_00_5"], training["percentile_99_5"])
    clipped -= training["mean"]
    clipped /= max(training["std"], _TINY)
    return clipped


def _as_it_is(image: np.ndarray, *_: Any) -> np.ndarray:
    return image


def _zero_to_one(image: np.ndarray, *_: Any) -> np.ndarray:
    image -= image.min()
    image /= max(image.max(), _TINY)
    return image


def _colour(image: np.ndarray, _: Inside | None, __: Any, volume: Volume) -> np.ndarray:
    if image.min() < 0 or image.max() > 255:
        raise InputError(
            f"{volume.path}: holds values from {image.min():g} to {image.max():g}, the model wants"
            " colours from 0 to 255; convert it"
        )
    return image / 255


_SCHEMES: dict[str, Callable[[np.ndarray, Inside | None, Any, Volume], np.ndarray]] = {
    "ZScoreNormalization": _z_score,
    "CTNormalization": _ct,
    "NoNormalization": _as_it_is,
    "RescaleTo01Normalization": _zero_to_one,
    "RGBTo01Normalization": _colour,
}
SCHEMES = frozenset(_SCHEMES)
"""Names of the normalisations that are known."""
