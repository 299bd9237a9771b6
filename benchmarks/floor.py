"""The least time a step can take: its convolutions alone, each the median of a few runs on its own.

Frozen networks need every convolution once forwards and once backwards for its input; the adaptor's
also for their weights. Everything else (activations, pooling, softmax, the optimizer) counts as
nothing, and so does moving tensors between layers.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn


def convolution_floor(
    networks: list[tuple[nn.Module, bool]], images: Tensor, forward: Callable[[Tensor], Tensor]
) -> tuple[float, float]:
    """Seconds and floating-point operations of a step's convolutions.

    Args:
        networks: Those that take part, and whether their weights learn.
        images: What a step sees.
        forward: Runs all networks on it, in the precision that is to be measured.
    """
    learning = {id(m): learns for network, learns in networks for m in network.modules()}
    calls: list[tuple[nn.Conv2d, Tensor, torch.Size]] = []

    def note(module: nn.Conv2d, given: tuple[Tensor], made: Tensor) -> None:
        # In the precision of the product, to which autocast takes what comes in 32 bits.
        calls.append((module, given[0].detach().to(made.dtype, copy=True), made.shape))

    hooks = [
        m.register_forward_hook(note)
        for network, _ in networks
        for m in network.modules()
        if isinstance(m, nn.Conv2d)
    ]
    with torch.no_grad():
        forward(images)
    for hook in hooks:
        hook.remove()
    seconds = operations = 0.0
    for index, (module, given, made) in enumerate(calls):
        passes = 1 + (index > 0) + learning[id(module)]  # nobody asks for the image's gradient
        kernel = module.weight[0].numel()
        operations += passes * 2 * kernel * made.numel()
        seconds += _seconds(module, given, wants_input=index > 0, wants_weight=learning[id(module)])
    return seconds, operations


def _seconds(module: nn.Conv2d, given: Tensor, *, wants_input: bool, wants_weight: bool) -> float:
    """The median of a few runs, forwards and backwards, in the precision of what is given."""
    dtype = given.dtype
    weight = module.weight.detach().to(dtype)
    bias = None if module.bias is None else module.bias.detach().to(dtype)
    given = given.contiguous(memory_format=torch.channels_last)

    def convolve() -> Tensor:
        return nn.functional.conv2d(given, weight, bias, module.stride, module.padding)

    gradient = torch.randn_like(convolve())

    def both() -> None:
        convolve()
        torch.ops.aten.convolution_backward(
            gradient, given, weight, None, module.stride, module.padding, module.dilation,
            False, [0, 0], 1, [wants_input, wants_weight, False],
        )  # fmt: skip

    times = []
    for _ in range(5):
        _synchronise(given.device)
        start = time.perf_counter()
        both()
        _synchronise(given.device)
        times.append(time.perf_counter() - start)
    return median(times)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
