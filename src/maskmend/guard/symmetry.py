"""Slices that lie on their side: the eight ways to turn or mirror a square, and the likely ones.

A header may lie about where its axes point, and often does where images went through other
formats. A network that learnt hearts as they lie in its training images is then lost.

Axes: slice, channel or class, height, width; the slices of one volume, square.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskmend.guard.quality import agreements, entropy, labels_of

Square = Float[Tensor, "slice channel size size"]

_MARGIN = 0.15
"""By so much must another way be likelier; less was seen in upright images (docs/log.md)."""
_TRIED = 2


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """One of the eight ways to turn or mirror a square; by default as it is."""

    quarters: int = 0
    """Turned by so many quarters of a turn."""
    mirrored: bool = False
    """Height and width swapped before that."""

    @property
    def name(self) -> str:
        """For people."""
        parts = ["mirrored"] if self.mirrored else []
        if self.quarters:
            parts.append(f"turned by {90 * self.quarters} degrees")
        return " and ".join(parts) or "as they are"

    def of(self, images: Square) -> Square:
        """The slices, turned."""
        return torch.rot90(images.mT if self.mirrored else images, self.quarters, (-2, -1))

    def back(self, turned: Square) -> Square:
        """What `of` turned, as it was."""
        upright = torch.rot90(turned, -self.quarters, (-2, -1))
        return upright.mT if self.mirrored else upright


AS_IT_IS, *_OTHERS = (
    Symmetry(quarters=quarters, mirrored=mirrored)
    for mirrored in (False, True)
    for quarters in range(4)
)


def likelier(
    images: Square,
    opinions: Sequence[Callable[[Square], Tensor]],
    upright: Sequence[Tensor],
    classes: int,
) -> Sequence[Symmetry]:
    """In which other ways several networks are much surer of the slices, and agree better.

    Args:
        images: All slices of the volume.
        opinions: Two networks or more, from images to probabilities.
        upright: What each makes of the slices as they are.
        classes: Of the masks, the background included.

    Returns:
        The two best at the most; which of these is right only more than two networks can tell.
    """

    def likelihood(masks: Sequence[Tensor]) -> float:
        pairs = np.triu_indices(len(masks), 1)
        agreed = agreements([labels_of(one) for one in masks], classes)[pairs].mean()
        return float(agreed) - float(np.mean([entropy(one).item() for one in masks]))

    enough = likelihood(upright) + _MARGIN
    if enough >= 1:
        return []  # none can be as sure as that
    found: dict[Symmetry, float] = {}
    for symmetry in _OTHERS:
        turned = symmetry.of(images).contiguous()
        found[symmetry] = likelihood([opinion(turned) for opinion in opinions])
    best = sorted(found, key=found.__getitem__, reverse=True)[:_TRIED]
    return [symmetry for symmetry in best if found[symmetry] > enough]
