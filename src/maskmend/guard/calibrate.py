"""Learn from the validation patients how far a run's masks can be trusted; see `calibration`."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from torch import Tensor

from maskmend.checkpoint import CALIBRATION, CONFIG, digest_of, read_split, write_atomically
from maskmend.components import one_hot
from maskmend.config import DegradationConfig
from maskmend.data.cohort import Case
from maskmend.data.layouts import find_cohort
from maskmend.data.preprocess import mask_slices
from maskmend.data.volume import read_mask
from maskmend.degrade import degrade_volume
from maskmend.errors import InputError
from maskmend.guard.artefacts import ARTEFACTS, spoil
from maskmend.guard.calibration import (
    Calibration,
    Trial,
    calibrate,
    check_enough,
    judged_by_others,
)
from maskmend.guard.corrections import quantiles
from maskmend.guard.mend import Mender
from maskmend.guard.quality import Judged, agreements, labels_of
from maskmend.guard.student import STUDENTS, UNFINISHED, read_students, write_students
from maskmend.guard.student_training import Lessons, train_student
from maskmend.guard.ways import ADVISED, COMMITTEE
from maskmend.predict import Model, load
from maskmend.prediction import Prepared
from maskmend.progress import progress_bar
from maskmend.segmentor import UNet

TRIALS = "trials.csv"


def calibrate_run(
    run: Path, data: Path, *, draws: int = 3, device: str | None = None, console: Console
) -> Calibration:
    """Fit predicted Dice on a run's validation patients, plain and degraded; kept in the run.

    First the segmentor teaches noisy students what it knows of the training patients; see
    `student`. If the call is stopped, the next one takes up those that were finished.

    Beside calibration.json, trials.csv tells of every mask that was made: its Dice, and what was
    predicted of it without its patient.

    Args:
        run: Folder of a finished training.
        data: The data it was trained on.
        draws: Degraded copies of each image, and as many with an artefact.
        device: Where to compute; by default a GPU if there is one.
        console: Where progress is shown.

    Raises:
        InputError: A patient of the run is not in the data, a file cannot be used, or there are
            fewer than two validation patients.
        RunError: The folder is no run, or not whole.
    """
    model = load(run, device)
    split = read_split(run)
    check_enough(split["validation"])
    cases = find_cohort(data, model.config.data.layout).cases

    def of(*uses: str) -> list[Case]:
        wanted = {patient for use in uses for patient in split[use]}
        found = [case for case in cases if case.patient in wanted and case.image is not None]
        if missing := sorted(wanted - {case.patient for case in found}):
            raise InputError(f"{data}: {missing[0]}, a patient of {run}, is missing")
        return found

    annotated, validation = of("train_annotated"), of("validation")
    # A patient may be in both uses, where there are few.
    taught = [case for case in of("train_unpaired_images") if case not in annotated]
    asked = model.config.adaptation.students
    model.students = _taught_before(run, model)
    lessons = (asked - len(model.students)) * model.config.adaptation.student_iterations
    total = len(annotated) + len(taught) + lessons + len(validation) * (1 + 2 * draws)
    with progress_bar(console, "calibrating", total) as advance:
        images, labels = _training(model, annotated, taught, advance, labelled=lessons > 0)
        mean = torch.stack([quantiles(one) for one in images]).mean(0)
        if lessons:
            by_people = sum(len(one) for one in labels[: len(annotated)])
            shown = Lessons(images=torch.cat(images), labels=torch.cat(labels), annotated=by_people)
            _teach(run, model, shown, advance)
        degraded: list[_Degraded] = []
        for number, case in enumerate(validation):
            rng = np.random.default_rng([model.config.seed, number])
            degraded.extend(_degraded(model, case, number * draws, draws, rng))
        mender = model.mender(mean, 0.0, model.settings())
        realistic = float(np.mean([one.realism(mender) for one in degraded if not one.draw]))
        mender = dataclasses.replace(mender, realistic=realistic)
        trials = []
        for one in degraded:
            trials.append(one.trial(mender))
            advance()
    places = {"advised": mender.place(ADVISED), "committee": mender.place(COMMITTEE)}
    judged = judged_by_others(trials)
    calibration = calibrate(trials, judged, mean, realistic, means=mender.means, **places)
    write_atomically(run / TRIALS, _as_table(trials, judged, mender.names).to_csv(index=False))
    (run / CALIBRATION).unlink(missing_ok=True)  # it goes with no other students
    if model.students:
        (run / UNFINISHED).replace(run / STUDENTS)
    else:
        (run / STUDENTS).unlink(missing_ok=True)
    write_atomically(run / CALIBRATION, json.dumps(calibration.to_dict(), indent=1))
    return calibration


def _taught_before(run: Path, model: Model) -> list[UNet]:
    """Students that a stopped calibration left, no more than are asked for."""
    known = read_students(run / UNFINISHED, model.networks.segmentor, **_teacher(run, model))
    return [student.to(model.device) for student in known]


def _teach(run: Path, model: Model, lessons: Lessons, advance: Callable[[], None]) -> None:
    """Teach the students that are missing, and keep each as soon as it is finished."""
    networks = model.networks
    for number in range(len(model.students), model.config.adaptation.students):
        student = train_student(
            networks.segmentor,
            networks.adaptor,
            lessons,
            model.config,
            number=number,
            advance=advance,
        )
        model.students.append(student)
        write_students(run / UNFINISHED, model.students, **_teacher(run, model))


def _teacher(run: Path, model: Model) -> dict[str, str]:
    """What decides what students learn, but for the data."""
    return {"weights": model.digest, "config": digest_of(run / CONFIG)}


def _training(
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
            labels.append(_truth(model, case, prepared) if by_people else _plain(model, images[-1]))
        advance()
    return images, labels


def _truth(model: Model, case: Case, prepared: Prepared) -> UInt8[Tensor, "slice height width"]:
    assert case.mask is not None
    classes = model.config.data.classes
    truth = read_mask(case.mask, labels=range(classes), like=prepared.volume)
    return mask_slices(truth, prepared.grid, classes)


@torch.no_grad()
def _plain(
    model: Model, slices: Float[Tensor, "slice 1 height width"]
) -> UInt8[Tensor, "slice height width"]:
    networks = model.networks
    return labels_of(networks.segmentor(networks.adaptor(slices.to(model.device)))).cpu()


@dataclass(frozen=True)
class _Degraded:
    """An image of a validation patient, as it is or degraded, and its truth."""

    patient: str
    draw: int
    slices: Float[Tensor, "slice 1 height width"]
    labels: UInt8[Tensor, "slice height width"]

    @torch.no_grad()
    def realism(self, mender: Mender) -> float:
        """The discriminator's mean score of the true mask."""
        truth = one_hot(self.labels, mender.classes).to(self.slices)
        return mender.score(truth, self.slices).mean().item()

    def trial(self, mender: Mender) -> Trial:
        """All masks of it beside the truth."""
        candidates = mender.candidates(self.slices)
        candidates.append(mender.retouched(self.slices, candidates[-1]))
        labels = [self.labels, *(one.look.labels for one in candidates)]
        dice = agreements(labels, mender.classes)[0, 1:]
        features, shared = mender.describe(candidates), mender.shared(candidates)
        return Trial(self.patient, features, dice, self.draw, shared)


def _degraded(
    model: Model, case: Case, before: int, draws: int, rng: np.random.Generator
) -> Iterator[_Degraded]:
    """The image as it is, degraded copies, and as many with artefacts: so many came `before`."""
    assert case.image is not None
    prepared, preprocess = model.prepare(case.image), model.config.preprocess
    labels = _truth(model, case, prepared)
    for draw in range(1 + 2 * draws):
        slices = prepared.slices
        if draw:
            if draw <= draws:
                degraded = degrade_volume(slices, DegradationConfig(), preprocess, rng)
            else:
                # In turn: of some twenty patients' images, chance would show one kind seldom.
                artefact = ARTEFACTS[(before + draw) % len(ARTEFACTS)]
                degraded = spoil(slices, artefact, preprocess, rng)
            # Between the two: a guard must know mild changes, in which there is less to gain.
            slices = torch.lerp(slices, degraded, float(rng.uniform(0.25, 1)))
        yield _Degraded(case.patient, draw, slices.to(model.device), labels)


def _as_table(
    trials: Sequence[Trial], predictions: Sequence[Judged], names: Sequence[str]
) -> pd.DataFrame:
    """A line a mask, for people: what it was, its true Dice and what the others predicted.

    Args:
        trials: Any number.
        predictions: What was expected of each.
        names: Of the masks, in their order.
    """
    return pd.DataFrame(
        {
            "patient": one.patient,
            "draw": one.draw,
            "shared": round(one.shared, 5),
            "mask": names,
            "dice": one.dice.round(5),
            "predicted": judged.dice.round(5),
            "doubt": judged.doubt.round(5),
        }
        for one, judged in zip(trials, predictions, strict=True)
    ).explode(["mask", "dice", "predicted", "doubt"], ignore_index=True)
