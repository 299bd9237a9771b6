"""The methods that are compared, all from the slices of one volume to what was made of it.

Axes: slice, channel or class, height, width.
"""

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from maskmend.components import clean, one_hot
from maskmend.entropy import minimise_entropy
from maskmend.instance import Adapted
from maskmend.passes import resolve_precision
from maskmend.predict import Model
from maskmend.ways import Way

Images = Float[Tensor, "slice channel height width"]
Masks = Float[Tensor, "slice class height width"]
Method = Callable[[Images], Adapted]
"""Slices of one volume, on the model's device, to masks before and after."""


def _none(model: Model) -> Method:
    """No adaptation."""
    return lambda images: _adapt(model, images, steps=0)


def _paper(model: Model) -> Method:
    """Section 3.3 as written: 50 steps towards the target of equation 2."""
    return lambda images: _adapt(model, images, steps=50)


def _components(model: Model) -> Method:
    """Largest component and hole filling."""

    def segment(images: Images) -> Masks:
        labels = _way(model, "none").masks(images).argmax(1).to(torch.uint8)
        return one_hot(clean(labels.cpu()), model.config.data.classes).to(images.device)

    return _made(model, segment)


def _histogram(model: Model) -> Method:
    """Histogram standardisation to the training images (Nyul and Udupa 2000)."""
    return _made(model, _way(model, "histogram").masks)


def _batch_norm(model: Model) -> Method:
    """Batch norm statistics of the test image (Nado et al. 2020)."""
    return _made(model, _way(model, "none + own statistics").masks)


def _entropy(model: Model) -> Method:
    """TENT (Wang et al. 2021)."""
    networks, precision = model.networks, model.settings().precision
    mixed = resolve_precision(precision, model.device) == "bf16-mixed"

    def segment(images: Images) -> Masks:
        return minimise_entropy(
            networks.segmentor,
            networks.adaptor,
            images,
            autocast=lambda: torch.autocast(images.device.type, torch.bfloat16, enabled=mixed),
        )

    return _made(model, segment)


def _ours(model: Model) -> Method:
    """The guard (docs/guard.md)."""
    assert model.calibration is not None
    calibration = model.calibration
    mender = model.mender(calibration.quantiles, model.settings())
    return lambda images: mender.mend(images, calibration)


METHODS: dict[str, Callable[[Model], Method]] = {
    "none": _none,
    "components": _components,
    "histogram": _histogram,
    "batch_norm": _batch_norm,
    "entropy": _entropy,
    "paper": _paper,
    "ours": _ours,
}


def method_of(name: str, model: Model) -> Method:
    """A method for a calibrated run."""
    return METHODS[name](model)


def _adapt(model: Model, images: Images, steps: int) -> Adapted:
    settings = model.settings(method="paper", steps=steps)
    ((_, adapted),) = model.adapt([images], settings)
    return adapted


def _way(model: Model, name: str) -> Way:
    assert model.calibration is not None
    mender = model.mender(model.calibration.quantiles, model.settings())
    return next(way for way in mender.ways if way.name == name)


def _made(model: Model, segment: Callable[[Images], Masks]) -> Method:
    """A method that has masks alone to show."""

    def method(images: Images) -> Adapted:
        start = time.perf_counter()
        masks = segment(images)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            scores = model.networks.discriminator(masks[:, 1:])
        return Adapted(
            plain=masks,
            masks=masks,
            losses=(),
            plain_scores=scores,
            scores=scores,
            steps=0,
            seconds=seconds,
        )

    return method
