"""Ways are named and ordered, and each shows its segmentor what it says."""

import torch

from maskmend.guard.views import View
from maskmend.guard.ways import VIEWS, Way, neighbours, ways

FIXES = {"none": lambda x: x, "double": lambda x: 2 * x}


def test_plain_inference_comes_first_and_every_way_once():
    made = ways(FIXES, lambda x: x, lambda x: -x)
    views = list(VIEWS)
    mixed = ["none", "double", *views]
    assert [one.name for one in made] == ["none", *views, *(f"{n} + own statistics" for n in mixed)]
    images = torch.randn(2, 3, 4, 4)
    by_name = {one.name: one.masks(images) for one in made}
    torch.testing.assert_close(by_name["none"], images.softmax(1))
    torch.testing.assert_close(by_name["none + own statistics"], (-images).softmax(1))
    torch.testing.assert_close(by_name["double + own statistics"], (-2 * images).softmax(1))


def test_neighbours_are_the_image_moved_and_moved_back():
    images = torch.randn(1, 2, 32, 32)
    for way in neighbours(lambda x: x):
        inner = (..., slice(8, 24), slice(8, 24))
        close = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(way.masks(images)[inner], images.softmax(1)[inner], **close)
        assert (way.view.of(images) - images).abs().max() > 1


def test_a_view_is_of_the_image_as_it_is_and_is_turned_back():
    seen = []
    way = Way(
        name="turned",
        correction=FIXES["double"],
        view=View(degrees=90),
        segmentor=lambda x: (seen.append(x), torch.cat([-x, x], 1))[1],
    )
    images = torch.randn(1, 1, 8, 8)
    masks = way.masks(images)
    torch.testing.assert_close(seen[0], 2 * images.rot90(1, (2, 3)), atol=1e-5, rtol=1e-5)
    expected = torch.cat([-2 * images, 2 * images], 1).softmax(1)
    torch.testing.assert_close(masks, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(way.shown(images), 2 * images)


def test_gradients_go_through_a_way():
    (way, *_) = ways(FIXES, lambda x: torch.cat([-x, x], 1), lambda x: x)
    images = torch.randn(1, 1, 8, 8, requires_grad=True)
    way.segment(images)[:, 1].sum().backward()
    assert images.grad.abs().min() > 0
    assert not way.masks(images).requires_grad
