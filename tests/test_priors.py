import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from maskmend.priors import DiscriminatorPrior, EntropyPrior


class Mean(nn.Module):
    """Scores a mask by the mean of its first structure less that of the second."""

    def forward(self, masks):
        return masks[:, 0].mean((1, 2)) - masks[:, 1].mean((1, 2))


def masks_of(*probabilities):
    return torch.tensor(probabilities)[:, :, None, None].expand(-1, -1, 4, 4)


def test_discriminator_prior_by_hand():
    prior = DiscriminatorPrior(Mean(), target=0.5)
    masks = masks_of([0.1, 0.8, 0.1], [0.5, 0.2, 0.3])
    torch.testing.assert_close(prior.realism(masks), torch.tensor([0.7, -0.1]))
    torch.testing.assert_close(prior(masks), torch.tensor([0.02, 0.18]))


def test_the_default_target_is_the_papers_zero():
    torch.testing.assert_close(
        DiscriminatorPrior(Mean())(masks_of([0.1, 0.8, 0.1])), torch.tensor([0.245])
    )


def test_entropy_by_hand():
    prior = EntropyPrior()
    masks = masks_of([0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0])
    expected = torch.tensor([math.log(4), 0, math.log(2)])
    torch.testing.assert_close(prior(masks), expected)
    torch.testing.assert_close(prior.realism(masks), -expected)


@given(seed=st.integers(0, 2**32), classes=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_entropy_lies_between_a_one_hot_and_a_uniform_mask(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    masks = (4 * torch.randn(2, classes, 5, 5, generator=generator)).softmax(1)
    entropy = EntropyPrior()(masks)
    assert (entropy > 0).all()
    assert (entropy < math.log(classes)).all()
    distribution = torch.distributions.Categorical(masks.movedim(1, -1))
    torch.testing.assert_close(entropy, distribution.entropy().mean((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prior", [DiscriminatorPrior(Mean()), EntropyPrior()])
def test_slices_are_judged_apart_and_differentiably(prior):
    masks = torch.randn(3, 3, 8, 8).softmax(1).requires_grad_()
    torch.testing.assert_close(prior(masks), torch.cat([prior(one) for one in masks.split(1)]))
    (gradient,) = torch.autograd.grad(prior(masks)[1], masks)
    assert gradient[1].any()
    assert not gradient[[0, 2]].any()


def test_a_one_hot_mask_has_a_finite_gradient():
    masks = masks_of([1.0, 0.0]).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(EntropyPrior()(masks).sum(), masks)
    assert gradient.isfinite().all()


def test_a_discriminator_may_see_the_image_behind_the_structures():
    masks, images = masks_of([0.1, 0.8, 0.1]), torch.full((1, 1, 4, 4), 0.3)
    seen = []

    def judge(pairs):
        seen.append(pairs)
        return pairs.mean((1, 2, 3))

    realism = DiscriminatorPrior(judge, sees_image=True).realism(masks, images)
    assert torch.equal(seen[0], torch.cat([masks[:, 1:], images], 1))
    torch.testing.assert_close(realism, torch.tensor([(0.8 + 0.1 + 0.3) / 3]))
