"""The paper's two data sets, or what stands in for the one that cannot be handed on."""

import csv
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from maskmend.atomic import write_atomically
from maskmend.data.cohort import Cohort
from maskmend.data.layouts import find_cohort
from maskmend.data.volume import read_mask, write_mask
from maskmend.errors import InputError
from maskmend.progress import progress_bar

MYOCARDIUM = 2
"""Its label in ACDC."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Data that a figure has a part for."""

    name: str
    """"acdc", "acdc-myo" (the myocardium alone, in the place of LVSC), "lvsc"; "folder" and
    "folder-myo" for another folder whose labels are ACDC's."""
    root: Path
    layout: str
    structures: dict[int, str]
    spacing_mm: float | None = None
    """Of the paper's grid, where it is not ACDC's."""

    @property
    def cohort(self) -> Cohort:
        """The cases."""
        return find_cohort(self.root, self.layout)


def find_datasets(
    data: Path, out: Path, console: Console, *, everywhere: bool = True
) -> list[Dataset]:
    """The data sets that a folder gives, the paper's first one first.

    Args:
        data: ACDC, LVSC, or images/ and masks/ with ACDC's labels.
        out: Where a stand-in is written.
        console: Where progress is shown.
        everywhere: All of them, or the first alone.

    Raises:
        InputError: The folder cannot be used.
    """
    cohort = find_cohort(data)
    if cohort.layout == "lvsc":
        lvsc = {"structures": {1: "MYO"}, "spacing_mm": 1.45}
        return [Dataset(name="lvsc", root=data, layout="lvsc", **lvsc)]  # type: ignore[arg-type]
    name, heart = cohort.layout, {1: "RV", 2: "MYO", 3: "LV"}
    whole = Dataset(name=name, root=data, layout=name, structures=heart)
    if not everywhere:
        return [whole]
    alone = out / "data" / "myo"
    if not (alone / "patients.csv").exists():
        _myocardium_alone(cohort, alone, console)
    return [
        whole,
        Dataset(name=f"{name}-myo", root=alone, layout="folder", structures={1: "MYO"}),
    ]


def _myocardium_alone(cohort: Cohort, root: Path, console: Console) -> None:
    """The same images, linked, with masks of one structure; patients.csv comes last."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    with progress_bar(console, "the myocardium alone", len(cohort.cases)) as advance:
        for case in cohort.cases:
            assert case.image is not None
            assert case.mask is not None
            link = root / "images" / f"{case.name}.nii.gz"
            if case.image.suffixes[-2:] != [".nii", ".gz"]:
                raise InputError(f"{case.image}: expected a file named NAME.nii.gz; compress it")
            if not link.exists():
                try:
                    link.symlink_to(case.image.absolute())
                except OSError:  # Windows lets not everybody link
                    shutil.copyfile(case.image, link)
            mask = read_mask(case.mask)
            myocardium = (mask.voxels == MYOCARDIUM).astype(np.uint8)
            write_mask(root / "masks" / f"{case.name}.nii.gz", myocardium, mask)
            advance()
    table = io.StringIO(newline="")
    rows = [(case.name, case.patient, case.phase) for case in cohort.cases]
    csv.writer(table).writerows([("name", "patient", "phase"), *rows])
    write_atomically(root / "patients.csv", table.getvalue())
