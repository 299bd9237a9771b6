"""Networks that no longer learn: the same function of their input, computed with fewer layers."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval


def frozen(
    network: nn.Module, dtype: torch.dtype = torch.float32, *, fold: bool = True
) -> nn.Module:
    """A copy for evaluation that takes no gradients for its weights.

    Spectral norms become plain weights, and a batch norm that follows a convolution in an
    `nn.Sequential` is folded into it. Outputs are equal up to rounding. Other layers stay. Weights
    lie in memory as the fastest convolutions want them (channels last).

    Args:
        network: Any network; it stays as it is.
        dtype: Of the convolutions' weights; torch.bfloat16 spares `torch.autocast` a copy a pass.
        fold: Fold batch norms, which then cannot be told to take other statistics.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        for name, child in module.named_children():
            if parametrize.is_parametrized(child):
                setattr(module, name, _plain(child))
        if fold and isinstance(module, nn.Sequential):
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


def _plain(layer: nn.Module) -> nn.Module:
    """A layer with its present weights and nothing behind them.

    Not by `parametrize.remove_parametrizations`, which breaks the layer that this one was copied
    from: both are of one class made at run time.
    """
    kind: Any = parametrize.type_before_parametrizations(layer)
    plain: nn.Module = kind.__new__(kind)
    plain.__dict__ = dict(layer.__dict__)
    plain._modules = {k: v for k, v in layer._modules.items() if k != "parametrizations"}
    names = list(layer.parametrizations)  # type: ignore[arg-type]
    values = {name: nn.Parameter(getattr(layer, name).detach().clone()) for name in names}
    plain._parameters = {**layer._parameters, **values}
    return plain
