"""Images and masks on disk: read, checked, with their geometry; masks written on its grid.

Axes: x, y, z are the axes of the file, in its own order; the affine alone says where they point.
"""

import errno
import gzip
import math
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike

from maskmend.data.nifti import (
    Header,
    UnusableError,
    listed,
    naming,
    one_line,
    read_nifti,
    suffix_of,
)
from maskmend.errors import InputError

MAX_LABEL = 255
"""Largest label: masks are kept and written as uint8."""

GRID_TOLERANCE = 0.01
"""Voxel sides by which any corner of two grids may differ while they count as the same grid."""

LABEL_TOLERANCE = 1e-3
"""Rounding forgiven in a label: masks saved as scaled integers come back as 0.99998."""

_NOT_FINITE = (
    "holds a voxel of {:g}, expected finite float32 numbers; replace NaN, infinite and huge voxels"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """One image or mask with its place in space."""

    path: Path
    """The file, or for messages alone the folder of a DICOM series (see `dicom.py`)."""

    voxels: np.ndarray
    """Array [x, y, z] as stored, a 2D file as [x, y, 1]; images float32, masks uint8 labels."""

    affine: np.ndarray
    """Matrix [4, 4], float64: voxel index -> mm."""

    header: Header
    """The file's header, untouched; header extensions (often private tags) are not read."""

    sources: tuple[Path, ...] = ()
    """Of a DICOM series: the file of each z."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along x, y and z, in mm, from the affine."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def slice_axis(self) -> int:
        """The file's axis from slice to slice: slices are thicker than their pixels are wide.

        Where voxels are as long as wide it is the axis nearest to the body's own, from foot to
        head, whatever the order of the file.
        """
        if self.voxels.shape[2] == 1:
            return 2  # a 2D file
        spacing = np.asarray(self.spacing_mm)
        upwards = np.abs(self.affine[2, :3]) / spacing
        alike = np.flatnonzero(np.isclose(spacing, spacing.max(), rtol=0.05))
        return int(max(alike, key=lambda axis: (upwards[axis].round(3), axis)))

    @property
    def name(self) -> str:
        """File name without `.nii` or `.nii.gz`."""
        suffix = suffix_of(self.path) or ""
        return self.path.name[: len(self.path.name) - len(suffix)]


def read_image(path: Path) -> Volume:
    """Read one 2D or 3D scalar image from a NIfTI-1 or NIfTI-2 file, gzipped or not.

    Stored integers are scaled by the header's slope and intercept, in float64.

    Args:
        path: A `.nii` or `.nii.gz` file.

    Returns:
        The image, float32, finite and not constant.

    Raises:
        InputError: The file is missing, unreadable, damaged, no single scalar volume, larger than
            `MAX_VOXELS`, without a usable grid, or holds NaN, infinite or constant voxels.
    """
    path = Path(path)
    with naming(path):
        image = Volume(
            path=path, **read_nifti(path, np.dtype(np.float32), _as_intensities)._asdict()
        )
    check_intensities(path, image.voxels)
    return image


def check_intensities(path: Path, voxels: np.ndarray) -> None:
    """Make sure that an image is finite and not constant; raises InputError."""
    low, high = float(voxels.min()), float(voxels.max())
    with naming(path):
        if not math.isfinite(high - low):
            raise UnusableError(_NOT_FINITE.format(high if math.isfinite(low) else low))
        if low == high:
            raise UnusableError(
                f"every voxel is {low:g}, expected an image with contrast; "
                "check that this is the image and that it was exported completely"
            )


def read_mask(
    path: Path, *, labels: Collection[int] | None = None, like: Volume | None = None
) -> Volume:
    """Read one 2D or 3D label mask from a NIfTI file.

    Args:
        path: A `.nii` or `.nii.gz` file of any integer or float type.
        labels: The labels that may occur, background included; None admits 0 to `MAX_LABEL`.
        like: The image that the mask belongs to, whose grid it must share.

    Returns:
        The mask, uint8. It may be empty.

    Raises:
        InputError: As for `read_image` (but constant masks are fine), or voxels are no whole
            numbers from 0 to `MAX_LABEL`, labels are unknown, or the grid is not that of `like`.
    """
    path = Path(path)
    with naming(path):
        mask = _read(path, np.uint8, _as_labels)
        if labels is not None:
            unknown = sorted(set(np.unique(mask.voxels).tolist()) - set(labels))
            if unknown:
                raise UnusableError(
                    f"holds unknown labels {listed(unknown)}, "
                    f"expected only {listed(sorted(labels))}; "
                    "relabel the mask or configure the labels"
                )
        if like is not None and (difference := _grid_difference(mask, like)):
            raise UnusableError(
                f"is not on the grid of {like.path}: {difference}; "
                "resample the mask onto the image or pair it with its own image"
            )
    return mask


def write_mask(path: Path, labels: np.ndarray, like: Volume) -> None:
    """Write labels as a gzipped uint8 NIfTI file on exactly the grid of an image.

    Shape on disk, pixdim, qform and sform with their codes and units are those of the image; what
    else its header says (description, display range, scaling) is not a mask's and is left out.
    The file appears whole or not at all, and the same labels give the same bytes.

    Args:
        path: The file to write or replace; ends in `.nii.gz`.
        labels: Integer or bool array [x, y, z] of the shape of `like.voxels`, 0 to `MAX_LABEL`.
        like: The image that was segmented.

    Raises:
        InputError: The file cannot be written: wrong suffix, full disk, missing or closed folder.
        ValueError: `labels` has another shape or type, or a label does not fit into uint8.
    """
    path = Path(path)
    if suffix_of(path) != ".nii.gz":
        raise InputError(one_line(f"{path}: is not the name of a mask file; end it in .nii.gz"))
    header = _mask_header(like.header)
    voxels = _checked_labels(labels, like)
    with (
        appearing_whole(path) as temporary,
        temporary.open("xb") as file,
        # No name and no time in the gzip header: equal masks give equal bytes.
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as stream,
    ):
        stream.write(header.binaryblock + bytes(4))  # 4 zeros: no header extensions
        stream.write(voxels.tobytes(order="F"))


def write_image(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write voxels [x, y, z], in their own type, with an affine (voxel index -> mm).

    Raises:
        InputError: As for `write_mask`.
    """
    volume = nib.Nifti1Image(voxels, affine)
    volume.header.set_xyzt_units("mm")
    volume.set_qform(affine, code="scanner")
    volume.set_sform(affine, code="scanner")
    with appearing_whole(path) as temporary:
        volume.to_filename(temporary)


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which takes its name at the end and not before.

    Raises:
        InputError: Neither can be written.
    """
    temporary = path.with_name(f".maskmend-{secrets.token_hex(8)}{suffix_of(path) or '.tmp'}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        remedy = (
            "free some space or choose another folder"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "check that the folder exists and may be written to"
        )
        reason = error.strerror or str(error)
        raise InputError(one_line(f"{path}: cannot be written ({reason}); {remedy}")) from error
    finally:
        with suppress(OSError):  # after success it is gone already
            temporary.unlink()


def _read(path: Path, dtype: DTypeLike, convert: Callable[[np.ndarray], np.ndarray]) -> Volume:
    stored = read_nifti(path, np.dtype(dtype), convert)
    return Volume(path=path, voxels=stored.voxels, affine=stored.affine, header=stored.header)


def _as_intensities(values: np.ndarray) -> np.ndarray:
    intensities = values.astype(np.float32)
    finite = np.isfinite(intensities)
    if not finite.all():
        raise UnusableError(_NOT_FINITE.format(values[~finite][0]))
    return intensities


def _as_labels(values: np.ndarray) -> np.ndarray:
    labels = np.rint(values)
    valid = (abs(values - labels) <= LABEL_TOLERANCE) & (labels >= 0) & (labels <= MAX_LABEL)
    if not valid.all():
        raise UnusableError(
            f"holds a voxel of {values[~valid][0]:g}, expected whole-numbered labels from 0 to "
            f"{MAX_LABEL}; check that this is a mask, and resample masks by nearest neighbour"
        )
    return labels.astype(np.uint8)


def _grid_difference(mask: Volume, image: Volume) -> str | None:
    """How two grids differ, in words, or None if they are the same."""
    if mask.voxels.shape != image.voxels.shape:
        return f"shape {mask.voxels.shape} instead of {image.voxels.shape}"
    last = np.array(image.voxels.shape) - 1
    corners = np.array([[*(corner * last), 1] for corner in np.ndindex(2, 2, 2)])
    apart_mm = np.linalg.norm(corners @ (mask.affine - image.affine).T, axis=1).max()
    if apart_mm <= GRID_TOLERANCE * min(image.spacing_mm):
        return None
    spacings = [tuple(round(mm, 4) for mm in volume.spacing_mm) for volume in (mask, image)]
    axes = ["".join(nib.aff2axcodes(volume.affine)) for volume in (mask, image)]
    differing = [
        f"{aspect} {ours} instead of {theirs}"
        for aspect, (ours, theirs) in (("spacing in mm", spacings), ("axes", axes))
        if ours != theirs
    ]
    return ", ".join([*differing, f"corners up to {apart_mm:.3g} mm apart"])


def _mask_header(image_header: Header) -> Header:
    """The image's header, little-endian, with everything that is not geometry made a mask's."""
    header = image_header.as_byteswapped("<")
    header.set_data_dtype(np.uint8)
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"] = header["cal_max"] = 0
    header["descrip"] = header["aux_file"] = b""
    header.set_intent("label")
    return header


def _checked_labels(labels: np.ndarray, like: Volume) -> np.ndarray:
    if labels.shape != like.voxels.shape:
        raise ValueError(
            f"labels must have the image's shape {like.voxels.shape}, got {labels.shape}; "
            "bring them back onto the image's own grid first"
        )
    n_dims, *sizes = like.header["dim"].tolist()
    if math.prod(sizes[:n_dims]) != labels.size:
        raise ValueError(
            f"the image's header promises {math.prod(sizes[:n_dims])} voxels, got {labels.size}; "
            "pass the image as it was read"
        )
    if labels.dtype.kind not in "iub":
        raise ValueError(f"labels must be integers, got {labels.dtype}; round or argmax them first")
    if labels.min() < 0 or labels.max() > MAX_LABEL:
        raise ValueError(
            f"labels must lie in 0 to {MAX_LABEL}, got {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.uint8)
