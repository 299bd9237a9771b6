"""A run's networks, put together to all ways in which it can segment a volume."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.build import Networks
from maskmend.config import AdaptationConfig
from maskmend.devices import autocast, weights_dtype
from maskmend.frozen import frozen
from maskmend.guard.batch_norm import mixed_statistics
from maskmend.guard.corrections import corrections
from maskmend.guard.mend import Mender
from maskmend.guard.ways import committees, neighbours, ways
from maskmend.priors import Prior

_OWN = 0.5
"""Share of the volume's own batch norm statistics where they are mixed with training's."""

Network = Callable[..., Tensor]


def assemble(
    networks: Networks,
    students: Sequence[nn.Module],
    prior: Prior,
    settings: AdaptationConfig,
    *,
    quantiles: Float[Tensor, " quantile"],
    realistic: float,
    classes: int,
    slices: int,
) -> Mender:
    """All ways, and what judges their masks.

    Args:
        networks: The run's.
        students: Noisy students of its segmentor (see `student`).
        prior: Its discriminator, frozen.
        settings: Their precision counts.
        quantiles: Of the training images (see `corrections`).
        realistic: The discriminator's score of true masks.
        classes: Of the masks, the background included.
        slices: Most in one pass, but where they are to have their own statistics.
    """
    device = next(networks.segmentor.parameters()).device
    dtype = weights_dtype(settings.precision, device)

    def in_precision(network: Network) -> Network:
        def run(*given: Tensor) -> Tensor:
            with autocast(settings.precision, device):
                return network(*given)

        return run

    def in_parts(segment: Network) -> Network:
        return lambda images: torch.cat([segment(part) for part in images.split(slices)])

    def after_adaptor(segmentor: nn.Module) -> nn.Module:
        return nn.Sequential(networks.adaptor, segmentor)

    def trained(folded: nn.Module) -> Network:
        return in_parts(in_precision(after_adaptor(folded)))

    def mixed(segmentor: nn.Module) -> Network:
        # All slices at once: their statistics are those of the volume.
        unfolded = mixed_statistics(frozen(segmentor, dtype, fold=False), _OWN)
        return in_precision(after_adaptor(unfolded))

    full = frozen(networks.segmentor)
    exact = in_parts(after_adaptor(full))
    segment = trained(full if dtype == torch.float32 else frozen(networks.segmentor, dtype))
    return Mender(
        ways=ways(
            corrections(quantiles.to(device)),
            segment,
            mixed(networks.segmentor),
            [(trained(frozen(one, dtype)), mixed(one)) for one in students],
        ),
        committees=committees(len(students)),
        neighbours=neighbours(segment),
        plain=torch.no_grad()(lambda images: exact(images).softmax(1)),
        score=in_precision(prior.realism),
        realistic=realistic,
        classes=classes,
    )
