"""Statistics of the images, of training, and between the two."""

import pytest
import torch

from maskmend.guard.batch_norm import mixed_statistics, own_statistics


def network():
    norm = torch.nn.BatchNorm2d(3)
    norm.running_mean.fill_(7.0)
    norm.running_var.fill_(4.0)
    norm.weight.data = torch.tensor([1.0, 2.0, 3.0])
    norm.bias.data = torch.tensor([0.0, 1.0, -1.0])
    return torch.nn.Sequential(norm).eval()


@pytest.fixture
def images():
    return 5 + 3 * torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_own_statistics_are_those_of_the_images(images):
    net = network()
    made = own_statistics(net)(images)
    torch.testing.assert_close(made.mean((0, 2, 3)), net[0].bias, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.std((0, 2, 3)), net[0].weight, atol=1e-3, rtol=1e-3)
    assert net[0].running_mean.unique() == 7.0


def test_the_ends_of_a_mixture_are_training_and_the_images(images):
    net = network()
    torch.testing.assert_close(mixed_statistics(net, 0.0)(images), net(images))
    own = own_statistics(net)(images)
    torch.testing.assert_close(mixed_statistics(net, 1.0)(images), own, atol=1e-5, rtol=1e-5)


def test_half_and_half_is_the_norm_of_the_mean_statistics(images):
    net = network()
    made = mixed_statistics(net, 0.5)(images)
    variance, mean = torch.var_mean(images, (0, 2, 3), correction=0)
    by_hand = network()
    by_hand[0].running_mean, by_hand[0].running_var = (7 + mean) / 2, (4 + variance) / 2
    torch.testing.assert_close(made, by_hand(images), atol=1e-5, rtol=1e-5)
    assert net[0].running_mean.unique() == 7.0


def test_gradients_go_through_the_statistics(images):
    images.requires_grad_()
    mixed_statistics(network(), 0.5)(images).square().mean().backward()
    assert images.grad.abs().mean() > 0


@pytest.mark.parametrize("change", [own_statistics, lambda net: mixed_statistics(net, 0.5)])
def test_without_batch_norm_nothing_changes(change, images):
    without = torch.nn.Conv2d(3, 2, 1)
    torch.testing.assert_close(change(without)(images), without(images))
