"""A NIfTI file, read without believing it.

Axes: x, y, z are the axes of the file, in its own order; the affine alone says where they point.

Files come from anywhere, so nothing that a header promises is believed before it is checked, and
memory is asked for only once the file is big enough to keep the promise. That is why nibabel
interprets the header here, while the voxels are read in pieces of bounded size.
"""

import gzip
import math
import stat
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from maskmend.errors import InputError

MAX_VOXELS = 2**29
"""Largest volume that is read: 512 x 512 x 2048 voxels, 2 GiB as float32."""

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


class Stored(NamedTuple):
    """What a file holds."""

    voxels: np.ndarray
    """Array [x, y, z] as stored, a 2D file as [x, y, 1]."""
    affine: np.ndarray
    """Matrix [4, 4], float64: voxel index -> mm."""
    header: Header
    """Untouched; header extensions (often private tags) are not read."""


def read_nifti(path: Path, dtype: np.dtype, convert: Callable[[np.ndarray], np.ndarray]) -> Stored:
    """Read a 2D or 3D scalar volume from a NIfTI-1 or NIfTI-2 file, gzipped or not.

    Args:
        path: A `.nii` or `.nii.gz` file.
        dtype: Of the voxels in memory.
        convert: Makes them of scaled float64 values, piece by piece.

    Raises:
        UnusableError: The file is no single scalar volume, damaged, larger than `MAX_VOXELS` or
            without a usable grid; and what the system, gzip and nibabel raise, see `naming`.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UnusableError("is a folder, expected a NIfTI file; name the file inside it")
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device might never end
        raise UnusableError("is not a regular file, expected a NIfTI file; copy it to disk first")
    if suffix_of(path) is None:
        raise UnusableError(
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
    return Stored(voxels.reshape(shape, order="F"), affine, header)


class UnusableError(Exception):
    """What is wrong with a file and how to mend it; `naming` puts the file's name before it."""


# What the system, gzip, nibabel and numpy raise on files; anything else is a bug and stays one.
_FAILURES = (
    UnusableError,
    OSError,
    EOFError,
    MemoryError,
    ValueError,
    zlib.error,
    HeaderDataError,
)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one line that begins with its path."""
    try:
        yield
    except _FAILURES as error:
        raise InputError(one_line(f"{path}: {_explain(error)}")) from error


def _explain(error: Exception) -> str:
    match error:
        case UnusableError():
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


def one_line(message: str) -> str:
    """The message as one line, whatever a file name or a foreign error has brought in."""
    return " ".join(message.splitlines())


def listed(numbers: Collection[int]) -> str:
    """Numbers, for people."""
    return ", ".join(map(str, numbers))


def suffix_of(path: Path) -> str | None:
    """Of a NIfTI file; None if it is none by its name."""
    return next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)


def _read_header(stream: BinaryIO) -> Header:
    start = stream.read(4)
    if not start:
        raise UnusableError(f"is empty, expected a NIfTI file; {_COPY_AGAIN}")
    for header_class in (nib.Nifti1Header, nib.Nifti2Header):
        size = header_class.sizeof_hdr
        for endianness in "<>":
            if start != struct.pack(f"{endianness}i", size):
                continue
            block = start + stream.read(size - len(start))
            if len(block) < size:
                raise UnusableError(
                    f"is truncated: {len(block)} bytes, expected a header of {size}; {_COPY_AGAIN}"
                )
            # check=False: nibabel's checks mend silently or log; the header stays as it is.
            header = header_class(block, endianness=endianness, check=False)
            magic = header["magic"].item()
            if magic == header_class.pair_magic:
                raise UnusableError(
                    "is the header of an .hdr/.img pair, expected header and voxels in one file; "
                    "convert the pair to .nii"
                )
            if magic == header_class.single_magic:
                return header
    raise UnusableError(
        "is not a NIfTI file by its content, expected NIfTI-1 or NIfTI-2; "
        "convert the original (of DICOM name the folder of the series)"
    )


def _spatial_shape(header: Header) -> tuple[int, int, int]:
    """The shape [x, y, z]; 2D becomes [x, y, 1], trailing dimensions of one are dropped."""
    # From the field itself: get_data_shape() rewrites shapes that FreeSurfer has used for surfaces.
    n_dims, *sizes = header["dim"].tolist()
    if not 2 <= n_dims <= 7:
        raise UnusableError(
            f"has {n_dims} dimensions by its header, expected 2 or 3; export it as one volume"
        )
    sizes = sizes[:n_dims]
    promised = "x".join(map(str, sizes))
    if min(sizes) < 1:
        raise UnusableError(
            f"has shape {promised} by its header, expected sizes of at least 1; export it again"
        )
    if math.prod(sizes[3:]) != 1:
        raise UnusableError(
            f"holds {math.prod(sizes[3:])} volumes (shape {promised}), expected one; "
            "split it into one file per volume (for example fslsplit)"
        )
    x, y, z = (*sizes, 1)[:3]
    if x * y * z > MAX_VOXELS:
        raise UnusableError(
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
        raise UnusableError(
            f"has spacing {listed(spacing.tolist())}, expected finite positive numbers; "
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
        raise UnusableError(
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
        raise UnusableError(
            f"has its voxels at byte {offset:g} by its header, "
            f"expected {header.single_vox_offset} or more; export it again"
        )
    n_bytes = n_voxels * stored.itemsize
    if int(offset) + n_bytes > capacity:
        raise UnusableError(
            f"is truncated: its header promises {n_voxels} voxels, {n_bytes} bytes of content, "
            f"and the file is too small to hold them; {_COPY_AGAIN}"
        )
    stream.seek(int(offset))
    voxels = np.empty(n_voxels, dtype)
    for start in range(0, n_voxels, _PIECE):
        expected = min(_PIECE, n_voxels - start)
        content = stream.read(expected * stored.itemsize)
        if len(content) < expected * stored.itemsize:
            raise UnusableError(
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
        raise UnusableError(
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
        raise UnusableError(
            f"is scaled by slope {slope} and intercept {inter}, expected finite numbers; "
            "correct scl_slope and scl_inter in the header or export it again"
        )
    return slope, inter
