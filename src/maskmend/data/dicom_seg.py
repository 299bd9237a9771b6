"""A mask as a DICOM segmentation (SEG), which viewers and archives lay over its series.

It belongs to the patient's study and says so: unlike everything else that Maskmend writes, it holds
the name, number and dates of the patient, taken from the series. Its file name does not.

Writing it needs more packages: pip install "maskmend[dicom]".
"""

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from maskmend.data.stack import quiet
from maskmend.data.volume import Volume, appearing_whole
from maskmend.errors import ConfigError, InputError

_KNOWN = {"RV": "RightVentricle", "LV": "LeftVentricle", "MYO": "LeftVentricleMyocardium"}
"""Structures that SNOMED CT has a code for, by our names; the others get a private one."""


def check_packages() -> None:
    """Raises ConfigError if a segmentation cannot be written."""
    if find_spec("highdicom") is None:
        raise ConfigError('dicom-seg: needs highdicom; run: pip install "maskmend[dicom]"')


def write_segmentation(
    path: Path, labels: np.ndarray, like: Volume, structures: Mapping[int, str]
) -> None:
    """Write labels as a binary DICOM segmentation with a segment for each structure.

    The file appears whole or not at all.

    Args:
        path: The file to write or replace.
        labels: Integers [x, y, z] of the shape of `like.voxels`.
        like: The image, read from a DICOM series.
        structures: Label -> name.

    Raises:
        InputError: The file cannot be written, or the series has no usable headers.
    """
    import highdicom as hd
    import pydicom

    segments = np.zeros(labels.shape, np.uint8)
    for number, label in enumerate(sorted(structures), start=1):
        segments[labels == label] = number
    try:
        with quiet(), appearing_whole(path) as temporary:
            headers = [pydicom.dcmread(one, stop_before_pixels=True) for one in like.sources]
            segmentation = hd.seg.Segmentation(
                source_images=headers,
                pixel_array=segments.transpose(2, 1, 0),  # frame, row, column
                segmentation_type="BINARY",
                segment_descriptions=[
                    _describe(number, structures[label])
                    for number, label in enumerate(sorted(structures), start=1)
                ],
                series_instance_uid=hd.UID(),
                series_number=1,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="Maskmend",
                manufacturer_model_name="Maskmend",
                software_versions=version("maskmend"),
                device_serial_number="0",
                series_description="Maskmend, not for clinical use",
            )
            segmentation.save_as(temporary)
    except InputError:
        raise
    except Exception:  # whatever lacking headers make of highdicom; its message may quote them
        raise InputError(
            f"{path}: cannot be written, the headers of the series lack what a segmentation must"
            " repeat; predict without --dicom-seg"
        ) from None


def _describe(number: int, structure: str) -> Any:
    """A `highdicom.seg.SegmentDescription`."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    known = _KNOWN.get(structure)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=getattr(codes.SCT, known)
        if known
        else hd.sr.CodedConcept(f"structure-{number}", "99MASKMEND", structure),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="Maskmend",
            version=version("maskmend"),
            family=codes.DCM.ArtificialIntelligence,
        ),
    )
