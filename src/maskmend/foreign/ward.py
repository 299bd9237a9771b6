"""A model that was not trained here, in the hands of a guard.

Axes: slice, channel or class, height, width.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from maskmend.calibrate.fit import check_enough
from maskmend.calibrate.teacher import Menders, Patients, check_all_found
from maskmend.checkpoint import CALIBRATION, SPLIT, quiet_generator
from maskmend.config import Precision, PriorConfig
from maskmend.data.cohort import Case
from maskmend.data.layouts import find_cohort
from maskmend.data.source import read_source
from maskmend.errors import ConfigError, InputError, RunError
from maskmend.foreign.fitted import FittedPrior
from maskmend.foreign.onto import Onto, order_of
from maskmend.foreign.standard import Intensities, Padded, Standard, Standardised, centred
from maskmend.guard.assemble import Opinion, assemble, mixed
from maskmend.guard.calibration import SEGMENTOR, Calibration, read_calibration
from maskmend.guard.mend import Mender
from maskmend.guard.student import STUDENTS, read_students
from maskmend.models import own
from maskmend.models.brought import BroughtModel
from maskmend.prediction import Shown
from maskmend.probe import borrow
from maskmend.segmentor import UNet

Slices = Float[Tensor, "slice 1 height width"]
Labels = UInt8[Tensor, "slice height width"]
Masks = Float[Tensor, "slice class height width"]


class Ward:
    """A model, a prior and the model's students; a `maskmend.calibrate.teacher.Teacher`.

    Args:
        model: The model.
        prior: On the device.
        folder: Where the prior came from.
        device: Where to compute.

    Raises:
        ConfigError: A guard cannot be fitted to such a model.
        RunError: Students in the folder are damaged.
    """

    def __init__(self, model: BroughtModel, prior: FittedPrior, folder: Path, device: torch.device):
        _check(model, prior)
        self.model, self.prior, self.folder, self.device = model, prior, folder, device
        self.digest = _digest(model, prior)
        self.config: PriorConfig = prior.config
        self.precision: Precision = self.config.adaptation.precision
        self.adaptor = nn.Identity()
        self.taught: list[Intensities] = []
        known = borrow(model.network.to(device))
        self.segmentor = Opinion(known, mixed(known))
        self.students = [*read_students(folder / STUDENTS, self.untaught)]

    def patients(self, data: Path) -> Patients:
        """Those that the prior was fitted to, and those held out by name.

        Raises:
            ConfigError: None were, so that the model may have been trained on them.
            InputError: One is missing, or there are too few.
            RunError: The folder does not say who they are.
        """
        if not self.config.data.held_out_patients:
            raise ConfigError(
                f"{self.folder}: nothing says which patients the model was not trained on; fit a"
                " prior with --held-out and their names"
            )
        if not (self.folder / SPLIT).is_file():
            raise RunError(
                f"{self.folder / SPLIT}: missing; copy the prior's folder whole, or fit another by"
                " `maskmend fit-prior`"
            )
        split = json.loads((self.folder / SPLIT).read_text(encoding="utf-8"))
        check_enough(split["held_out"])
        cohort = find_cohort(data, self.config.data.layout)

        def of(cases: Sequence[Case], use: str) -> list[Case]:
            return [case for case in cases if case.patient in split[use]]

        annotated, held_out = of(cohort.cases, "fitted"), of(cohort.cases, "held_out")
        check_all_found(self.folder, data, split["held_out"], held_out)
        if not annotated:
            raise InputError(
                f"{data}: none of the patients that {self.folder} was fitted to has an image with"
                " a mask, which students learn from; add some"
            )
        return Patients(annotated, of(cohort.unlabelled, "fitted"), held_out)

    def prepare(self, image: Path) -> Standard:
        """Read an image and slice it; raises InputError if it cannot be used."""
        return Standard.of(self.model.images.prepare([read_source(image)]))

    @torch.no_grad()
    def plain(self, seen: Shown) -> Masks:
        """The model's logits."""
        return self._known(seen).trained(seen.slices.to(self.device))

    def lesson(self, seen: Shown, labels: Labels) -> tuple[Slices, Labels]:
        """The middle of the slices, as large as what the model was trained on."""
        assert isinstance(seen, Standard)
        self.taught.append(seen.intensities)
        size = self.model.images.size
        said = centred(labels[:, None].float(), size)[:, 0].to(labels)
        return centred(seen.slices, size), said

    def untaught(self, number: int) -> nn.Module:
        """A copy of the model or a small UNet with random weights, by turns.

        A copy knows what the model knows, and errs as it does; a network that starts anew errs
        apart from both, so that they agree where they are right. A model that has no weights which
        could learn has no copies. Students are for standardised slices; a copy is shown them with
        the mean intensities of all lessons that there were.
        """
        members = self.model.members or [self.model.network]
        member = members[number // 2 % len(members)]
        if number % 2 or not any(True for _ in member.parameters()):
            return self._unet(number).to(self.device)
        typical = Intensities.mean(self.taught or [Intensities(0.0, 1.0)])
        return Standardised(borrow(member), self.model.activation, typical).to(self.device)

    def _unet(self, number: int) -> nn.Module:
        config, depth = self.config, self.config.segmentor.depth
        with quiet_generator(config.seed + number):
            network = UNet(
                in_channels=1,
                classes=config.data.classes,
                width=config.segmentor.width,
                depth=depth,
            )
        return Padded(network, 2 ** (depth - 1))

    def check_learns(self) -> None:
        """Raises ConfigError if copies of the model could not be taught."""
        student = self.untaught(0).requires_grad_(True)
        masks = student(torch.zeros(1, 1, *self.model.images.size, device=self.device))
        if not masks.requires_grad:
            raise ConfigError(
                f"{self.model.path}: computes without gradients, which its students need to learn;"
                " save the network without torch.no_grad inside"
            )

    def menders(self, quantiles: Tensor) -> Menders:
        """The ways in which model and students can segment images of `prepare`."""
        students = [Opinion(one, mixed(one)) for one in self.students]
        order = order_of(self.model, self.prior)

        def mender(realistic: float, seen: Shown) -> Mender:
            known = self._known(seen)
            return assemble(
                known.trained,
                known,
                students,
                Onto(self.prior, self.config.preprocess, seen.plane, order),
                self.config.adaptation,
                self.device,
                quantiles=quantiles,
                realistic=realistic,
                classes=self.config.data.classes,
            )

        return mender

    def _known(self, seen: Shown) -> Opinion:
        """The model, for an image's standardised slices."""
        assert isinstance(seen, Standard)
        activation = self.model.activation
        made = {
            network: Standardised(network, activation, seen.intensities).to(self.device)
            for network in self.segmentor
        }
        return Opinion(*(made[network] for network in self.segmentor))


def calibration_of(model: BroughtModel, prior: FittedPrior, folder: Path) -> Calibration | None:
    """What a prior's folder knows of a model's masks, if anything.

    Raises:
        RunError: It is damaged.
    """
    calibration = read_calibration(folder)
    if calibration is None:
        return None
    told = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    return calibration if told.get(SEGMENTOR) == _digest(model, prior) else None


def _digest(model: BroughtModel, prior: FittedPrior) -> str:
    return hashlib.sha256(f"{model.digest} {prior.digest}".encode()).hexdigest()


def _check(model: BroughtModel, prior: FittedPrior) -> None:
    if own.fits(model.path):
        raise ConfigError(f"{model.path}: was trained here; maskmend calibrate it without --model")
    if model.channels != 1:
        raise ConfigError(
            f"{model.path}: its images have {model.channels} channels, and a guard is fitted to one"
            " alone; choose --method paper"
        )
    if order_of(model, prior) != [*range(len(model.structures) + 1)]:
        raise ConfigError(
            f"{model.path}: numbers its structures otherwise than the prior; fit a prior to masks"
            f" with {', '.join(f'{label} for {name}' for label, name in model.structures.items())}"
        )
