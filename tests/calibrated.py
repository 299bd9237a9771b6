"""Fixtures: a run with random weights, calibrated; for the guard's tests and the calibration's."""

import shutil

import pytest
from rich.console import Console

from maskmend.calibrate.run import calibrate_run
from tests.tiny import GUARDED, write_run


@pytest.fixture(scope="session")
def untried(hearts, tmp_path_factory):
    """A run with random weights that has not been calibrated; only read."""
    return write_run(tmp_path_factory.mktemp("untried"), GUARDED, hearts)


@pytest.fixture(scope="module")
def run(hearts, tmp_path_factory, untried):
    """It calibrated, with two students."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(untried, folder)
    calibrate_run(folder, hearts, draws=1, device="cpu", console=Console(quiet=True))
    return folder
