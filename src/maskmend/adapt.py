"""Adversarial test-time training (section 3.3): tune the adaptor on one instance, nothing else.

    adaptor <- argmin  prior(segmentor(adaptor(images)))

Instances are tuned side by side: each has an adaptor and an optimizer of its own (`instance.py`),
and shares the passes through the frozen networks with the others (`passes.py`). One that is
finished leaves, one that waits enters, so that memory does not grow with their number.

Axes: slice, channel or class, height, width. The slices of one instance are tuned on together.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from maskmend.config import AdaptationConfig, AugmentationConfig
from maskmend.instance import Adapted, Images, Instance
from maskmend.passes import Passes
from maskmend.priors import Prior

__all__ = ["Adapted", "adapt", "adapt_all"]


def adapt(
    segmentor: nn.Module,
    adaptor: nn.Module,
    prior: Prior,
    images: Images,
    config: AdaptationConfig,
    *,
    enough: float | None = None,
) -> Adapted:
    """Tune a copy of the adaptor until the prior finds the segmentor's masks realistic.

    Args:
        segmentor: Images to logits. It stays as it is: weights, statistics, mode and gradients.
        adaptor: Images to images; it stays as it is, a copy is tuned.
        prior: The loss, and the score that is reported.
        images: All slices of the instance, on the networks' device.
        config: Steps, step size, precision and what is kept.
        enough: Mean score from which masks are left alone, where the number of steps is automatic.

    Returns:
        Masks before and after. If a loss is not finite, those before, with a message.
    """
    ((_, adapted),) = adapt_all(segmentor, adaptor, prior, [images], config, enough=enough)
    return adapted


def adapt_all(
    segmentor: nn.Module,
    adaptor: nn.Module,
    prior: Prior,
    instances: Iterable[Images],
    config: AdaptationConfig,
    *,
    enough: float | None = None,
    slices: int = 64,
    exact: nn.Module | None = None,
) -> Iterator[tuple[int, Adapted]]:
    """As `adapt`, for many instances; their results do not depend on their company.

    Args:
        segmentor: As for `adapt`, as are the others.
        adaptor: Where every instance starts.
        prior: The loss.
        instances: Drawn when there is room for another.
        config: How to adapt.
        enough: As for `adapt`.
        slices: Most slices in one pass through the networks; halved when memory runs out. With
            `batch_norm="train"` an instance has a pass of its own, whatever its size.
        exact: The segmentor in 32 bits, which makes the masks that are returned; by default they
            are those that adaptation saw.

    Yields:
        Number of an instance, from 0, and its result, as they finish.
    """
    segmentor = copy.deepcopy(segmentor).requires_grad_(False)
    segmentor.train(config.batch_norm == "train")
    passes = Passes(segmentor, prior, config, slices, exact)
    waiting = enumerate(instances)
    live: dict[int, Instance] = {}
    exhausted = False
    while live or not exhausted:
        while not exhausted and passes.has_room(live.values()):
            number, images = next(waiting, (-1, None))
            if images is None:
                exhausted = True
            else:
                live[number] = Instance(images, adaptor, config, enough)
        _advance(passes, list(live.values()))
        for number in [number for number, instance in live.items() if instance.finished]:
            yield number, passes.result(live.pop(number))


def _advance(passes: Passes, live: Sequence[Instance]) -> None:
    """A look at the masks of every instance, and a step of those that have one to take."""
    augmented = passes.config.augmentation != AugmentationConfig()
    looking = [one for one in live if augmented or not one.stepping]
    for one, seen in zip(looking, passes.run(looking), strict=True):
        one.look(*seen)
    stepping = [one for one in live if one.stepping]
    images = [one.augmented() for one in stepping] if augmented else None
    for one, seen in zip(stepping, passes.run(stepping, images, learn=True), strict=True):
        if not augmented:  # or seen were the masks of other images
            one.look(*seen)
        if one.stepping:
            one.step()
