"""Noisy students: what they are taught with, and those that a stopped call had taught."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from maskmend.calibrate.student_training import Lessons, train_student
from maskmend.calibrate.teacher import Teacher, identity
from maskmend.calibrate.validation import true_labels
from maskmend.data.cohort import Case
from maskmend.guard.corrections import Quantiles, quantiles
from maskmend.guard.quality import labels_of
from maskmend.guard.student import UNFINISHED, read_students, write_students
from maskmend.prediction import Shown


def taught_before(teacher: Teacher) -> list[nn.Module]:
    """Students that a stopped calibration left, no more than are asked for."""
    path = teacher.folder / UNFINISHED
    return [*read_students(path, teacher.untaught, **identity(teacher))]


def teach(teacher: Teacher, lessons: Lessons, advance: Callable[[], None]) -> None:
    """Teach the students that are missing, and keep each as soon as it is finished."""
    for number in range(len(teacher.students), teacher.config.adaptation.students):
        taught = train_student(
            teacher.untaught(number),
            teacher.adaptor,
            lessons,
            teacher.config,
            precision=teacher.precision,
            number=number,
            advance=advance,
        )
        teacher.students.append(taught)
        write_students(teacher.folder / UNFINISHED, teacher.students, **identity(teacher))


def lessons_of(
    teacher: Teacher,
    annotated: Sequence[Case],
    taught: Sequence[Case],
    advance: Callable[[], None],
    *,
    labelled: bool,
) -> tuple[Quantiles, Lessons | None]:
    """Mean quantiles of the training images; if asked for, what students learn from them.

    Args:
        teacher: What prepares the images, and labels those that nobody annotated.
        annotated: Images with people's masks.
        taught: Images without.
        advance: Called after each image.
        labelled: Whether to make lessons.
    """
    means: list[Tensor] = []
    lessons: list[tuple[Tensor, Tensor]] = []
    for case in (*annotated, *taught):
        assert case.image is not None
        seen, by_people = teacher.prepare(case.image), len(means) < len(annotated)
        means.append(quantiles(seen.slices))
        if labelled:
            classes = teacher.config.data.classes
            labels = true_labels(case, seen, classes) if by_people else _plain(teacher, seen)
            lessons.append(teacher.lesson(seen, labels))
        advance()
    mean = torch.stack(means).mean(0)
    if not labelled:
        return mean, None
    images, labels = (torch.cat(part) for part in zip(*lessons, strict=True))
    told = sum(len(labels) for _, labels in lessons[: len(annotated)])
    return mean, Lessons(images=images, labels=labels, annotated=told)


def _plain(teacher: Teacher, seen: Shown) -> Tensor:
    return labels_of(teacher.plain(seen)).cpu()
