"""Learn from the validation patients how far a run's masks can be trusted; see `calibration`."""

import dataclasses
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from maskmend.atomic import write_atomically
from maskmend.calibrate import trial
from maskmend.calibrate.fit import calibrate, check_enough, judged_by_others
from maskmend.calibrate.student_training import Lessons
from maskmend.calibrate.teach import taught_before, teach, teacher_of, training_slices
from maskmend.calibrate.trial import Trial, read_trials, write_trials
from maskmend.calibrate.validation import Example, examples
from maskmend.checkpoint import CALIBRATION, digest_of, read_split
from maskmend.data.cohort import Case
from maskmend.data.layouts import find_cohort
from maskmend.errors import ConfigError, InputError
from maskmend.guard import student
from maskmend.guard.calibration import Calibration
from maskmend.guard.corrections import quantiles
from maskmend.guard.quality import Judged
from maskmend.guard.student import STUDENTS, write_students
from maskmend.guard.ways import ADVISED, OUTVOTING
from maskmend.predict import Model, load
from maskmend.progress import progress_bar

TRIALS = "trials.csv"


def calibrate_run(
    run: Path, data: Path, *, draws: int = 3, device: str | None = None, console: Console
) -> Calibration:
    """Fit predicted Dice on a run's validation patients, plain and degraded; kept in the run.

    First the segmentor teaches noisy students what it knows of the training patients; see
    `student`. If the call is stopped, the next one takes up the students and the trials that were
    finished.

    Beside calibration.json, trials.csv tells of every mask that was made: its Dice, and what was
    predicted of it without its patient.

    Args:
        run: Folder of a finished training.
        data: The data it was trained on.
        draws: Degraded copies of each image, and as many with an artefact.
        device: Where to compute; by default a GPU if there is one.
        console: Where progress is shown.

    Raises:
        ConfigError: The run was trained without a discriminator.
        InputError: A patient of the run is not in the data, a file cannot be used, or there are
            fewer than two validation patients.
        RunError: The folder is no run, or not whole.
    """
    model = load(run, device)
    if not model.config.adversarial.enabled:
        raise ConfigError(
            f"{run}: was trained without a discriminator (adversarial.enabled: false), which the"
            " guard needs; train another"
        )
    patients = _patients(run, data, model)
    model.students = taught_before(run, model)
    settings = model.config.adaptation
    lessons = (settings.students - len(model.students)) * settings.student_iterations
    copies = {
        "draws": draws,
        "images": [one.image.name for one in patients.validation if one.image],
    }
    trials: list[Trial] = []
    if not lessons:
        trials = read_trials(run / trial.UNFINISHED, **_decisive(run, model, copies))
    left = len(patients.validation) * (1 + 2 * draws) - len(trials)
    slices = len(patients.annotated) + len(patients.taught)
    with progress_bar(console, "calibrating", slices + lessons + left) as advance:
        images, labels = training_slices(
            model, patients.annotated, patients.taught, advance, labelled=lessons > 0
        )
        mean = torch.stack([quantiles(one) for one in images]).mean(0)
        if lessons:
            by_people = sum(len(one) for one in labels[: len(patients.annotated)])
            shown = Lessons(images=torch.cat(images), labels=torch.cat(labels), annotated=by_people)
            teach(run, model, shown, advance)
        tried: list[Example] = []
        for number, case in enumerate(patients.validation):
            tried.extend(examples(model, case, number, draws))
        mender = model.mender(mean, 0.0, model.settings())
        realistic = float(np.mean([one.realism(mender) for one in tried if not one.draw]))
        mender = dataclasses.replace(mender, realistic=realistic)
        decisive = _decisive(run, model, copies)
        for example in tried[len(trials) :]:
            trials.append(example.trial(mender))
            write_trials(run / trial.UNFINISHED, trials, **decisive)
            advance()
    places = {"advised": mender.place(ADVISED), "committee": mender.place(OUTVOTING)}
    judged = judged_by_others(trials)
    calibration = calibrate(trials, judged, mean, realistic, means=mender.means, **places)
    write_atomically(run / TRIALS, _as_table(trials, judged, mender.names).to_csv(index=False))
    _keep(run, model, calibration)
    return calibration


class _Patients(NamedTuple):
    """Images of a run's patients, by what they are for."""

    annotated: Sequence[Case]
    taught: Sequence[Case]
    """Those that nobody annotated, of which students are told what the segmentor makes."""
    validation: Sequence[Case]


def _patients(run: Path, data: Path, model: Model) -> _Patients:
    split = read_split(run)
    check_enough(split.validation)
    cases = find_cohort(data, model.config.data.layout).cases

    def of(patients: Sequence[str]) -> list[Case]:
        found = [case for case in cases if case.patient in patients and case.image is not None]
        if missing := sorted(set(patients) - {case.patient for case in found}):
            raise InputError(f"{data}: {missing[0]}, a patient of {run}, is missing")
        return found

    annotated = of(split.train_annotated)
    # A patient may be in both uses, where there are few.
    taught = [case for case in of(split.train_unpaired_images) if case not in annotated]
    return _Patients(annotated, taught, of(split.validation))


def _keep(run: Path, model: Model, calibration: Calibration) -> None:
    """Calibration and students, which belong together, in the place of those that the run had."""
    (run / CALIBRATION).unlink(missing_ok=True)
    if model.students:
        write_students(run / STUDENTS, model.students, **teacher_of(run, model))
    else:
        (run / STUDENTS).unlink(missing_ok=True)
    write_atomically(run / CALIBRATION, json.dumps(calibration.to_dict(), indent=1))
    for unfinished in (student.UNFINISHED, trial.UNFINISHED):
        (run / unfinished).unlink(missing_ok=True)


def _decisive(run: Path, model: Model, conditions: dict[str, Any]) -> dict[str, Any]:
    """What decides what trials tell, but for what is in the data's files."""
    students = digest_of(run / student.UNFINISHED) if model.students else None
    return {
        **teacher_of(run, model),
        "students": students,
        "version": version("maskmend"),
        **conditions,
    }


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
