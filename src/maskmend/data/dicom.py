"""A folder with a DICOM series as one volume.

The files may have any names and any order: their headers say where each slice lies. Nothing that
tells who the patient is leaves this module: not in a message, and not in the name of the volume.

Reading DICOM needs one more package: pip install "maskmend[dicom]".
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from maskmend.data.identity import TAGS, Identity
from maskmend.data.nifti import MAX_VOXELS
from maskmend.data.stack import Slice, affine_of, in_order, quiet, read_slice
from maskmend.data.volume import Volume, check_intensities
from maskmend.errors import ConfigError, InputError

_NOT_IMAGES = ("SEG", "SR", "PR", "KO", "RTSTRUCT")
"""Modalities of what often lies beside a series, such as the masks that Maskmend writes."""

_MISSING = 1.5
"""Distance between neighbours, in usual distances, above which a slice must be missing."""
_SAME_MM = 0.01
_PARALLEL = 0.99
"""Cosine of the angle between two slices' axes; smaller angles are left to `affine_of`."""


def read_series(folder: Path) -> Volume:
    """Read the one series in a folder.

    Returns:
        The image, x along its rows, z along its slices. Its path and name do not tell the patient;
        its `sources` are the files.

    Raises:
        ConfigError: pydicom is not installed.
        InputError: The folder holds no series, several, or one that is no regular stack of grey
            slices: damaged, missing, of several sizes, twice in a place.
    """
    files, identity = _files(folder)
    with _blanking(folder, identity):
        headers = _checked(folder, files)
        stack = in_order([read_slice(path) for path in headers])
        _check_places(folder, stack)
        affine = affine_of(stack)
        voxels = np.stack([each.pixels for each in stack], axis=-1)
        check_intensities(folder, voxels)
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_sform(affine, "scanner")
    return Volume(
        path=shown_series(folder),
        voxels=voxels,
        affine=affine,
        header=image.header,
        sources=tuple(each.path for each in stack),
    )


def shown_series(folder: Path) -> Path:
    """A folder as it may be spoken of, whether its series can be used or not.

    The patient is blanked in what it lies in; a name that tells the patient gives way to one that
    is made from the number of the series.

    Raises:
        ConfigError: pydicom is not installed.
    """
    return _shown(folder, folder.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _shown(folder: Path, _modified_ns: int) -> Path:
    name = folder.resolve().name if folder.name in ("", "..") else folder.name
    try:
        files, identity = _files(folder)
    except InputError:  # it cannot be read, and nothing is known of a patient
        return folder.parent / name
    if identity.blank(name) != name:
        numbers = sorted(str(h.get("SeriesInstanceUID", "")) for h in files.values() if h)
        name = f"series_{hashlib.sha256(numbers[0].encode()).hexdigest()[:10]}"
    return Path(identity.blank(str(folder.parent))) / name


@contextmanager
def _blanking(folder: Path, identity: Identity) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        line = str(error).replace(str(folder), str(shown_series(folder)))
        raise InputError(identity.blank(line)) from None


def _files(folder: Path) -> tuple[dict[Path, dict[str, Any] | None], Identity]:
    """File -> header, None for what is no DICOM file, by name; and whose they are.

    Raises:
        ConfigError: pydicom is not installed.
        InputError: The folder cannot be read.
    """
    if find_spec("pydicom") is None:
        raise ConfigError(
            "images: a folder is read as a DICOM series, which needs pydicom; run: pip install"
            ' "maskmend[dicom]"'
        )
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        shown = [path for path in paths if not path.name.startswith((".", "DICOMDIR"))]
        with quiet():
            headers = {path: _header(path) for path in shown}
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); check the folder and its files"
        ) from None
    return headers, Identity(header for header in headers.values() if header)


def _header(path: Path) -> dict[str, Any] | None:
    """What is wanted of a header; values that are damaged are None."""
    import pydicom

    tags = ["SeriesInstanceUID", "Modality", "Rows", "Columns", *TAGS]
    try:
        dicom = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
    except OSError:
        raise
    except Exception:  # whatever another or a damaged file makes of pydicom
        return None
    header: dict[str, Any] = {}
    for tag in tags:
        with suppress(Exception):  # as above; they are read only when they are asked for
            header[tag] = dicom.get(tag)
    return header


def _checked(folder: Path, files: Mapping[Path, dict[str, Any] | None]) -> list[Path]:
    """The images, which are of one series and fit into memory."""
    images = {
        path: header
        for path, header in files.items()
        if header and header.get("Modality") not in _NOT_IMAGES
    }
    # A slice that was cut to nothing must not go unnoticed; a list of notes may lie there.
    suffixes = {".dcm", *(path.suffix.lower() for path in images)}
    for path, header in files.items():
        if header is None and path.suffix.lower() in suffixes:
            raise InputError(f"{path}: is no DICOM file; copy it again or move it away")
    if not images:
        raise InputError(
            f"{folder}: holds no DICOM images, expected the folder of one series, or a NIfTI file;"
            " name the files or folders inside it"
        )
    series = Counter(str(header.get("SeriesInstanceUID", "")) for header in images.values())
    if len(series) > 1:
        sizes = ", ".join(str(count) for _, count in series.most_common())
        raise InputError(
            f"{folder}: holds {len(series)} series (of {sizes} images), expected one; move each"
            " into a folder of its own"
        )
    promised = sum(
        int(header.get("Rows") or 0) * int(header.get("Columns") or 0) for header in images.values()
    )
    if promised > MAX_VOXELS:
        raise InputError(
            f"{folder}: promises {promised} voxels, expected at most {MAX_VOXELS}; take slices away"
            " or downsample it"
        )
    return list(images)


def _check_places(folder: Path, stack: list[Slice]) -> None:
    """Make sure that slices are parallel, each in a place of its own, and none is missing."""
    first = stack[0]
    for each in stack:
        turned = [
            np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in ((first.x_mm, each.x_mm), (first.y_mm, each.y_mm))
        ]
        if not min(turned) > _PARALLEL:
            raise InputError(
                f"{folder}: its slices point in several directions (as a localiser's do), expected"
                " parallel ones; name a series of one direction"
            )
    steps_mm = np.linalg.norm(np.diff([each.origin_mm for each in stack], axis=0), axis=-1)
    if same := int((steps_mm < _SAME_MM).sum()):
        raise InputError(
            f"{folder}: {same} of {len(stack)} slices lie in the place of another (frames of a"
            " cine, echoes, copies), expected one a place; move the others into folders of their"
            " own"
        )
    if len(steps_mm) and steps_mm.max() > _MISSING * np.median(steps_mm):
        raise InputError(
            f"{folder}: slices are missing, two neighbours lie {steps_mm.max():.3g} mm apart, most"
            f" {np.median(steps_mm):.3g}; copy the whole series again"
        )
