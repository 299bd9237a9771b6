"""Slices in DICOM files, and the regular grid that a stack of them lies on.

Axes: x runs along a slice's rows and y along its columns, as in DICOM; z from slice to slice.

No message quotes pydicom or a header: either may hold what identifies the patient. For the same
reason an error has no cause that `--debug` would show.

Reading DICOM needs one more package: pip install "maskmend[dicom]".
"""

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskmend.errors import InputError

SLICE_TOLERANCE_MM = 1.0
"""How far a slice may lie from its place on the regular grid that a NIfTI volume is; no more than
a quarter of the distance between slices."""

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM points left and posterior, NIfTI opposite
_EXPORT_AGAIN = "export the slices themselves again, not screenshots or derived images"
_QUIET = threading.Lock()


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """One DICOM image."""

    path: Path
    pixels: np.ndarray
    """Intensities [x, y], float32, rescaled."""
    x_mm: np.ndarray
    """Step to the next x [3], in DICOM's left-posterior-superior axes."""
    y_mm: np.ndarray
    """Step to the next y [3]."""
    origin_mm: np.ndarray
    """Centre of pixel 0, 0 [3]."""
    thickness_mm: float


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to themselves what pydicom and highdicom warn of and log, which quotes headers.

    One thread at a time: what is shown is a matter of the whole process.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom.image")]
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        were = [logger.disabled for logger in loggers]
        try:
            for logger in loggers:
                logger.disabled = True
            yield
        finally:
            for logger, was in zip(loggers, were, strict=True):
                logger.disabled = was


def read_slice(path: Path) -> Slice:
    """Read one image with its place in the patient.

    Raises:
        InputError: The file is damaged, compressed in a way that cannot be decoded, or no single
            grey slice with a place.
    """
    import pydicom

    def unusable(reason: str, remedy: str) -> InputError:
        return InputError(f"{path}: is no usable DICOM image ({reason}); {remedy}")

    def floats(keyword: str, length: int, default: float | None = None) -> np.ndarray:
        try:
            value = dicom.get(keyword)
            if value is None and default is not None:  # a tag may be there and be empty
                value = default
            return np.asarray(value, float).reshape(length)
        except Exception:  # whatever a damaged or absent value makes of pydicom
            raise unusable(f"its {keyword} is missing or damaged", _EXPORT_AGAIN) from None

    def number(keyword: str, default: float) -> float:
        return float(floats(keyword, 1, default)[0])

    with quiet():
        try:
            dicom = pydicom.dcmread(path)
        except OSError as error:
            raise unusable(error.strerror or "it cannot be read", "check the file") from None
        except Exception:  # whatever a damaged file makes of pydicom
            raise unusable("it is damaged", "copy it again or move it away") from None
        if number("NumberOfFrames", 1) > 1:
            raise unusable("it holds several frames", "convert it to NIfTI with dcm2niix")
        if number("SamplesPerPixel", 1) != 1:
            raise unusable("it is in colour", _EXPORT_AGAIN)
        row_mm, column_mm = floats("PixelSpacing", 2)  # between rows, columns
        directions = floats("ImageOrientationPatient", 6)
        origin_mm = floats("ImagePositionPatient", 3)
        thickness_mm = number("SpacingBetweenSlices", 0) or number("SliceThickness", 1)
        slope, intercept = number("RescaleSlope", 1), number("RescaleIntercept", 0)
        try:
            pixels = dicom.pixel_array.astype(np.float32)
        except Exception:  # as above, and of its decoders
            syntax = getattr(dicom.file_meta, "TransferSyntaxUID", None)
            if syntax and syntax.is_compressed:
                raise unusable(
                    f"its pixels, {syntax.name}, cannot be decoded",
                    "decompress the series, for example with gdcmconv --raw",
                ) from None
            raise unusable(
                "its pixels are missing or cut off", "copy it again or move it away"
            ) from None
    return Slice(
        path=path,
        pixels=pixels.T * np.float32(slope) + np.float32(intercept),
        x_mm=directions[:3] * column_mm,
        y_mm=directions[3:] * row_mm,
        origin_mm=origin_mm,
        thickness_mm=abs(thickness_mm) or 1.0,
    )


def in_order(slices: Sequence[Slice]) -> list[Slice]:
    """Slices by their place along the normal of the first: names and numbers may lie."""
    normal = np.cross(slices[0].x_mm, slices[0].y_mm)
    return sorted(slices, key=lambda each: float(each.origin_mm @ normal))


def affine_of(stack: Sequence[Slice]) -> np.ndarray:
    """Voxel index -> mm, in NIfTI's right-anterior-superior axes, of slices in order.

    Raises:
        InputError: They are of different sizes, or lie on no regular grid.
    """
    first, last = stack[0], stack[-1]
    if len(stack) > 1:
        # Not the normal: stacks may be sheared, when the patient's table or breath has moved.
        step_mm = (last.origin_mm - first.origin_mm) / (len(stack) - 1)
        tolerance_mm = min(SLICE_TOLERANCE_MM, float(np.linalg.norm(step_mm)) / 4)
    else:
        normal = np.cross(first.x_mm, first.y_mm)
        step_mm = normal / (np.linalg.norm(normal) or 1) * first.thickness_mm
        tolerance_mm = SLICE_TOLERANCE_MM
    corner = np.array(first.pixels.shape) - 1
    for index, each in enumerate(stack):
        if each.pixels.shape != first.pixels.shape:
            raise InputError(
                f"{each.path}: has {each.pixels.shape} pixels, expected the {first.pixels.shape} "
                f"of {first.path.name}; move the stranger away"
            )
        # A grid that is right at the first pixel may still be turned: look at the last one, too.
        first_pixel_mm = each.origin_mm - (first.origin_mm + index * step_mm)
        turned_mm = np.stack([each.x_mm - first.x_mm, each.y_mm - first.y_mm], axis=1) @ corner
        off_mm = np.linalg.norm([first_pixel_mm, first_pixel_mm + turned_mm], axis=1).max()
        if not off_mm <= tolerance_mm:  # so NaN is caught as well
            raise InputError(
                f"{each.path}: lies {off_mm:.3g} mm off the grid of its stack, expected parallel "
                "slices at equal distances; look for a missing slice or move the stack away"
            )
    lps = np.eye(4)
    lps[:3] = np.column_stack([first.x_mm, first.y_mm, step_mm, first.origin_mm])
    if not abs(np.linalg.det(lps)) > 1e-6:  # mm3 a voxel
        raise InputError(
            f"{first.path}: its stack has no volume, expected slices at different places and "
            "pixels of some size; move the stack away"
        )
    return _RAS_FROM_LPS @ lps
