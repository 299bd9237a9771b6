"""A discriminator that is fitted after the fact: what it is shown, and what it learns."""

import numpy as np
import pytest
import torch
from torch import nn

import maskmend as mm
from maskmend.anchors import corrupt, draw_corruption
from maskmend.config import AnchorConfig, DegradationConfig
from maskmend.foreign.fitting import degraded
from maskmend.outputs import Probabilities
from tests.test_training import squares

SMALL = {
    "discriminator": {"widths": [4, 8], "strides": [2, 2]},
    "fitting": {"iterations": 2, "batch": 2},
}
PAIRS = squares((20,), seed=1)


class Thresholds(nn.Module):
    """Finds the nested squares by their brightness; `shift` makes it fail."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, images):
        levels = torch.arange(4.0).view(1, 4, 1, 1)
        return -20 * (images - self.shift - levels).square()


def one_hot(labels):
    return nn.functional.one_hot(labels.long(), 4).movedim(-1, 1).float()


@pytest.fixture(scope="module")
def prior():
    return mm.fit_prior(
        PAIRS.masks,
        discriminator=SMALL["discriminator"],
        anchors={"kind": "paper", "noise": (0.05, 0.1)},
        mask_augmentation={"noise_std": 0.1},
        fitting={"iterations": 120, "batch": 8, "learning_rate": 5e-3},
    )


def test_masks_that_it_never_saw_are_told_from_corrupted_ones(prior):
    masks, rng = squares((12,), seed=7).masks, np.random.default_rng(0)
    anchors = AnchorConfig(noise=(0.05, 0.1))
    spoilt = [corrupt(m, draw_corruption(m, anchors, 4, rng)) for m in masks.numpy()]
    real, fake = (
        prior.realism(one_hot(labels)).mean()
        for labels in (masks, torch.from_numpy(np.stack(spoilt)))
    )
    assert real - fake > 0.2


def test_the_last_fifth_is_held_out_and_says_what_is_enough(prior):
    scores = prior.realism(one_hot(PAIRS.masks[-4:]))
    assert prior.enough == pytest.approx(scores.mean().item(), abs=1e-5)
    assert prior.config.data.structures == {k: f"structure {k}" for k in (1, 2, 3)}
    assert prior.config.preprocess.size == 32


def test_predictions_are_fakes_and_those_held_out_are_enough():
    segmentor = Thresholds().train()
    prior = mm.fit_prior(PAIRS.masks, segmentor, PAIRS.images, **SMALL)
    predicted = Probabilities(Thresholds())(PAIRS.images[-4:])
    assert prior.enough == pytest.approx(prior.realism(predicted).mean().item(), abs=1e-5)
    assert {"val_score_predicted", "train_score_predicted"} <= prior.history[-1].keys()
    assert segmentor.training
    assert segmentor.shift.requires_grad
    assert segmentor.shift.grad is None


def test_what_a_segmentor_does_wrong_is_told_from_what_is_right():
    """A failure that no fake anchor has: all structures too small."""
    failing = Thresholds(0.6)
    fitting = {"iterations": 120, "batch": 8, "learning_rate": 5e-3}
    prior = mm.fit_prior(
        PAIRS.masks,
        failing,
        PAIRS.images,
        discriminator=SMALL["discriminator"],
        degradation={"probability": 0},
        fitting=fitting,
    )
    pairs = squares((12,), seed=7)
    right, wrong = (
        prior.realism(Probabilities(Thresholds(shift))(pairs.images)).mean() for shift in (0.0, 0.6)
    )
    assert right - wrong > 0.2


def test_the_same_seed_fits_the_same_prior():
    first, again = (mm.fit_prior(PAIRS.masks, **SMALL) for _ in range(2))
    other = mm.fit_prior(PAIRS.masks, seed=1, **SMALL)
    masks = one_hot(PAIRS.masks)
    assert torch.equal(first.realism(masks), again.realism(masks))
    assert not torch.equal(first.realism(masks), other.realism(masks))


def test_numpy_masks_of_any_integers_will_do():
    masks = PAIRS.masks.numpy().astype(np.int64)
    assert mm.fit_prior(masks, **SMALL).enough == mm.fit_prior(PAIRS.masks, **SMALL).enough


@pytest.mark.parametrize("channels", [1, 2])
def test_degraded_images_have_the_range_of_the_images(channels):
    images = 7 + 3 * torch.randn(6, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    made = degraded(images, DegradationConfig(probability=1), np.random.default_rng(0))
    assert not torch.equal(made, images)
    assert made.flatten(2).median(2).values == pytest.approx(7, abs=1)
    quarters = made.flatten(2).quantile(torch.tensor([0.25, 0.75]), dim=2)
    torch.testing.assert_close(
        quarters[1] - quarters[0], torch.full((6, channels), 4.0), atol=0.6, rtol=0
    )


def test_so_many_images_are_degraded_and_the_others_left_alone():
    images = torch.randn(200, 1, 8, 8)
    made = degraded(images, DegradationConfig(probability=0.3), np.random.default_rng(0))
    changed = (made != images).flatten(1).any(1)
    assert 30 < changed.sum() < 80
    none = degraded(images, DegradationConfig(probability=0), np.random.default_rng(0))
    assert none is images


@pytest.mark.parametrize(
    ("arguments", "sections", "error", "said"),
    [
        ([PAIRS.masks, Thresholds()], {}, mm.ConfigError, "segmentor and images belong together"),
        ([PAIRS.masks.float()], {}, mm.InputError, "masks: got torch.float32"),
        ([PAIRS.masks[:, :16]], {}, mm.InputError, "pad them to squares"),
        ([PAIRS.masks[:0]], {}, mm.InputError, "hold no structure"),
        ([0 * PAIRS.masks], {}, mm.InputError, "hold no structure"),
        ([PAIRS.masks[:1]], {}, mm.InputError, "1 slices are too few"),
        (
            [PAIRS.masks],
            {"data": {"structures": {1: "LV"}}},
            mm.InputError,
            "hold label 3, but data.structures names only 1",
        ),
        ([PAIRS.masks], {"fitting": {"iteration": 3}}, mm.ConfigError, "fitting.iterations?"),
        (
            [PAIRS.masks],
            {"anchors": {"kind": "none"}},
            mm.ConfigError,
            "anchors.kind: none leaves no fakes",
        ),
        (
            [PAIRS.masks],
            {"discriminator": {"sees_image": True}},
            mm.ConfigError,
            "discriminator.sees_image must be false",
        ),
        (
            [PAIRS.masks, nn.Conv2d(1, 3, 1), PAIRS.images],
            {},
            mm.ConfigError,
            r"segmentor: gives masks of .* \(3, 32, 32\), but the prior's are \(4, 32, 32\)",
        ),
        (
            [PAIRS.masks, nn.Conv2d(2, 4, 1), PAIRS.images],
            {},
            mm.ConfigError,
            "segmentor: cannot take images",
        ),
        (
            [PAIRS.masks, nn.Conv2d(1, 4, 1, device="meta"), PAIRS.images],
            {},
            mm.ConfigError,
            "segmentor: is on meta, the images are on cpu",
        ),
    ],
)
def test_what_cannot_be_fitted_is_named_in_one_line(arguments, sections, error, said):
    with pytest.raises(error, match=said.replace("?", r"\?")) as raised:
        mm.fit_prior(*arguments, **{**SMALL, **sections})
    assert "\n" not in str(raised.value)


def test_a_loss_that_is_not_finite_ends_the_fit():
    with pytest.raises(mm.RunError, match=r"fitting diverged: .* lower fitting\.learning_rate"):
        mm.fit_prior(
            PAIRS.masks,
            discriminator={**SMALL["discriminator"], "spectral_norm": "none"},
            fitting={"iterations": 50, "batch": 2, "learning_rate": 1e30},
        )
