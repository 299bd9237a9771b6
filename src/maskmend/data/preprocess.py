"""From a volume to the slices that the networks see, and back (section 4, Data).

A slice is resampled to the target pixel size and cropped or padded to a square in one affine
sampling about its centre, so that the way back is the inverse sampling and loses no geometry.

Axes: slice, class or channel, height, width. Volumes have the axes of their file.
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from maskmend.config import PreprocessConfig
from maskmend.data.orientation import upright
from maskmend.data.volume import Volume
from maskmend.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SliceGrid:
    """How the slices of one volume lie in it: everything needed to go back."""

    orientation: np.ndarray
    """nibabel's, from the file's axes to height, width and slices; see `orientation.upright`."""
    axes: str
    """Where these run to, such as LPS: to the left, posterior and superior."""
    shape: tuple[int, int, int]
    """Slices, height and width of the volume before resampling."""
    pixel_mm: tuple[float, float]
    """Pixel size along height and width before resampling."""
    spacing_mm: float
    """Pixel size after resampling."""
    size: int
    """Height and width after cropping or padding."""

    @property
    def extent(self) -> tuple[float, float]:
        """Size of the cropped square as a share of the slice's height and width."""
        height, width = (
            self.size * self.spacing_mm / (n * mm)
            for n, mm in zip(self.shape[1:], self.pixel_mm, strict=True)
        )
        return height, width


def grid_of(volume: Volume, config: PreprocessConfig) -> SliceGrid:
    """How the volume will be sliced.

    The axes are turned as the header says, so that a flipped or transposed copy of a file gives the
    same slices.
    """
    spacing = volume.spacing_mm
    file_axis = volume.slice_axis if config.slice_axis == "auto" else config.slice_axis
    orientation, axes = upright(volume.affine, file_axis)
    height, width, slices = (int(axis) for axis in np.argsort(orientation[:, 0]))
    shape = volume.voxels.shape
    return SliceGrid(
        orientation=orientation,
        axes=axes,
        shape=(shape[slices], shape[height], shape[width]),
        pixel_mm=(float(spacing[height]), float(spacing[width])),
        spacing_mm=config.spacing_mm,
        size=config.size,
    )


def image_slices(
    volume: Volume, grid: SliceGrid, config: PreprocessConfig
) -> Float[Tensor, "slice 1 height width"]:
    """Slices standardised by the volume's median and interquartile range, padded at the edge.

    Raises:
        InputError: The intensities have no spread to standardise by.
    """
    standardised = standardise(volume.voxels, config.clip_percentiles)
    if standardised is None:
        raise InputError(
            f"{volume.path}: all voxels are alike after clipping to percentiles"
            f" {config.clip_percentiles}; widen preprocess.clip_percentiles"
        )
    return slices_on_grid(standardised, grid)


def slices_on_grid(
    voxels: Float[np.ndarray, "x y z"], grid: SliceGrid
) -> Float[Tensor, "slice 1 height width"]:
    """Slices of a volume's voxels, resampled, cropped, and padded at the edge."""
    slices = torch.from_numpy(_smooth(_to_slices(voxels, grid), grid))
    return _sample(slices[:, None], grid, padding="border")


def standardise(
    intensities: np.ndarray, clip_percentiles: tuple[float, float] | None
) -> np.ndarray | None:
    """Clip to percentiles, take the median away and divide by the interquartile range.

    Returns:
        The same shape in 32 bits; None if the intensities have no spread to divide by.
    """
    intensities = intensities.astype(np.float64)
    if clip_percentiles is not None:
        intensities = intensities.clip(*np.percentile(intensities, clip_percentiles))
    low, median, high = np.percentile(intensities, [25, 50, 75])
    # An image that is mostly empty has no interquartile range; its standard deviation stands in.
    spread = (high - low) or intensities.std()
    return ((intensities - median) / spread).astype(np.float32) if spread > 0 else None


def mask_slices(
    volume: Volume, grid: SliceGrid, classes: int
) -> UInt8[Tensor, "slice height width"]:
    """Labels of the slices, padded with background.

    Raises:
        InputError: The crop would cut a structure; the message names the size that would not.
    """
    labels = _to_slices(volume.voxels, grid)
    if needed := _size_that_fits(labels > 0, grid):
        raise InputError(
            f"{volume.path}: a structure lies outside the {grid.size} x {grid.size} pixels of"
            f" {grid.spacing_mm} mm around the centre; set preprocess.size to {needed} or more"
        )
    one_hot = np.stack([_smooth((labels == c).astype(np.float32), grid) for c in range(1, classes)])
    structures = _sample(torch.from_numpy(one_hot).transpose(0, 1), grid, padding="zeros")
    return _with_background(structures).argmax(1).to(torch.uint8)


def labels_on_grid(
    probabilities: Float[Tensor, "slice class height width"], grid: SliceGrid
) -> UInt8[np.ndarray, "x y z"]:
    """Most likely label of every voxel of the file, background outside the crop.

    Probabilities rather than labels are interpolated, so that borders stay smooth.
    """
    structures = probabilities[:, 1:].float().cpu()
    extent_h, extent_w = grid.extent
    theta = torch.tensor([[1 / extent_w, 0, 0], [0, 1 / extent_h, 0]], dtype=torch.float32)
    labels = []
    # One slice at a time: the file's grid can be much finer than the networks'.
    for one in structures.split(1):
        points = functional.affine_grid(
            theta[None], [1, one.shape[1], *grid.shape[1:]], align_corners=False
        )
        sampled = functional.grid_sample(one, points, padding_mode="zeros", align_corners=False)
        labels.append(_with_background(sampled).argmax(1).to(torch.uint8))
    slices = torch.cat(labels).numpy()
    reoriented = np.moveaxis(slices, 0, 2)
    # Of a permutation with flips, the way back is the same flips of the inverse permutation.
    back = np.empty_like(grid.orientation)
    back[grid.orientation[:, 0]] = np.column_stack([np.arange(3), grid.orientation[:, 1]])
    return np.ascontiguousarray(nib.orientations.apply_orientation(reoriented, back))


def touches_crop(labels: Int[Tensor, "slice height width"], grid: SliceGrid) -> bool:
    """Whether the largest structure runs into a side of the crop beyond which the image goes on.

    Only the largest connected piece counts: a stray speck at the border is no organ that was cut.
    """
    pieces, count = ndimage.label(np.asarray(labels) > 0)
    if count == 0:
        return False
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    extent_h, extent_w = grid.extent
    rows, columns = largest.any(axis=(0, 2)), largest.any(axis=(0, 1))
    cut_rows = extent_h < 1 and (rows[0] or rows[-1])
    cut_columns = extent_w < 1 and (columns[0] or columns[-1])
    return bool(cut_rows or cut_columns)


def _to_slices(voxels: np.ndarray, grid: SliceGrid) -> np.ndarray:
    reoriented = nib.orientations.apply_orientation(voxels, grid.orientation)
    return np.ascontiguousarray(np.moveaxis(reoriented, 2, 0))


def _smooth(slices: np.ndarray, grid: SliceGrid) -> np.ndarray:
    """Low-pass before a coarser sampling, in-plane, so that fine detail does not alias."""
    sigmas = [max(0.0, (grid.spacing_mm / mm - 1) / 2) for mm in grid.pixel_mm]
    return ndimage.gaussian_filter(slices, sigma=(0, *sigmas), mode="nearest")


def _sample(
    slices: Float[Tensor, "slice channel height width"], grid: SliceGrid, *, padding: str
) -> Float[Tensor, "slice channel size size"]:
    extent_h, extent_w = grid.extent
    theta = torch.tensor([[extent_w, 0, 0], [0, extent_h, 0]], dtype=torch.float32)
    points = functional.affine_grid(
        theta.expand(len(slices), 2, 3),
        [*slices.shape[:2], grid.size, grid.size],
        align_corners=False,
    )
    return functional.grid_sample(slices, points, padding_mode=padding, align_corners=False)


def _with_background(
    structures: Float[Tensor, "slice structure height width"],
) -> Float[Tensor, "slice class height width"]:
    return torch.cat([1 - structures.sum(1, keepdim=True), structures], dim=1)


def _size_that_fits(foreground: np.ndarray, grid: SliceGrid) -> int | None:
    """Side of the smallest crop, in a multiple of 16 pixels, that keeps all of the foreground.

    None if the present one does.
    """
    needed = 0.0
    for axis, (n, mm) in enumerate(zip(grid.shape[1:], grid.pixel_mm, strict=True), start=1):
        others = tuple(a for a in range(3) if a != axis)
        present = np.flatnonzero(foreground.any(axis=others))
        if len(present):
            reach = max(n / 2 - present[0], present[-1] + 1 - n / 2)
            needed = max(needed, 2 * reach * mm / grid.spacing_mm)
    # Half a pixel at either side may be lost to rounding without cutting anything visible.
    return None if needed <= grid.size + 1 else 16 * int(np.ceil(needed / 16))
