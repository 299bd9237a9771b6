import numpy as np
import pytest
from scipy import stats

from maskmend.evaluate.statistics import Harm, Spread, compare, harm


def test_numbers_counted_by_hand():
    change = compare([0.5, 0.7], [0.6, 0.9])
    assert (change.n, change.patients) == (2, 2)
    assert change.before.mean == pytest.approx(0.6)
    assert change.before.sd == pytest.approx(np.sqrt(0.02))
    assert change.after.mean == pytest.approx(0.75)
    assert change.gain == pytest.approx(0.15)
    assert change.gain_ci95 == pytest.approx((0.1, 0.2))
    # Of the four ways to sign two differences, two are as one-sided as this one.
    assert change.p_value == pytest.approx(0.5)


def test_smallest_p_of_six_gains_is_two_in_sixty_four():
    before = np.arange(6) / 10
    assert compare(before, before + np.arange(1, 7) / 100).p_value == 2 / 64


def test_no_difference_at_all():
    change = compare([0.3, 0.8, 0.9], [0.3, 0.8, 0.9])
    assert (change.gain, change.p_value, change.gain_ci95) == (0, 1, (0, 0))


def test_zero_differences_are_left_out_of_the_test():
    before, after = np.zeros(9), np.array([0, 0, 0, 1, 2, 3, 4, 5, -6.0])
    assert compare(before, after).p_value == stats.wilcoxon(after[3:]).pvalue


def test_one_patient_has_no_interval():
    change = compare([0.3, 0.4], [0.5, 0.7], patients=["a", "a"])
    assert (change.n, change.patients, change.gain_ci95) == (2, 1, None)
    assert change.p_value == 1
    assert compare([0.3], [0.5]).before == Spread(mean=0.3, sd=0)


def test_images_of_one_patient_are_no_independent_evidence():
    rng = np.random.default_rng(0)
    before, gains = rng.random(8), rng.normal(0.02, 0.02, 8)
    once = compare(before, before + gains)
    copied = compare(
        np.repeat(before, 5), np.repeat(before + gains, 5), patients=np.repeat(range(8), 5).tolist()
    )
    assert (copied.n, copied.patients) == (40, 8)
    assert copied.p_value == once.p_value
    assert copied.gain_ci95 == pytest.approx(once.gain_ci95)


def test_interval_is_seeded_and_close_to_the_normal_one():
    rng = np.random.default_rng(1)
    before = rng.random(200)
    after = before + rng.normal(0.01, 0.05, 200)
    change = compare(before, after)
    assert compare(before, after) == change
    assert compare(before, after, seed=1).gain_ci95 != change.gain_ci95
    error = (after - before).std(ddof=1) / np.sqrt(200)
    expected = (change.gain - 1.96 * error, change.gain + 1.96 * error)
    assert change.gain_ci95 == pytest.approx(expected, abs=0.1 * error)


def test_harm_counts_losses_over_one_point():
    before = np.array([0.8, 0.8, 0.8, 0.8])
    assert harm(before, before - [0.0, 0.009, 0.011, 0.3]) == Harm(
        count=2, share=0.5, worst_loss=pytest.approx(0.3)
    )
    assert harm(before, before + 0.1) == Harm(count=0, share=0.0, worst_loss=0.0)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([0.1, 0.2], [0.1], "pairs"),
        ([], [], "at least one"),
        ([0.1], [float("nan")], "after .* finite"),
    ],
)
def test_what_cannot_be_compared(before, after, message):
    with pytest.raises(ValueError, match=message):
        compare(before, after)
    with pytest.raises(ValueError, match=message):
        harm(before, after)


def test_patients_must_fit():
    with pytest.raises(ValueError, match="2 images, got 1"):
        compare([0.1, 0.2], [0.1, 0.3], patients=["a"])
