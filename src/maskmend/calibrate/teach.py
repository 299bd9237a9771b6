"""A run's noisy students: what they are taught with, and those that a stopped call had taught."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskmend.calibrate.student_training import Lessons, train_student
from maskmend.calibrate.validation import true_labels
from maskmend.checkpoint import CONFIG, digest_of
from maskmend.data.cohort import Case
from maskmend.guard.quality import labels_of
from maskmend.guard.student import UNFINISHED, read_students, write_students
from maskmend.predict import Model
from maskmend.segmentor import UNet


def taught_before(run: Path, model: Model) -> list[UNet]:
    """Students that a stopped calibration left, no more than are asked for."""
    path = run / UNFINISHED
    known = read_students(path, model.networks.segmentor, **teacher_of(run, model))
    return [one.to(model.device) for one in known]


def teach(run: Path, model: Model, lessons: Lessons, advance: Callable[[], None]) -> None:
    """Teach the students that are missing, and keep each as soon as it is finished."""
    networks = model.networks
    for number in range(len(model.students), model.config.adaptation.students):
        taught = train_student(
            networks.segmentor,
            networks.adaptor,
            lessons,
            model.config,
            number=number,
            advance=advance,
        )
        model.students.append(taught)
        write_students(run / UNFINISHED, model.students, **teacher_of(run, model))


def teacher_of(run: Path, model: Model) -> dict[str, str]:
    """What decides what students learn, but for the data."""
    return {"weights": model.digest, "config": digest_of(run / CONFIG)}


def training_slices(
    model: Model,
    annotated: Sequence[Case],
    taught: Sequence[Case],
    advance: Callable[[], None],
    *,
    labelled: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Slices of the training images; if asked for, people's labels, or the segmentor's."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for case in (*annotated, *taught):
        assert case.image is not None
        prepared, by_people = model.prepare(case.image), len(images) < len(annotated)
        images.append(prepared.slices)
        if labelled:
            made = true_labels(model, case, prepared) if by_people else _plain(model, images[-1])
            labels.append(made)
        advance()
    return images, labels


@torch.no_grad()
def _plain(
    model: Model, slices: Float[Tensor, "slice 1 height width"]
) -> UInt8[Tensor, "slice height width"]:
    networks = model.networks
    return labels_of(networks.segmentor(networks.adaptor(slices.to(model.device)))).cpu()
