"""Slices that lie on their side: the eight ways to turn or mirror a square, and the likely one.

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


def likely(
    images: Square, opinions: Sequence[Callable[[Square], Tensor]], classes: int
) -> Symmetry:
    """How the slices are to be turned so that several networks are sure of them, and agree.

    Args:
        images: All slices of the volume.
        opinions: Two networks or more, from images to probabilities.
        classes: Of the masks, the background included.

    Returns:
        As they are, unless another way is much likelier.
    """

    def likelihood(symmetry: Symmetry) -> float:
        seen = symmetry.of(images).contiguous()
        masks = [opinion(seen) for opinion in opinions]
        pairs = np.triu_indices(len(masks), 1)
        agreed = agreements([labels_of(one) for one in masks], classes)[pairs].mean()
        return float(agreed) - float(np.mean([entropy(one).item() for one in masks]))

    upright = likelihood(AS_IT_IS)
    if upright >= 1 - _MARGIN:
        return AS_IT_IS  # the others cannot be so much likelier
    found = {symmetry: likelihood(symmetry) for symmetry in _OTHERS}
    best = max(found, key=found.__getitem__)
    return best if found[best] > upright + _MARGIN else AS_IT_IS
