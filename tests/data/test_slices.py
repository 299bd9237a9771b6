"""Who is trained on."""

import dataclasses

from maskmend.data.layouts import find_cohort
from maskmend.data.phantom import write_cohort
from maskmend.data.slices import split_of
from tests.tiny import tiny


def test_a_discriminator_of_few_peoples_masks(tmp_path):
    write_cohort(tmp_path, patients=10, seed=0, size=16, spacing_mm=20)
    cohort, config = find_cohort(tmp_path), tiny()
    everybody = split_of(cohort, config)
    data = dataclasses.replace(config.data, mask_patients=1)
    few = split_of(cohort, dataclasses.replace(config, data=data))
    assert len(everybody.train_unpaired_masks) > 1
    assert few.train_unpaired_masks == everybody.train_unpaired_masks[:1]
    assert few.train_annotated == everybody.train_annotated
