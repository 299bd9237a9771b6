"""The margin keeps harm rare, and patients are judged by what others taught."""

import dataclasses

import numpy as np
import pytest
import torch

from maskmend.calibrate.fit import calibrate, fit, judged_by_others
from maskmend.calibrate.trial import Trial
from maskmend.errors import InputError
from maskmend.guard.choice import PLAIN, STEADIED, Guard


def trials(*, odd, patients=200, seed=0):
    """A plain mask, the same steadied, and one that gains or loses up to 0.2.

    The first feature tells Dice but for a little noise. A share of the other masks is odd: their
    features are unlike all others, and what is told of them is wrong.
    """
    rng = np.random.default_rng(seed)
    made = []
    for number in range(patients):
        dice = np.full(3, rng.uniform(0.3, 0.7))
        dice[2] += rng.uniform(-0.2, 0.2)
        features = np.column_stack([dice + 0.01 * rng.normal(size=3), rng.normal(size=(3, 5))])
        if rng.random() < odd:
            dice[2] = dice[0] - 0.02
            features[2] = [dice[0] + 0.1, *(3 * rng.choice([-1, 1], 5))]
        made.append(Trial(f"patient{number}", features, dice))
    return made


def calibrated(made):
    return calibrate(made, judged_by_others(made), torch.zeros(3), 0.5)


def gains_of(guard, quality, *, odd):
    """On other patients."""
    new = trials(odd=odd, patients=1000, seed=1)
    taken = [guard.choose(quality.judge(one.features)) for one in new]
    return np.array([one.dice[n] - one.dice[0] for n, one in zip(taken, new, strict=True)])


def choose(calibration, trial):
    return calibration.guard.choose(calibration.quality.judge(trial.features))


def test_what_features_tell_is_gained_and_nobody_is_harmed():
    calibration = calibrated(trials(odd=0))
    assert calibration.correlation > 0.99
    gains = gains_of(calibration.guard, calibration.quality, odd=0)
    assert gains.mean() > 0.7 * 0.05  # half of the masks gain 0.1 on average
    assert np.mean(gains < -0.01) < 0.01


@pytest.mark.parametrize("odd", [0.05, 0.1])
def test_caution_spares_new_patients_what_is_odd(odd):
    calibration = calibrated(trials(odd=odd))
    gains = gains_of(calibration.guard, calibration.quality, odd=odd)
    assert np.mean(gains < -0.01) < 0.02
    assert gains.mean() > 0.2 * 0.05  # the price: without odd masks it is more than thrice that
    careless = Guard(gate=1, steady=2, caution=0)
    assert np.mean(gains_of(careless, calibration.quality, odd=odd) < -0.01) > 0.6 * odd


def test_of_guards_that_gain_nearly_the_same_the_most_cautious_is_found():
    """No mask is odd, and so none harmed: but one may come."""
    calibration = calibrated(trials(odd=0))
    guard, quality = calibration.guard, calibration.quality

    def gain(caution):
        return gains_of(dataclasses.replace(guard, caution=caution), quality, odd=0).mean()

    assert guard.caution > 1
    assert gain(guard.caution) > 0.95 * gain(0.0)
    assert gain(2 * guard.caution) < 0.97 * gain(guard.caution)


def test_advice_that_seldom_harms_is_trusted_more_than_others():
    """Another mask is as promising as the advised, and a gamble."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(100):
        plain = rng.uniform(0.4, 0.8)
        dice = plain + np.array([0, 0, rng.choice([-0.3, 0.4]), 0.05 + 0.01 * rng.normal()])
        features = np.column_stack([plain + np.array([0, 0, 0.05, 0.05]), [0, 0, 1, 1]])
        made.append(Trial(f"patient{number}", features, dice))
    found = calibrate(made, judged_by_others(made), torch.zeros(3), 0.5, advised=3)
    assert np.mean([choose(found, one) == 3 for one in made]) > 0.9
    alone = calibrated(made)
    assert all(choose(alone, one) in (PLAIN, STEADIED) for one in made)


def test_masks_that_steadying_harms_are_spared():
    """Good masks gain a little by it, poor ones lose much, and no other way is any better."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(200):
        plain = rng.uniform(0.3, 0.9)
        dice = np.array([plain, plain + (0.005 if plain > 0.6 else -0.05), plain])
        features = np.column_stack([[plain] * 3, [0, 1, 2]])
        made.append(Trial(f"patient{number}", features, dice))
    calibration = calibrated(made)
    assert 0.55 < calibration.guard.steady < 0.65
    taken = np.array([choose(calibration, one) for one in made])
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
        made.append(Trial(f"patient{number}", features, dice))
    calibration = calibrated(made)
    taken = [choose(calibration, one) for one in made]
    gains = np.array([one.dice[n] - one.dice[0] for n, one in zip(taken, made, strict=True)])
    assert gains.mean() > 0
    assert np.mean(gains < -0.01) <= 0.01


def test_where_nothing_helps_nothing_is_taken():
    """Every mask but the plain one is worse by far more than can be told."""
    rng = np.random.default_rng(0)
    made = [
        Trial(
            f"patient{number}",
            rng.normal(size=(3, 2)),
            np.array([0.6, 0.6 - 0.1, 0.6 + rng.choice([-0.3, 0.25])]),
        )
        for number in range(40)
    ]
    calibration = calibrated(made)
    assert all(choose(calibration, one) == 0 for one in made)


def test_a_patient_is_predicted_by_the_others():
    """Features that name the patient, and nothing else, predict nothing."""
    rng = np.random.default_rng(0)
    made = [
        Trial(
            f"patient{n}",
            np.tile(np.eye(20)[n], (2, 1)),
            rng.uniform(size=2),
        )
        for n in range(20)
    ]
    assert calibrated(made).correlation < 0.2


def test_one_patient_is_too_few():
    with pytest.raises(InputError, match="two or more validation patients, but there are 1"):
        fit(trials(odd=0, patients=1))
