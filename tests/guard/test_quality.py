"""What is measured of masks, by hand; and a regression that finds what it was made from."""

import numpy as np
import pytest
import torch

from maskmend.components import largest_pieces
from maskmend.guard.quality import agreements, describe, fit_quality, look


def square(*, at=2, side=4, slices=3, label=1):
    labels = torch.zeros(slices, 12, 12, dtype=torch.uint8)
    labels[:, at : at + side, at : at + side] = label
    return labels


def probabilities(labels, confidence=1.0, classes=3):
    one_hot = torch.nn.functional.one_hot(labels.long(), classes).movedim(-1, 1).float()
    return confidence * one_hot + (1 - confidence) / classes


def test_agreements_are_dice_by_hand():
    a, b = square(at=2), square(at=4)  # 4 of 16 pixels in common
    empty = torch.zeros_like(a)
    found = agreements([a, b, empty], 3)
    # Structure 2 is in none of them: all agree on that.
    np.testing.assert_allclose(found[0, 1], (0.25 + 1) / 2)
    np.testing.assert_allclose(found[0, 2], (0 + 1) / 2)
    np.testing.assert_allclose(np.diag(found), 1)
    np.testing.assert_allclose(found, found.T)


def test_only_the_largest_piece_of_a_structure_is_kept():
    labels = square(at=1, side=5)
    labels[:, 9:11, 9:11] = 1
    labels[0, 11, 0] = 2
    kept = largest_pieces(labels)
    assert torch.equal(kept == 1, square(at=1, side=5) == 1)
    assert kept[0, 11, 0] == 2


def test_a_look_by_hand():
    labels = square(slices=2)
    labels[1] = 0
    alone = look(probabilities(labels), torch.tensor([0.5, -0.5])).alone
    mean, least, by_area, entropy, filled, log_area, continuity, pieces, classes, *shares = alone
    assert (mean, least, by_area) == pytest.approx((0, -0.5, 0.5))
    assert entropy == pytest.approx(0, abs=1e-3)
    assert (filled, log_area) == pytest.approx((0.5, np.log1p(8)))
    assert (continuity, pieces, classes) == pytest.approx((0, 1, 2))
    assert shares == pytest.approx([1, 0])


def test_an_unsure_mask_has_more_entropy():
    sure, unsure = (
        look(probabilities(square(), confidence), torch.zeros(3)).alone[3]
        for confidence in (1.0, 0.5)
    )
    assert unsure > sure + 0.3


def test_an_empty_mask_is_described_without_nan():
    looks = [look(probabilities(torch.zeros_like(square())), torch.zeros(3))] * 2
    assert np.isfinite(describe(looks, 3, company=2)).all()


def test_a_description_tells_company_difference_and_way():
    masks = [square(), square(), square(at=7)]
    looks = [look(probabilities(one), torch.zeros(3)) for one in masks]
    features = describe(looks, 3, company=3)
    own = (features.shape[1] - 4) // 2
    np.testing.assert_array_equal(features[:, -4:], np.eye(3, 4))
    np.testing.assert_allclose(features[0, own : 2 * own], 0)
    agreement = features[:, own - 4]
    assert agreement[0] == agreement[1] > agreement[2]
    with_plain = features[:, own - 1]
    np.testing.assert_allclose(with_plain[:2], 1, atol=1e-6)
    assert with_plain[2] < 0.7


def test_one_that_follows_the_company_changes_nothing_of_the_others():
    looks = [look(probabilities(square(at=at)), torch.zeros(3)) for at in (2, 3, 7, 4)]
    without, followed = (describe(looks[:n], 3, company=3) for n in (3, 4))
    np.testing.assert_array_equal(followed[:3], without)
    assert followed[3, -1] == 1


def test_the_regression_finds_a_linear_truth_and_predicts_within_bounds():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 5))
    dice = (0.6 + features @ [0.05, 0, -0.1, 0, 0.02]).clip(0, 1)
    quality = fit_quality(features, dice, ridge=1e-3)
    assert np.abs(quality.judge(features).dice - dice).mean() < 0.01
    assert quality.judge(features * 1000).dice.max() <= 1
    assert quality.judge(features * 1000).dice.min() >= 0


def test_doubt_is_the_standard_error_of_the_promised_gain():
    """Over many draws of the noise, the predicted gain varies by what is said."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 4))
    asked = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0], [0, 1, -1, 2]], dtype=float)
    judged = []
    for _ in range(400):
        dice = 0.5 + features @ [0.05, 0, -0.05, 0] + 0.02 * rng.normal(size=60)
        judged.append(fit_quality(features, dice, ridge=1e-6).judge(asked))
    gains = np.array([one.dice - one.dice[0] for one in judged])
    told = np.mean([one.doubt for one in judged], axis=0)
    assert told[0] == 0
    np.testing.assert_allclose(told[1:], gains.std(0)[1:], rtol=0.15)


def test_what_was_never_seen_is_doubted():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 2)) * [1, 0.01]
    quality = fit_quality(features, 0.5 + 0.1 * features[:, 0])
    _, usual, odd = quality.judge(np.array([[0, 0], [1, 0.01], [1, 0.04]])).doubt
    assert odd > 2 * usual


def test_far_extrapolation_is_cut():
    features = np.random.default_rng(0).normal(size=(100, 1))
    quality = fit_quality(features, 0.5 + 0.01 * features[:, 0])
    assert quality.judge(np.array([[1e9]])).dice == pytest.approx(
        quality.judge(np.array([[4.5]])).dice
    )
