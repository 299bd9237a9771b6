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
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from maskmend.data import folder
from maskmend.data.cohort import Cohort
from maskmend.data.stack import Slice, affine_of, in_order, read_slice
from maskmend.data.volume import write_image
from maskmend.errors import InputError
from maskmend.progress import progress_bar

EXPECTED = "DET0000101/DET0000101_SA1_ph0.dcm with its .png"
"""The files that make a folder an LVSC folder, for error messages."""

CONVERTED = "maskmend_nifti"
"""The folder that `load` converts into."""

_SLICE = re.compile(
    r"(?P<patient>.+)_SA(?P<slice>\d+)_ph(?P<phase>\d+)\.(?P<kind>dcm|png)", re.IGNORECASE
)
_DEPTHS = ("*", "*/*", "*/*/*", "*/*/*/*")  # e.g. Training/masks/DET0000101/DET0000101_SA1_ph0.png


class _Frame(NamedTuple):
    """The short-axis stack of one patient at one phase."""

    patient: str
    phase: int

    @property
    def name(self) -> str:
        return f"{self.patient}_frame{self.phase:02d}"


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
    folders = ("images", "masks", "unlabelled")
    there = {each for each in folders if (out / each / f"{frame.name}.nii.gz").exists()}
    return there == ({"images", "masks"} if has_mask else {"unlabelled"})


def _convert_frame(
    frame: _Frame, images: dict[int, Path], masks: dict[int, Path], out: Path
) -> None:
    numbers = sorted(images.keys() & masks.keys()) if masks else sorted(images)
    if not numbers:
        raise InputError(
            f"{next(iter(images.values()))}: no mask of {frame.name} has the slice number of an "
            "image; check that image and mask files have the same names"
        )
    # Slices are numbered from base to apex or the other way round: their positions decide.
    stack = in_order([read_slice(images[number]) for number in numbers])
    affine = affine_of(stack)
    if masks:
        mask_of = {images[number]: masks[number] for number in numbers}
        labels = [_read_mask(mask_of[each.path], each) for each in stack]
        _write(out / "masks" / f"{frame.name}.nii.gz", np.stack(labels, axis=-1), affine)
    # The image last: a frame that was interrupted is found unfinished and done again.
    pixels = np.stack([each.pixels for each in stack], axis=-1)
    images_folder = out / ("images" if masks else "unlabelled")
    _write(images_folder / f"{frame.name}.nii.gz", pixels, affine)
    if masks:  # which were not there before
        (out / "unlabelled" / f"{frame.name}.nii.gz").unlink(missing_ok=True)


def _read_mask(path: Path, image: Slice) -> np.ndarray:
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


def _write(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, voxels, affine)
    except (OSError, InputError) as error:
        reason = getattr(error.__cause__ or error, "strerror", error)
        raise InputError(
            f"{path}: cannot be written ({reason}); convert into a folder of your own with"
            " maskmend.data.lvsc.convert(ROOT, OUT) and use OUT as the data"
        ) from error
