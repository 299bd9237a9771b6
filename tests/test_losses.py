import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from maskmend.losses import (
    adversarial_loss,
    class_weights,
    discriminator_loss,
    gradient_penalty,
    supervised_loss,
)


def test_class_weights_of_the_paper():
    weights = class_weights(torch.tensor([60, 30, 10]))
    torch.testing.assert_close(weights, torch.tensor([0.4, 0.7, 0.9]))


def test_class_weights_of_the_authors():
    weights = class_weights(torch.tensor([60, 30, 10]), "inverse")
    torch.testing.assert_close(weights, torch.tensor([100 / 60, 100 / 30, 10.0]))


def test_class_that_never_occurs():
    torch.testing.assert_close(class_weights(torch.tensor([100, 0])), torch.tensor([0.0, 1.0]))
    inverse = class_weights(torch.tensor([100, 0]), "inverse")
    torch.testing.assert_close(inverse, torch.tensor([1.0, 100.0]))


def test_equation_1_by_hand():
    # Two pixels, two classes: the first is label 0 with p = 0.8, the second label 1 with p = 0.25.
    probabilities = torch.tensor([[0.8, 0.75], [0.2, 0.25]]).reshape(1, 2, 1, 2)
    loss = supervised_loss(probabilities.log(), torch.tensor([[[0, 1]]]), torch.tensor([0.3, 0.7]))
    # Averaged over pixels, not over weights.
    assert loss.item() == pytest.approx((-0.3 * math.log(0.8) - 0.7 * math.log(0.25)) / 2)


def test_equation_1_in_half_precision_stays_in_32_bits():
    logits = torch.randn(1, 3, 4, 4).to(torch.bfloat16)
    loss = supervised_loss(logits, torch.zeros(1, 4, 4, dtype=torch.long), torch.ones(3))
    assert loss.dtype == torch.float32


def test_soft_dice_beside_equation_1():
    logits = torch.tensor([0.2, 0.8]).log()[None, :, None, None].repeat(1, 1, 1, 2)
    labels, equal = torch.tensor([[[0, 1]]]), torch.ones(2)
    alone = supervised_loss(logits, labels, equal)
    # Foreground: 0.8 of one pixel is shared; 1.6 and 1 are the sizes.
    dice = 2 * 0.8 / 2.6
    both = supervised_loss(logits, labels, equal, dice=0.5)
    assert both.item() == pytest.approx(alone.item() + 0.5 * (1 - dice))


def test_equation_2_by_hand():
    real, fake = torch.tensor([1.5, 0.0]), torch.tensor([-1.0, 1.0, 0.0, -2.0])
    # (0.25 + 1) / 2 / 2 + (0 + 4 + 1 + 1) / 4 / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(0.3125 + 0.75)
    # The authors' labels: fake is 0.
    authors = discriminator_loss(real, fake, real_label=1, fake_label=0)
    assert authors.item() == pytest.approx(0.3125 + (1 + 1 + 0 + 4) / 8)
    torch.testing.assert_close(adversarial_loss(fake), torch.tensor([0.5, 0.5, 0, 2]))
    torch.testing.assert_close(adversarial_loss(fake, 1.0), torch.tensor([2, 0, 0.5, 4.5]))


def test_a_perfect_discriminator_has_no_loss_and_the_right_slopes():
    real, fake = torch.ones(3, requires_grad=True), -torch.ones(2, requires_grad=True)
    assert discriminator_loss(real, fake).item() == 0
    scores = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    adversarial_loss(scores).sum().backward()
    torch.testing.assert_close(scores.grad, scores.detach())


@given(weights=st.lists(st.floats(-2, 2), min_size=8, max_size=8), mix=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_gradient_penalty_of_a_linear_discriminator(weights, mix):
    w = torch.tensor(weights).reshape(1, 8)
    head = nn.Linear(8, 1)
    with torch.no_grad():
        head.weight.copy_(w)
    linear = nn.Sequential(nn.Flatten(), head, nn.Flatten(0))
    real, corrupted = torch.rand(3, 2, 2, 2), torch.rand(3, 2, 2, 2)
    penalty = gradient_penalty(linear, real, corrupted, torch.full((3, 1, 1, 1), mix))
    assert penalty.item() == pytest.approx((w.norm().item() - 1) ** 2, abs=1e-5)
    if w.norm() > 1e-2:
        penalty.backward()
        slope = 2 * (w.norm() - 1) * w / w.norm()
        torch.testing.assert_close(head.weight.grad, slope, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("mix", "at"), [(1.0, 3.0), (0.0, 1.0), (0.5, 2.0)])
def test_gradient_penalty_is_taken_between_the_masks(mix, at):
    class Square(nn.Module):
        def forward(self, masks):
            return masks.square().sum((1, 2, 3)) / 2

    # The gradient of |x|^2 / 2 is x: one pixel, so that its norm is where on the line we are.
    real, corrupted = torch.full((1, 1, 1, 1), 3.0), torch.ones(1, 1, 1, 1)
    penalty = gradient_penalty(Square(), real, corrupted, torch.full((1, 1, 1, 1), mix))
    assert penalty.item() == pytest.approx((at - 1) ** 2)
