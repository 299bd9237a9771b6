"""Learn from validation patients how far a segmentor's masks can be trusted; see `calibration`."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from maskmend.atomic import write_atomically
from maskmend.calibrate import trial
from maskmend.calibrate.fit import calibrate, judged_by_others
from maskmend.calibrate.teach import lessons_of, taught_before, teach
from maskmend.calibrate.teacher import RunTeacher, Teacher, identity
from maskmend.calibrate.trial import Trial, read_trials, write_trials
from maskmend.calibrate.validation import Example, examples
from maskmend.checkpoint import CALIBRATION, digest_of
from maskmend.guard import student
from maskmend.guard.calibration import SEGMENTOR, Calibration
from maskmend.guard.quality import Judged
from maskmend.guard.student import STUDENTS, write_students
from maskmend.guard.ways import ADVISED, OUTVOTING
from maskmend.predict import load
from maskmend.progress import progress_bar

TRIALS = "trials.csv"


def calibrate_run(
    run: Path, data: Path, *, draws: int = 3, device: str | None = None, console: Console
) -> Calibration:
    """Fit predicted Dice on a run's validation patients, plain and degraded; kept in the run.

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
    teacher = RunTeacher(run, load(run, device))
    return calibrate_teacher(teacher, data, draws=draws, console=console)


def calibrate_teacher(teacher: Teacher, data: Path, *, draws: int, console: Console) -> Calibration:
    """Fit predicted Dice on a segmentor's validation patients, plain and degraded.

    First it teaches noisy students what it knows of the training patients; see `student`. If the
    call is stopped, the next one takes up the students and the trials that were finished.

    Beside calibration.json, trials.csv tells of every mask that was made: its Dice, and what was
    predicted of it without its patient.

    Args:
        teacher: The segmentor.
        data: The data it was trained on.
        draws: Degraded copies of each image, and as many with an artefact.
        console: Where progress is shown.

    Raises:
        InputError: A patient is not in the data, a file cannot be used, or there are fewer than two
            validation patients.
        RunError: Students that a stopped call left are damaged.
    """
    folder, patients = teacher.folder, teacher.patients(data)
    teacher.students = taught_before(teacher)
    settings = teacher.config.adaptation
    lessons = (settings.students - len(teacher.students)) * settings.student_iterations
    copies = {
        "draws": draws,
        "images": [one.image.name for one in patients.validation if one.image],
    }
    trials: list[Trial] = []
    if not lessons:
        trials = read_trials(folder / trial.UNFINISHED, **_decisive(teacher, copies))
    left = len(patients.validation) * (1 + 2 * draws) - len(trials)
    slices = len(patients.annotated) + len(patients.taught)
    with progress_bar(console, "calibrating", slices + lessons + left) as advance:
        mean, shown = lessons_of(
            teacher, patients.annotated, patients.taught, advance, labelled=lessons > 0
        )
        if shown:
            teach(teacher, shown, advance)
        tried: list[Example] = []
        for number, case in enumerate(patients.validation):
            tried.extend(examples(teacher, case, number, draws))
        mender_of = teacher.menders(mean)
        plain = [one for one in tried if not one.draw]
        realistic = float(np.mean([one.realism(mender_of(0.0, one.seen)) for one in plain]))
        mender = mender_of(realistic, plain[0].seen)
        decisive = _decisive(teacher, copies)
        for example in tried[len(trials) :]:
            trials.append(example.trial(mender_of(realistic, example.seen)))
            write_trials(folder / trial.UNFINISHED, trials, **decisive)
            advance()
    places = {"advised": mender.place(ADVISED), "committee": mender.place(OUTVOTING)}
    judged = judged_by_others(trials)
    calibration = calibrate(trials, judged, mean, realistic, means=mender.means, **places)
    write_atomically(folder / TRIALS, _as_table(trials, judged, mender.names).to_csv(index=False))
    _keep(teacher, calibration)
    return calibration


def _keep(teacher: Teacher, calibration: Calibration) -> None:
    """Calibration and students, which belong together, in the place of those that there were."""
    folder = teacher.folder
    (folder / CALIBRATION).unlink(missing_ok=True)
    if teacher.students:
        write_students(folder / STUDENTS, teacher.students, **identity(teacher))
    else:
        (folder / STUDENTS).unlink(missing_ok=True)
    saved = {SEGMENTOR: teacher.digest, **calibration.to_dict()}
    write_atomically(folder / CALIBRATION, json.dumps(saved, indent=1))
    for unfinished in (student.UNFINISHED, trial.UNFINISHED):
        (folder / unfinished).unlink(missing_ok=True)


def _decisive(teacher: Teacher, conditions: dict[str, Any]) -> dict[str, Any]:
    """What decides what trials tell, but for what is in the data's files."""
    students = digest_of(teacher.folder / student.UNFINISHED) if teacher.students else None
    return {
        **identity(teacher),
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
