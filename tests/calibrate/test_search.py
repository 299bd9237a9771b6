"""That the guard that is found gains, and keeps to the limits."""

import numpy as np
import pytest

from maskmend.calibrate.search import FEW, HARM, WORST, best_guard
from maskmend.guard.choice import PLAIN
from maskmend.guard.quality import Judged


def judged(dice, doubt):
    return Judged(np.array(dice), np.array(doubt))


@pytest.mark.parametrize("harmless_below", [0.4, 0.6, 1.0])
def test_a_mask_is_outvoted_only_well_below_where_the_committee_did_harm(harmless_below):
    """It is far better where it is unlike the plain mask; next to nothing tells its Dice."""
    rng = np.random.default_rng(0)
    shared = rng.uniform(0.2, 1, 300)
    gain = np.where(shared < harmless_below, 0.2, rng.choice([-0.05, 0.06], 300))
    plain = rng.uniform(0.3, 0.7, 300)
    dice = np.column_stack([plain, plain, plain + gain])
    told = [judged([0.5, 0.5, 0.51], [0, 0.1, 10])] * 300
    guard = best_guard(dice, told, committee=2, shared=shared)
    assert guard.outvoted < harmless_below
    assert guard.outvoted == pytest.approx(min(0.6, 1 - 1.25 * (1 - harmless_below)), abs=0.02)
    taken = np.array([guard.choose(one, agreed) for one, agreed in zip(told, shared, strict=True)])
    assert (taken[shared < guard.outvoted] == 2).all()
    if harmless_below < 1:  # else any promise is enough, vote or not
        assert (taken[shared >= guard.outvoted] != 2).all()
    assert best_guard(dice, told).outvoted == 0


@pytest.mark.parametrize("advised", [None, 2])
def test_the_guard_that_is_found_keeps_to_the_limits(advised):
    """Every twentieth mask promises a gain and loses."""
    rng = np.random.default_rng(0)
    plain, gain = rng.uniform(0.3, 0.7, 400), rng.uniform(-0.2, 0.2, 400)
    odd = rng.random(400) < 0.05
    promised, gain = np.where(odd, 0.1, gain), np.where(odd, -0.02, gain)
    doubt = np.where(odd, 0.05, 0.005) * rng.uniform(0.5, 2, 400)
    dice = np.column_stack([plain, plain, plain + gain])
    told = [
        judged([p, p, p + g], [0, 0.01, d]) for p, g, d in zip(plain, promised, doubt, strict=True)
    ]
    guard = best_guard(dice, told, advised=advised)
    gains = np.array([d[guard.choose(one)] - d[PLAIN] for one, d in zip(told, dice, strict=True)])
    assert gains.mean() > 0.01
    assert np.mean(gains < -HARM) <= FEW
    assert gains.min() >= -WORST


def test_one_promise_that_is_badly_broken_does_not_rule_out_advice():
    """The masks that promise most gain, but for one, whatever caution is asked; advice is safe."""
    plain = np.linspace(0.1, 0.8, 100)
    gain = np.where(np.arange(100) == 20, -0.1, 0.3)
    dice = np.column_stack([plain, plain, plain + gain, plain + 0.02])
    told = [judged([p, p, p + 0.3, p + 0.02], [0, 0.01, 0.001, 0.001]) for p in plain]
    guard = best_guard(dice, told, advised=3)
    assert {guard.choose(one) for one in told} == {3}


@pytest.mark.parametrize(("means", "taken"), [([3], 3), ([], 2)])
def test_single_masks_are_not_taken_for_their_promise_where_there_are_means(means, taken):
    """A single mask gains 0.3 of every image, a mean of several 0.02."""
    plain = np.linspace(0.1, 0.6, 100)
    dice = np.column_stack([plain, plain, plain + 0.3, plain + 0.02])
    told = [judged(one, [0, 0.01, 0.001, 0.001]) for one in dice]
    guard = best_guard(dice, told, means=means)
    assert {guard.choose(one) for one in told} == {taken}


@pytest.mark.parametrize(("doubt", "enough"), [(0.03, False), (0.02, True)])
def test_a_promise_of_less_than_four_standard_errors_never_counts(doubt, enough):
    """However well these images kept it."""
    plain = np.linspace(0.1, 0.6, 100)
    dice = np.column_stack([plain, plain, plain + 0.1])
    told = [judged(one, [0, 0.01, doubt]) for one in dice]
    guard = best_guard(dice, told)
    assert {guard.choose(one) for one in told} == {2 if enough else PLAIN}


def test_what_the_images_own_statistics_would_lose_in_a_fitting_image_does_no_harm():
    """They gain 0.3 where the committee disagrees, and lose 0.1 where it agrees, promising both."""
    plain = np.linspace(0.1, 0.6, 100)
    shared = np.where(np.arange(100) % 2, 0.65, 0.9)
    dice = np.column_stack([plain, plain, plain + np.where(shared > 0.8, -0.1, 0.3)])
    told = [judged([p, p, p + 0.3], [0, 0.01, 0.001]) for p in plain]
    guard = best_guard(dice, told, means=[2], committee=2, shared=shared)
    taken = np.array([guard.choose(one, agreed) for one, agreed in zip(told, shared, strict=True)])
    assert (taken[shared > 0.8] != 2).all()
    assert np.mean(taken[shared < 0.8] == 2) > 0.9
