"""The layout for data of one's own.

    images/NAME.nii.gz      with  masks/NAME.nii.gz
    unlabelled/NAME.nii.gz        optional: images without a mask
    unpaired_masks/NAME.nii.gz    optional: masks without an image
    patients.csv                  optional: columns name,patient and, if wanted, phase

Files may end in .nii as well. Without patients.csv the patient is what comes before _frameNN in a
name, else the whole name; a patient with several files that are named otherwise needs the table,
or the split may train and test on the same heart.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from maskmend.data.cohort import Case, Cohort, patient_of
from maskmend.errors import InputError

EXPECTED = "images/NAME.nii.gz with masks/NAME.nii.gz"
"""The files that make this layout, for error messages."""

_VOLUME = re.compile(r"(?P<name>[^.].*)\.nii(\.gz)?", re.IGNORECASE)  # hidden files are no data


def fits(root: Path) -> bool:
    """Whether any of the four folders holds a NIfTI file."""
    return any(
        _volumes(root / folder) for folder in ("images", "masks", "unlabelled", "unpaired_masks")
    )


def load(root: Path) -> Cohort:
    """Find the images and masks.

    Args:
        root: The folder that holds `images`, `masks`, ...

    Raises:
        InputError: An image in `images` has no mask in `masks` or the other way round, a name
            occurs twice, or patients.csv is damaged or speaks of a file that is not there.
    """
    images, masks = _volumes(root / "images"), _volumes(root / "masks")
    _check_paired(images, root / "masks", "mask", "unlabelled")
    _check_paired(masks, root / "images", "image", "unpaired_masks")
    unlabelled, unpaired_masks = _volumes(root / "unlabelled"), _volumes(root / "unpaired_masks")
    names = {*images, *unlabelled, *unpaired_masks}
    table = {name: (patient_of(name), "") for name in names} | _read_patients(root, names)

    def cases(images: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[Case, ...]:
        return tuple(
            Case(
                name=name,
                patient=table[name][0],
                image=images.get(name),
                mask=masks.get(name),
                phase=table[name][1],
            )
            for name in sorted({*images, *masks})
        )

    return Cohort(
        layout="folder",
        root=root,
        cases=cases(images, masks),
        unlabelled=cases(unlabelled, {}),
        unpaired_masks=cases({}, unpaired_masks),
    )


def _volumes(folder: Path) -> dict[str, Path]:
    """Name -> file."""
    volumes: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _VOLUME.fullmatch(path.name)
        if not match or not path.is_file():
            continue
        if other := volumes.get(match["name"]):
            raise InputError(
                f"{path}: has the name of {other.name}, expected one file of a name; remove one"
            )
        volumes[match["name"]] = path
    return volumes


def _check_paired(volumes: Mapping[str, Path], partners: Path, what: str, else_folder: str) -> None:
    for name in sorted(set(volumes) - set(_volumes(partners))):
        raise InputError(
            f"{volumes[name]}: has no {what}, expected {partners / name}.nii.gz; "
            f"add it or move this file to {else_folder}/"
        )


def _read_patients(root: Path, names: set[str]) -> dict[str, tuple[str, str]]:
    """Name -> patient and phase, of the names in patients.csv."""
    path = root / "patients.csv"
    if not path.exists():
        return {}
    table: dict[str, tuple[str, str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: Excel writes a BOM
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); save it as CSV in UTF-8") from error
    for line, row in rows:
        name, patient, phase = (
            (row.get(column) or "").strip() for column in ("name", "patient", "phase")
        )
        if not name or not patient:
            raise InputError(
                f"{path}: line {line} lacks a name or a patient; expected the columns name,patient "
                "in every line"
            )
        # A misspelt name would go unnoticed and leak its patient into two sets.
        if name not in names:
            raise InputError(
                f"{path}: line {line} names {name!r}, expected a file of that name (without "
                ".nii.gz); correct or remove the line"
            )
        if table.setdefault(name, (patient, phase)) != (patient, phase):
            raise InputError(
                f"{path}: line {line} gives {name} a second patient or phase, expected one; "
                "remove a line"
            )
    return table
