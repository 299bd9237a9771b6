"""The methods that are compared, all from the slices of one volume to what was made of it.

Axes: slice, channel or class, height, width.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from maskmend.components import clean, one_hot
from maskmend.denoiser import DENOISER
from maskmend.devices import autocast
from maskmend.errors import RunError
from maskmend.guard.batch_norm import own_statistics
from maskmend.guard.corrections import match_histogram
from maskmend.guard.mend import Mender
from maskmend.guard.ways import ADVISED, COMMITTEE
from maskmend.instance import Adapted
from maskmend.predict import Model
from maskmend.rivals.denoiser_training import train_denoiser
from maskmend.rivals.entropy import minimise_entropy
from maskmend.rivals.rotation import (
    ROTATION,
    learn_rotations,
    read_rotation_head,
    train_rotation_head,
)

Images = Float[Tensor, "slice channel height width"]
Masks = Float[Tensor, "slice class height width"]
PARTS = {"student": "student 1", "committee": COMMITTEE, "advised": ADVISED}
"""Parts of the guard that are methods of their own, and what it calls them."""
Method = Callable[[Images], Adapted]
"""Slices of one volume, on the model's device, to masks before and after."""


def _none(model: Model) -> Method:
    """No adaptation."""
    return lambda images: _adapt(model, images, steps=0)


def _paper(model: Model) -> Method:
    """Section 3.3 as written: 50 steps towards the target of equation 2."""
    return lambda images: _adapt(model, images, steps=50)


def _auto(model: Model) -> Method:
    """The same with steps that are chosen by itself."""
    return lambda images: _adapt(model, images, steps="auto")


def _components(model: Model) -> Method:
    """Largest component and hole filling."""
    return _made(model, cleaned(_mender(model)))


def cleaned(mender: Mender) -> Callable[[Images], Masks]:
    """The largest piece of each structure of the plain mask, its holes filled."""

    def segment(images: Images) -> Masks:
        labels = mender.plain(images).argmax(1).to(torch.uint8)
        return one_hot(clean(labels.cpu()), mender.classes).to(images)

    return segment


def _histogram(model: Model) -> Method:
    """Histogram standardisation to the training images (Nyul and Udupa 2000)."""
    assert model.calibration is not None
    plain, training = _mender(model).plain, model.calibration.quantiles
    return _made(model, lambda images: plain(match_histogram(images, training)))


def _batch_norm(model: Model) -> Method:
    """Batch norm statistics of the test image (Nado et al. 2020)."""
    networks = model.networks
    segmentor = torch.nn.Sequential(networks.adaptor, own_statistics(networks.segmentor))
    return _made(model, torch.no_grad()(lambda images: segmentor(images).softmax(1)))


def _entropy(model: Model) -> Method:
    """TENT (Wang et al. 2021)."""
    networks, autocast = model.networks, _autocast(model)

    def segment(images: Images) -> Masks:
        return minimise_entropy(networks.segmentor, networks.adaptor, images, autocast=autocast)

    return _made(model, segment)


def _dae(model: Model) -> Method:
    """Denoising autoencoder as prior, with as many steps as the paper's (Karani et al. 2021)."""
    settings = model.settings(prior="denoiser", steps=50)
    return lambda images: model.follow(images, settings)


def _rotation(model: Model) -> Method:
    """Rotation as auxiliary task (Sun et al. 2020)."""
    assert model.run is not None
    head = read_rotation_head(model.run).to(model.device)
    networks, autocast = model.networks, _autocast(model)

    def segment(images: Images) -> Masks:
        return learn_rotations(
            networks.segmentor, networks.adaptor, head, images, autocast=autocast
        )

    return _made(model, segment)


def _unguarded(name: str) -> Callable[[Model], Method]:
    """One of the guard's ways or committees: what the guard adds to it is ours less this."""

    def method(model: Model) -> Method:
        if not model.students:
            raise RunError(f"{model.run}: has no students; calibrate it with students above 0")
        return _made(model, mean_of(_mender(model), name))

    return method


def mean_of(mender: Mender, name: str) -> Callable[[Images], Masks]:
    """Masks of one of a mender's ways, or of one of its committees, by the method's name."""
    way = PARTS[name]
    shares = mender.committees.get(way, {way: 1.0})
    made = [(way, shares[way.name]) for way in mender.ways if way.name in shares]
    return lambda images: torch.stack([share * way.masks(images) for way, share in made]).sum(0)


def _ours(model: Model) -> Method:
    """The guard (docs/guard.md)."""
    assert model.calibration is not None
    mender, calibration = _mender(model), model.calibration
    return lambda images: mender.mend(images, calibration)


METHODS: dict[str, Callable[[Model], Method]] = {
    "none": _none,
    "components": _components,
    "histogram": _histogram,
    "batch_norm": _batch_norm,
    "entropy": _entropy,
    "rotation": _rotation,
    "dae": _dae,
    "paper": _paper,
    "auto": _auto,
    **{name: _unguarded(name) for name in PARTS},
    "ours": _ours,
}


NEEDS: dict[str, tuple[str, Callable[..., object]]] = {
    "rotation": (ROTATION, train_rotation_head),
    "dae": (DENOISER, train_denoiser),
}
"""Networks that a method needs beside the run's own: file in the run folder, and what trains it."""


def prepare(run: Path, data: Path, methods: Collection[str], console: Console) -> None:
    """Train, once, what methods need of a run; it is kept in the run folder."""
    for name, (file, train) in NEEDS.items():
        if name in methods and not (run / file).exists():
            train(run, data, console=console)


def method_of(name: str, model: Model) -> Method:
    """A method for a calibrated run; a RunError says so if `prepare` must be called first."""
    return METHODS[name](model)


def _adapt(model: Model, images: Images, steps: int | Literal["auto"]) -> Adapted:
    settings = model.settings(method="paper", steps=steps)
    ((_, adapted),) = model.adapt([images], settings)
    return adapted


def _autocast(model: Model) -> Callable[[], torch.autocast]:
    precision, device = model.settings().precision, model.device
    return lambda: autocast(precision, device)


def _mender(model: Model) -> Mender:
    assert model.calibration is not None
    calibration = model.calibration
    return model.mender(calibration.quantiles, calibration.realistic, model.settings())


def _made(model: Model, segment: Callable[[Images], Masks]) -> Method:
    """A method that has masks alone to show."""

    def method(images: Images) -> Adapted:
        start = time.perf_counter()
        masks = segment(images)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            return alone(masks, model.networks.discriminator(masks[:, 1:]), seconds)

    return method


def alone(masks: Masks, scores: Float[Tensor, " slice"], seconds: float) -> Adapted:
    """Masks that were made without a step of adaptation, as the result of one."""
    return Adapted(
        plain=masks,
        masks=masks,
        losses=(),
        plain_scores=scores,
        scores=scores,
        steps=0,
        seconds=seconds,
    )
