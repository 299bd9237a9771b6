"""The layout of the ACDC data set, as it is downloaded.

Bernard et al., "Deep Learning Techniques for Automatic MRI Cardiac Multi-structures Segmentation
and Diagnosis: Is the Problem Solved?", IEEE TMI 2018. Labels: 0 background, 1 right ventricle,
2 left-ventricular myocardium, 3 left-ventricular cavity.

    [training/ or testing/] patient001/
        patient001_frame01.nii.gz       an image: one frame of the cine
        patient001_frame01_gt.nii.gz    its mask
        patient001_4d.nii.gz            the whole cine: not read
        Info.cfg                        which frame is end-diastole ("ED: 1"), which end-systole
"""

import re
from pathlib import Path

from maskmend.data.cohort import Case, Cohort
from maskmend.errors import InputError

EXPECTED = "patient001/patient001_frame01.nii.gz with its _gt.nii.gz"
"""The files that make a folder an ACDC folder, for error messages."""

_PATIENT = re.compile(r"patient\d+")
_FRAME = re.compile(r"(?P<name>(?P<patient>.+)_frame(?P<frame>\d+))(?P<mask>_gt)?\.nii(\.gz)?")
_PHASE = re.compile(r"^\s*(ED|ES)\s*:\s*(\d+)\s*$", re.MULTILINE)


def fits(root: Path) -> bool:
    """Whether the folder, or a training or testing folder in it, holds patientNNN folders."""
    return bool(_patient_folders(root))


def load(root: Path) -> Cohort:
    """Find the images and masks of all patients.

    Args:
        root: The folder of the patientNNN folders, or its parent with `training` or `testing`.

    Returns:
        The frames; without its mask a frame is unlabelled, without its image an unpaired mask.
        A frame's phase is "" where Info.cfg is missing or does not name the frame.

    Raises:
        InputError: A patient's folder has no frame, or one frame in two files.
        OSError: A folder or an Info.cfg cannot be read.
    """
    cases = [case for patient in _patient_folders(root) for case in _cases_of(patient)]
    cases.sort(key=lambda case: case.name)
    return Cohort(
        layout="acdc",
        root=root,
        cases=tuple(case for case in cases if case.image and case.mask),
        unlabelled=tuple(case for case in cases if not case.mask),
        unpaired_masks=tuple(case for case in cases if not case.image),
    )


def _patient_folders(root: Path) -> list[Path]:
    parents = [parent for parent in (root, root / "training", root / "testing") if parent.is_dir()]
    return [
        folder
        for parent in parents
        for folder in parent.iterdir()
        if _PATIENT.fullmatch(folder.name) and folder.is_dir()
    ]


def _cases_of(folder: Path) -> list[Case]:
    frames: dict[str, int] = {}
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _FRAME.fullmatch(path.name)
        # A file of another patient in here would be split with the wrong one, hence not taken.
        if match and match["patient"] == folder.name and path.is_file():
            files = masks if match["mask"] else images
            if other := files.get(match["name"]):
                raise InputError(
                    f"{path}: is the same frame as {other.name}, expected one file; remove one"
                )
            frames[match["name"]] = int(match["frame"])
            files[match["name"]] = path
    if not frames:
        raise InputError(
            f"{folder}: holds no frame, expected {folder.name}_frame01.nii.gz or the like; "
            "download this patient again or remove the folder"
        )
    phases = _phases(folder / "Info.cfg")
    return [
        Case(
            name=name,
            patient=folder.name,
            image=images.get(name),
            mask=masks.get(name),
            phase=phases.get(frame, ""),
        )
        for name, frame in frames.items()
    ]


def _phases(info: Path) -> dict[int, str]:
    """Frame number -> phase."""
    # What Info.cfg says is of use but not needed; odd content counts as none.
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    return {int(frame): phase for phase, frame in _PHASE.findall(text)}
