"""The denoising autoencoder: its corruption, its training, and adaptation that follows it."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from maskmend.data.phantom import write_cohort
from maskmend.data.preprocess import mask_slices
from maskmend.data.volume import read_mask
from maskmend.denoiser import DENOISER, Denoiser, read_denoiser
from maskmend.errors import InputError, RunError
from maskmend.losses import soft_dice
from maskmend.predict import load
from maskmend.priors import DenoiserPrior
from maskmend.rivals.denoiser_training import Boxes, draw_boxes, train_denoiser
from maskmend.rivals.follow import follow_denoiser
from tests.tiny import tiny, write_run, write_split


def balls(classes=3, slices=6, size=16):
    """One-hot masks of concentric discs."""
    rows = torch.arange(size) - size / 2 + 0.5
    radius = (rows[:, None] ** 2 + rows**2).sqrt()
    labels = (radius < 6).long() + (radius < 3).long()
    return nn.functional.one_hot(labels, classes).movedim(-1, 0).float().repeat(slices, 1, 1, 1)


# --------------------------------------------------------------------------- corruption


def test_a_box_is_overwritten_by_another_of_the_clean_mask():
    labels = torch.arange(4 * 4 * 4, dtype=torch.uint8).reshape(4, 4, 4)
    corners = np.array([[[0, 0, 0], [2, 2, 2]], [[2, 2, 2], [0, 0, 0]]])
    corrupted = Boxes(corners, np.array([[1, 2, 2], [2, 1, 1]])).applied(labels)
    assert torch.equal(corrupted[0, :2, :2], labels[2, 2:, 2:])
    assert torch.equal(corrupted[2:, 2, 2], labels[:2, 0, 0])  # the clean box, not the copy
    untouched = corrupted == labels
    assert untouched.sum() == 64 - 4 - 2


@pytest.mark.parametrize("shape", [(16, 112, 112), (16, 256, 256), (8, 16, 24)])
def test_boxes_are_as_many_and_as_large_as_karanis(shape):
    drawn = [draw_boxes(shape, np.random.default_rng(seed)) for seed in range(200)]
    counts = np.array([len(boxes.sides) for boxes in drawn])
    assert (counts.min(), counts.max()) >= (1, 150)
    assert counts.max() <= 200
    sides = np.concatenate([boxes.sides for boxes in drawn])
    largest = 2 * max(1, round(10 * min(shape[1:]) / 256))
    assert (sides.min(0) == 2).all()
    assert sides.max(0).tolist() == [min(largest, shape[0] // 2), largest, largest]
    ends = np.concatenate([boxes.corners + boxes.sides[:, None] for boxes in drawn])
    assert (ends <= shape).all()
    assert min(boxes.corners.min() for boxes in drawn) == 0


# -------------------------------------------------------------------------- the network


def test_four_levels_and_no_skip_at_the_full_resolution():
    denoiser = Denoiser(classes=4)
    channels = [block[0].out_channels for block in denoiser.encoder]
    assert channels == [16, 32, 64, 128]
    assert [block[0].in_channels for block in denoiser.decoder] == [128 + 64, 64 + 32, 32]


@pytest.mark.parametrize("slices", [3, 8, 11])
def test_volumes_of_any_length_become_probabilities_of_that_length(slices):
    denoiser = Denoiser(classes=3, width=2, depth=8).eval()
    mended = denoiser.mended(balls(slices=slices))
    assert mended.shape == (slices, 3, 16, 16)
    torch.testing.assert_close(mended.sum(1), torch.ones(slices, 16, 16))


# ----------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a denoiser, and its data."""
    root = tmp_path_factory.mktemp("denoiser")
    write_cohort(root / "hearts", patients=3, seed=0, size=32, spacing_mm=9.5)
    (root / "run").mkdir()
    run = write_run(root / "run", tiny(training={"precision": "bf16-mixed"}))
    write_split(run, train_unpaired_masks=["heart000", "heart001", "heart002"])
    train_denoiser(run, root / "hearts", iterations=150, width=4, depth=8)
    return run, root / "hearts"


def test_a_trained_denoiser_sees_structures_behind_a_corruption(trained):
    run, data = trained
    grid = load(run, "cpu").prepare(data / "images" / "heart001_frame01.nii.gz").grid
    truth = read_mask(data / "masks" / "heart001_frame01.nii.gz", labels=range(4))
    labels = mask_slices(truth, grid, 4)
    corrupted = draw_boxes(tuple(labels.shape), np.random.default_rng(0)).applied(labels)
    clean, shown = (
        nn.functional.one_hot(mask.long(), 4).movedim(-1, 1).float() for mask in (labels, corrupted)
    )
    even = torch.full_like(clean, 1 / 4)
    assert soft_dice(read_denoiser(run).mended(shown), clean) > 2 * soft_dice(even, clean)


def test_training_is_repeatable_also_in_bfloat16_and_needs_masks(trained, tmp_path):
    _, data = trained
    write_run(tmp_path, tiny(training={"precision": "bf16-mixed"}))
    write_split(tmp_path, train_unpaired_masks=["heart000"])
    first, again = (
        train_denoiser(tmp_path, data, iterations=3, depth=16).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    write_split(tmp_path, train_unpaired_masks=["nobody"])
    with pytest.raises(InputError, match="no mask of the training patients"):
        train_denoiser(tmp_path, data, iterations=1)


def test_a_missing_or_foreign_denoiser_is_named(tmp_path):
    with pytest.raises(RunError, match=r"denoiser\.safetensors: missing"):
        read_denoiser(tmp_path)
    run = write_run(tmp_path, tiny())
    (run / DENOISER).write_bytes((run / "weights.safetensors").read_bytes())
    with pytest.raises(RunError, match="no denoiser of this version"):
        read_denoiser(run)


# --------------------------------------------------------------------------- adaptation


class Constant(nn.Module):
    """Sees the same disc in everything."""

    def mended(self, masks):
        return balls(masks.shape[1], len(masks), masks.shape[-1])


class Scale(nn.Module):
    """An adaptor of one weight."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, images):
        return self.weight * images


def segment(images):
    """Logits that are the better the more the images say."""
    return balls(3, len(images), images.shape[-1]) * images


def follow(adaptor, prior, **options):
    images = torch.ones(4, 1, 16, 16)
    return follow_denoiser(
        segment, adaptor, prior, images, autocast=contextlib.nullcontext, **options
    )


def test_the_adaptor_follows_the_denoiser():
    adaptor = Scale(0.5)
    made = follow(adaptor, DenoiserPrior(Constant()), steps=20, learning_rate=0.1)
    assert adaptor.weight.item() == 0.5  # a copy was tuned
    assert made.adaptor.weight > 1
    assert made.steps == 20
    assert len(made.losses) == 21
    assert made.losses == tuple(sorted(made.losses, reverse=True))
    target = balls()[:4]
    for masks, scores in ((made.plain, made.plain_scores), (made.masks, made.scores)):
        torch.testing.assert_close(scores, soft_dice(masks, target).expand(4))


def test_the_target_is_refreshed_every_few_steps_and_the_best_agreement_kept():
    class Worse(Constant):
        """Agrees with nothing after its first look."""

        looks = 0

        def mended(self, masks):
            self.looks += 1
            return super().mended(masks) if self.looks == 1 else super().mended(masks).flip(1)

    denoiser = Worse()
    made = follow(Scale(2.0), DenoiserPrior(denoiser), steps=12, every=5)
    assert denoiser.looks == 4  # at 0, 5, 10 and 12
    assert made.steps == 0
    assert torch.equal(made.masks, made.plain)


def test_prior_by_hand():
    prior = DenoiserPrior(Constant())
    masks = torch.full((2, 3, 16, 16), 1 / 3)
    target = balls()[:2]
    areas = target.sum((0, 2, 3))[1:]
    expected = (2 * areas / 3 / (areas + 2 * 256 / 3)).mean()
    torch.testing.assert_close(prior.realism(masks), expected.expand(2))
    torch.testing.assert_close(prior(masks), (1 - expected).expand(2))
    assert prior.refresh(masks) == pytest.approx(expected.item())
    torch.testing.assert_close(prior(target), torch.zeros(2))


def test_predict_with_the_denoiser_of_the_run(trained):
    run, data = trained
    made = load(run, "cpu").predict(
        data / "images" / "heart000_frame01.nii.gz", prior="denoiser", steps=2
    )
    assert 0 < made.realism_before <= made.realism_after < 1
    with pytest.raises(RunError, match="missing"):
        (run / DENOISER).unlink()
        load(run, "cpu").predict(
            data / "images" / "heart000_frame01.nii.gz", prior="denoiser", steps=2
        )
