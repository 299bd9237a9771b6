"""A frozen network is the same function, with nothing left to learn and fewer layers."""

import copy

import pytest
import torch
from torch import nn

from maskmend.discriminator import MaskDiscriminator
from maskmend.frozen import frozen
from maskmend.segmentor import UNet


def unet():
    torch.manual_seed(0)
    network = UNet(in_channels=1, classes=3, width=4, depth=3)
    with torch.no_grad():
        for _ in range(4):
            network(3 * torch.randn(4, 1, 16, 16) + 1)  # moves the statistics
    return network


def discriminator():
    torch.manual_seed(1)
    network = MaskDiscriminator(channels=1, size=16, widths=(4, 4), strides=(2, 2))
    network(torch.randn(2, 1, 16, 16))  # moves the power iteration
    return network


NETWORKS = pytest.mark.parametrize("network", [unet(), discriminator()], ids=["unet", "judge"])


@NETWORKS
def test_the_outputs_are_equal_up_to_rounding(network):
    images = torch.randn(3, 1, 16, 16)
    expected = copy.deepcopy(network).eval()(images)
    torch.testing.assert_close(frozen(network)(images), expected, rtol=1e-4, atol=1e-5)


@NETWORKS
def test_the_gradients_for_the_input_are_equal_up_to_rounding(network):
    gradients = []
    for one in (copy.deepcopy(network).eval(), frozen(network)):
        images = torch.linspace(-1, 1, 2 * 16 * 16).reshape(2, 1, 16, 16).requires_grad_()
        one(images).square().sum().backward()
        gradients.append(images.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


@NETWORKS
def test_the_network_stays_as_it_is_and_usable(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flags = [p.requires_grad for p in network.parameters()]
    mode, images = network.training, torch.randn(2, 1, 16, 16)
    frozen(network)
    frozen(network, torch.bfloat16)
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [p.requires_grad for p in network.parameters()] == flags
    assert network.training == mode
    network.eval()(images)
    network.train(mode)


@NETWORKS
def test_nothing_is_left_to_learn_or_to_normalise(network):
    network = frozen(network)
    assert not any(p.requires_grad for p in network.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert not any(hasattr(m, "parametrizations") for m in network.modules())


def test_a_norm_that_follows_no_convolution_stays():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1), nn.ReLU(), nn.BatchNorm2d(1))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in frozen(network).modules()) == 2


def test_bfloat16_is_of_the_convolutions_alone():
    judge = frozen(discriminator(), torch.bfloat16)
    kinds = {p.dtype for m in judge.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()}
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in judge.head.parameters()} == {torch.float32}
