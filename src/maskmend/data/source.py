"""An image by its path: a NIfTI file, or the folder of a DICOM series.

Paths of folders may tell who a patient is, hence whoever speaks of an image asks here how.
"""

import re
from pathlib import Path

from maskmend.data.volume import Volume, read_image


def read_source(path: Path) -> Volume:
    """Read an image; raises InputError if it cannot be used (see `read_image`, `read_series`)."""
    if _is_folder(path):
        from maskmend.data.dicom import read_series

        return read_series(path)
    return read_image(path)


def name_of(path: Path) -> str:
    """What an image is called: its mask is NAME_mask.nii.gz.

    The name of its file or series, without .nii or .nii.gz in letters of any case.
    """
    return re.sub(r"\.nii(\.gz)?$", "", shown(path).name, flags=re.IGNORECASE)


def shown(path: Path) -> Path:
    """The path as it may be shown: the patient's name is left out of that of a series."""
    if _is_folder(path):
        from maskmend.data.dicom import shown_series

        return shown_series(path)
    return path


def modified_ns(path: Path) -> int:
    """When an image, or any file of a series, was last changed; 0 if one cannot be seen."""
    try:
        files = [path, *path.iterdir()] if path.is_dir() else [path]
        return max(file.stat().st_mtime_ns for file in files)
    except OSError:
        return 0


def _is_folder(path: Path) -> bool:
    """Whether it is one that can be seen; `Path.is_dir` raises where nobody may look."""
    try:
        return path.is_dir()
    except OSError:
        return False
