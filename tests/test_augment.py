import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmend.augment import Augmentation, draw_augmentation
from maskmend.config import AugmentationConfig, Config


def draw(shape, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    return draw_augmentation(shape, AugmentationConfig(**changes), generator)


def smooth(seed=0, size=24):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 3, 6, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_zeros_are_the_identity_exactly(padding):
    batch = torch.randn(2, 3, 8, 8)
    drawn = draw(batch.shape)
    assert drawn.theta is None
    assert drawn.noise is None
    assert torch.equal(drawn.apply(batch, padding=padding), batch)


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, -1)])
def test_right_angles_are_rot90(size, degrees, turns):
    batch = torch.randn(2, 3, size, size)
    turned = draw(batch.shape, rotation_deg=(degrees, degrees)).apply(batch, padding="zeros")
    expected = batch.rot90(turns, dims=(2, 3))
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-1, 4)])
def test_translation_by_whole_pixels(right, down):
    size = 16
    batch = torch.randn(1, 2, size, size)
    # The map leads from the new grid to the old one, hence the signs.
    theta = torch.tensor([[[1, 0, -2 * right / size], [0, 1, -2 * down / size]]])
    moved = Augmentation(theta=theta, noise=None).apply(batch, padding="zeros")
    expected = torch.zeros_like(batch)
    old = [slice(max(0, -s), size - max(0, s)) for s in (down, right)]
    new = [slice(max(0, s), size - max(0, -s)) for s in (down, right)]
    expected[:, :, new[0], new[1]] = batch[:, :, old[0], old[1]]
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)


def test_border_padding_leaves_a_constant_image():
    batch = torch.full((4, 1, 16, 16), 3.0)
    drawn = draw(batch.shape, rotation_deg=(0, 90), translation=0.3, scale=0.2)
    torch.testing.assert_close(drawn.apply(batch, padding="border"), batch)
    assert drawn.apply(batch, padding="zeros").min() < 1


def test_noise_has_mean_zero_and_the_wanted_spread():
    batch = torch.zeros(4, 3, 64, 64)
    noisy = draw(batch.shape, noise_std=0.1).apply(batch, padding="zeros")
    assert noisy.mean().item() == pytest.approx(0, abs=2e-3)
    assert noisy.std().item() == pytest.approx(0.1, rel=0.02)


def test_noise_is_added_after_the_geometry_and_only_by_apply():
    batch = smooth()
    drawn = draw(batch.shape, rotation_deg=(30, 60), noise_std=0.1)
    moved = drawn.move(batch, padding="zeros")
    torch.testing.assert_close(drawn.apply(batch, padding="zeros"), moved + drawn.noise)


def test_draws_fill_their_ranges():
    changes = {"rotation_deg": (0, 90), "translation": 0.1, "scale": 0.2}
    theta = draw((4000, 1, 8, 8), **changes).theta
    angle = torch.rad2deg(torch.atan2(theta[:, 1, 0], theta[:, 0, 0]))
    zoom = torch.linalg.det(theta[:, :, :2]).sqrt()
    shift = theta[:, :, 2] / 2  # a share of the side, whose normalised length is 2
    for values, low, high in (
        (angle, 0, 90),
        (shift[:, 0], -0.1, 0.1),
        (shift[:, 1], -0.1, 0.1),
        (1 / zoom - 1, -0.2, 0.2),
    ):
        width = high - low
        assert low - 1e-4 * width <= values.min() < low + 0.01 * width
        assert high - 0.01 * width < values.max() <= high + 1e-4 * width
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * width)


def test_the_scale_enlarges_by_its_share():
    batch = torch.zeros(1, 1, 64, 64)
    batch[..., 16:48, 16:48] = 1
    theta = torch.tensor([[[1 / 1.25, 0, 0], [0, 1 / 1.25, 0]]])
    larger = Augmentation(theta=theta, noise=None).apply(batch, padding="zeros")
    assert math.sqrt(larger.sum() / batch.sum()) == pytest.approx(1.25, rel=0.01)


def test_items_are_drawn_apart_and_replay_is_bit_exact():
    changes = {"rotation_deg": (0, 90), "translation": 0.1, "noise_std": 0.1}
    batch = smooth()[:1].expand(3, 3, 24, 24)
    first = draw(batch.shape, seed=3, **changes)
    applied = first.apply(batch, padding="zeros")
    assert torch.equal(applied, first.apply(batch, padding="zeros"))
    assert torch.equal(applied, draw(batch.shape, seed=3, **changes).apply(batch, padding="zeros"))
    assert not torch.allclose(applied[0], applied[1])
    assert not torch.allclose(
        applied, draw(batch.shape, seed=4, **changes).apply(batch, padding="zeros")
    )


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    mask = Config().mask_augmentation
    draw_augmentation((2, 3, 8, 8), mask, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_the_gradient_is_the_adjoint(seed):
    batch = smooth(seed).requires_grad_()
    drawn = draw(batch.shape, seed, rotation_deg=(-90, 90), translation=0.2, scale=0.3)
    direction = smooth(seed + 1)
    moved = drawn.apply(batch, padding="zeros")
    (pulled,) = torch.autograd.grad((moved * direction).sum(), batch)
    # Moving is linear: <A x, y> = <x, A* y>, here with another x than the gradient was taken at.
    other = smooth(seed + 2)
    left = (drawn.apply(other, padding="zeros") * direction).sum()
    torch.testing.assert_close(left, (other * pulled).sum(), rtol=1e-4, atol=1e-3)
    assert pulled.abs().sum() > 1


def test_labels_move_with_images():
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    labels = (torch.hypot(rows - 24, columns - 40) < 12).float()[None, None].expand(8, 1, 64, 64)
    drawn = draw(labels.shape, rotation_deg=(-60, 60), translation=0.1, scale=0.2, noise_std=0.1)
    image = drawn.apply(labels, padding="zeros") > 0.5
    moved = drawn.move(labels, padding="zeros", mode="nearest")
    assert set(moved.unique().tolist()) == {0, 1}
    dice = 2 * (image & (moved > 0.5)).sum() / (image.sum() + moved.sum())
    assert dice > 0.97
    still = 2 * (image & (labels > 0.5)).sum() / (image.sum() + labels.sum())
    assert still < 0.8
