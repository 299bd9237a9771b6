"""Ways from an image to a mask: a correction, a view, and a mixture of batch norm statistics.

Axes: slice, channel or class, height, width; the slices of one volume.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from maskmend.guard.corrections import Correction
from maskmend.guard.views import View

Images = Float[Tensor, "slice channel height width"]
Masks = Float[Tensor, "slice class height width"]
Segment = Callable[[Images], Tensor]
"""Images to logits."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to a mask."""

    name: str
    correction: Correction
    view: View
    segmentor: Segment

    def shown(self, images: Images) -> Images:
        """What the segmentor sees, but for the view."""
        return self.correction(images)

    def segment(self, images: Images) -> Masks:
        """Probabilities, with gradients."""
        logits = self.segmentor(self.view.of(self.shown(images)))
        return self.view.back(logits.float().softmax(1))

    @torch.no_grad()
    def masks(self, images: Images) -> Masks:
        """Probabilities."""
        return self.segment(images)


VIEWS: Mapping[str, View] = {
    "turned": View(degrees=20),
    "turned back": View(degrees=-20),
    "reduced": View(zoom=0.87),
}

NEIGHBOURS = tuple(View(move=move) for move in ((4, 4), (-5, -5), (-4, 5), (5, -4)))
"""A network that pools answers a little differently to an image that is moved by some pixels."""


def neighbours(trained: Segment) -> Sequence[Way]:
    """Plain inference of the image moved by a few pixels; see `mend.Mender`."""
    return [
        Way(name=str(view.move), correction=lambda images: images, view=view, segmentor=trained)
        for view in NEIGHBOURS
    ]


def ways(
    corrections: Mapping[str, Correction],
    trained: Segment,
    mixed: Segment,
    student: tuple[Segment, Segment] | None = None,
) -> Sequence[Way]:
    """Plain inference and views of the image; and with mixed statistics, corrections as well.

    Args:
        corrections: By name; "none" is first, and needed.
        trained: The segmentor as it was trained.
        mixed: The segmentor with statistics that are in part the image's own: so many shifts are
            undone by these that whatever else is done to the image goes with them.
        student: A noisy student of the segmentor, as it was trained and with mixed statistics.
    """
    straight = [("none", corrections["none"], View())]
    corrected = [(name, correct, View()) for name, correct in corrections.items()]
    seen = [(name, corrections["none"], view) for name, view in VIEWS.items()]
    own = " + own statistics"
    made = [
        Way(name=name + statistics, correction=correct, view=view, segmentor=segmentor)
        for statistics, segmentor, some in (
            ("", trained, [*straight, *seen]),
            (own, mixed, [*corrected, *seen]),
        )
        for name, correct, view in some
    ]
    if student is None:
        return made
    opinions = {
        "student": student[0],
        f"student{own}": student[1],
        "student and segmentor": _together(trained, student[0]),
    }
    return made + [
        Way(name=name, correction=corrections["none"], view=View(), segmentor=segmentor)
        for name, segmentor in opinions.items()
    ]


def _together(*networks: Segment) -> Segment:
    """Logits of the mean of their probabilities."""

    def segment(images: Images) -> Tensor:
        masks = torch.stack([network(images).float().softmax(1) for network in networks])
        return masks.mean(0).clamp(min=1e-12).log()

    return segment
