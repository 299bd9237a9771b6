"""Processes that train on one batch together: each takes its share, means go over all of them.

With one process everything here does nothing. With several, losses, gradients and batch statistics
are those of one process with the whole batch, up to rounding.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


class Group:
    """The processes of a run.

    Args:
        rank: Number of this one, from 0.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch, whose length must be a multiple of the group's size."""
        return batch if self.size == 1 else batch.chunk(self.size)[self.rank]

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a value over the processes, without a graph."""
        value = value.detach()
        if self.size == 1:
            return value
        value = value.clone()
        distributed.all_reduce(value)
        return value / self.size

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients of this process's mean loss by those of the batch's."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))

    def synchronise(self, network: nn.Module) -> None:
        """Let every batch norm of a network see the whole batch; its weights keep their names."""
        for module in network.modules():
            if self.size > 1 and isinstance(module, nn.BatchNorm2d):
                module.__class__ = _BatchNorm


class _BatchNorm(nn.BatchNorm2d):
    """Statistics of all processes' shares; torch's own SyncBatchNorm runs on GPUs alone."""

    def forward(
        self, input: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        if not self.training:
            return super().forward(input)
        values, axes, size = input.float(), (0, 2, 3), distributed.get_world_size()
        mean = all_reduce(values.mean(axes, keepdim=True)) / size
        centred = values - mean
        variance = all_reduce(centred.square().mean(axes, keepdim=True)) / size
        with torch.no_grad():
            count = size * values[:, 0].numel()
            unbiased = variance.flatten() * count / (count - 1)
            self.running_mean.lerp_(mean.flatten(), self.momentum)  # type: ignore[union-attr,arg-type]
            self.running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr,arg-type]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = (variance + self.eps).rsqrt() * self.weight.view(1, -1, 1, 1)
        return (centred * scale + self.bias.view(1, -1, 1, 1)).to(input.dtype)
