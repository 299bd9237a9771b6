"""Which cases of a cohort a split gives to which use."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from maskmend.data.cohort import Case, Cohort
from maskmend.data.split import Split


@dataclass(frozen=True, kw_only=True)
class Uses:
    """Cases by use (section 3.2 of the paper)."""

    annotated: Sequence[Case]
    """Images with their masks."""

    images: Sequence[Case]
    """Images whose masks are withheld or missing."""

    masks: Sequence[Case]
    """Masks that are never beside their image."""

    validation: Sequence[Case]
    """Images with their masks, never trained on."""


def uses_of(cohort: Cohort, split: Split) -> Uses:
    """The cases of each use; nothing of a test patient is among them.

    Images and masks that came alone serve training, but for those of patients who are validated or
    tested on: other frames of their hearts would leak the answer.
    """
    held_out = {*split.validation, *split.test}

    def alone(cases: Iterable[Case]) -> list[Case]:
        return [case for case in cases if case.patient not in held_out]

    def of(patients: Iterable[str]) -> list[Case]:
        wanted = set(patients)
        return [case for case in cohort.cases if case.patient in wanted]

    return Uses(
        annotated=of(split.train_annotated),
        images=[*of(split.train_unpaired_images), *alone(cohort.unlabelled)],
        masks=[*of(split.train_unpaired_masks), *alone(cohort.unpaired_masks)],
        validation=of(split.validation),
    )
