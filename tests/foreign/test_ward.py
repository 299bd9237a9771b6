"""A guard that is fitted to a model which was not trained here, through the commands."""

import itertools
import json
import shutil
import warnings

import pandas as pd
import pytest
import torch
import yaml

from experiments.brought import method_of
from maskmend.calibrate.student_training import Lessons, train_student
from maskmend.checkpoint import CALIBRATION, SPLIT
from maskmend.data.phantom import write_cohort
from maskmend.data.volume import read_image
from maskmend.devices import device_of
from maskmend.errors import ConfigError, InputError
from maskmend.foreign.guest import bring
from maskmend.foreign.prior_folder import load_prior
from maskmend.foreign.standard import Intensities, Padded, Standardised
from maskmend.foreign.ward import Ward
from maskmend.guard.choice import NEVER
from maskmend.guard.student import STUDENTS
from maskmend.models.formats import read_model
from tests.models.given import masks, network, predict, save
from tests.test_cli import call
from tests.tiny import GUARDED, write_run

HELD_OUT = ("heart003", "heart004")
FEW = [
    *("--set", "fitting.iterations=2", "--set", "fitting.look_every=2", "--set", "fitting.batch=2"),
    *("--set", "segmentor.width=4", "--set", "segmentor.depth=2"),
    *("--set", "adaptation.student_iterations=2"),
    *("--set", "discriminator.widths=[4, 8]", "--set", "discriminator.strides=[2, 2]"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network with batch norms and intensities of its own, as TorchScript."""
    return keep(network(), tmp_path_factory.mktemp("model") / "model.ts")


def keep(net, path):
    save(net, path)
    about = {
        "structures": {1: "RV", 2: "MYO", 3: "LV"},
        "preprocess": {"size": 32, "spacing_mm": 10},
        "intensities": [{"ScaleIntensity": {"minv": 100.0, "maxv": 300.0}}],
    }
    path.with_suffix(".yaml").write_text(yaml.safe_dump(about))
    return path


def fit(data, out, model, *options):
    assert call("fit-prior", "--data", data, "--out", out, "--model", model, *FEW, *options) == 0
    return out


@pytest.fixture(scope="module")
def fitted(data, model, tmp_path_factory):
    """A prior that is not calibrated; only read."""
    return fit(data, tmp_path_factory.mktemp("fitted") / "prior", model, "--held-out", *HELD_OUT)


@pytest.fixture(scope="module")
def prior(data, model, fitted, tmp_path_factory):
    folder = shutil.copytree(fitted, tmp_path_factory.mktemp("calibrated") / "prior")
    given = ("--data", data, "--model", model, "--draws", 1, "--device", "cpu")
    assert call("calibrate", folder, *given) == 0
    return folder


@pytest.fixture
def image(data):
    return min((data / "images").iterdir())


def test_only_patients_that_the_model_was_not_trained_on_judge_it(prior):
    table = pd.read_csv(prior / "trials.csv")
    assert set(table["patient"]) == {*HELD_OUT}
    assert json.loads((prior / SPLIT).read_text())["held_out"] == [*HELD_OUT]


def test_students_do_not_learn_from_those(fitted, model, data):
    prior = load_prior(fitted)
    ward = Ward(read_model(model, prior.config), prior, fitted, device_of("cpu"))
    patients = ward.patients(data)
    assert {case.patient for case in patients.annotated} == {"heart000", "heart001", "heart002"}
    assert {case.patient for case in patients.validation} == {*HELD_OUT}
    assert not patients.taught


def test_every_mask_has_a_decision(prior, model, image, tmp_path):
    predict(model, [image], tmp_path, "--prior", prior, "--method", "guarded")
    (row,) = pd.read_csv(tmp_path / "predictions.csv").to_dict("records")
    assert row["decision"].startswith(("mended", "steadied", "left alone"))
    assert 0 <= row["realism_before"] <= 1


def test_a_mask_that_is_left_alone_is_plain_inference_to_the_last_bit(
    prior, model, image, tmp_path
):
    careful = shutil.copytree(prior, tmp_path / "prior")
    calibration = json.loads((careful / CALIBRATION).read_text())
    never = {name: getattr(NEVER, name) for name in vars(NEVER)}
    (careful / CALIBRATION).write_text(json.dumps(calibration | never))
    guest = bring(model, careful, "cpu")
    prepared = [guest.prepare(image)]
    plain, mended = (
        next(guest.adapt_patients([prepared], guest.settings(**given)))[1][0]
        for given in ({"steps": 0}, {"method": "guarded"})
    )
    assert mended.decision.startswith("left alone")
    assert torch.equal(mended.masks, plain.masks)
    predict(model, [image], tmp_path / "plain", "--prior", prior, "--steps", 0)
    assert masks(tmp_path / "plain")


def test_the_guards_plain_mask_is_the_models(prior, model, image):
    """Of standardised slices its network is the same function."""
    guest = bring(model, prior, "cpu")
    slices, seen = guest.prepare(image).slices, guest.ward.prepare(image)
    assert slices.median() > 10  # the model's own intensities
    made = Intensities.of(seen.slices)
    assert made.median == pytest.approx(0, abs=0.01)
    assert made.spread == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(
        guest.ward.plain(seen).softmax(1),
        guest.model.network(slices).softmax(1),
        atol=1e-4,
        rtol=1e-3,
    )


def test_structures_that_overlap_still_sum_to_one():
    known = Standardised(network(classes=3), "sigmoid", Intensities(0.0, 1.0))
    masks = known(torch.randn(2, 1, 32, 32)).softmax(1)
    assert masks.shape[1] == 4
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 32, 32))


def test_a_copy_starts_as_the_model(fitted, model, image):
    """On images like those that they are taught with."""
    prior = load_prior(fitted)
    ward = Ward(read_model(model, prior.config), prior, fitted, device_of("cpu"))
    seen = ward.prepare(image)
    ward.lesson(seen, torch.zeros(len(seen.slices), 32, 32, dtype=torch.uint8))
    torch.testing.assert_close(ward.untaught(0)(seen.slices), ward.plain(seen))


@pytest.mark.parametrize("kind", ["ts", "pt2"])
def test_a_copy_learns_and_the_model_does_not(kind, fitted, image, tmp_path):
    """Whatever file the model came in, and however large the images are."""
    prior = load_prior(fitted)
    brought = read_model(keep(network(), tmp_path / f"model.{kind}"), prior.config)
    ward = Ward(brought, prior, fitted, device_of("cpu"))
    seen = ward.prepare(image)
    before = ward.plain(seen)
    images, labels = ward.lesson(seen, torch.ones(len(seen.slices), 32, 32, dtype=torch.uint8))
    lessons = Lessons(images=images, labels=labels, annotated=len(images))
    student = train_student(ward.untaught(0), ward.adaptor, lessons, prior.config)
    assert torch.equal(ward.plain(seen), before)
    assert not any(one.requires_grad for one in student.parameters())
    said, taught = (masks.softmax(1)[:, 1].mean() for masks in (before, student(seen.slices)))
    assert taught > said + 0.001


def test_one_student_starts_as_the_model_and_one_anew(fitted, model):
    prior = load_prior(fitted)
    ward = Ward(read_model(model, prior.config), prior, fitted, device_of("cpu"))
    kinds = [type(ward.untaught(number)) for number in range(4)]
    assert kinds == [Standardised, Padded, Standardised, Padded]
    one, same, other = (ward.untaught(number).network.head.weight for number in (1, 1, 3))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_frozen_script_has_students_that_start_anew(fitted, model, tmp_path):
    shutil.copy(model.with_suffix(".yaml"), tmp_path / "model.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's deprecation
        torch.jit.save(torch.jit.freeze(torch.jit.load(model).eval()), tmp_path / "model.ts")
    prior = load_prior(fitted)
    brought = read_model(tmp_path / "model.ts", prior.config)
    ward = Ward(brought, prior, fitted, device_of("cpu"))
    assert [type(ward.untaught(number)) for number in range(2)] == [Padded, Padded]
    ward.check_learns()


def test_a_model_without_gradients_says_so(fitted, data, model, tmp_path, capsys):
    class Closed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = torch.jit.load(model)

        def forward(self, images):
            with torch.no_grad():
                return self.inside(images)

    shutil.copy(model.with_suffix(".yaml"), tmp_path / "model.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's deprecation
        torch.jit.save(torch.jit.script(Closed()), tmp_path / "model.ts")
    said = refuse(capsys, fitted, data, tmp_path / "model.ts")
    assert f"{tmp_path / 'model.ts'}: computes without gradients" in said


def test_a_network_without_batch_norm_sees_nothing_twice(prior, model, image):
    ward = bring(model, prior, "cpu").ward
    seen = ward.prepare(image)
    mender = ward.menders(torch.linspace(-1, 1, 101))(0.0, seen)
    shown = []
    for one in (ward.segmentor.trained, *ward.students):
        one.register_forward_pre_hook(lambda module, given: shown.append((module, given[0])))
    candidates = mender.candidates(seen.slices)
    assert [one.name for one in candidates[:-1]] == [*mender.names[:-2]]
    for (one, first), (other, second) in itertools.combinations(shown, 2):
        assert one is not other or not torch.equal(first, second)


def test_masks_are_made_anew_with_another_calibration(prior, model, tmp_path):
    other = shutil.copytree(prior, tmp_path / "prior")
    calibration = json.loads((other / CALIBRATION).read_text())
    (other / CALIBRATION).write_text(json.dumps(calibration | {"gate": 0.123}))
    told = [bring(model, folder, "cpu") for folder in (prior, other)]
    one, two = (guest.made_by(guest.settings(method="guarded")) for guest in told)
    assert one != two
    one, two = (guest.made_by(guest.settings()) for guest in told)
    assert one == two


def test_a_stream_is_mended_too(prior, model, image):
    guest = bring(model, prior, "cpu")
    settings = guest.settings(method="guarded", continual=True)
    prepared = [guest.prepare(image)]
    made = [adapted for _, adapted in guest.adapt_patients([prepared, prepared], settings)]
    assert torch.equal(made[0][0].masks, made[1][0].masks)


# What cannot be done, in one line.


def refuse(capsys, folder, data, model):
    capsys.readouterr()
    assert call("calibrate", folder, "--data", data, "--model", model) != 0
    return capsys.readouterr().err.strip()


def test_without_names_of_those_held_out_there_is_no_guard(data, model, tmp_path, capsys):
    said = refuse(capsys, fit(data, tmp_path / "prior", model), data, model)
    assert "nothing says which patients the model was not trained on" in said
    assert "--held-out" in said


def test_a_run_has_a_guard_of_its_own(fitted, data, tmp_path, capsys):
    run = write_run(tmp_path, GUARDED, data)
    assert "was trained here" in refuse(capsys, fitted, data, run)


def test_structures_must_be_numbered_alike(fitted, data, tmp_path, capsys):
    model = keep(network(), tmp_path / "model.ts")
    about = yaml.safe_load(model.with_suffix(".yaml").read_text())
    about["structures"] = {1: "LV", 2: "MYO", 3: "RV"}
    model.with_suffix(".yaml").write_text(yaml.safe_dump(about))
    assert "numbers its structures otherwise" in refuse(capsys, fitted, data, model)


def test_a_model_that_is_not_calibrated_says_how(fitted, model, image, tmp_path, capsys):
    given = ("--prior", fitted, "--method", "guarded")
    assert predict(model, [image], tmp_path, *given) != 0
    assert f"--model {model}" in capsys.readouterr().err


def test_a_changed_model_is_no_longer_calibrated(prior, model, image, tmp_path):
    about = yaml.safe_load(model.with_suffix(".yaml").read_text())
    about["intensities"] = [{"ScaleIntensity": {"minv": 0.0, "maxv": 300.0}}]
    shutil.copy(model, tmp_path / "model.ts")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(about))
    guest = bring(tmp_path / "model.ts", prior, "cpu")
    with pytest.raises(ConfigError, match="is not calibrated"):
        guest.check(guest.settings(method="guarded"))


def test_missing_patients_are_named(fitted, model, tmp_path):
    write_cohort(tmp_path, patients=4, seed=0, size=32, spacing_mm=9.5)
    prior = load_prior(fitted)
    ward = Ward(read_model(model, prior.config), prior, fitted, device_of("cpu"))
    with pytest.raises(InputError, match="heart004, a patient of"):
        ward.patients(tmp_path)


def test_a_folder_that_does_not_say_whom_it_was_fitted_to(fitted, data, model, tmp_path, capsys):
    other = shutil.copytree(fitted, tmp_path / "prior")
    (other / SPLIT).unlink()
    assert f"{other / SPLIT}: missing" in refuse(capsys, other, data, model)


def test_whom_to_hold_out_must_be_there(data, model, tmp_path, capsys):
    given = ("--data", data, "--out", tmp_path / "prior", "--model", model)
    assert call("fit-prior", *given, *FEW, "--held-out", "heart009") != 0
    assert "heart009, who is to be held out, is missing" in capsys.readouterr().err
    assert not (tmp_path / "prior" / STUDENTS).exists()


@pytest.mark.parametrize("name", ["none", "components", "student", "committee", "advised", "ours"])
def test_what_the_guard_is_measured_against(name, prior, model, image):
    """The methods of `experiments.brought`."""
    guest = bring(model, prior, "cpu")
    prepared = guest.model.images.prepare([read_image(image)])
    made = method_of(name, guest)(prepared)
    assert made.masks.shape == (len(prepared.slices), 4, 32, 32)
    assert prepared.labels(made.masks).shape == prepared.volume.voxels.shape
    if name == "none":
        expected = guest.model.network(prepared.slices).argmax(1)
        assert torch.equal(made.masks.argmax(1), expected)
