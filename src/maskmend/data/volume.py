"""Images and masks on disk: read, checked, with their geometry; masks written on its grid.

Axes: x, y, z are the axes of the file, in its own order; the affine alone says where they point.

Files come from anywhere, so nothing that a header promises is believed before it is checked, and
memory is asked for only once the file is big enough to keep the promise. That is why nibabel
interprets the header here, while the voxels are read in pieces of bounded size.
"""

import errno
import gzip
import math
import secrets
import stat
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from maskmend.errors import InputError

MAX_VOXELS = 2**29
"""Largest volume that is read: 512 x 512 x 2048 voxels, 2 GiB as float32."""

MAX_LABEL = 255
"""Largest label: masks are kept and written as uint8."""

GRID_TOLERANCE = 0.01
"""Voxel sides by which any corner of two grids may differ while they count as the same grid."""

LABEL_TOLERANCE = 1e-3
"""Rounding forgiven in a label: masks saved as scaled integers come back as 0.99998."""

Header: TypeAlias = nib.Nifti1Header | nib.Nifti2Header

_SUFFIXES = (".nii.gz", ".nii")
_PIECE = 2**20  # voxels converted at once
_DEFLATE_RATIO = 1032  # the most that one byte of a gzip file can expand to
_STORED_TYPES = {  # by the header's datatype code
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"},  # of Analyze, and what NIfTI added:
    **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, millimetre, micrometre; unset means mm
_COPY_AGAIN = "copy or download it again"
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
    def name(self) -> str:
        """File name without `.nii` or `.nii.gz`."""
        suffix = _suffix(self.path) or ""
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
    with _naming(path):
        image = _read(path, np.dtype(np.float32), _as_intensities)
    check_intensities(path, image.voxels)
    return image


def check_intensities(path: Path, voxels: np.ndarray) -> None:
    """Make sure that an image is finite and not constant; raises InputError."""
    low, high = float(voxels.min()), float(voxels.max())
    with _naming(path):
        if not math.isfinite(high - low):
            raise _UnusableError(_NOT_FINITE.format(high if math.isfinite(low) else low))
        if low == high:
            raise _UnusableError(
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
    with _naming(path):
        mask = _read(path, np.dtype(np.uint8), _as_labels)
        if labels is not None:
            unknown = sorted(set(np.unique(mask.voxels).tolist()) - set(labels))
            if unknown:
                raise _UnusableError(
                    f"holds unknown labels {_listed(unknown)}, "
                    f"expected only {_listed(sorted(labels))}; "
                    "relabel the mask or configure the labels"
                )
        if like is not None and (difference := _grid_difference(mask, like)):
            raise _UnusableError(
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
    if _suffix(path) != ".nii.gz":
        raise InputError(_line(f"{path}: is not the name of a mask file; end it in .nii.gz"))
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
    temporary = path.with_name(f".maskmend-{secrets.token_hex(8)}{_suffix(path) or '.tmp'}")
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
        raise InputError(_line(f"{path}: cannot be written ({reason}); {remedy}")) from error
    finally:
        with suppress(OSError):  # after success it is gone already
            temporary.unlink()


class _UnusableError(Exception):
    """What is wrong with a file and how to mend it; `_naming` puts the file's name before it."""


# What the system, gzip, nibabel and numpy raise on files; anything else is a bug and stays one.
_FAILURES = (
    _UnusableError,
    OSError,
    EOFError,
    MemoryError,
    ValueError,
    zlib.error,
    HeaderDataError,
)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one line that begins with its path."""
    try:
        yield
    except _FAILURES as error:
        raise InputError(_line(f"{path}: {_explain(error)}")) from error


def _explain(error: Exception) -> str:
    match error:
        case _UnusableError():
            return str(error)
        case FileNotFoundError():
            return "there is no such file; check the path"
        case PermissionError():
            return "may not be read (permission denied); change the file's permissions"
        case EOFError():
            return f"is truncated, its gzip stream ends early; {_COPY_AGAIN}"
        case gzip.BadGzipFile() | zlib.error():
            return f"is damaged, its gzip stream cannot be expanded ({error}); {_COPY_AGAIN}"
        case MemoryError():
            return "does not fit into memory; crop or downsample it"
        case OSError():
            return f"cannot be read ({error.strerror or error}); check the file and its disk"
        case _:
            return f"is no usable NIfTI file ({error}); export it again"


def _line(message: str) -> str:
    """The message as one line, whatever a file name or a foreign error has brought in."""
    return " ".join(message.splitlines())


def _listed(numbers: Collection[int]) -> str:
    return ", ".join(map(str, numbers))


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)


# Reading


def _read(path: Path, dtype: np.dtype, convert: Callable[[np.ndarray], np.ndarray]) -> Volume:
    """Read a volume whose voxels `convert` turns from float64 into `dtype`, piece by piece."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise _UnusableError("is a folder, expected a NIfTI file; name the file inside it")
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device might never end
        raise _UnusableError("is not a regular file, expected a NIfTI file; copy it to disk first")
    if _suffix(path) is None:
        raise _UnusableError(
            "is not a NIfTI file by its name, expected .nii or .nii.gz; "
            "convert it (of DICOM name the folder of the series) or correct the name"
        )
    with path.open("rb") as file:
        # Content decides, not the suffix: gzipped .nii files are common.
        gzipped = file.peek(2)[:2] == b"\x1f\x8b"
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb")) if gzipped else file
        header = _read_header(stream)
        shape = _spatial_shape(header)
        affine = _affine(header)
        capacity = status.st_size * (_DEFLATE_RATIO if gzipped else 1)
        voxels = _read_voxels(stream, header, math.prod(shape), capacity, dtype, convert)
    return Volume(path=path, voxels=voxels.reshape(shape, order="F"), affine=affine, header=header)


def _read_header(stream: BinaryIO) -> Header:
    start = stream.read(4)
    if not start:
        raise _UnusableError(f"is empty, expected a NIfTI file; {_COPY_AGAIN}")
    for header_class in (nib.Nifti1Header, nib.Nifti2Header):
        size = header_class.sizeof_hdr
        for endianness in "<>":
            if start != struct.pack(f"{endianness}i", size):
                continue
            block = start + stream.read(size - len(start))
            if len(block) < size:
                raise _UnusableError(
                    f"is truncated: {len(block)} bytes, expected a header of {size}; {_COPY_AGAIN}"
                )
            # check=False: nibabel's checks mend silently or log; the header stays as it is.
            header = header_class(block, endianness=endianness, check=False)
            magic = header["magic"].item()
            if magic == header_class.pair_magic:
                raise _UnusableError(
                    "is the header of an .hdr/.img pair, expected header and voxels in one file; "
                    "convert the pair to .nii"
                )
            if magic == header_class.single_magic:
                return header
    raise _UnusableError(
        "is not a NIfTI file by its content, expected NIfTI-1 or NIfTI-2; "
        "convert the original (of DICOM name the folder of the series)"
    )


def _spatial_shape(header: Header) -> tuple[int, int, int]:
    """The shape [x, y, z]; 2D becomes [x, y, 1], trailing dimensions of one are dropped."""
    # From the field itself: get_data_shape() rewrites shapes that FreeSurfer has used for surfaces.
    n_dims, *sizes = header["dim"].tolist()
    if not 2 <= n_dims <= 7:
        raise _UnusableError(
            f"has {n_dims} dimensions by its header, expected 2 or 3; export it as one volume"
        )
    sizes = sizes[:n_dims]
    promised = "x".join(map(str, sizes))
    if min(sizes) < 1:
        raise _UnusableError(
            f"has shape {promised} by its header, expected sizes of at least 1; export it again"
        )
    if math.prod(sizes[3:]) != 1:
        raise _UnusableError(
            f"holds {math.prod(sizes[3:])} volumes (shape {promised}), expected one; "
            "split it into one file per volume (for example fslsplit)"
        )
    x, y, z = (*sizes, 1)[:3]
    if x * y * z > MAX_VOXELS:
        raise _UnusableError(
            f"promises {x * y * z} voxels (shape {promised}), expected at most {MAX_VOXELS}; "
            "crop or downsample it, or export it again if the shape is wrong"
        )
    return x, y, z


def _affine(header: Header) -> np.ndarray:
    """Voxel index -> mm: the sform if coded, else the qform, else spacing alone, as in nibabel."""
    header = header.copy()  # mended below for the computation only
    pixdim = header["pixdim"]
    n_spatial = min(int(header["dim"][0]), 3)
    spacing = pixdim[1 : n_spatial + 1]
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise _UnusableError(
            f"has spacing {_listed(spacing.tolist())}, expected finite positive numbers; "
            "correct pixdim in the header or export it again"
        )
    if n_spatial == 2 and pixdim[3] == 0:
        pixdim[3] = 1  # a slice without thickness
    pixdim[0] = -1 if pixdim[0] < 0 else 1  # the handedness of the qform: 0 stands for 1
    with np.errstate(all="ignore"):  # garbage is caught right below
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
        directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        spanned = abs(
            np.linalg.det(directions)
        )  # 1 for perpendicular axes, 0 if they are dependent
    if not (np.isfinite(affine).all() and spanned > 1e-6):
        raise _UnusableError(
            "has an affine that is not finite or not invertible, expected three independent axes; "
            "correct the sform or qform in the header or export it again"
        )
    return affine


def _read_voxels(
    stream: BinaryIO,
    header: Header,
    n_voxels: int,
    capacity: int,
    dtype: np.dtype,
    convert: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Read, scale and convert all voxels, in the file's order, from at most `capacity` bytes."""
    stored = _stored_dtype(header)
    slope, inter = _scaling(header)
    offset = float(header["vox_offset"])
    if not header.single_vox_offset <= offset < 2**63:  # false for NaN
        raise _UnusableError(
            f"has its voxels at byte {offset:g} by its header, "
            f"expected {header.single_vox_offset} or more; export it again"
        )
    n_bytes = n_voxels * stored.itemsize
    if int(offset) + n_bytes > capacity:
        raise _UnusableError(
            f"is truncated: its header promises {n_voxels} voxels, {n_bytes} bytes of content, "
            f"and the file is too small to hold them; {_COPY_AGAIN}"
        )
    stream.seek(int(offset))
    voxels = np.empty(n_voxels, dtype)
    for start in range(0, n_voxels, _PIECE):
        expected = min(_PIECE, n_voxels - start)
        content = stream.read(expected * stored.itemsize)
        if len(content) < expected * stored.itemsize:
            raise _UnusableError(
                f"is truncated: {start + len(content) // stored.itemsize} voxels, "
                f"expected {n_voxels}; {_COPY_AGAIN}"
            )
        with np.errstate(all="ignore"):  # what overflows is no longer finite, and `convert` objects
            values = np.frombuffer(content, stored).astype(np.float64)
            voxels[start : start + expected] = convert(values * slope + inter)
    stream.read(_PIECE)  # at its end gzip compares the checksum; a longer rest is left alone
    return voxels


def _stored_dtype(header: Header) -> np.dtype:
    code = int(header["datatype"])
    if code not in _STORED_TYPES:
        known = nib.nifti1.data_type_codes.label
        raise _UnusableError(
            f"holds voxels of type {known.get(code, 'unknown')} (code {code}), expected one real "
            "number per voxel, at most 64 bits; export a single channel as int16 or float32"
        )
    return np.dtype(_STORED_TYPES[code]).newbyteorder(header.endianness)


def _scaling(header: Header) -> tuple[float, float]:
    """Slope and intercept of the stored values; a slope of zero or NaN stands for none."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise _UnusableError(
            f"is scaled by slope {slope} and intercept {inter}, expected finite numbers; "
            "correct scl_slope and scl_inter in the header or export it again"
        )
    return slope, inter


def _as_intensities(values: np.ndarray) -> np.ndarray:
    intensities = values.astype(np.float32)
    finite = np.isfinite(intensities)
    if not finite.all():
        raise _UnusableError(_NOT_FINITE.format(values[~finite][0]))
    return intensities


def _as_labels(values: np.ndarray) -> np.ndarray:
    labels = np.rint(values)
    valid = (abs(values - labels) <= LABEL_TOLERANCE) & (labels >= 0) & (labels <= MAX_LABEL)
    if not valid.all():
        raise _UnusableError(
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


# Writing


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
