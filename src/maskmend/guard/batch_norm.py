"""Batch norm with the statistics of the images at hand, whole or mixed with those of training.

Axes: slice, channel, height, width.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn


def own_statistics(segmentor: nn.Module) -> nn.Module:
    """A copy whose batch norms take mean and variance from the images that they are shown.

    Nado et al. 2020, "Evaluating prediction-time batch normalization for robustness under covariate
    shift". A segmentor without batch norm comes back the same function.
    """
    segmentor = copy.deepcopy(segmentor)
    for module in segmentor.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    return segmentor.eval().requires_grad_(False)


def mixed_statistics(segmentor: nn.Module, share: float) -> nn.Module:
    """A copy whose batch norms mix the images' statistics with those of training.

    Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift
    adaptation". A segmentor without batch norm comes back the same function.

    Args:
        segmentor: Any network; it stays as it is.
        share: Of the images' own statistics, from 0 to 1.
    """
    segmentor = copy.deepcopy(segmentor)
    for module in list(segmentor.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _Mixed(child, share))
    return segmentor.eval().requires_grad_(False)


class _Mixed(nn.Module):
    """A batch norm whose running statistics have moved towards those of its input."""

    def __init__(self, norm: nn.BatchNorm2d, share: float):
        super().__init__()
        self.norm, self.share = norm, share

    def forward(
        self, features: Float[Tensor, "slice channel height width"]
    ) -> Float[Tensor, "slice channel height width"]:
        """The normalised features."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        values = features.float()
        mean = values.mean((0, 2, 3))
        # Two passes: torch.var_mean takes twice as long on a CPU.
        variance = (values - mean[:, None, None]).square().mean((0, 2, 3))
        mean = torch.lerp(norm.running_mean, mean, self.share)
        variance = torch.lerp(norm.running_var, variance, self.share)
        # By hand: torch's own has no gradient with respect to given statistics.
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        shift = norm.bias - mean * scale
        return features * scale.to(features)[:, None, None] + shift.to(features)[:, None, None]
