"""Calibrate a run and mend with it: the guard decides as it was told, and harms nothing."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
from rich.console import Console

from maskmend.checkpoint import CALIBRATION
from maskmend.cli import main
from maskmend.components import largest_pieces, one_hot
from maskmend.config_file import config_from
from maskmend.data.phantom import write_cohort
from maskmend.data.preprocess import labels_on_grid
from maskmend.errors import ConfigError, InputError
from maskmend.guard import mend
from maskmend.guard.choice import Guard
from maskmend.guard.mend import Mender
from maskmend.guard.quality import Judged, Quality
from maskmend.guard.retouch import STEPS
from maskmend.guard.symmetry import Symmetry
from maskmend.guard.ways import ADVISED, COMMITTEE, OUTVOTING
from maskmend.predict import load
from maskmend.prediction import DOUBTFUL
from maskmend.table import PREDICTIONS
from maskmend.train import train
from tests.tiny import GUARDED, tiny, write_run


@pytest.fixture
def model(run):
    return load(run, "cpu")


@pytest.fixture
def image(hearts):
    return min((hearts / "images").iterdir())


def mender_of(model, **settings):
    calibration = model.calibration
    return model.mender(calibration.quantiles, calibration.realistic, model.settings(**settings))


def told(model, *, prefers, caution, gate=1.0, steady=2.0):
    """The model with a calibration that promises 0.9 of one candidate and 0.5 of the others."""
    masks = len(mender_of(model).names)

    def promise(number, candidates, features):
        weights = np.zeros(features + 1)
        weights[-1] = 0.5
        weights[features - candidates + number] = 0.4
        # Every mask but the plain one is doubted by 0.1.
        covariance = np.zeros((features + 1, features + 1))
        at = range(features - candidates + 1, features)
        covariance[at, at] = 0.1**2
        return Quality(np.zeros(features), np.ones(features), weights, covariance)

    features = len(model.calibration.quality.centre)
    model.calibration = dataclasses.replace(
        model.calibration,
        quality=promise(prefers % masks, masks, features),
        guard=Guard(gate=gate, steady=steady, caution=caution),
    )
    return model


def test_a_mask_that_is_unlike_the_committees_is_outvoted(model, image):
    """If anything is promised of the committee's mask; nothing is beyond doubt."""
    mender = mender_of(model)
    place = mender.place(OUTVOTING)
    assert place is not None
    slices = model.prepare(image).slices
    shared = mender.shared(mender.candidates(slices))
    assert 0 < shared < 1
    for prefers, outvoted in ((place, shared - 0.01), (0, shared + 0.01), (place, shared + 0.01)):
        model = told(model, prefers=prefers, caution=99.0)
        guard = dataclasses.replace(model.calibration.guard, committee=place, outvoted=outvoted)
        model.calibration = dataclasses.replace(model.calibration, guard=guard)
        made = model.predict(image)
        if prefers == place and shared < outvoted:
            assert made.decision == f"mended by {OUTVOTING}, unlike the plain mask: Dice +0.40"
            assert not (made.labels == made.plain).all()
        else:
            np.testing.assert_array_equal(made.labels, made.plain)


def test_a_mask_that_promises_enough_is_taken(model, image):
    committee = told(model, prefers=mender_of(model).place(COMMITTEE), caution=0.0).predict(image)
    assert committee.decision == "mended by committee: Dice +0.40"
    mended = told(model, prefers=4, caution=0.0).predict(image)
    assert mended.decision == "mended by reduced: Dice +0.40"
    assert (mended.realism_before, mended.realism_after) == pytest.approx((0.5, 0.9))
    prepared = model.prepare(image)
    way = mender_of(model).ways[3]
    assert not (mended.labels == mended.plain).all()
    expected = labels_on_grid(way.masks(prepared.slices), prepared.grid)
    np.testing.assert_array_equal(mended.labels, expected)


def test_a_retouch_counts_its_steps(model, image):
    prepared = model.prepare(image)
    model = told(model, prefers=-1, caution=0.0)
    ((_, (mended,)),) = model.adapt_patients([[prepared]], model.settings())
    assert mended.decision.endswith(", retouched: Dice +0.40")
    assert len(mended.losses) == STEPS + 1
    assert mended.losses[mended.steps] == min(mended.losses)
    start = next(w for w in mender_of(model).ways if f"by {w.name}, ret" in mended.decision)
    assert mended.steps == 0 or (mended.masks - start.masks(prepared.slices)).abs().max() > 1e-3


def test_nothing_is_tuned_where_only_means_are_trusted(model, image):
    model = told(model, prefers=-1, caution=0.0)
    trusted = dataclasses.replace(model.calibration.guard, trusted=mender_of(model).means)
    model.calibration = dataclasses.replace(model.calibration, guard=trusted)
    spared = model.predict(image)
    assert spared.decision == "left alone: nothing promises more"
    np.testing.assert_array_equal(spared.labels, spared.plain)
    place = mender_of(model).place(ADVISED)
    model = told(model, prefers=place, caution=0.0)
    model.calibration = dataclasses.replace(model.calibration, guard=trusted)
    assert model.predict(image).decision == "mended by students' advice: Dice +0.40"


def test_a_stream_carries_the_retouch_on(model, image):
    prepared = model.prepare(image)
    model = told(model, prefers=-1, caution=0.0)
    settings = model.settings(continual=True)
    stream = model.adapt_patients([[prepared], [prepared]], settings)
    (first,), (second,) = (mended for _, mended in stream)
    assert second.losses[0] == pytest.approx(min(first.losses), rel=1e-4)
    torch.testing.assert_close(second.plain, first.plain)


def test_a_blend_is_the_mean_of_the_five_that_agree_best_with_the_others(model, image):
    mender = mender_of(model)
    prepared = model.prepare(image)
    plain, _, *ways, blend = mender.candidates(prepared.slices)
    ways = [plain, *ways]
    labels = [one.look.labels.numpy() for one in ways]

    def dice(a, b):
        pairs = [(a == k, b == k) for k in range(1, mender.classes)]
        sums = [x.sum() + y.sum() for x, y in pairs]
        return np.mean(
            [2 * (x & y).sum() / n if n else 1.0 for (x, y), n in zip(pairs, sums, strict=True)]
        )

    agreed = [np.mean([dice(a, b) for b in labels]) for a in labels]
    best = np.argsort(-np.array(agreed), kind="stable")[:5]
    expected = torch.stack([ways[number].masks for number in best]).mean(0)
    torch.testing.assert_close(blend.masks, expected)
    assert blend.name == f"a blend with {ways[best[0]].name}"
    blended = told(model, prefers=-2, caution=0.0).predict(image)
    assert blended.decision == f"mended by {blend.name}: Dice +0.40"
    np.testing.assert_array_equal(blended.labels, labels_on_grid(expected, prepared.grid))


def test_one_whose_promise_is_in_doubt_is_not_taken(model, image):
    assert told(model, prefers=4, caution=3.9).predict(image).decision.startswith("mended")
    left = told(model, prefers=4, caution=4.1).predict(image)
    assert left.decision == "left alone: +0.40 is not worth the risk"
    assert (left.labels == left.plain).all()
    assert left.realism_after == left.realism_before == pytest.approx(0.5)


def test_a_good_mask_is_left_alone_whatever_is_promised(model, image):
    left = told(model, prefers=3, caution=0.0, gate=0.5).predict(image)
    assert left.decision == "left alone: +0.40 is not worth the risk"
    assert (left.labels == left.plain).all()
    mended = told(model, prefers=3, caution=0.0, gate=0.51).predict(image)
    assert mended.decision.startswith("mended by")


def test_a_good_mask_is_steadied(model, image):
    mended = told(model, prefers=3, caution=0.0, gate=0.5, steady=0.5).predict(image)
    assert mended.decision == "steadied: predicted Dice 0.50"
    prepared, mender = model.prepare(image), mender_of(model)
    seen = [mender.ways[0], *mender.neighbours]
    mean = torch.stack([way.masks(prepared.slices) for way in seen]).mean(0)
    labels = mean.argmax(1).to(torch.uint8)
    speck = labels != largest_pieces(labels)
    assert speck.any()
    mean = torch.where(speck[:, None], one_hot(torch.zeros_like(labels), mender.classes), mean)
    np.testing.assert_array_equal(mended.labels, labels_on_grid(mean, prepared.grid))
    assert not (mended.labels == mended.plain).all()


def test_a_good_mask_costs_no_retouch(model, image, monkeypatch):
    monkeypatch.setattr(Mender, "retouched", None)
    assert told(model, prefers=-1, caution=0.0, gate=0.5).predict(image).decision
    with pytest.raises(TypeError):
        told(model, prefers=-1, caution=0.0, gate=0.51).predict(image)


def test_the_best_may_be_the_plain_one(model, image):
    left = told(model, prefers=0, caution=0.0).predict(image)
    assert left.decision == "left alone: nothing promises more"
    assert (left.labels == left.plain).all()


def test_mixed_precision_looks_much_the_same(model, image):
    slices = model.prepare(image).slices
    found = []
    for precision in ("32-true", "bf16-mixed"):
        mender = mender_of(model, precision=precision)
        found.append(mender.describe(mender.candidates(slices)))
    exact, mixed = found
    assert not (exact == mixed).all()
    assert np.mean(np.abs(exact - mixed) < 0.1) > 0.9  # a speck may come or go


def test_what_is_left_alone_is_plain_inference_to_the_last_bit(model, image):
    left = told(model, prefers=0, caution=0.0).predict(image)
    np.testing.assert_array_equal(left.labels, model.predict(image, steps=0).labels)


def test_no_steps_are_plain_inference(model, image):
    plain = told(model, prefers=3, caution=0.0).predict(image, steps=0)
    assert plain.decision == ""
    assert (plain.labels == plain.plain).all()


def promises(monkeypatch, *dice):
    """What is promised of every mask of one volume after the other."""
    told = iter(dice)

    def judge(quality, features):
        masks = len(features)
        return Judged(torch.full((masks,), next(told)).numpy(), torch.zeros(masks).numpy())

    monkeypatch.setattr("maskmend.guard.quality.Quality.judge", judge)


@pytest.mark.parametrize(
    ("plain", "turned", "better"), [(0.4, 0.9, True), (0.8, 0.75, False), (0.1, 0.69, False)]
)
def test_turned_slices_are_kept_if_their_mask_promises_more_and_enough(
    model, image, monkeypatch, plain, turned, better
):
    lies = Symmetry(quarters=1, mirrored=True)
    monkeypatch.setattr(mend, "likelier", lambda *_: [lies, Symmetry(quarters=2)])
    guard = dataclasses.replace(model.calibration.guard, gate=0.0, steady=2.0, outvoted=0.0)
    model.calibration = dataclasses.replace(model.calibration, guard=guard)
    slices = model.prepare(image).slices
    mender = mender_of(model)
    promises(monkeypatch, plain, turned, 0.4)
    made = mender.mend(slices, model.calibration)
    assert torch.equal(made.plain, mender.plain(slices))
    if better:
        assert torch.equal(made.masks, lies.back(mender.plain(lies.of(slices).contiguous())))
        assert not torch.equal(made.masks, made.plain)
        assert torch.equal(made.shown, made.plain_shown)
        assert made.decision == f"mended, the slices {lies.name}: Dice +0.50"
        assert (made.realism_before, made.realism_after) == pytest.approx((0.4, 0.9))
    else:
        assert torch.equal(made.masks, made.plain)
        assert made.decision.startswith("left alone")


def test_a_likely_wrong_mask_is_flagged(model, image):
    doubtful = told(model, prefers=0, caution=0.0)
    weights = doubtful.calibration.quality.weights
    weights[-1] = DOUBTFUL - 0.41
    flagged = doubtful.predict(image)
    assert flagged.check
    assert flagged.message.startswith("predicted Dice 0.69: the mask is likely wrong")
    weights[-1] = DOUBTFUL - 0.39
    assert "likely wrong" not in doubtful.predict(image).message


def test_mending_leaves_the_model_as_it_is(model, image):
    before = {k: v.clone() for k, v in model.networks.segmentor.state_dict().items()}
    told(model, prefers=-1, caution=0.0).predict(image)
    assert model.networks.segmentor.training is False
    after = model.networks.segmentor.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_volumes_of_a_patient_are_decided_on_their_own(model, hearts):
    paths = sorted((hearts / "images").iterdir())[:2]
    prepared = [model.prepare(path) for path in paths]
    together = model.predict_patient(prepared, model.settings())
    for path, one in zip(paths, together, strict=True):
        alone = model.predict(path)
        assert alone.decision == one.decision
        np.testing.assert_array_equal(alone.labels, one.labels)


def test_without_calibration_the_remedy_is_named(tmp_path, image):
    model = load(write_run(tmp_path, GUARDED), "cpu")
    with pytest.raises(ConfigError, match="is not calibrated; maskmend calibrate it"):
        model.predict(image)


def test_from_the_command_line(run, hearts, image, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", str(run), "--data", str(hearts), "--draws", "1", "--device", "cpu"])
    assert ended.value.code == 0
    assert "correlate by" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(
            [
                "predict",
                str(run),
                str(image),
                "--out",
                str(tmp_path),
                "--method",
                "guarded",
                "--device",
                "cpu",
            ]
        )
    with (tmp_path / PREDICTIONS).open() as file:
        (row,) = csv.DictReader(file)
    assert row["decision"].startswith(("mended by", "steadied", "left alone"))


def test_the_method_is_known():
    with pytest.raises(ConfigError, match="method"):
        config_from({"adaptation": {"method": "hope"}}, source="test")


def test_training_ends_with_the_calibration(hearts, tmp_path):
    config = tiny(
        training={"iterations": 1, "batch": 2},
        adaptation={"method": "guarded", "draws": 0, "precision": "32-true"},
    )
    train(config, hearts, tmp_path / "run", accelerator="cpu", console=Console(quiet=True))
    before = (tmp_path / "run" / CALIBRATION).read_bytes()
    assert load(tmp_path / "run", "cpu").calibration is not None
    train(config, hearts, tmp_path / "run", accelerator="cpu", console=Console(quiet=True))
    assert (tmp_path / "run" / CALIBRATION).read_bytes() == before


def test_too_few_patients_are_told_before_training(tmp_path):
    write_cohort(tmp_path / "few", patients=5, seed=1, size=32, spacing_mm=9.5)
    with pytest.raises(InputError, match="two or more validation patients"):
        train(GUARDED, tmp_path / "few", tmp_path / "run", console=Console(quiet=True))
    assert not (tmp_path / "run").exists()
