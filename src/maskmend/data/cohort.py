"""What a data folder holds: which image goes with which mask and patient, whatever its layout.

Only names are looked at here; `volume.py` opens the files.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from maskmend.errors import ConfigError, InputError

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
    """"ED" (end-diastole) or "ES" (end-systole) where known."""


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


def find_cohort(root: Path, layout: str = "auto") -> Cohort:
    """Find all cases in a data folder.

    Args:
        root: The folder.
        layout: "acdc", "lvsc", "folder" (see the modules of these names), or "auto" for the first
            of acdc, folder, lvsc that fits.

    Returns:
        The cases by name. A first visit to an LVSC folder converts its DICOM images to NIfTI.

    Raises:
        ConfigError: There is no such layout.
        InputError: The folder is missing, fits no layout, or is inconsistent or unreadable.
    """
    from maskmend.data import acdc, folder, lvsc  # late: they are made of Case and Cohort

    layouts = {"acdc": acdc, "folder": folder, "lvsc": lvsc}
    if layout not in {"auto", *layouts}:
        raise ConfigError(f"layout: {layout!r} is unknown; choose auto, {', '.join(layouts)}")
    root = Path(root)
    candidates = layouts if layout == "auto" else {layout: layouts[layout]}
    try:
        if not root.is_dir():
            raise InputError(f"{root}: is no folder, expected one with images; check the path")
        for candidate in candidates.values():
            if candidate.fits(root):
                return candidate.load(root)
    except OSError as error:
        raise InputError(
            f"{error.filename or root}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    expected = ", or ".join(
        f"{candidate.EXPECTED} ({name})" for name, candidate in candidates.items()
    )
    raise InputError(f"{root}: no images found; expected {expected}; check the path or the layout")


def patient_of(name: str) -> str:
    """The patient that a case's name tells: "patient001_frame01" -> "patient001".

    A name without _frameNN at its end is a patient of its own.
    """
    match = _FRAME.fullmatch(name)
    return match["patient"] if match else name
