"""Folders of predictions to report on, made without a network."""

import pytest

from benchmarks.report import write_predictions
from maskmend.config import PreprocessConfig
from maskmend.data.phantom import write_cohort

NASTY = "<script>alert(1)\"'&amp;<b>--"
"""A file name that HTML, an attribute or a script might take for its own."""


@pytest.fixture(scope="session")
def hearts(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=3, seed=0, size=64, spacing_mm=4.7)
    return root


@pytest.fixture(scope="session")
def made(hearts, tmp_path_factory):
    """Masks of six images: two left alone, one flagged, one of them named badly, one failed."""
    out = tmp_path_factory.mktemp("report") / "masks <b>"
    images = sorted((hearts / "images").iterdir())
    names = [path.name.removesuffix(".nii.gz") for path in images]
    names[1] = NASTY
    write_predictions(
        zip(names, images, strict=True), out, PreprocessConfig(size=64, spacing_mm=4.7)
    )
    with (out / "predictions.csv").open("a") as table:
        table.write(
            "bad,failed,,,,,,/home/somebody/secret/bad.nii.gz: is truncated; copy it again\n"
        )
    return out
