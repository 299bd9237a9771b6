"""Networks that no longer learn: the same function of their input, computed with fewer layers."""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval


def frozen(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy for evaluation that takes no gradients for its weights.

    Spectral norms become plain weights, and a batch norm that follows a convolution in an
    `nn.Sequential` is folded into it. Outputs are equal up to rounding. Other layers stay. Weights
    lie in memory as the fastest convolutions want them (channels last).

    Args:
        network: Any network; it stays as it is.
        dtype: Of the convolutions' weights; torch.bfloat16 spares `torch.autocast` a copy a pass.
    """
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)
        if isinstance(module, nn.Sequential):
            _fold(module)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
    network.requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold(layers: nn.Sequential) -> None:
    """Only in a sequence is it certain that nothing else sees the convolution's output."""
    for index in range(len(layers) - 1):
        convolution, norm = layers[index], layers[index + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[index] = fuse_conv_bn_eval(convolution, norm)
            layers[index + 1] = nn.Identity()
