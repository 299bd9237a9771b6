import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from maskmend.build import build
from maskmend.config import DiscriminatorConfig
from maskmend.config_file import config_from
from maskmend.discriminator import MaskDiscriminator
from maskmend.errors import ConfigError
from maskmend.priors import DiscriminatorPrior

STRIDES = DiscriminatorConfig().strides


def discriminator(**changes):
    torch.manual_seed(0)
    defaults = {"channels": 3, "size": 32, "widths": (4,) * len(STRIDES), "strides": STRIDES}
    return MaskDiscriminator(**defaults | changes)


def layers_of(network):
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def iterate(network, times=300):
    """Each look at a weight in training mode is a step of the power iteration."""
    network.train()
    for layer in layers_of(network):
        for _ in range(times):
            layer.weight  # noqa: B018
    return network.eval()


def norms_of(network):
    return [torch.linalg.matrix_norm(x.weight.flatten(1), 2).item() for x in layers_of(network)]


def make_steep(network):
    with torch.no_grad():
        for layer in layers_of(network):
            normalised = parametrize.is_parametrized(layer)
            (layer.parametrizations.weight.original if normalised else layer.weight).mul_(30)
    return network


def test_every_layer_has_a_unit_spectral_norm():
    network = iterate(make_steep(discriminator()))
    assert norms_of(network) == pytest.approx([1.0] * (len(STRIDES) + 1), abs=1e-3)
    assert isinstance(layers_of(network)[-1], nn.Linear)


def test_inner_leaves_first_convolution_and_head():
    first, *inner, head = norms_of(iterate(make_steep(discriminator(normalised="inner"))))
    assert inner == pytest.approx([1.0] * (len(STRIDES) - 1), abs=1e-3)
    assert min(first, head) > 5


def test_none_leaves_all():
    assert min(norms_of(iterate(make_steep(discriminator(normalised="none"))))) > 5


def test_bottlenecks_are_normalised_too():
    network = iterate(make_steep(discriminator(bottleneck=2)))
    assert norms_of(network) == pytest.approx([1.0] * (2 * len(STRIDES)), abs=1e-3)
    ones = [x for x in layers_of(network)[:-1] if x.kernel_size == (1, 1)]
    assert [x.out_channels for x in ones] == [2] * (len(STRIDES) - 1)


def test_strides_filters_and_sides_are_the_papers():
    network = build(config_from({"segmentor": {"width": 4}})).discriminator
    convolutions = layers_of(network)[:-1]
    assert [x.out_channels for x in convolutions] == [32, 64, 128, 256, 512]
    assert [x.stride[0] for x in convolutions] == [2, 2, 1, 1, 1]
    assert {x.kernel_size for x in convolutions} == {(4, 4)}
    # 224 -> 112 -> 56 by the strides, then a pixel less at each 4x4 convolution.
    assert layers_of(network)[-1].in_features == 512 * 53 * 53


def test_background_is_left_out():
    config = config_from(
        {
            "preprocess": {"size": 32},
            "segmentor": {"width": 4, "depth": 3},
            "discriminator": {"widths": [4], "strides": [2]},
        }
    )
    network = build(config).discriminator.eval()
    assert layers_of(network)[0].in_channels == config.data.classes - 1
    masks = torch.rand(2, config.data.classes, 32, 32)
    other = masks.clone()
    other[:, 0] = 5
    prior = DiscriminatorPrior(network)
    assert torch.equal(prior.realism(masks), prior.realism(other))
    other[:, 1] = 5
    assert not torch.equal(prior.realism(masks), prior.realism(other))


def test_one_unbounded_score_a_mask():
    network = discriminator().eval()
    masks = torch.rand(3, 3, 32, 32)
    scores = network(masks)
    assert scores.shape == (3,)
    assert scores.dtype == torch.float32
    with torch.no_grad():
        network.head.bias.add_(100)
    torch.testing.assert_close(network(masks), scores + 100, rtol=0, atol=1e-4)


def bound_of(strides):
    """A pixel is in at most (4 / stride)^2 of a convolution's patches; tanh adds nothing."""
    return math.prod(4 / stride for stride in strides)


@given(seed=st.integers(0, 2**32), size=st.floats(1e-2, 1))
@settings(max_examples=20, deadline=None)
def test_lipschitz(seed, size):
    network = iterate(make_steep(discriminator()), 100)
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(4, 3, 32, 32, generator=generator)
    moved = masks + size * torch.randn(4, 3, 32, 32, generator=generator)
    with torch.no_grad():
        change = (network(masks) - network(moved)).abs()
    assert (change <= 1.01 * bound_of(STRIDES) * (masks - moved).flatten(1).norm(dim=1)).all()


def test_without_normalisation_the_bound_does_not_hold():
    steep = make_steep(discriminator(normalised="none", activation="leaky_relu"))
    masks = torch.rand(1, 3, 32, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(steep(masks).sum(), masks)
    assert gradient.norm() > bound_of(STRIDES)


def test_activations():
    def kinds(network):
        return [type(m) for m in network.encoder if not isinstance(m, nn.Conv2d)]

    assert kinds(discriminator()) == [nn.Tanh] * 5
    assert kinds(discriminator(first_activation="leaky_relu")) == [nn.LeakyReLU] + [nn.Tanh] * 4
    assert kinds(discriminator(activation="leaky_relu", first_activation="tanh")) == (
        [nn.Tanh] + [nn.LeakyReLU] * 4
    )


@pytest.mark.parametrize("size", [4, 8, 12])
def test_masks_too_small(size):
    with pytest.raises(ConfigError, match=f"masks of {size} pixels are too small for 5"):
        discriminator(size=size)


@pytest.mark.parametrize("size", [16, 17, 31, 32])
def test_the_head_fits_every_size(size):
    assert discriminator(size=size)(torch.rand(2, 3, size, size)).shape == (2,)
