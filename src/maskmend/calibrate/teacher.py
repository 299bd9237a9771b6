"""What a calibration needs of a segmentor: a trained run, or one that was not trained here.

Axes: slice, channel, height, width.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from maskmend.calibrate.fit import check_enough
from maskmend.checkpoint import CONFIG, digest_of, read_split
from maskmend.config import Config, Precision, PriorConfig
from maskmend.data.cohort import Case
from maskmend.data.layouts import find_cohort
from maskmend.errors import ConfigError, InputError
from maskmend.guard.mend import Mender
from maskmend.predict import Model
from maskmend.prediction import Prepared, Shown

Slices = Float[Tensor, "slice 1 height width"]
Labels = UInt8[Tensor, "slice height width"]
Menders = Callable[[float, Shown], Mender]
"""Of the score of true masks and an image, to the ways in which that can be segmented."""


class Patients(NamedTuple):
    """Images of a segmentor's patients, by what they are for."""

    annotated: Sequence[Case]
    taught: Sequence[Case]
    """Those that nobody annotated, of which students are told what the segmentor makes."""
    validation: Sequence[Case]
    """Those that it was not trained on, by which it is judged."""


class Teacher(Protocol):
    """A segmentor that noisy students learn from, and that a guard is fitted to."""

    students: list[nn.Module]

    @property
    def folder(self) -> Path:
        """Where students and calibration are kept, beside config.yaml."""

    @property
    def digest(self) -> str:
        """SHA-256 of all weights that make and score its masks."""

    @property
    def config(self) -> Config | PriorConfig:
        """Seed, structures, how images are prepared, and how students are taught."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def precision(self) -> Precision:
        """Arithmetic of what is taught."""

    @property
    def adaptor(self) -> nn.Module:
        """What stands in front of the students, and is not taught."""

    def patients(self, data: Path) -> Patients:
        """Its patients' images; raises InputError if one is missing, or if there are too few."""

    def prepare(self, image: Path) -> Shown:
        """Read an image; its slices have a median of 0 and an interquartile range of 1."""

    def plain(self, seen: Shown) -> Float[Tensor, "slice class height width"]:
        """Its logits of an image, on its device, without gradients."""

    def lesson(self, seen: Shown, labels: Labels) -> tuple[Slices, Labels]:
        """An image's slices and labels as students learn from them: all images' of one size."""

    def untaught(self, number: int) -> nn.Module:
        """A student before its first lesson, on the device."""

    def menders(self, quantiles: Tensor) -> Menders:
        """The ways in which it and its students can segment images; see `Model.mender`."""


def identity(teacher: Teacher) -> dict[str, str]:
    """What decides what students learn, but for the data."""
    return {"weights": teacher.digest, "config": digest_of(teacher.folder / CONFIG)}


class RunTeacher:
    """A trained run.

    Raises:
        ConfigError: It was trained without a discriminator.
    """

    def __init__(self, run: Path, model: Model):
        if not model.config.adversarial.enabled:
            raise ConfigError(
                f"{run}: was trained without a discriminator (adversarial.enabled: false), which"
                " the guard needs; train another"
            )
        self.folder, self.model = run, model
        self.students: list[nn.Module] = []
        self.config, self.digest, self.device = model.config, model.digest, model.device
        self.adaptor, self.precision = model.networks.adaptor, model.config.training.precision

    def patients(self, data: Path) -> Patients:
        """Those of its split."""
        split = read_split(self.folder)
        check_enough(split.validation)
        cases = find_cohort(data, self.config.data.layout).cases

        def of(patients: Sequence[str]) -> list[Case]:
            found = [case for case in cases if case.patient in patients and case.image is not None]
            check_all_found(self.folder, data, patients, found)
            return found

        annotated = of(split.train_annotated)
        # A patient may be in both uses, where there are few.
        taught = [case for case in of(split.train_unpaired_images) if case not in annotated]
        return Patients(annotated, taught, of(split.validation))

    def prepare(self, image: Path) -> Prepared:
        """As for any image."""
        return self.model.prepare(image)

    @torch.no_grad()
    def plain(self, seen: Shown) -> Float[Tensor, "slice class height width"]:
        """Of the segmentor behind its adaptor."""
        networks = self.model.networks
        return networks.segmentor(networks.adaptor(seen.slices.to(self.device)))

    def lesson(self, seen: Shown, labels: Labels) -> tuple[Slices, Labels]:
        """As they are."""
        return seen.slices, labels

    def untaught(self, number: int) -> nn.Module:
        """A copy of the segmentor."""
        return self.model.networks.segmentor

    def menders(self, quantiles: Tensor) -> Menders:
        """With the students of this call; the same ways for all images."""
        self.model.students = self.students
        mender = self.model.mender(quantiles, 0.0, self.model.settings())
        return lambda realistic, seen: dataclasses.replace(mender, realistic=realistic)


def check_all_found(
    folder: Path, data: Path, patients: Sequence[str], found: Sequence[Case]
) -> None:
    """Raises InputError if one of the patients is not among the cases that were found."""
    if missing := sorted(set(patients) - {case.patient for case in found}):
        raise InputError(f"{data}: {missing[0]}, a patient of {folder}, is missing")
