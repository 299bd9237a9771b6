"""Mending patients one after another, and what must be there before the first."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from torch import nn

from maskmend.errors import ConfigError
from maskmend.guard.calibration import Calibration
from maskmend.guard.mend import Mender
from maskmend.instance import Adapted

Image = TypeVar("Image")


def is_calibrated(calibration: Calibration | None, who: str, remedy: str) -> Calibration:
    """A calibration, if there is one.

    Args:
        calibration: Of a segmentor.
        who: It, for people.
        remedy: How it is calibrated.

    Raises:
        ConfigError: There is none.
    """
    if calibration is None:
        raise ConfigError(f"method: {who} is not calibrated; {remedy}, or choose --method paper")
    return calibration


def check_figures(mender: Mender, calibration: Calibration, who: str, remedy: str) -> None:
    """Raises ConfigError if a mender makes other masks than a calibration knows."""
    if mender.figures != len(calibration.quality.centre):
        raise ConfigError(
            f"method: {who} was calibrated with other masks than this version makes; {remedy}"
            " again, or choose --method paper"
        )


def mend_patients(
    mend: Callable[[Image, nn.Module | None], Adapted],
    patients: Iterable[Sequence[Image]],
    *,
    continual: bool,
) -> Iterator[tuple[int, list[Adapted]]]:
    """Mend the images of patients, each image an instance of its own.

    Args:
        mend: Mends one, given what was tuned on the last of a stream.
        patients: Their images, drawn one after another.
        continual: Whether they are a stream.

    Yields:
        Number of a patient, from 0, and what became of the images.
    """
    carried: nn.Module | None = None
    for number, prepared in enumerate(patients):
        made = []
        for one in prepared:
            made.append(mend(one, carried))
            carried = (made[-1].adaptor or carried) if continual else None
        yield number, made
