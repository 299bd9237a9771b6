"""`maskmend fit-prior` and `predict --prior`: folders, resuming, one line for what is wrong."""

import json
import shutil
import warnings

import pandas as pd
import pytest
import torch
from torch import nn

import maskmend as mm
from maskmend.checkpoint import CHECKPOINT, CONFIG, SPLIT, WEIGHTS, read_tensors
from maskmend.config_file import to_yaml
from maskmend.data.phantom import write_cohort
from maskmend.foreign.fitting import Fitter
from maskmend.foreign.prior_folder import PRIOR
from tests.test_cli import call
from tests.tiny import tiny, write_run

FEW = [
    *("--set", "fitting.iterations=4", "--set", "fitting.look_every=2", "--set", "fitting.batch=2"),
]
TINY = [
    *("--set", "preprocess.size=32", "--set", "preprocess.spacing_mm=10"),
    *("--set", "discriminator.widths=[4, 8]", "--set", "discriminator.strides=[2, 2]"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose split is that of the patients above."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, tiny(adaptation={"steps": 2, "learning_rate": 1e-2}))
    names = [f"heart{number:03d}" for number in range(5)]
    split = {
        "train_annotated": names[:1],
        "train_unpaired_images": names[1:2],
        "train_unpaired_masks": names[:2],
        "validation": names[2:3],
        "test": names[3:],
    }
    (folder / SPLIT).write_text(json.dumps(split))
    return folder


@pytest.fixture(scope="module")
def prior(data, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior")
    assert call("fit-prior", "--data", data, "--out", folder, "--model", run, *FEW) == 0
    return folder


def test_a_prior_is_fitted_to_a_run_on_its_own_patients(prior, run):
    made, config = mm.load_prior(prior), mm.read_config(run / CONFIG)
    assert made.config.preprocess == config.preprocess
    assert made.config.data.structures == config.data.structures
    assert made.config.discriminator == config.discriminator
    patients = json.loads((prior / SPLIT).read_text())
    assert patients["fitted"] == ["heart000", "heart001"]
    assert patients["held_out"] == ["heart002"]
    assert made.enough == made.history[-1]["val_score_predicted"]
    assert sorted(p.name for p in prior.iterdir()) == [CONFIG, PRIOR, SPLIT, WEIGHTS]


def test_masks_alone_will_do(data, tmp_path, capsys):
    shutil.copytree(data / "masks", tmp_path / "only" / "unpaired_masks")
    out = tmp_path / "prior"
    assert call("fit-prior", "--data", tmp_path / "only", "--out", out, *TINY, *FEW) == 0
    assert "are realistic enough" in capsys.readouterr().out
    patients = json.loads((out / SPLIT).read_text())
    assert [len(patients[use]) for use in ("fitted", "held_out")] == [4, 1]
    made = mm.load_prior(out)
    assert made.enough == made.history[-1]["val_score_real"]


def test_of_a_run_the_patients_alone_may_count(data, run, tmp_path):
    sets = [*FEW, "--set", "fitting.predictions=false"]
    assert call("fit-prior", "--data", data, "--out", tmp_path, "--model", run, *sets) == 0
    assert json.loads((tmp_path / SPLIT).read_text())["held_out"] == ["heart002"]
    assert "val_score_predicted" not in mm.load_prior(tmp_path).history[-1]


def test_a_fit_that_was_killed_goes_on_to_the_same_prior(prior, data, run, tmp_path, monkeypatch):
    iterate = Fitter._iterate

    def killed(fitter, iteration):
        if iteration == 3:
            raise KeyboardInterrupt
        return iterate(fitter, iteration)

    arguments = ("fit-prior", "--data", data, "--out", tmp_path, "--model", run, *FEW)
    monkeypatch.setattr(Fitter, "_iterate", killed)
    assert call(*arguments) == 130
    assert (tmp_path / CHECKPOINT).exists()
    with pytest.raises(mm.RunError, match="not fitted to its end"):
        mm.load_prior(tmp_path)
    monkeypatch.setattr(Fitter, "_iterate", iterate)
    assert call(*arguments) == 0
    ours, theirs = (read_tensors(folder / WEIGHTS)[0] for folder in (tmp_path, prior))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert mm.load_prior(tmp_path).history == mm.load_prior(prior).history


def test_a_prior_that_is_fitted_stays(prior, data, run, capsys):
    before = (prior / WEIGHTS).stat().st_mtime_ns
    assert call("fit-prior", "--data", data, "--out", prior, "--model", run, *FEW) == 0
    assert "is fitted already" in capsys.readouterr().err
    assert (prior / WEIGHTS).stat().st_mtime_ns == before


def test_predicting_with_it_is_adapting_to_it(prior, run, data, tmp_path):
    image = data / "images" / "heart003_frame01.nii.gz"
    model = mm.load(run)
    made = mm.bring(run, prior).predict(image, steps=2)
    expected = mm.adapt(
        model.networks.segmentor,
        mm.load_prior(prior),
        model.prepare(image).slices,
        mm.AdaptationConfig(steps=2),
        adaptor=model.networks.adaptor,
    )
    assert made.realism_before == pytest.approx(expected.realism_before, abs=0.02)

    arguments = ("predict", run, image, "--out", tmp_path, "--steps", "2")
    call(*arguments, "--prior", prior)
    with_it = pd.read_csv(tmp_path / "predictions.csv").realism_before[0]
    assert with_it == pytest.approx(made.realism_before, abs=1e-3)
    call(*arguments)  # another prior: all is done anew
    assert pd.read_csv(tmp_path / "predictions.csv").realism_before[0] != with_it


class Judged(nn.Module):
    """A model that was not trained here: three structures by their brightness."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([-((images - level) ** 2) for level in (0.0, 1.0, 2.0, 3.0)], 1)


def test_a_prior_is_fitted_to_a_model_that_was_brought(data, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch: use torch.export
        torch.jit.trace(Judged(), torch.randn(2, 1, 32, 32)).save(tmp_path / "model.pt")
    out = tmp_path / "prior"
    arguments = ("fit-prior", "--data", data, "--out", out, "--model", tmp_path / "model.pt")
    assert call(*arguments, *TINY, *FEW) == 0
    made = mm.load_prior(out)
    assert made.enough == made.history[-1]["val_score_predicted"]
    assert mm.bring(tmp_path / "model.pt", out).structures == made.config.data.structures


@pytest.fixture
def failing(capsys):
    def line(*arguments):
        capsys.readouterr()
        status = call(*arguments)
        return status, capsys.readouterr().err.splitlines()[-1]

    return line


def test_what_is_wrong_is_said_in_one_line(failing, prior, run, data, tmp_path):
    fit = ("fit-prior", "--data", data, "--out")
    image = data / "images" / "heart003_frame01.nii.gz"
    predict = ("predict", run, image, "--out", tmp_path / "masks", "--prior")
    one = tmp_path / "one"
    write_cohort(one, patients=1, seed=0, size=32, spacing_mm=9.5)
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / CONFIG).write_text(to_yaml(tiny()))
    for arguments, status, said in (
        ((*fit, prior, "--model", run, "--set", "seed=3", *FEW), 1, "another configuration (seed"),
        ((*fit, run_folder, *TINY, *FEW), 1, "holds something else; choose another --out"),
        ((*fit, tmp_path / "new", "--model", tmp_path), 1, "no model of a known format"),
        ((*fit, tmp_path / "new", "--set", "fitting.iteration=3"), 2, "fitting.iterations?"),
        ((*fit, tmp_path / "new", "--device", "nothing"), 2, "device: nothing is not available"),
        (("fit-prior", "--data", one, "--out", tmp_path / "new", *TINY), 1, "expected at least 2"),
        ((*predict, tmp_path / "none"), 2, "is none of discriminator, entropy"),
        ((*predict, data), 1, "no such prior folder"),
        ((*predict, prior, "--method", "guarded"), 2, "choose --method paper"),
    ):
        ended, line = failing(*arguments)
        assert said in line
        assert ended == status, line


def test_other_patients_or_another_model_are_another_fit(failing, prior, run, data, tmp_path):
    shutil.copytree(prior, tmp_path / "prior")
    fit = ("fit-prior", "--data", data, "--out", tmp_path / "prior", "--model")
    patients = json.loads((tmp_path / "prior" / SPLIT).read_text())
    (tmp_path / "prior" / SPLIT).write_text(json.dumps({**patients, "held_out": []}, indent=2))
    status, line = failing(*fit, run, *FEW)
    assert "was fitted to other patients or another model" in line
    assert status == 1
