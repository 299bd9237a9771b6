"""Ways are named and ordered, and a blend is a mean."""

import torch

from maskmend.ways import Blend, own_statistics, ways


def test_plain_inference_comes_first_and_every_pair_once():
    fixes = {"none": lambda x: x, "double": lambda x: 2 * x}
    nets = {"training": (lambda x: x, lambda x: x), "own": (lambda x: -x, lambda x: -x)}
    assert [way.name for way in ways(fixes, nets)] == [
        "none", "double", "none + own", "double + own"
    ]  # fmt: skip


def test_exact_masks_come_from_the_exact_segmentor():
    (way,) = ways({"none": lambda x: x}, {"training": (lambda x: 0 * x, lambda x: x)})
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(way.masks(images), torch.full_like(images, 1 / 3))
    torch.testing.assert_close(way.masks(images, exact=True), images.softmax(1))


def test_a_blend_is_the_mean_of_probabilities():
    fixes = {"none": lambda x: x, "minus": lambda x: -x, "double": lambda x: 2 * x}
    made = ways(fixes, {"training": (lambda x: x, lambda x: x)})
    images = torch.randn(2, 3, 4, 4)
    expected = (images.softmax(1) + (-images).softmax(1) + (2 * images).softmax(1)) / 3
    torch.testing.assert_close(Blend(name="blend", ways=made).masks(images), expected)


def test_own_statistics_are_those_of_the_images():
    norm = torch.nn.BatchNorm2d(3)
    norm.running_mean.fill_(7.0)
    images = 5 + 3 * torch.randn(8, 3, 16, 16)
    made = own_statistics(torch.nn.Sequential(norm))(images)
    assert made.mean((0, 2, 3)).abs().max() < 1e-5
    assert (made.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert norm.running_mean.unique() == 7.0
    without = torch.nn.Conv2d(3, 2, 1)
    torch.testing.assert_close(own_statistics(without)(images), without(images))
