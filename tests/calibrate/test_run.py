"""What a run's calibration looks at, keeps and tells, and how it goes on after a stop."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from maskmend.calibrate import trial
from maskmend.calibrate.artefacts import ARTEFACTS, spoil
from maskmend.calibrate.run import TRIALS, calibrate_run
from maskmend.calibrate.student_training import train_student
from maskmend.calibrate.trial import Trial, read_trials, write_trials
from maskmend.calibrate.validation import Example
from maskmend.checkpoint import CALIBRATION, CONFIG, SPLIT
from maskmend.config_file import to_yaml
from maskmend.data.phantom import write_cohort
from maskmend.errors import InputError
from maskmend.guard import student
from maskmend.guard.student import STUDENTS, read_students
from maskmend.predict import Model, load
from tests.tiny import tiny

QUIET = Console(quiet=True)


def test_calibration_sees_no_image_of_a_test_patient(run, hearts, monkeypatch):
    seen = []
    prepare = Model.prepare
    monkeypatch.setattr(
        Model, "prepare", lambda self, path: (seen.append(path.name), prepare(self, path))[1]
    )
    calibrate_run(run, hearts, draws=1, device="cpu", console=QUIET)
    test = json.loads((run / SPLIT).read_text())["test"]
    assert seen
    assert test
    assert not [name for name in seen if name.split("_")[0] in test]


def test_calibration_is_the_same_when_done_again(run, hearts):
    saved = json.loads((run / CALIBRATION).read_text())
    calibrate_run(run, hearts, draws=1, device="cpu", console=QUIET)
    assert json.loads((run / CALIBRATION).read_text()) == saved


def test_artefacts_come_in_turn(run, hearts, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "maskmend.calibrate.validation.spoil",
        lambda images, artefact, *rest: (shown.append(artefact), spoil(images, artefact, *rest))[1],
    )
    calibrate_run(run, hearts, draws=1, device="cpu", console=QUIET)
    places = [ARTEFACTS.index(one) for one in shown]
    assert len(places) > 1
    assert places == [(places[0] + turn) % len(ARTEFACTS) for turn in range(len(places))]


def test_every_mask_of_the_calibration_is_told(run, hearts):
    table = pd.read_csv(run / TRIALS)
    model = load(run, "cpu")
    calibration = model.calibration
    mender = model.mender(calibration.quantiles, calibration.realistic, model.settings())
    split = json.loads((run / SPLIT).read_text())
    assert set(table["patient"]) == set(split["validation"])
    assert len(table) == len(split["validation"]) * 2 * 3 * len(
        mender.names
    )  # phases; plain and both draws
    assert (table[table["mask"] == "none"]["doubt"] == 0).all()
    assert table["dice"].between(0, 1).all()


def test_a_run_may_have_no_students(run, hearts, tmp_path):
    some = shutil.copytree(run, tmp_path / "run")
    config = tiny(adaptation={"method": "guarded", "students": 0})
    (some / CONFIG).write_text(to_yaml(config))
    calibrate_run(some, hearts, draws=1, device="cpu", console=QUIET)
    assert not (some / STUDENTS).exists()
    model = load(some, "cpu")
    assert not model.students
    assert model.calibration is not None
    assert model.predict(min((hearts / "images").iterdir())).decision


def test_a_missing_patient_is_named(run, hearts, tmp_path):
    write_cohort(tmp_path, patients=1, seed=1, size=32, spacing_mm=9.5)
    with pytest.raises(InputError, match=r"heart\d+, a patient of .*, is missing"):
        calibrate_run(run, tmp_path, draws=0, console=QUIET)


@pytest.fixture
def begun(untried, tmp_path):
    """A run to be stopped."""
    return shutil.copytree(untried, tmp_path / "run")


def same_calibration(one, other):
    segmentor = load(one, "cpu").networks.segmentor
    kept = (read_students(run / STUDENTS, lambda number: segmentor) for run in (one, other))
    for ours, theirs in zip(*kept, strict=True):
        for name, tensor in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], tensor)
    for file in (TRIALS, CALIBRATION):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    assert not (one / student.UNFINISHED).exists()
    assert not (one / trial.UNFINISHED).exists()


def test_a_stopped_calibration_goes_on_with_the_students_it_had(run, begun, hearts, monkeypatch):
    taught, stops = [], [1]

    def teach(*given, number, **named):
        if number in stops:
            raise KeyboardInterrupt
        taught.append(number)
        return train_student(*given, number=number, **named)

    monkeypatch.setattr("maskmend.calibrate.teach.train_student", teach)
    with pytest.raises(KeyboardInterrupt):
        calibrate_run(begun, hearts, draws=1, device="cpu", console=QUIET)
    assert (begun / student.UNFINISHED).exists()
    assert not (begun / STUDENTS).exists()
    stops.clear()
    calibrate_run(begun, hearts, draws=1, device="cpu", console=QUIET)
    assert taught == [0, 1]
    same_calibration(begun, run)


@pytest.fixture
def tried(monkeypatch):
    """The images that were tried, by patient and draw; a stop after the fourth."""
    tried, make = [], Example.trial

    def stop_once(self, mender):
        if len(tried) == 4:
            tried.append("stopped")
            raise KeyboardInterrupt
        tried.append((self.patient, self.draw))
        return make(self, mender)

    monkeypatch.setattr(Example, "trial", stop_once)
    return tried


def test_a_stopped_calibration_goes_on_with_the_trials_it_had(run, begun, hearts, tried):
    with pytest.raises(KeyboardInterrupt):
        calibrate_run(begun, hearts, draws=1, device="cpu", console=QUIET)
    calibrate_run(begun, hearts, draws=1, device="cpu", console=QUIET)
    table = pd.read_csv(run / TRIALS)
    plain = table[table["mask"] == "none"]
    assert [one for one in tried if one != "stopped"] == [
        *zip(plain.patient, plain.draw, strict=True)
    ]
    same_calibration(begun, run)


def test_trials_of_other_copies_are_not_taken_up(begun, hearts, tried):
    with pytest.raises(KeyboardInterrupt):
        calibrate_run(begun, hearts, draws=1, device="cpu", console=QUIET)
    calibrate_run(begun, hearts, draws=0, device="cpu", console=QUIET)
    assert {draw for _, draw in tried[5:]} == {0}
    assert len(tried[5:]) == pd.read_csv(begun / TRIALS)["patient"].nunique() * 2  # phases


def test_trials_are_kept_as_they_are(tmp_path):
    path = tmp_path / trial.UNFINISHED
    made = [
        Trial(f"p{number}", np.random.default_rng(number).random((3, 5)), np.arange(3) / 7, number)
        for number in range(2)
    ]
    assert read_trials(path, seed=1) == []
    write_trials(path, made, seed=1)
    for one, kept in zip(made, read_trials(path, seed=1), strict=True):
        assert (kept.patient, kept.draw, kept.shared) == (one.patient, one.draw, one.shared)
        np.testing.assert_array_equal(kept.features, one.features)
        np.testing.assert_array_equal(kept.dice, one.dice)
    assert read_trials(path, seed=2) == []
