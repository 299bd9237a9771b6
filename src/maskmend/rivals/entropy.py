"""Entropy minimisation at test time (Wang et al., "Tent", ICLR 2021).

Scale and shift of every batch norm are tuned on the test image until the predictions are sure of
themselves; mean and variance are the image's own. Episodic, as the paper does for segmentation:
every volume starts from the trained weights.

Axes: slice, channel or class, height, width; the slices of one volume.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.guard.batch_norm import own_statistics
from maskmend.priors import EntropyPrior


def minimise_entropy(
    segmentor: nn.Module,
    adaptor: nn.Module,
    images: Float[Tensor, "slice channel height width"],
    *,
    steps: int = 10,
    learning_rate: float = 1e-3,
    autocast: Callable[[], torch.autocast],
) -> Float[Tensor, "slice class height width"]:
    """Probabilities after tuning; the segmentor stays as it is.

    Args:
        segmentor: With batch norms.
        adaptor: What stands in front of it, not tuned.
        images: All slices of a volume.
        steps: Updates (section 4.4: 10 for a single image).
        learning_rate: Adam's step size (section 4: 1e-3).
        autocast: The precision of the passes.

    Raises:
        ValueError: The segmentor has no batch norm to tune.
    """
    tuned = own_statistics(segmentor)
    norms = [m for m in tuned.modules() if isinstance(m, nn.BatchNorm2d)]
    affine = [p for norm in norms for p in (norm.weight, norm.bias)]
    if not affine:
        raise ValueError("the segmentor has no batch norm to tune")
    for parameter in affine:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(affine, learning_rate)
    prior = EntropyPrior()

    def masks() -> Tensor:
        with autocast():
            return tuned(adaptor(images)).float().softmax(1)

    for _ in range(steps):
        optimizer.zero_grad()
        prior(masks()).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return masks()
