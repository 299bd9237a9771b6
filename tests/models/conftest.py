"""Images of one procedural heart, and a prior that fits them."""

import pytest

from maskmend.data.phantom import write_cohort
from tests.models.given import write_prior


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=1, seed=0, size=36, spacing_mm=8.5)
    return sorted((root / "images").iterdir())


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return write_prior(tmp_path_factory.mktemp("prior"))
