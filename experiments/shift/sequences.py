"""Make-believe changes of sequence, which need the true masks: tissues get other intensities.

Tone curves know no tissues. Here the blood and the myocardium are given what they may have in
another sequence, and the rest of the body a tone curve; texture stays, in part or turned over, and
there is more noise. No scanner made these images: they stand for the kind of change, not for its
looks. Nothing is trained or calibrated on them.

Axes: the slices first, then height and width. Labels: 1 right ventricle, 2 myocardium, 3 left
ventricle, the rest of the body 0. Intensities run from 0 to about 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from monai.transforms.intensity.array import GaussianSmooth, RandRicianNoise
from torch import Tensor

Image = Float[Tensor, "slice height width"]
Labels = Int[Tensor, "slice height width"]

MYOCARDIUM = 2
_BODY = (0.05, 0.4, 0.75, 0.97)
"""Quantiles of the body's intensities: air, muscle, other organs, fat."""
_SHARES = (0.5, 0.75, 1.0)
"""Of the other sequence, by severity."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Mean intensities in a sequence; all but the air's are drawn around these."""

    blood: float
    myocardium: float
    body: tuple[float, float, float, float]
    """At `_BODY`."""
    scar: bool = False
    """A bright arc of the myocardium, as late enhancement shows it."""


SEQUENCES = {
    "t1": Look(blood=0.34, myocardium=0.55, body=(0.02, 0.35, 0.5, 1.0)),
    "t2": Look(blood=0.12, myocardium=0.45, body=(0.05, 0.3, 0.5, 0.9)),
    "lge": Look(blood=0.58, myocardium=0.15, body=(0.05, 0.15, 0.3, 0.85), scar=True),
}
"""Blood may be darker than the myocardium; it may be black; or the myocardium is nulled."""


def as_sequence(
    image: Image, labels: Labels, name: str, severity: int, rng: np.random.Generator
) -> Image:
    """The image as if it were of another sequence.

    Args:
        image: A cine image.
        labels: Its true mask.
        name: One of `SEQUENCES`.
        severity: 1, 2 or 3: half, three quarters or all of the change.
        rng: The source of all randomness.
    """
    look = SEQUENCES[name]
    smooth = GaussianSmooth(sigma=1.0)  # an edge lies within pixels
    made = _share(labels == 0, smooth) * _body(image, labels, look, rng)
    for label in range(1, int(labels.max()) + 1):
        there = labels == label
        if not there.any():
            continue
        mean = look.myocardium if label == MYOCARDIUM else look.blood
        texture = float(rng.uniform(0.3, 0.8) * rng.choice([-1, 1]))
        tissue = mean + float(rng.normal(0, 0.06)) + texture * (image - image[there].mean())
        made = made + _share(there, smooth) * tissue
    if look.scar and (labels == MYOCARDIUM).any():
        made = made + float(rng.uniform(0.4, 0.7)) * _share(_arc(labels, rng), smooth)
    if rng.random() < 0.5:
        made = torch.as_tensor(GaussianSmooth(sigma=float(rng.uniform(0.5, 1.5)))(made))
    noise = RandRicianNoise(prob=1, std=float(rng.uniform(0.02, 0.06)), sample_std=False)
    noise.set_random_state(seed=int(rng.integers(2**32)))
    made = torch.as_tensor(noise(made.clamp(min=0)))
    return torch.lerp(image, made, _SHARES[severity - 1])


def _body(image: Image, labels: Labels, look: Look, rng: np.random.Generator) -> Image:
    """A tone curve through the intensities of all that is no structure."""
    at = np.quantile(image[labels == 0].numpy(), _BODY) + 1e-4 * np.arange(len(_BODY))
    drawn: Sequence[float] = [look.body[0], *(v + rng.normal(0, 0.05) for v in look.body[1:])]
    return torch.from_numpy(np.interp(image.numpy(), at, drawn).astype(np.float32))


def _arc(labels: Labels, rng: np.random.Generator) -> Tensor:
    """A sector of the myocardium, about its centre."""
    there = labels == MYOCARDIUM
    _, rows, columns = (places.double() for places in torch.nonzero(there, as_tuple=True))
    down = torch.arange(labels.shape[1])[:, None] - rows.mean()
    right = torch.arange(labels.shape[2]) - columns.mean()
    turned = torch.atan2(down, right) - float(rng.uniform(-np.pi, np.pi))
    return there & (torch.cos(turned) > np.cos(rng.uniform(0.2, 0.6)))


def _share(there: Tensor, smooth: GaussianSmooth) -> Image:
    return torch.as_tensor(smooth(there.float()))
