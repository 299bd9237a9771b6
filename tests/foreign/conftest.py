"""Procedural hearts for models that were not trained here; only read."""

import pytest

from maskmend.data.phantom import write_cohort


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=5, seed=0, size=32, spacing_mm=9.5)
    return root
