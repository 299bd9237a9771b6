"""What a data folder holds: which image goes with which mask and patient, whatever its layout.

Only names are looked at here; `volume.py` opens the files.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from maskmend.errors import InputError

_FRAME = re.compile(r"(?P<patient>.+)_frame\d+")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image volume, one mask volume, or a pair of both, of one patient."""

    name: str
    """Unique in the cohort, such as "patient001_frame01"; its prediction is NAME_mask.nii.gz."""

    patient: str
    """The patient, such as "patient001": data are split by patient, never by case."""

    image: Path | None
    """The image's file; None for a mask that came alone."""

    mask: Path | None
    """The mask's file; None for an image without annotation."""

    phase: str = ""
    """"ED" (end-diastole), "ES" (end-systole) or what the data call it; "" where unknown."""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """All cases of a data folder.

    Raises:
        InputError: Two cases have the same name, so that their predictions would collide.
    """

    layout: str
    """How the folder is organised: "acdc", "lvsc" or "folder"."""

    root: Path
    """The folder."""

    cases: tuple[Case, ...]
    """Annotated pairs, image and mask, sorted by name."""

    unlabelled: tuple[Case, ...] = ()
    """Images without a mask, sorted by name."""

    unpaired_masks: tuple[Case, ...] = ()
    """Masks without an image, sorted by name."""

    def __post_init__(self) -> None:
        counts = Counter(case.name for case in self.everything)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise InputError(
                f"{self.root}: holds {twice[0]} more than once, expected every name once; "
                "rename or remove one of its files"
            )

    @property
    def everything(self) -> tuple[Case, ...]:
        """Pairs, then images alone, then masks alone."""
        return self.cases + self.unlabelled + self.unpaired_masks

    @property
    def patients(self) -> tuple[str, ...]:
        """The patients with at least one annotated pair, sorted: those that a split divides."""
        return tuple(sorted({case.patient for case in self.cases}))


def patient_of(name: str) -> str:
    """The patient that a case's name tells: "patient001_frame01" -> "patient001".

    A name without _frameNN at its end is a patient of its own.
    """
    match = _FRAME.fullmatch(name)
    return match["patient"] if match else name
