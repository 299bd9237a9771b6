"""The margin keeps harm rare, and patients are judged by what others taught."""

import json

import numpy as np
import pytest
import torch

from maskmend.checkpoint import CALIBRATION
from maskmend.errors import InputError, RunError
from maskmend.guard.calibration import (
    NEVER,
    PLAIN,
    STEADIED,
    Guard,
    Trial,
    calibrate,
    fit,
    read_calibration,
)
from maskmend.guard.quality import Described


def trials(*, noise, patients=30, seed=0):
    """A plain mask, twice, and two others, the last much like it; a feature tells Dice up to noise.

    The noise is smaller where masks differ less.
    """
    rng = np.random.default_rng(seed)
    made = []
    for number in range(patients):
        dice = np.full(4, rng.uniform(0.3, 0.9))
        change = np.array([0, 0, rng.uniform(0.05, 0.3), 0.02])
        dice[2] = (dice[0] + change[2] * rng.uniform(-1, 1)).clip(0, 1)
        dice[3] = dice[0] + change[3] * rng.uniform(-0.5, 1)
        told = dice + noise * change * rng.normal(size=4)
        features = np.column_stack([told, rng.normal(size=4)])
        made.append(Trial(f"patient{number}", Described(features, change), dice))
    return made


def calibrated(made):
    return calibrate(made, torch.zeros(3), 0.5)


def test_a_perfect_feature_needs_little_caution():
    calibration = calibrated(trials(noise=0))
    assert calibration.correlation > 0.999
    assert calibration.guard.caution < 0.05
    assert calibration.guard.gate > 0.85


def test_a_worse_feature_needs_more_caution():
    few = calibrated(trials(noise=0.2, patients=400))
    many = calibrated(trials(noise=0.6, patients=400))
    assert 0.02 < few.guard.caution < many.guard.caution


@pytest.mark.parametrize("noise", [0.2, 0.4, 0.6])
def test_with_its_caution_new_patients_are_rarely_harmed(noise):
    calibration = calibrated(trials(noise=noise, patients=400))
    gains = []
    for trial in trials(noise=noise, patients=1000, seed=1):
        taken = calibration.choose(trial.described)
        gains.append(trial.dice[taken] - trial.dice[0])
    assert np.mean(np.array(gains) < -0.01) < 0.03
    assert np.mean(gains) > 0.008


def test_a_small_change_may_promise_little():
    predicted, change = np.array([0.7, 0.7, 0.72, 0.71]), np.array([0, 0, 0.3, 0.02])
    assert Guard(gate=1, steady=1, caution=0.0).choose(predicted, change) == 2
    assert Guard(gate=1, steady=1, caution=0.2).choose(predicted, change) == 3
    assert Guard(gate=1, steady=1, caution=0.6).choose(predicted, change) == PLAIN


def test_a_mask_above_the_gate_stays():
    predicted, change = np.array([0.7, 0.7, 0.9]), np.array([0, 0.01, 0.3])
    assert Guard(gate=0.71, steady=1, caution=0.0).choose(predicted, change) == 2
    assert Guard(gate=0.7, steady=1, caution=0.0).choose(predicted, change) == PLAIN
    assert NEVER.choose(predicted, change) == PLAIN


def test_what_is_good_enough_is_steadied_where_nothing_else_is_taken():
    predicted, change = np.array([0.7, 0.7, 0.9]), np.array([0, 0.01, 0.3])
    assert Guard(gate=0.7, steady=0.7, caution=0.0).choose(predicted, change) == STEADIED
    assert Guard(gate=0.7, steady=0.71, caution=0.0).choose(predicted, change) == PLAIN
    assert Guard(gate=1, steady=0.7, caution=0.0).choose(predicted, change) == 2
    assert Guard(gate=1, steady=0.7, caution=9.0).choose(predicted, change) == STEADIED


def test_masks_that_steadying_harms_are_spared():
    """Good masks gain a little by it, poor ones lose much, and no other way is any better."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(200):
        plain = rng.uniform(0.3, 0.9)
        dice = np.array([plain, plain + (0.005 if plain > 0.6 else -0.05), plain])
        features = np.column_stack([[plain] * 3, [0, 1, 2]])
        change = np.array([0, 0.02, 0.5])
        made.append(Trial(f"patient{number}", Described(features, change), dice))
    calibration = calibrated(made)
    assert 0.55 < calibration.guard.steady < 0.65
    taken = np.array([calibration.choose(one.described) for one in made])
    good = np.array([one.dice[0] > 0.65 for one in made])
    assert (taken[good] == STEADIED).all()


def test_good_masks_that_would_be_harmed_are_spared_by_the_gate():
    """Poor masks gain, good ones lose, and what is promised is the same."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(200):
        plain = rng.uniform(0.3, 0.9)
        dice = np.array([plain, plain, plain + (0.3 if plain < 0.6 else -0.05)])
        features = np.column_stack([[plain] * 3, [0, 0, 1]])
        made.append(Trial(f"patient{number}", Described(features, np.array([0, 0, 0.2])), dice))
    calibration = calibrated(made)
    taken = [calibration.choose(one.described) for one in made]
    gains = np.array([one.dice[n] - one.dice[0] for n, one in zip(taken, made, strict=True)])
    assert gains.mean() > 0
    assert np.mean(gains < -0.01) <= 0.01


def test_where_nothing_helps_nothing_is_taken():
    """Every mask but the plain one is worse by far more than can be told."""
    rng = np.random.default_rng(0)
    made = [
        Trial(
            f"patient{number}",
            Described(rng.normal(size=(3, 2)), np.array([0, 0.1, 0.5])),
            np.array([0.6, 0.6 - 0.1, 0.6 + rng.choice([-0.3, 0.25])]),
        )
        for number in range(40)
    ]
    calibration = calibrated(made)
    assert all(calibration.choose(one.described) == 0 for one in made)


def test_a_patient_is_predicted_by_the_others():
    """Features that name the patient, and nothing else, predict nothing."""
    rng = np.random.default_rng(0)
    made = [
        Trial(
            f"patient{n}",
            Described(np.tile(np.eye(20)[n], (2, 1)), np.array([0, 0.1])),
            rng.uniform(size=2),
        )
        for n in range(20)
    ]
    assert calibrated(made).correlation < 0.2


def test_it_survives_the_file(tmp_path):
    made = trials(noise=0.1)
    calibration = calibrate(made, torch.tensor([0.0, 1.0, 2.5]), 0.5)
    (tmp_path / CALIBRATION).write_text(json.dumps(calibration.to_dict()))
    read = read_calibration(tmp_path)
    assert read is not None
    assert read.to_dict() == calibration.to_dict()
    features = made[0].described.features
    np.testing.assert_array_equal(
        read.quality.predict(features), calibration.quality.predict(features)
    )


def test_no_file_is_no_calibration_and_a_damaged_one_is_named(tmp_path):
    assert read_calibration(tmp_path) is None
    (tmp_path / CALIBRATION).write_text('{"caution": 1}')
    with pytest.raises(RunError, match=r"calibration\.json: is damaged; remove it"):
        read_calibration(tmp_path)


def test_one_patient_is_too_few():
    with pytest.raises(InputError, match="two or more validation patients, but there are 1"):
        fit(trials(noise=0, patients=1))
