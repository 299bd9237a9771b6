"""The masks of DICOM series once more, as DICOM segmentations beside them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from maskmend.data.dicom import read_series
from maskmend.data.dicom_seg import check_packages, write_segmentation
from maskmend.data.source import name_of
from maskmend.data.volume import read_mask
from maskmend.errors import ConfigError, InputError
from maskmend.files import mask_file, segmentation_file


def check_series(images: Iterable[Path]) -> None:
    """Raises ConfigError if a segmentation cannot be written of every image."""
    check_packages()
    for image in images:
        if not image.is_dir():
            raise ConfigError(
                f"{image}: is no folder of a DICOM series, of which alone --dicom-seg writes a"
                " segmentation; leave the option out"
            )


def write_segmentations(
    images: Sequence[Path],
    out: Path,
    structures: Mapping[int, str],
    advance: Callable[[], None] = lambda: None,
) -> list[str]:
    """Write NAME_mask.dcm of every series that has a mask; those that are there stay.

    Args:
        images: Folders of one DICOM series each.
        out: Folder of their masks, as `predict_files` fills it.
        structures: Label -> name.
        advance: Called after every image.

    Returns:
        A line for each that cannot be written.
    """
    failures = []
    for image in images:
        mask, file = (of(out, name_of(image)) for of in (mask_file, segmentation_file))
        if mask.exists() and not file.exists():
            try:
                volume = read_series(image)
                labels = read_mask(mask, like=volume).voxels
                write_segmentation(file, labels, volume, structures)
            except InputError as error:
                failures.append(str(error))
        advance()
    return failures
