"""The margin keeps harm rare, and patients are judged by what others taught."""

import json

import numpy as np
import pytest
import torch

from maskmend.calibration import Trial, calibrate, read_calibration
from maskmend.checkpoint import CALIBRATION
from maskmend.errors import InputError, RunError


def trials(*, noise, patients=30, seed=0):
    """A plain mask and another; one feature tells their Dice up to noise."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(patients):
        dice = rng.uniform(0.3, 0.9, size=2)
        features = np.column_stack([dice + noise * rng.normal(size=2), rng.normal(size=2)])
        made.append(Trial(f"patient{number}", features, dice))
    return made


def test_a_perfect_feature_needs_no_margin():
    calibration = calibrate(trials(noise=0), torch.zeros(3))
    assert calibration.correlation > 0.999
    assert calibration.margin < 0.03


def test_a_worse_feature_needs_a_larger_margin():
    few = calibrate(trials(noise=0.05, patients=200), torch.zeros(3))
    many = calibrate(trials(noise=0.2, patients=200), torch.zeros(3))
    assert 0.02 < few.margin < many.margin


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
def test_with_its_margin_new_patients_are_rarely_harmed(noise):
    calibration = calibrate(trials(noise=noise, patients=400), torch.zeros(3))
    gains = []
    for trial in trials(noise=noise, patients=1000, seed=1):
        predicted = calibration.quality.predict(trial.features)
        taken = int(predicted[1] - predicted[0] > calibration.margin)
        gains.append(trial.dice[taken] - trial.dice[0])
    assert np.mean(np.array(gains) < -0.01) < 0.03
    assert np.mean(gains) > 0.01


def test_a_patient_is_predicted_by_the_others():
    """Features that name the patient, and nothing else, predict nothing."""
    rng = np.random.default_rng(0)
    made = [
        Trial(f"patient{n}", np.tile(np.eye(20)[n], (2, 1)), rng.uniform(size=2)) for n in range(20)
    ]
    assert calibrate(made, torch.zeros(3)).correlation < 0.2


def test_it_survives_the_file(tmp_path):
    calibration = calibrate(trials(noise=0.1), torch.tensor([0.0, 1.0, 2.5]))
    (tmp_path / CALIBRATION).write_text(json.dumps(calibration.to_dict()))
    read = read_calibration(tmp_path)
    assert read is not None
    assert read.to_dict() == calibration.to_dict()
    features = trials(noise=0.1)[0].features
    np.testing.assert_array_equal(
        read.quality.predict(features), calibration.quality.predict(features)
    )


def test_no_file_is_no_calibration_and_a_damaged_one_is_named(tmp_path):
    assert read_calibration(tmp_path) is None
    (tmp_path / CALIBRATION).write_text('{"margin": 1}')
    with pytest.raises(RunError, match=r"calibration\.json: is damaged; remove it"):
        read_calibration(tmp_path)


def test_one_patient_is_too_few():
    with pytest.raises(InputError, match="two or more validation patients, but there are 1"):
        calibrate(trials(noise=0, patients=1), torch.zeros(3))
