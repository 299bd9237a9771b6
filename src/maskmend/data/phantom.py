"""Procedural hearts as a data folder: something to train and test on without a download.

    >>> write_cohort(Path("hearts"), patients=20, seed=0)                          # doctest: +SKIP
    >>> write_cohort(Path("shifted"), patients=20, seed=0, scanner=SCANNER_B)      # doctest: +SKIP

writes the same patients twice, as two scanners see them. Every patient is drawn from the seed and
its own number alone, so that a larger cohort begins with the patients of a smaller one.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from maskmend.data.anatomy import HeartParameters, Plan, draw_heart
from maskmend.data.painting import paint
from maskmend.data.scanner import SCANNER_A, SCANNER_B, Scanner, acquire
from maskmend.data.volume import appearing_whole, write_image
from maskmend.errors import InputError

__all__ = ["SCANNER_A", "SCANNER_B", "Scanner", "draw_heart", "render", "write_cohort"]

_FRAMES = {"ED": 1, "ES": 10}


def render(
    heart: HeartParameters,
    scanner: Scanner,
    rng: np.random.Generator,
    *,
    size: int,
    spacing_mm: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Scan a heart.

    Args:
        heart: The anatomy, which alone decides on the mask.
        scanner: What scans it.
        rng: Draws what differs from scan to scan, such as noise.
        size: Columns and rows of a slice.
        spacing_mm: Pixel size before the patient's own zoom.

    Returns:
        Image, int16, and labels, uint8, both [x, y, z]: to the patient's left, to the back, from
        base to apex.
    """
    pixel_mm = spacing_mm * heart.plan.zoom
    tissues, labels = paint(heart, size=size, spacing_mm=pixel_mm)
    return acquire(tissues, scanner, rng, spacing_mm=pixel_mm).T, labels.T


def write_cohort(
    root: Path,
    *,
    patients: int,
    seed: int,
    scanner: Scanner = SCANNER_A,
    size: int = 112,
    spacing_mm: float = 2.7,
    first_patient: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Write procedural hearts in the layout of `maskmend.data.folder`.

    Each patient has an image and a mask at end-diastole, heart007_frame01, and at end-systole,
    heart007_frame10. Labels are those of ACDC.

    Args:
        root: The folder, made if need be: images/, masks/ and patients.csv.
        patients: How many.
        seed: Seed of all patients; another seed makes other patients.
        scanner: What scans them; the masks do not depend on it.
        size: Columns and rows of a slice.
        spacing_mm: Mean pixel size; patients differ by up to 5%.
        first_patient: Number of the first patient.
        advance: Called after every patient.

    Raises:
        InputError: The folder cannot be written.
    """
    try:
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{root}: cannot be made ({error.strerror}); choose another folder"
        ) from error
    rows = []
    for number in range(first_patient, first_patient + patients):
        patient = f"heart{number:03d}"
        # The last number keeps the streams apart: 0 the anatomy, then a frame's number.
        diastole = draw_heart(np.random.default_rng([seed, number, 0]))
        hearts = {"ED": diastole, "ES": diastole.at_end_systole()}
        affine = _affine(diastole.plan, size, spacing_mm)
        for phase, heart in hearts.items():
            name = f"{patient}_frame{_FRAMES[phase]:02d}"
            rng = np.random.default_rng([seed, number, _FRAMES[phase]])
            image, labels = render(heart, scanner, rng, size=size, spacing_mm=spacing_mm)
            write_image(root / "images" / f"{name}.nii.gz", image, affine)
            write_image(root / "masks" / f"{name}.nii.gz", labels, affine)
            rows.append((name, patient, phase))
        advance()
    with (
        appearing_whole(root / "patients.csv") as temporary,  # the last: the cohort is whole
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file).writerows([("name", "patient", "phase"), *rows])


def _affine(plan: Plan, size: int, spacing_mm: float) -> np.ndarray:
    """Voxel index -> mm to the right, front and head; the view's centre lies at the origin."""
    pixel_mm = spacing_mm * plan.zoom
    to_world = np.diag([-1.0, -1.0, 1.0])
    rotation = Rotation.from_euler("xyz", plan.tilt_deg, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = rotation @ to_world @ np.diag([pixel_mm, pixel_mm, plan.slice_mm])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array([size, size, plan.slices]) - 1) / 2)
    return affine
