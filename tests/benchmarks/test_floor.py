"""Which arithmetic the floor counts."""

import pytest
import torch
from torch import nn

from benchmarks.floor import convolution_floor


@pytest.mark.parametrize("mixed", [False, True])
def test_operations_are_those_of_the_passes_that_adaptation_needs(mixed):
    adaptor = nn.Conv2d(1, 2, 3, padding=1)
    segmentor = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))

    def forward(images):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return segmentor(adaptor(images))

    images = torch.randn(5, 1, 8, 8)
    seconds, operations = convolution_floor([(adaptor, True), (segmentor, False)], images, forward)

    pixels = 5 * 8 * 8
    learning = 2 * pixels * 2 * 9  # forwards, and backwards for weights; the image needs none
    frozen = 2 * pixels * (4 * 2 * 9 + 3 * 4)  # forwards, and backwards for the input
    assert operations == 2 * (learning + frozen)
    assert seconds > 0
