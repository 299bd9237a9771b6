"""Whose images and masks serve which use."""

import dataclasses

import pytest

from maskmend.data.cohort import Case
from maskmend.data.layouts import find_cohort
from maskmend.data.phantom import write_cohort
from maskmend.data.slices import count_reads, load_training_data, split_of
from maskmend.data.uses import uses_of
from tests.tiny import tiny


@pytest.fixture
def cohort(tmp_path):
    """Of every patient an image and a mask came alone as well."""
    write_cohort(tmp_path, patients=10, seed=0, size=16, spacing_mm=20)
    found = find_cohort(tmp_path)
    first = {case.patient: case for case in found.cases}.values()
    return dataclasses.replace(
        found,
        unlabelled=tuple(
            dataclasses.replace(case, name=f"{case.name}_image", mask=None) for case in first
        ),
        unpaired_masks=tuple(
            dataclasses.replace(case, name=f"{case.name}_mask", image=None) for case in first
        ),
    )


def _patients(cases: list[Case]) -> set[str]:
    return {case.patient for case in cases}


def test_nothing_of_a_held_out_patient_is_trained_on(cohort):
    split = split_of(cohort, tiny())
    uses = uses_of(cohort, split)
    training = {*split.train_annotated, *split.train_unpaired_images}
    assert _patients(uses.images) == _patients(uses.masks) == training
    assert _patients([c for c in uses.images if c.mask]) == {*split.train_unpaired_images}
    assert _patients([c for c in uses.masks if c.image]) == {*split.train_unpaired_masks}
    assert _patients(uses.annotated) == {*split.train_annotated}
    assert _patients(uses.validation) == {*split.validation}


def test_as_many_files_are_read_as_a_progress_bar_is_told(cohort):
    read = []
    config = tiny()
    split = split_of(cohort, config)
    data = load_training_data(cohort, split, config, lambda: read.append(1))
    assert len(read) == count_reads(cohort, split)
    alone = sum(case.patient in split.train_unpaired_images for case in cohort.cases)
    assert len(data.unpaired_images) > alone  # slices; with those that came alone


def test_a_patient_who_has_no_annotated_image_at_all_is_trained_on(cohort):
    case = dataclasses.replace(cohort.unlabelled[0], name="stranger", patient="stranger")
    more = dataclasses.replace(cohort, unlabelled=(*cohort.unlabelled, case))
    assert case in uses_of(more, split_of(more, tiny())).images
