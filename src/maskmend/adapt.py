"""Adversarial test-time training (section 3.3): tune the adaptor on one instance, nothing else.

    adaptor <- argmin  prior(segmentor(adaptor(images)))

Instances are tuned side by side: each has an adaptor and an optimizer of its own (`instance.py`),
and shares the passes through the frozen networks with the others (`passes.py`). One that is
finished leaves, one that waits enters, so that memory does not grow with their number.

Axes: slice, channel or class, height, width; or patch, channel or class, depth, height, width. The
slices or patches of one instance are tuned on together.
"""

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from maskmend.config import AdaptationConfig, AugmentationConfig
from maskmend.devices import resolve_precision
from maskmend.instance import Adapted, Images, Instance
from maskmend.outputs import Activation, Probabilities
from maskmend.passes import Passes
from maskmend.priors import Prior
from maskmend.probe import borrow, fit_together

__all__ = ["Adapted", "adapt", "adapt_all"]


def adapt(
    segmentor: nn.Module,
    prior: Prior,
    images: Images,
    config: AdaptationConfig = AdaptationConfig(),  # noqa: B008  # frozen
    *,
    adaptor: nn.Module | None = None,
    activation: Activation = "softmax",
    window: Sequence[int] | None = None,
    slices: int = 64,
    enough: float | None = None,
) -> Adapted:
    """Tune an adaptor in front of any network until the prior finds its masks realistic.

    Args:
        segmentor: Images to logits. Of several outputs (deep supervision), in a list, tuple or
            mapping or stacked, the first that is as large as the images counts. It stays as it is:
            weights, statistics, mode, gradients.
        prior: The loss, and the score that is reported. It judges slices, also those of patches.
        images: All slices of the instance, for a network of slices; or patches, such as one whole
            volume, for a network of volumes. On the networks' device, prepared for the segmentor.
        config: Steps, step size, precision and what is kept; by default the paper's.
        adaptor: Images to images. It stays as it is, a copy is tuned. By default a fresh one, which
            starts as the identity.
        activation: "softmax": a class each, the background first; "sigmoid": a structure each.
        window: Height and width, or depth, height and width, that the segmentor is run at, if the
            images are larger. Windows overlap; memory is that of one.
        slices: Most slices or patches in one pass through the segmentor.
        enough: Mean score from which masks are left alone, where the number of steps is automatic;
            by default the prior's own, if it has one (see `fit_prior`).

    Returns:
        Masks before and after, the background first. If a loss is not finite, those before, with a
        message.

    Raises:
        ConfigError: Segmentor, prior and images do not fit each other, are on different devices, or
            no gradient arrives at the adaptor; what came instead and the remedy are named.
        InputError: The images are no stack of slices or volumes.
    """
    parts = fit_together(segmentor, prior, images, config, adaptor, activation, window)
    mixed = resolve_precision(config.precision, images.device) != "32-true"
    exact = parts.masks_of if mixed and config.batch_norm == "eval" else None
    passes = Passes(parts.masks_of, parts.prior, config, slices, exact)
    own = getattr(prior, "enough", None) if enough is None else enough
    ((_, adapted),) = _side_by_side(passes, parts.adaptor, [images], own)
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
        segmentor: As for `adapt`, as are the others. The parts are known to fit.
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
    masks_of = Probabilities(borrow(segmentor, batch_norm=config.batch_norm))
    passes = Passes(masks_of, prior, config, slices, Probabilities(exact) if exact else None)
    return _side_by_side(passes, adaptor, instances, enough)


def _side_by_side(
    passes: Passes, adaptor: nn.Module, instances: Iterable[Images], enough: float | None
) -> Iterator[tuple[int, Adapted]]:
    """Tune an adaptor for each instance; those that share passes wait for each other's steps."""
    waiting = enumerate(instances)
    live: dict[int, Instance] = {}
    exhausted = False
    while live or not exhausted:
        while not exhausted and passes.has_room(live.values()):
            number, images = next(waiting, (-1, None))
            if images is None:
                exhausted = True
            else:
                live[number] = Instance(images, adaptor, passes.config, enough)
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
