"""The layouts that a data folder may have, and which of them one has."""

from pathlib import Path

from maskmend.data import acdc, folder, lvsc
from maskmend.data.cohort import Cohort
from maskmend.errors import ConfigError, InputError

LAYOUTS = {"acdc": acdc, "folder": folder, "lvsc": lvsc}
"""Modules with `fits`, `load` and `EXPECTED`, in the order in which they are tried."""


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
    if layout not in {"auto", *LAYOUTS}:
        raise ConfigError(f"layout: {layout!r} is unknown; choose auto, {', '.join(LAYOUTS)}")
    root = Path(root)
    candidates = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
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
