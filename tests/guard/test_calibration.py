"""How a run keeps what it knows of its own mistakes."""

import json

import numpy as np
import pytest
import torch

from maskmend.checkpoint import CALIBRATION
from maskmend.errors import RunError
from maskmend.guard.calibration import Calibration, read_calibration
from maskmend.guard.choice import Guard
from maskmend.guard.quality import fit_quality


def test_it_survives_the_file(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 5))
    calibration = Calibration(
        quantiles=torch.tensor([0.0, 1.0, 2.5]),
        realistic=0.5,
        quality=fit_quality(features, rng.uniform(size=30)),
        guard=Guard(gate=0.8, steady=0.4, caution=5.7, trusted=[2], committee=3, outvoted=0.6),
        correlation=0.9,
    )
    (tmp_path / CALIBRATION).write_text(json.dumps(calibration.to_dict()))
    read = read_calibration(tmp_path)
    assert read is not None
    assert torch.equal(read.quantiles, calibration.quantiles)
    assert read.to_dict() == calibration.to_dict()
    assert read.guard == calibration.guard
    ours, theirs = (c.quality.judge(features[:4]) for c in (calibration, read))
    np.testing.assert_array_equal(ours.dice, theirs.dice)
    np.testing.assert_array_equal(ours.doubt, theirs.doubt)
    assert ours.doubt[1:].all()


def test_no_file_is_no_calibration_and_one_that_cannot_be_read_is_named(tmp_path):
    assert read_calibration(tmp_path) is None
    (tmp_path / CALIBRATION).write_text('{"quantiles": [')
    with pytest.raises(RunError, match=r"calibration\.json: is damaged; remove it"):
        read_calibration(tmp_path)
    (tmp_path / CALIBRATION).write_text('{"quantiles": []}')
    with pytest.raises(RunError, match="is of another version, without 'realistic'; remove it"):
        read_calibration(tmp_path)
