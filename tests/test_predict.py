"""From image files to mask files: what is written, what must stay as it is, and what goes wrong."""

import csv
import dataclasses
import errno
import gzip
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import maskmend as mm
from maskmend import files
from maskmend.adapt import adapt
from maskmend.build import build
from maskmend.checkpoint import CONFIG, WEIGHTS, network_tensors, quiet_generator, write_tensors
from maskmend.config import AdaptationConfig
from maskmend.config_file import to_yaml
from maskmend.data.phantom import write_cohort
from maskmend.data.preprocess import labels_on_grid
from maskmend.data.source import name_of
from maskmend.errors import ConfigError, InputError
from maskmend.files import SETTINGS, finished_rows, predict_files
from maskmend.frozen import frozen
from maskmend.predict import Model, finish, load
from maskmend.priors import DiscriminatorPrior
from maskmend.table import PREDICTIONS, Row
from tests.tiny import tiny

COLUMNS = "image,status,realism_before,realism_after,steps,seconds,decision,message"
TINY = tiny(
    adversarial={"target": 0.5},
    adaptation={"steps": 3, "learning_rate": 0.03, "precision": "32-true"},
)
INSTANCES = pytest.mark.parametrize("instance", ["patient", "slice"])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two patients with two frames each."""
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=2, seed=0, size=40, spacing_mm=7)
    return sorted((root / "images").iterdir())


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """A run folder with random weights, under which every class is found."""
    with quiet_generator(0):
        networks = build(TINY)
    model, segmentor = Model(TINY, networks, torch.device("cpu")), networks.segmentor
    slices = torch.cat([model.prepare(image).slices for image in images])
    with torch.no_grad():
        segmentor.train()
        for _ in range(20):
            segmentor(slices)  # moves the statistics
        segmentor.eval()
        segmentor.head.weight.mul_(5)
        segmentor.head.bias.sub_(segmentor(slices).mean((0, 2, 3)))
    folder = tmp_path_factory.mktemp("run")
    (folder / CONFIG).write_text(to_yaml(TINY))
    write_tensors(folder / WEIGHTS, network_tensors(networks))
    return folder


@pytest.fixture
def model(run):
    return load(run, "cpu")


def predict_all(model, images, out, **adaptation):
    return predict_files(model, images, out, model.settings(**adaptation))


def masks(out):
    """The mask files; equal masks have equal bytes."""
    return {path.name: path.read_bytes() for path in out.glob("*_mask.nii.gz")}


def table(out):
    with (out / PREDICTIONS).open(encoding="utf-8", newline="") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def untimed(rows):
    return {row.image: dataclasses.replace(row, seconds=0) for row in rows}


def error_of(kind, function, *arguments, **named):
    with pytest.raises(kind) as caught:
        function(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ------------------------------------------------------------- what stays, and what it depends on


@INSTANCES
@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_the_run_and_the_model_stay_bit_for_bit(run, images, tmp_path, instance, batch_norm):
    files = {path.name: path.read_bytes() for path in run.iterdir()}
    model = load(run, "cpu")
    before = {name: tensor.clone() for name, tensor in network_tensors(model.networks).items()}
    modules = [m for network in model.networks.modules().values() for m in network.modules()]
    predict_all(model, images[:1], tmp_path, instance=instance, batch_norm=batch_norm)
    after = network_tensors(model.networks)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert after.keys() == before.keys()
    assert not any(module.training for module in modules)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == files


@INSTANCES
def test_the_order_of_the_images_does_not_matter(model, images, tmp_path, monkeypatch, instance):
    scores = []

    def remembered(prepared, adapted):
        made = finish(prepared, adapted)
        # To the last bit, which the table rounds away.
        scores[-1] |= {one.volume.name: one.realism_after for one in made}
        return made

    monkeypatch.setattr(files, "finish", remembered)
    orders = [images, images[::-1], [images[i] for i in (2, 1, 3, 0)]]
    rows = []
    for number, order in enumerate(orders):
        scores.append({})
        rows.append(predict_all(model, order, tmp_path / str(number), instance=instance))
    assert len(masks(tmp_path / "0")) == len(scores[0]) == len(images)
    for i in (1, 2):
        assert masks(tmp_path / str(i)) == masks(tmp_path / "0")
        assert untimed(rows[i]) == untimed(rows[0])
        assert scores[i] == scores[0]


def test_no_steps_are_plain_inference(model, images):
    prepared = model.prepare(images[0])
    networks = model.networks
    with torch.no_grad():
        probabilities = networks.segmentor(networks.adaptor(prepared.slices)).softmax(1)
    expected = labels_on_grid(probabilities, prepared.grid)
    assert len(np.unique(expected)) > 2
    made = model.predict(images[0], steps=0)
    # Random weights are undecided in many a pixel, and folded ones round otherwise.
    assert (made.labels != expected).mean() < 1e-3
    assert np.array_equal(made.plain, made.labels)
    assert (made.steps, made.realism_after) == (0, made.realism_before)


@INSTANCES
def test_the_plain_mask_comes_with_the_adapted_one(model, images, instance):
    plain, adapted = (model.predict(images[0], instance=instance, steps=n) for n in (0, 3))
    assert np.array_equal(adapted.plain, plain.labels)
    assert not np.array_equal(adapted.labels, adapted.plain)
    assert adapted.realism_before == plain.realism_before
    assert adapted.steps == 3


def test_the_frames_of_a_patient_are_adapted_to_together(model, images):
    frames, networks = [model.prepare(image) for image in images[:2]], model.networks
    together = model.predict_patient(frames, model.settings())
    expected = adapt(
        frozen(networks.segmentor),
        DiscriminatorPrior(frozen(networks.discriminator), target=0.5),
        torch.cat([frame.slices for frame in frames]),
        model.settings(),
        adaptor=networks.adaptor,
    ).masks.split([len(frame.slices) for frame in frames])
    for frame, made, masks in zip(frames, together, expected, strict=True):
        assert np.array_equal(made.labels, labels_on_grid(masks, frame.grid))
        assert made.volume is frame.volume
        (alone,) = model.predict_patient([frame], model.settings())
        assert not np.array_equal(made.labels, alone.labels)


def test_the_prior_is_what_judges(model, images):
    prepared = model.prepare(images[0])
    discriminator, entropy = (
        model.predict(images[0], prior=prior) for prior in ("discriminator", "entropy")
    )
    with torch.no_grad():
        masks = model.networks.segmentor(prepared.slices).softmax(1)
        scores = model.networks.discriminator(masks[:, 1:])
    assert discriminator.realism_before == pytest.approx(scores.mean().item(), abs=1e-5)
    nats = -(masks * masks.log()).sum(1).mean().item()
    assert entropy.realism_before == pytest.approx(-nats, rel=1e-4)
    assert entropy.realism_after > entropy.realism_before
    assert not np.array_equal(entropy.labels, discriminator.labels)


@INSTANCES
def test_a_patient_is_adapted_to_apart_from_others(model, images, tmp_path, instance):
    among = untimed(predict_all(model, images, tmp_path / "all", instance=instance))
    for one in (images[:2], images[2:]):
        alone = untimed(predict_all(model, one, tmp_path / one[0].name, instance=instance))
        assert alone.items() <= among.items()
        assert masks(tmp_path / one[0].name).items() <= masks(tmp_path / "all").items()


def test_a_slice_of_its_own_does_not_depend_on_its_neighbours(model, images):
    prepared, kept = model.prepare(images[0]), 4
    slices = torch.randn(prepared.slices.shape, generator=torch.Generator().manual_seed(0))
    slices[kept] = prepared.slices[kept]
    among_noise = dataclasses.replace(prepared, slices=slices)
    slice_of = {}
    for instance in ("slice", "patient"):
        settings = model.settings(instance=instance)
        slice_of[instance] = [
            model.predict_patient([one], settings)[0].labels[:, :, kept]
            for one in (prepared, among_noise)
        ]
    assert np.array_equal(*slice_of["slice"])
    assert not np.array_equal(*slice_of["patient"])


# --------------------------------------------------------------------------- what is written


def test_the_table_of_predictions(model, images, tmp_path):
    reported = []
    rows = predict_files(model, images, tmp_path / "new" / "out", model.settings(), reported.append)
    assert reported == rows
    lines = (tmp_path / "new" / "out" / PREDICTIONS).read_text().splitlines()
    assert lines[0] == COLUMNS
    written = table(tmp_path / "new" / "out")
    assert list(written) == [name_of(image) for image in images]
    for row in rows:
        assert written[row.image] == {k: str(v) for k, v in dataclasses.asdict(row).items()}
    frames = model.predict_patient([model.prepare(i) for i in images[:2]], model.settings())
    for frame, row in zip(frames, rows, strict=False):
        assert dataclasses.replace(row, seconds=0) == Row(
            frame.volume.name,
            "done",
            round(frame.realism_before, 4),
            round(frame.realism_after, 4),
            3,
            0,
            "",
        )
        assert row.realism_after != row.realism_before
        saved = nib.load(tmp_path / "new" / "out" / f"{row.image}_mask.nii.gz")
        assert np.array_equal(np.asanyarray(saved.dataobj), frame.labels)


def test_the_images_of_a_patient_share_their_time(model, images):
    frames = [model.prepare(image) for image in images[:2]]
    start = time.perf_counter()
    one, other = model.predict_patient(frames, model.settings())
    assert one.seconds == other.seconds > 0
    assert one.seconds + other.seconds <= time.perf_counter() - start


def test_rows_are_on_disk_as_they_are_done(model, images, tmp_path):
    seen = []

    def report(row):
        assert (tmp_path / f"{row.image}_mask.nii.gz").exists()
        seen.append(list(table(tmp_path)))

    predict_files(model, images, tmp_path, model.settings(steps=0), report)
    names = [name_of(image) for image in images]
    assert seen == [names[:n] for n in range(1, 5)]


def test_what_is_finished_survives_a_stop(model, images, tmp_path, monkeypatch):
    adapt_patients = model.adapt_patients

    def stopped(patients, settings):
        yield next(adapt_patients(patients, settings))
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "adapt_patients", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict_all(model, images, tmp_path)
    first = [name_of(image) for image in images[:2]]
    assert {name: row["status"] for name, row in table(tmp_path).items()} == dict.fromkeys(
        first, "done"
    )
    assert sorted(masks(tmp_path)) == [f"{name}_mask.nii.gz" for name in first]


def test_masks_of_a_version_with_fewer_settings_stay(model, images, tmp_path):
    """A new setting is by default as it was before; one that was chosen differently is not."""
    settings = model.settings(steps=1)
    predict_files(model, images, tmp_path, settings)
    written = json.loads((tmp_path / SETTINGS).read_text())
    del written["adaptation"]["students"], written["preprocess"]
    (tmp_path / SETTINGS).write_text(json.dumps(written))
    assert len(finished_rows(model, images, tmp_path, settings)) == len(images)
    other = dataclasses.replace(settings, students=settings.students + 1)
    assert not finished_rows(model, images, tmp_path, other)
    (tmp_path / SETTINGS).write_text("[1]")
    assert not finished_rows(model, images, tmp_path, settings)


def copy_of(image, path, *, affine=None, codes=(1, 1), turn=lambda voxels: voxels):
    """The image's voxels under another header."""
    source = nib.load(image)
    voxels = turn(np.asanyarray(source.dataobj))
    affine = source.affine if affine is None else affine
    volume = nib.Nifti1Image(voxels, None)
    volume.header.set_xyzt_units("mm")
    volume.set_qform(affine, code=codes[0])
    volume.set_sform(affine, code=codes[1])
    nib.save(volume, path)
    return path


def affine_of(spacing, euler_deg=(0, 0, 0), signs=(1, 1, 1)):
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", euler_deg, degrees=True).as_matrix()
    affine[:3, :3] = rotation @ np.diag(np.multiply(spacing, signs))
    affine[:3, 3] = [-20, 35, 110]
    return affine


@pytest.mark.parametrize(
    ("affine", "codes", "turn"),
    [
        (affine_of((7, 7, 9), (25, -30, 40)), (1, 2), lambda v: v),
        (affine_of((7, 7, 9), (5, 0, 0), (-1, 1, -1)), (1, 1), lambda v: v),
        (affine_of((3.5, 7, 9)), (0, 3), lambda v: v),
        (affine_of((9, 7, 7)), (1, 0), lambda v: v.transpose(2, 0, 1)),
        (affine_of((7, 7, 1)), (1, 1), lambda v: v[:, :, 5]),
        (np.diag([7, 7, 9, 1]), (0, 0), lambda v: v),
    ],
    ids=["oblique", "flipped", "anisotropic", "sagittal", "2D", "no form"],
)
def test_a_mask_lies_on_its_images_grid(model, images, tmp_path, affine, codes, turn):
    path = copy_of(images[0], tmp_path / "image.nii.gz", affine=affine, codes=codes, turn=turn)
    model.predict(path).save(tmp_path / "mask.nii.gz")
    image, mask = nib.load(path), nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == image.shape
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, image.affine)
    assert nib.aff2axcodes(mask.affine) == nib.aff2axcodes(image.affine)
    for form in ("get_qform", "get_sform"):
        (ours, our_code), (theirs, code) = (getattr(v, form)(coded=True) for v in (mask, image))
        assert our_code == code
        assert (ours is None) == (theirs is None)
        assert ours is None or np.array_equal(ours, theirs)
    assert np.array_equal(mask.header["pixdim"], image.header["pixdim"])
    assert len(np.unique(mask.dataobj)) > 1


def test_a_flipped_and_transposed_copy_gets_the_same_mask_in_space(model, images, tmp_path):
    original = nib.load(images[0])
    to_copy = np.array(
        [[0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, original.shape[1] - 1], [0, 0, 0, 1]]
    )

    def turn(voxels):
        return voxels[:, ::-1].transpose(2, 0, 1)

    copy = copy_of(
        images[0], tmp_path / "x.nii.gz", affine=original.affine @ np.linalg.inv(to_copy), turn=turn
    )
    assert np.array_equal(model.predict(copy).labels, turn(model.predict(images[0]).labels))


def test_three_lines_of_library(run, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("image.nii.gz").write_bytes(images[0].read_bytes())
    mm.load(str(run), "cpu").predict("image.nii.gz").save("mask.nii.gz")
    saved = np.asanyarray(nib.load("mask.nii.gz").dataobj)
    assert np.array_equal(saved, load(run, "cpu").predict(images[0]).labels)


# ------------------------------------------------------------------------ what needs a look


@pytest.mark.parametrize("call", [1, 3, 4])
def test_a_loss_that_is_not_finite_gives_the_plain_mask(model, images, tmp_path, monkeypatch, call):
    judge, calls = DiscriminatorPrior.__call__, []

    def failing(prior, masks, images):
        calls.append(masks)
        return judge(prior, masks, images) * (torch.nan if len(calls) == call else 1)

    monkeypatch.setattr(DiscriminatorPrior, "__call__", failing)
    (row,) = predict_all(model, images[:1], tmp_path)
    expected = f"{images[0]}: the loss was not finite after {call - 1} steps: plain mask"
    assert (row.status, row.steps, row.message) == ("done", 0, expected)
    assert row.realism_after == row.realism_before
    saved = np.asanyarray(nib.load(tmp_path / f"{row.image}_mask.nii.gz").dataobj)
    assert np.array_equal(saved, model.predict(images[0], steps=0).labels)


def test_one_slice_is_given_up_and_the_others_are_adapted(model, images, monkeypatch):
    judge, calls = DiscriminatorPrior.__call__, []

    def failing(prior, masks, images):  # of the second pass, one slice
        calls.append(masks)
        loss = judge(prior, masks, images)
        bad = (torch.arange(len(loss)) == 1) & (len(calls) == 2)
        return torch.where(bad, torch.nan, loss)

    well = model.predict(images[0], instance="slice")
    monkeypatch.setattr(DiscriminatorPrior, "__call__", failing)
    made = model.predict(images[0], instance="slice")
    assert made.message == "the loss was not finite after 1 steps: plain mask"
    assert np.array_equal(made.labels[:, :, 1], made.plain[:, :, 1])
    others = np.arange(made.labels.shape[2]) != 1
    assert np.array_equal(made.labels[:, :, others], well.labels[:, :, others])
    assert not np.array_equal(well.labels[:, :, 1], well.plain[:, :, 1])


def test_weights_that_are_not_finite_are_told_of(model, images, tmp_path):
    with torch.no_grad():
        model.networks.segmentor.head.weight.fill_(torch.nan)
    (row,) = predict_all(model, images[:1], tmp_path)
    assert row.status == "check"
    assert row.message.startswith(f"{images[0]}: no structure was found")
    assert row.message.endswith("the loss was not finite after 0 steps: plain mask")


def test_an_empty_mask_needs_a_look(model, images, tmp_path):
    with torch.no_grad():
        model.networks.segmentor.head.bias[0] += 1e3
    (row,) = predict_all(model, images[:1], tmp_path)
    expected = f"{images[0]}: no structure was found: the mask is empty; look at the image"
    assert (row.status, row.message) == ("check", expected)
    assert table(tmp_path)[row.image]["message"] == expected
    assert not np.asanyarray(nib.load(tmp_path / f"{row.image}_mask.nii.gz").dataobj).any()


@pytest.mark.parametrize(("spacing_mm", "status"), [(6, "check"), (10, "done")])
def test_a_mask_that_runs_into_the_edge_of_the_crop_needs_a_look(
    model, images, tmp_path, spacing_mm, status
):
    preprocess = dataclasses.replace(TINY.preprocess, spacing_mm=spacing_mm)
    with torch.no_grad():
        model.networks.segmentor.head.bias[1] += 1e3  # everything is the organ
    narrow = Model(
        dataclasses.replace(TINY, preprocess=preprocess), model.networks, torch.device("cpu")
    )
    (row,) = predict_all(narrow, images[:1], tmp_path)
    assert row.status == status
    assert row.message == (
        ""
        if status == "done"
        else f"{images[0]}: the mask runs into the edge of the 192 mm square that the network sees;"
        " crop the image around the organ, or train with a larger preprocess.size"
    )
    assert len(masks(tmp_path)) == 1


# ------------------------------------------------------------------------- what goes wrong


def test_bad_files_do_not_stop_the_others(model, images, tmp_path):
    bad = tmp_path / "heart000_frame05.nii.gz"
    bad.write_bytes(gzip.compress(b"these are my notes\n" * 40))
    missing = tmp_path / "nobody.nii.gz"
    predict_all(model, images[:2], tmp_path / "good")
    given = [missing, images[0], bad, images[1]]
    rows = {row.image: row for row in predict_all(model, given, tmp_path / "out")}
    assert {name: row.status for name, row in rows.items()} == {
        "nobody": "failed",
        "heart000_frame05": "failed",
        "heart000_frame01": "done",
        "heart000_frame10": "done",
    }
    for path in (bad, missing):
        assert rows[name_of(path)] == Row(
            name_of(path), "failed", message=rows[name_of(path)].message
        )
        assert rows[name_of(path)].message.startswith(f"{path}: ")
    assert table(tmp_path / "out")["nobody"] == {
        **dict.fromkeys(COLUMNS.split(","), ""),
        "image": "nobody",
        "status": "failed",
        "message": f"{missing}: there is no such file; check the path",
    }
    assert masks(tmp_path / "out") == masks(tmp_path / "good")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/x.nii.gz", "b/x.nii.gz"),
        ("x.nii", "x.nii.gz"),
        ("x.nii", "x.NII.GZ"),
        ("x.nii", "x.nii"),
    ],
)
def test_two_images_with_the_same_name_are_refused(model, images, tmp_path, one, other):
    given = [images[0], tmp_path / one, tmp_path / other]
    message = error_of(ConfigError, predict_all, model, given, tmp_path / "out")
    assert message == (
        f"{tmp_path / one} and {tmp_path / other} would both become x_mask.nii.gz; rename one"
    )
    assert not (tmp_path / "out").exists()


def test_an_image_in_capitals_has_the_name_of_its_mask(model, images, tmp_path):
    path = tmp_path / "HEART.NII.GZ"
    path.write_bytes(images[0].read_bytes())
    assert [row.image for row in predict_all(model, [path], tmp_path)] == ["HEART"]
    assert list(masks(tmp_path)) == ["HEART_mask.nii.gz"]


def test_settings_are_the_runs_but_for_what_is_given(model):
    assert model.settings() == TINY.adaptation
    changed = model.settings(steps=7, prior=None, augmentation={"noise_std": 0.1})
    assert changed == dataclasses.replace(
        TINY.adaptation,
        steps=7,
        augmentation=dataclasses.replace(TINY.adaptation.augmentation, noise_std=0.1),
    )
    assert isinstance(changed, AdaptationConfig)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"steps": -1}, 'steps: must be a number of steps, 0 or more, or "auto"; got -1'),
        ({"steps": "many"}, "or \"auto\"; got 'many'"),
        ({"learning_rate": 0}, "learning_rate: Input should be greater than 0; got 0"),
        ({"prior": "shape"}, "'discriminator', 'entropy' or 'denoiser'; got 'shape'"),
        ({"stepz": 3}, "unknown key adaptation.stepz; did you mean adaptation.steps?"),
    ],
)
def test_wrong_settings_are_explained_in_one_line(model, images, wrong, complaint):
    assert complaint in error_of(ConfigError, model.settings, **wrong)
    assert complaint in error_of(ConfigError, model.predict, images[0], **wrong)


def test_an_image_that_cannot_be_used_is_an_error_of_the_library(model, tmp_path):
    path = tmp_path / "nobody.nii.gz"
    message = error_of(InputError, model.predict, path)
    assert message == f"{path}: there is no such file; check the path"


def test_a_disk_that_is_full_for_one_mask(model, images, tmp_path, monkeypatch):
    full = tmp_path / "heart000_frame10_mask.nii.gz"
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda path, to: full_disk() if to == full else replace(path, to)
    )
    rows = predict_all(model, images, tmp_path)
    assert [row.status for row in rows] == ["done", "failed", "done", "done"]
    assert rows[1].message == (
        f"{full}: cannot be written (No space left on device); free some space or choose another"
        " folder"
    )
    expected = {f"{row.image}_mask.nii.gz" for row in rows if row.status == "done"}
    assert {path.name for path in tmp_path.iterdir()} == {*expected, PREDICTIONS, SETTINGS}
    assert [row["status"] for row in table(tmp_path).values()] == [row.status for row in rows]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_is_full_for_the_table(model, images, tmp_path, monkeypatch):
    def full(path, mode="r", *others, **named):
        return path_open(Path("/dev/full") if mode == "a" else path, mode, *others, **named)

    path_open = Path.open
    monkeypatch.setattr(Path, "open", full)
    assert error_of(InputError, predict_all, model, images[:1], tmp_path) == (
        f"{tmp_path / PREDICTIONS}: cannot be written (No space left on device);"
        " free space or choose another --out"
    )
    assert len(masks(tmp_path)) == 1


def test_a_folder_that_cannot_be_made(model, images, tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    message = error_of(InputError, predict_all, model, images[:1], tmp_path / "out")
    assert message.startswith(f"{tmp_path / 'out' / PREDICTIONS}: cannot be written")


def test_a_patient_that_is_too_large_for_the_device(model, images, tmp_path, monkeypatch):
    adapt_patients, large = model.adapt_patients, name_of(images[0])

    def limited(patients, settings):
        patients = list(patients)  # both are in work when memory runs out
        if any(one.volume.name == large for prepared in patients for one in prepared):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n 90 GiB.")
        yield from adapt_patients(patients, settings)

    monkeypatch.setattr(model, "adapt_patients", limited)
    rows = untimed(predict_all(model, images, tmp_path))
    names = [name_of(image) for image in images]
    assert [rows[name].status for name in names] == ["failed", "failed", "done", "done"]
    for image, name in zip(images[:2], names, strict=False):
        assert rows[name].message.startswith(f"{image}: does not fit into the device's memory; use")


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there(run, device):
    message = error_of(ConfigError, load, run, device)
    assert message == f"device: {device} is not available on this machine; try cpu"


# ------------------------------------------------------------------------------- the package


def test_importing_the_package_does_not_import_torch():
    code = "import sys, maskmend; maskmend.InputError; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_public_name_is_there_whatever_was_imported_before():
    for name in mm.__all__:
        importlib.import_module(getattr(mm, name).__module__)
        assert getattr(mm, name).__name__ == name


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = mm.lode


@INSTANCES
def test_patients_side_by_side_are_each_as_alone(model, images, instance):
    """As on a GPU, where a batch holds slices of several patients."""
    patients = [[model.prepare(image)] for image in images]
    settings = model.settings(instance=instance)
    expected = [model.predict_patient(prepared, settings) for prepared in patients]

    done = model.adapt_patients(patients, settings, side_by_side=True)
    together = {number: finish(patients[number], adapted) for number, adapted in done}

    assert sorted(together) == [0, 1, 2, 3]
    for number, (one,) in enumerate(expected):
        (made,) = together[number]
        assert made.realism_after == pytest.approx(one.realism_after, abs=1e-4)
        assert (made.labels != one.labels).mean() < 1e-3
