"""A prior on a grid of its own."""

import torch

from maskmend.config import PreprocessConfig
from maskmend.foreign.onto import Onto
from maskmend.plane import Plane

GRID = PreprocessConfig(size=32, spacing_mm=8)


def test_gradients_arrive_and_classes_are_put_in_the_priors_order():
    shown = []

    class Watching:
        def __call__(self, masks, images):
            shown.append(masks)
            return masks[:, 2].mean((1, 2))

        realism = __call__

    masks = torch.rand(2, 3, 16, 16).softmax(1).requires_grad_()
    prior = Onto(Watching(), GRID, Plane(size_mm=(256.0, 256.0)), order=(0, 2, 1))
    (gradient,) = torch.autograd.grad(prior(masks, masks).sum(), masks)
    assert gradient[:, 1].abs().sum() > 0
    assert gradient[:, 2].abs().sum() == 0
    assert shown[0].shape == (2, 3, 32, 32)
