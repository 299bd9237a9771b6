"""Sections 3.3 and 4.1 read literally: the yardstick for speed and equality. Never made faster.

One patient after another, 32 bits, 50 steps, autograd over every parameter.
"""

import copy

import torch
from torch import Tensor, nn


def paper_loop(
    segmentor: nn.Module,
    adaptor: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    *,
    steps: int = 50,
    learning_rate: float = 1e-4,
    target: float = 0.0,
) -> tuple[Tensor, list[float]]:
    """Tune a copy of the adaptor on all slices of a patient.

    Args:
        segmentor: Images to logits, in evaluation mode.
        adaptor: Images to images.
        discriminator: Masks without background to scores, in evaluation mode.
        images: [slice, channel, height, width].
        steps: Updates.
        learning_rate: Adam's step size.
        target: Score that the masks are pulled to.

    Returns:
        Probabilities of the last weights, [slice, class, height, width], and the loss before each
        step and after the last.
    """
    segmentor, adaptor, discriminator = (
        copy.deepcopy(n).requires_grad_(True) for n in (segmentor, adaptor, discriminator)
    )
    optimizer = torch.optim.Adam(adaptor.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        masks = segmentor(adaptor(images)).softmax(dim=1)
        loss = ((discriminator(masks[:, 1:]) - target) ** 2 / 2).mean()
        losses.append(loss.item())
        for network in (segmentor, adaptor, discriminator):
            network.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        masks = segmentor(adaptor(images)).softmax(dim=1)
        losses.append(((discriminator(masks[:, 1:]) - target) ** 2 / 2).mean().item())
    return masks, losses
