"""The layout of the left ventricle segmentation challenge (LVSC, STACOM 2011), converted once.

Suinesiaputra et al., "A collaborative resource to build consensus for automated left ventricular
segmentation of cardiac MR images", Medical Image Analysis 2014; downloaded from the Cardiac Atlas
Project. Labels: 0 background, 1 left-ventricular myocardium.

    DET0000101/
        DET0000101_SA3_ph0.dcm    short-axis slice 3 at phase 0 of the cine
        DET0000101_SA3_ph0.png    its mask, white on black; may lie in a folder of its own
        DET0000101_LA1_ph0.dcm    long-axis images: not read

Everything else in Maskmend reads NIfTI volumes, hence the first visit gathers the slices of each
patient and phase into `maskmend_nifti`, next to the patients, in the layout of `folder.py`:
DET0000101_ph0 becomes images/DET0000101_frame00.nii.gz and masks/DET0000101_frame00.nii.gz. Phase 0
is end-diastole, where the recording is triggered. For other phases, or where the data may not be
written to, call `convert` and use the folder that it has filled.

Reading DICOM and PNG needs two more packages: pip install "maskmend[lvsc]".
"""

import re
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from rich.console import Console

from maskmend.data import folder
from maskmend.data.cohort import Cohort
from maskmend.errors import InputError
from maskmend.progress import progress_bar

EXPECTED = "DET0000101/DET0000101_SA1_ph0.dcm with its .png"
"""The files that make a folder an LVSC folder, for error messages."""

CONVERTED = "maskmend_nifti"
"""The folder that `load` converts into."""

SLICE_TOLERANCE_MM = 1.0
"""How far a slice may lie from its place on the regular grid that a NIfTI volume is."""

_SLICE = re.compile(
    r"(?P<patient>.+)_SA(?P<slice>\d+)_ph(?P<phase>\d+)\.(?P<kind>dcm|png)", re.IGNORECASE
)
_DEPTHS = ("*", "*/*", "*/*/*", "*/*/*/*")  # e.g. Training/masks/DET0000101/DET0000101_SA1_ph0.png
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM points left and posterior, NIfTI opposite


class _Frame(NamedTuple):
    """The short-axis stack of one patient at one phase."""

    patient: str
    phase: int

    @property
    def name(self) -> str:
        return f"{self.patient}_frame{self.phase:02d}"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Slice:
    """One DICOM image; x runs along its rows and y along its columns, as in DICOM."""

    path: Path
    pixels: np.ndarray  # [x, y]
    x_mm: np.ndarray  # [3], LPS: the step to the next x
    y_mm: np.ndarray  # [3], LPS: the step to the next y
    origin_mm: np.ndarray  # [3], LPS: the centre of pixel 0, 0
    thickness_mm: float


def fits(root: Path) -> bool:
    """Whether there is a short-axis DICOM image, up to three folders deep."""
    return next(_slice_files(root, "dcm"), None) is not None


def load(root: Path) -> Cohort:
    """Convert phase 0 of every patient into `root/maskmend_nifti`, unless done, and find it there.

    Raises:
        InputError: As for `convert`.
    """
    cohort = convert(root, root / CONVERTED)
    return replace(
        cohort,
        layout="lvsc",
        root=root,
        cases=tuple(replace(case, phase=_phase(case.name)) for case in cohort.cases),
        unlabelled=tuple(replace(case, phase=_phase(case.name)) for case in cohort.unlabelled),
    )


def convert(root: Path, out: Path, *, phases: Collection[int] | None = (0,)) -> Cohort:
    """Gather slices into volumes: an image and, where there are masks, a mask a patient and phase.

    A frame with masks is cut to the slices that have one, since an empty slice would claim that
    there is no myocardium; a frame without any goes to `unlabelled`. Files appear whole or not at
    all, and what is there already is kept.

    Args:
        root: The folder of the patients' folders, or its parent.
        out: The folder to fill, in the layout of `folder.py`; made if need be.
        phases: Which phases of the cine; None for all.

    Returns:
        What `out` now holds.

    Raises:
        InputError: There are no slices of these phases, `out` cannot be written, a package is
            missing, or frames cannot be converted: the first is named once all others are done.
    """
    images, masks = _frames(root, "dcm", phases), _frames(root, "png", phases)
    if not images:
        wanted = "any phase" if phases is None else f"phase {', '.join(map(str, sorted(phases)))}"
        raise InputError(f"{root}: no short-axis image of {wanted}, expected {EXPECTED}")
    left = [frame for frame in images if not _is_converted(frame, out, frame in masks)]
    if left:
        _check_packages()
    failures: list[InputError] = []
    with progress_bar(Console(stderr=True), "converting to NIfTI", len(left)) as advance:
        for frame in left:
            try:
                _convert_frame(frame, images[frame], masks.get(frame, {}), out)
            except InputError as error:
                failures.append(error)
            advance()
    if failures:
        others = f" ({len(failures) - 1} more frames failed)" if len(failures) > 1 else ""
        raise InputError(f"{failures[0]}{others}")
    return folder.load(out)


# Finding the slices


def _slice_files(root: Path, kind: str) -> Iterator[tuple[Path, re.Match[str]]]:
    for depth in _DEPTHS:
        for path in root.glob(depth):
            match = _SLICE.fullmatch(path.name)
            # macOS leaves a ._NAME beside every NAME in the archives that it makes.
            if match and match["kind"].lower() == kind and not path.name.startswith("."):
                yield path, match


def _frames(root: Path, kind: str, phases: Collection[int] | None) -> dict[_Frame, dict[int, Path]]:
    """Frame -> slice number -> file, in the order of the frames' names."""
    frames: dict[_Frame, dict[int, Path]] = defaultdict(dict)
    for path, match in _slice_files(root, kind):
        frame, number = _Frame(match["patient"], int(match["phase"])), int(match["slice"])
        if phases is not None and frame.phase not in phases:
            continue
        if other := frames[frame].get(number):
            raise InputError(f"{path}: is the same slice as {other}, expected one; remove one")
        frames[frame][number] = path
    return dict(sorted(frames.items()))


def _phase(name: str) -> str:
    return "ED" if name.endswith("_frame00") else ""


# From slices to volumes


def _check_packages() -> None:
    """Pydicom and Pillow are imported where they are used: nothing else needs them."""
    if not (find_spec("pydicom") and find_spec("PIL")):
        raise InputError(
            'reading LVSC data needs pydicom and pillow; run: pip install "maskmend[lvsc]"'
        )


def _is_converted(frame: _Frame, out: Path, has_mask: bool) -> bool:
    folders = ("images", "masks") if has_mask else ("unlabelled",)
    return all((out / each / f"{frame.name}.nii.gz").exists() for each in folders)


def _convert_frame(
    frame: _Frame, images: dict[int, Path], masks: dict[int, Path], out: Path
) -> None:
    numbers = sorted(images.keys() & masks.keys()) if masks else sorted(images)
    if not numbers:
        raise InputError(
            f"{next(iter(images.values()))}: no mask of {frame.name} has the slice number of an "
            "image; check that image and mask files have the same names"
        )
    slices = {number: _read_slice(images[number]) for number in numbers}
    # Slices are numbered from base to apex or the other way round: their positions decide.
    first = slices[numbers[0]]
    normal = np.cross(first.x_mm, first.y_mm)
    numbers.sort(key=lambda number: float(slices[number].origin_mm @ normal))
    stack = [slices[number] for number in numbers]
    affine = _affine(stack)
    if masks:
        labels = [_read_mask(masks[number], slices[number]) for number in numbers]
        _write(out / "masks" / f"{frame.name}.nii.gz", np.stack(labels, axis=-1), affine)
    # The image last: a frame that was interrupted is found unfinished and done again.
    pixels = np.stack([each.pixels for each in stack], axis=-1)
    images_folder = out / ("images" if masks else "unlabelled")
    _write(images_folder / f"{frame.name}.nii.gz", pixels, affine)


def _read_slice(path: Path) -> _Slice:
    import pydicom

    try:
        dicom = pydicom.dcmread(path)
        row_mm, column_mm = (float(mm) for mm in dicom.PixelSpacing)  # between rows, columns
        along_row, along_column = np.reshape(
            np.asarray(dicom.ImageOrientationPatient, float), (2, 3)
        )
        origin_mm = np.asarray(dicom.ImagePositionPatient, float).reshape(3)
        thickness_mm = dicom.get("SpacingBetweenSlices") or dicom.get("SliceThickness") or 1
        pixels = dicom.pixel_array.astype(np.float32)
        if pixels.ndim != 2:
            raise ValueError(f"shape {pixels.shape}, expected one greyscale slice")
        # A tag may be there and be empty, which pydicom reads as None.
        slope, intercept = (
            default if (value := dicom.get(tag)) is None else float(value)
            for tag, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
        )
    except Exception as error:  # whatever a damaged file makes of pydicom and its decoders
        raise InputError(
            f"{path}: is no usable DICOM image ({' '.join(str(error).split())}); "
            "download it again or move it away"
        ) from error
    return _Slice(
        path=path,
        pixels=pixels.T * np.float32(slope) + np.float32(intercept),
        x_mm=along_row * column_mm,
        y_mm=along_column * row_mm,
        origin_mm=origin_mm,
        thickness_mm=float(thickness_mm),
    )


def _read_mask(path: Path, image: _Slice) -> np.ndarray:
    """Labels [x, y]: 1 where the PNG is nearer to white than to black."""
    from PIL import Image

    try:
        with Image.open(path) as png:
            # Mode I holds 16 bits; converting it to 8 would clip dark grey to white.
            sixteen_bit = png.mode.startswith("I")
            grey = np.asarray(png if sixteen_bit else png.convert("L"))
            white = 65535 if sixteen_bit else 255
            labels = (grey > white / 2).astype(np.uint8).T
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damage
        raise InputError(f"{path}: is no usable PNG image ({error}); download it again") from error
    if labels.shape != image.pixels.shape:
        raise InputError(
            f"{path}: has {labels.shape} pixels, expected the {image.pixels.shape} of "
            f"{image.path.name}; check that mask and image belong together"
        )
    return labels


def _affine(stack: list[_Slice]) -> np.ndarray:
    """Voxel index -> mm, in NIfTI's RAS, of slices in the order of their positions."""
    first, last = stack[0], stack[-1]
    if len(stack) > 1:
        # Not the normal: stacks may be sheared, when the patient's table or breath has moved.
        step_mm = (last.origin_mm - first.origin_mm) / (len(stack) - 1)
    else:
        normal = np.cross(first.x_mm, first.y_mm)
        step_mm = normal / np.linalg.norm(normal) * first.thickness_mm
    corner = np.array(first.pixels.shape) - 1
    for index, each in enumerate(stack):
        if each.pixels.shape != first.pixels.shape:
            raise InputError(
                f"{each.path}: has {each.pixels.shape} pixels, expected the {first.pixels.shape} "
                f"of {first.path.name}; move this frame away"
            )
        # A grid that is right at the first pixel may still be turned: look at the last one, too.
        first_pixel_mm = each.origin_mm - (first.origin_mm + index * step_mm)
        turned_mm = np.stack([each.x_mm - first.x_mm, each.y_mm - first.y_mm], axis=1) @ corner
        off_mm = np.linalg.norm([first_pixel_mm, first_pixel_mm + turned_mm], axis=1).max()
        if not off_mm <= SLICE_TOLERANCE_MM:  # so NaN is caught as well
            raise InputError(
                f"{each.path}: lies {off_mm:.3g} mm off the grid of its stack, expected parallel "
                "slices at equal distances; look for a missing slice or move this frame away"
            )
    lps = np.eye(4)
    lps[:3] = np.column_stack([first.x_mm, first.y_mm, step_mm, first.origin_mm])
    if not abs(np.linalg.det(lps)) > 1e-6:  # mm3 a voxel
        raise InputError(
            f"{first.path}: its stack has no volume, expected slices at different places and "
            "pixels of some size; move this frame away"
        )
    return _RAS_FROM_LPS @ lps


def _write(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    volume = nib.Nifti1Image(voxels, affine)
    volume.header.set_xyzt_units("mm")
    temporary = path.with_name(f".{secrets.token_hex(8)}.nii.gz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        volume.to_filename(temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); convert into a folder of your "
            "own with maskmend.data.lvsc.convert(ROOT, OUT) and use OUT as the data"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
