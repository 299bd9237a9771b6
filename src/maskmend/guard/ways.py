"""Ways from an image to a mask: a correction, a view, and a mixture of batch norm statistics.

Axes: slice, channel or class, height, width; the slices of one volume.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
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

    @property
    def how(self) -> Hashable:
        """What its masks depend on, which ways of other names may share."""
        return self.correction, self.view, self.segmentor

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


COMMITTEE, ADVISED = "committee", "students' advice"
"""The mean of the segmentor and its students, and the segmentor with the greater share."""
_KEPT = 0.6
"""The segmentor's share where it is advised: it can be outvoted only where it is unsure itself."""
_OWN = " + own statistics"
OUTVOTING = f"{COMMITTEE}{_OWN}"
"""The committee's mask where it outvotes the segmentor, whose statistics do not fit such images."""
_PLAIN = ("none", f"none{_OWN}")
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
    students: Sequence[tuple[Segment, Segment]] = (),
) -> Sequence[Way]:
    """Plain inference and views of the image; and with mixed statistics, corrections as well.

    Args:
        corrections: By name; "none" is first, and needed.
        trained: The segmentor as it was trained.
        mixed: The segmentor with statistics that are in part the image's own: so many shifts are
            undone by these that whatever else is done to the image goes with them.
        students: Noisy students of the segmentor, each as it was trained and with mixed statistics.
    """
    straight = [("none", corrections["none"], View())]
    corrected = [(name, correct, View()) for name, correct in corrections.items()]
    seen = [(name, corrections["none"], view) for name, view in VIEWS.items()]
    made = [
        Way(name=name + statistics, correction=correct, view=view, segmentor=segmentor)
        for statistics, segmentor, some in (
            ("", trained, [*straight, *seen]),
            (_OWN, mixed, [*corrected, *seen]),
        )
        for name, correct, view in some
    ]
    return made + [
        Way(name=name, correction=corrections["none"], view=View(), segmentor=segmentor)
        for number, opinions in enumerate(students, 1)
        for name, segmentor in zip(_student(number), opinions, strict=True)
    ]


def committees(students: int) -> Mapping[str, Mapping[str, float]]:
    """Whose masks are averaged, with their shares, by name: the segmentor and its students.

    All alike in a committee, the segmentor more where it is only `ADVISED`.

    Args:
        students: How many there are.
    """
    if not students:
        return {}
    numbers = range(1, students + 1)
    everybody = zip(_PLAIN, *(_student(number) for number in numbers), strict=True)
    alike = [dict.fromkeys(members, 1 / (1 + students)) for members in everybody]
    advice = {_student(number)[0]: (1 - _KEPT) / students for number in numbers}
    return {
        **dict(zip((COMMITTEE, OUTVOTING), alike, strict=True)),
        ADVISED: {_PLAIN[0]: _KEPT, **advice},
    }


def _student(number: int) -> tuple[str, str]:
    return f"student {number}", f"student {number}{_OWN}"
