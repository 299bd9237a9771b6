"""A segmentor and its students, put together to all ways in which they can segment a volume."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.config import AdaptationConfig
from maskmend.devices import autocast, slices_a_pass
from maskmend.frozen import frozen
from maskmend.guard.batch_norm import mixed_statistics
from maskmend.guard.corrections import corrections
from maskmend.guard.mend import Mender
from maskmend.guard.ways import committees, neighbours, ways
from maskmend.priors import Prior

_OWN = 0.5
"""Share of the volume's own batch norm statistics where they are mixed with training's."""

Network = Callable[..., Tensor]


class Opinion(NamedTuple):
    """A frozen network, images to logits, in its two kinds of batch norm statistics."""

    trained: nn.Module
    mixed: nn.Module
    """The same module where there is no batch norm, so that nothing is computed twice."""


def opinion(network: nn.Module, adaptor: nn.Module, dtype: torch.dtype) -> Opinion:
    """What a network of ours makes of images behind an adaptor.

    Args:
        network: Images to logits; stays as it is.
        adaptor: Images to images.
        dtype: Of the convolutions' weights.
    """
    return Opinion(
        nn.Sequential(adaptor, frozen(network, dtype)),
        nn.Sequential(adaptor, mixed(frozen(network, dtype, fold=False))),
    )


def mixed(network: nn.Module) -> nn.Module:
    """A copy whose batch norms take half of their statistics from the images, if there are any."""
    has_norms = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return mixed_statistics(network, _OWN) if has_norms else network


def assemble(
    exact: nn.Module,
    segmentor: Opinion,
    students: Sequence[Opinion],
    prior: Prior,
    settings: AdaptationConfig,
    device: torch.device,
    *,
    quantiles: Float[Tensor, " quantile"],
    realistic: float,
    classes: int,
) -> Mender:
    """All ways, and what judges their masks.

    Args:
        exact: The segmentor in 32 bits, images to logits.
        segmentor: The same, as fast as it can be.
        students: Its noisy students (see `student`).
        prior: A discriminator, frozen.
        settings: Their precision counts.
        device: Where all of them are.
        quantiles: Of the training images (see `corrections`).
        realistic: The discriminator's score of true masks.
        classes: Of the masks, the background included.
    """

    def in_precision(network: Network) -> Network:
        def run(*given: Tensor) -> Tensor:
            with autocast(settings.precision, device):
                return network(*given)

        return run

    def in_parts(segment: Network) -> Network:
        slices = slices_a_pass(device)
        return lambda images: torch.cat([segment(part) for part in images.split(slices)])

    def both(one: Opinion) -> tuple[Network, Network]:
        trained = in_parts(in_precision(one.trained))
        # With mixed statistics all slices at once: they are those of the volume.
        return trained, trained if one.mixed is one.trained else in_precision(one.mixed)

    trained, own = both(segmentor)
    plain = in_parts(exact)
    return Mender(
        ways=ways(corrections(quantiles.to(device)), trained, own, [both(one) for one in students]),
        committees=committees(len(students)),
        neighbours=neighbours(trained),
        plain=torch.no_grad()(lambda images: plain(images).softmax(1)),
        score=in_precision(prior.realism),
        realistic=realistic,
        classes=classes,
    )
