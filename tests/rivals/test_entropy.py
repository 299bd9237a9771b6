"""TENT: entropy falls, only batch norms' scale and shift move, and only in a copy."""

import contextlib

import pytest
import torch
from torch import nn

from maskmend.priors import EntropyPrior
from maskmend.rivals.entropy import minimise_entropy
from maskmend.segmentor import UNet


@pytest.fixture
def segmentor():
    torch.manual_seed(0)
    return UNet(in_channels=1, classes=3, width=4, depth=2).eval()


@pytest.fixture
def images():
    return torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def tuned(segmentor, images, **options):
    return minimise_entropy(
        segmentor, nn.Identity(), images, autocast=contextlib.nullcontext, **options
    )


def test_entropy_falls(segmentor, images):
    before = EntropyPrior()(tuned(segmentor, images, steps=0)).mean()
    after = EntropyPrior()(tuned(segmentor, images, steps=10, learning_rate=0.1)).mean()
    assert after < 0.97 * before


def test_the_segmentor_stays_as_it_is(segmentor, images):
    before = {name: tensor.clone() for name, tensor in segmentor.state_dict().items()}
    tuned(segmentor, images)
    after = segmentor.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.grad is not None for p in segmentor.parameters())


def test_every_volume_starts_anew(segmentor, images):
    first = tuned(segmentor, images)
    tuned(segmentor, 3 * images + 1)
    torch.testing.assert_close(tuned(segmentor, images), first, rtol=0, atol=0)


def test_without_batch_norm_there_is_nothing_to_tune(images):
    with pytest.raises(ValueError, match="no batch norm"):
        tuned(nn.Conv2d(1, 3, 1), images)
