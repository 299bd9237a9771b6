"""Noisy students: networks that were shown degraded images, as a rule copies of the segmentor.

Xie et al., "Self-training with Noisy Student improves ImageNet classification", CVPR 2020: the
segmentor teaches what it makes of images as they are, and its copies have to say the same of them
when they are degraded, or look as another sequence may (`maskmend.appearance`); people's masks are
taken where there are any. The segmentor stays as it is.
The guard asks the students for other opinions, and may follow them where the image is unlike those
that the segmentor was trained on. Several students, who differ by the degradations that they saw,
err apart where all are unsure (Lakshminarayanan et al., "Simple and scalable predictive uncertainty
estimation using deep ensembles", NeurIPS 2017): their mean is better, their disagreement tells.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from maskmend.checkpoint import read_tensors, write_tensors
from maskmend.errors import RunError

STUDENTS = "students.safetensors"
UNFINISHED = "students.part.safetensors"
"""Those that a calibration has taught so far; the next takes them up if it is stopped."""


def write_students(path: Path, students: Sequence[nn.Module], **metadata: str) -> None:
    """Keep them in a file."""
    write_tensors(path, nn.ModuleList(students).state_dict(), **metadata)


def read_students(
    path: Path, untaught: Callable[[int], nn.Module], **metadata: str
) -> Sequence[nn.Module]:
    """The students in a file, frozen; none if there is no file.

    Args:
        path: The file.
        untaught: Of the number of a student, a network of its shape; stays as it is.
        **metadata: If given, students that were kept with other metadata are not read.

    Raises:
        RunError: The file is damaged or of another network.
    """
    if not path.exists():
        return ()
    tensors, kept = read_tensors(path)
    if metadata and kept != metadata:
        return ()
    count = len({name.partition(".")[0] for name in tensors})
    students = nn.ModuleList(copy.deepcopy(untaught(number)) for number in range(count))
    try:
        students.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(
            f"{path}: is of another segmentor; remove it and calibrate the run again"
        ) from error
    return [*students.eval().requires_grad_(False)]
