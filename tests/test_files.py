"""Cohorts that are continued, whatever stopped them."""

import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from maskmend.calibrate.run import calibrate_run
from maskmend.data.phantom import write_cohort
from maskmend.denoiser import DENOISER
from maskmend.errors import ConfigError, RunError
from maskmend.files import finished_rows, predict_files
from maskmend.predict import load
from maskmend.table import PREDICTIONS, Row, open_table, read_table
from tests.tiny import tiny, write_run

TINY = tiny(adaptation={"steps": 1, "precision": "32-true"})

# Hangs when the third patient's turn comes.
VICTIM = """
import sys, time
from maskmend.cli import main
from maskmend.predict import Model

adapt_patients = Model.adapt_patients

def hang(model, patients, settings):
    for number, adapted in adapt_patients(model, patients, settings):
        if number == 2:
            time.sleep(600)
        yield number, adapted

Model.adapt_patients = hang
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=4, seed=0, size=32, spacing_mm=9.5)
    return sorted((root / "images").iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), TINY)


@pytest.fixture
def model(run):
    return load(run, "cpu")


@pytest.fixture
def counted(model, monkeypatch):
    """Names of the images that are adapted to, as they come."""
    names, adapt_patients = [], model.adapt_patients

    def counting(patients, settings):
        def noted():
            for prepared in patients:
                names.extend(one.volume.name for one in prepared)
                yield prepared

        return adapt_patients(noted(), settings)

    monkeypatch.setattr(model, "adapt_patients", counting)
    return names


def predict(model, images, out, **adaptation):
    return predict_files(model, images, out, model.settings(**adaptation))


def content(out):
    return {path.name: path.read_bytes() for path in out.glob("*_mask.nii.gz")}


def test_a_finished_cohort_is_not_done_again(model, images, tmp_path, counted):
    first = predict(model, images, tmp_path)
    masks, table = content(tmp_path), (tmp_path / PREDICTIONS).read_bytes()
    counted.clear()
    again = predict(model, images, tmp_path)
    assert counted == []
    assert [row.image for row in again] == [row.image for row in first]
    assert content(tmp_path) == masks
    assert (tmp_path / PREDICTIONS).read_bytes() == table


def test_more_images_are_added(model, images, tmp_path, counted):
    predict(model, images[:4], tmp_path)
    counted.clear()
    rows = predict(model, images, tmp_path)
    assert counted == [path.name[:-7] for path in images[4:]]
    assert sorted(row.image for row in rows) == [path.name[:-7] for path in images]
    assert [row.image for row in read_table(tmp_path / PREDICTIONS)] == [row.image for row in rows]


def test_an_image_after_another_keeps_both_rows(model, images, tmp_path, counted):
    for image in images[::2]:  # a patient each
        assert [row.image for row in predict(model, [image], tmp_path)] == [image.name[:-7]]
    table = read_table(tmp_path / PREDICTIONS)
    assert [row.image for row in table] == [path.name[:-7] for path in images[::2]]
    counted.clear()
    predict(model, images[::2], tmp_path)
    assert counted == []


def test_masks_of_two_settings_are_not_mixed(model, images, tmp_path):
    predict(model, images, tmp_path)
    masks, table = content(tmp_path), (tmp_path / PREDICTIONS).read_bytes()
    with pytest.raises(ConfigError, match=r"holds masks of other images .* and 5 more\), made"):
        predict(model, images[:2], tmp_path, steps=2)
    assert content(tmp_path) == masks
    assert (tmp_path / PREDICTIONS).read_bytes() == table
    assert len(predict(model, images, tmp_path, steps=2)) == len(images)


def test_a_call_that_is_stopped_leaves_no_masks_of_other_settings(
    model, images, tmp_path, monkeypatch
):
    predict(model, images, tmp_path)
    adapt_patients = model.adapt_patients

    def stopped(patients, settings):
        yield from itertools.islice(adapt_patients(patients, settings), 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "adapt_patients", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict(model, images, tmp_path, steps=2)
    assert sorted(content(tmp_path)) == [f"{path.name[:-7]}_mask.nii.gz" for path in images[:2]]
    monkeypatch.undo()
    assert len(predict(model, images[:4], tmp_path, steps=2)) == 4
    assert len(content(tmp_path)) == 4


def test_masks_that_a_person_drew_are_never_written_over(model, images, tmp_path):
    mask = tmp_path / f"{images[0].name[:-7]}_mask.nii.gz"
    mask.write_bytes(b"hours of work")
    with pytest.raises(ConfigError, match=r"holds masks of somebody else .*; choose another --out"):
        predict(model, images, tmp_path)
    assert mask.read_bytes() == b"hours of work"


def test_a_worker_that_died_leaves_no_mask_beside_a_failed_row(
    model, images, tmp_path, monkeypatch
):
    def died(predict, model, patients, out, settings, workers):
        for path, *_ in patients:
            (out / f"{path.name[:-7]}_mask.nii.gz").write_bytes(b"the first of two frames")
            yield Row(path.name[:-7], "failed", message="3 workers died on it")

    monkeypatch.setattr("maskmend.files.predict_on_ray", died)
    rows = predict_files(model, images, tmp_path, model.settings(), engine="ray")
    assert {row.status for row in rows} == {"failed"}
    assert content(tmp_path) == {}


def test_an_input_that_failed_and_is_gone_is_forgotten(model, images, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no image")
    rows = predict(model, [bad, images[0]], tmp_path / "out")
    assert [row.status == "failed" for row in rows] == [True, False]
    predict(model, images[:1], tmp_path / "out")
    (row,) = read_table(tmp_path / "out" / PREDICTIONS)
    assert row.image == images[0].name[:-7]


@pytest.mark.parametrize(
    ("adaptation", "said"),
    [
        ({"method": "guarded"}, "is not calibrated"),
        ({"prior": "denoiser"}, "denoiser.safetensors"),
    ],
)
def test_a_call_that_is_refused_leaves_what_is_finished(model, images, tmp_path, adaptation, said):
    predict(model, images, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises((ConfigError, RunError), match=said):
        predict(model, images, tmp_path, **adaptation)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_without_a_discriminator_says_so(images, tmp_path):
    (tmp_path / "run").mkdir()
    config = tiny(adversarial={"enabled": False})
    alone = load(write_run(tmp_path / "run", config), "cpu")
    with pytest.raises(ConfigError, match=r"without a discriminator .* --prior entropy"):
        predict(alone, images, tmp_path)
    assert [row.status for row in predict(alone, images[:1], tmp_path, steps=0)] != ["failed"]
    with pytest.raises(ConfigError, match="guarded needs a discriminator"):
        tiny(adversarial={"enabled": False}, adaptation={"method": "guarded"})
    with pytest.raises(ConfigError, match="which the guard needs"):
        calibrate_run(tmp_path / "run", tmp_path, console=Console(quiet=True))


@pytest.mark.parametrize(("instance", "again"), [("patient", [2, 3]), ("slice", [3])])
def test_a_patient_is_done_whole_where_it_is_the_instance(
    model, images, tmp_path, counted, instance, again
):
    predict(model, images, tmp_path, instance=instance)
    (tmp_path / f"{images[3].name[:-7]}_mask.nii.gz").unlink()
    counted.clear()
    predict(model, images, tmp_path, instance=instance)
    assert counted == [images[i].name[:-7] for i in again]
    assert len(content(tmp_path)) == len(images)


def test_other_settings_other_weights_and_a_younger_image_are_done_anew(
    model, run, images, tmp_path, counted
):
    settings = model.settings()
    predict(model, images, tmp_path)
    assert len(finished_rows(model, images, tmp_path, settings)) == len(images)
    assert finished_rows(model, images, tmp_path, model.settings(steps=2)) == []
    model.digest = "of other weights"
    assert finished_rows(model, images, tmp_path, settings) == []
    model.digest = load(run, "cpu").digest
    mask = tmp_path / f"{images[0].name[:-7]}_mask.nii.gz"
    os.utime(mask, ns=(0, images[0].stat().st_mtime_ns - 1))
    left = finished_rows(model, images, tmp_path, settings)
    assert [row.image for row in left] == [path.name[:-7] for path in images[2:]]


@pytest.mark.parametrize(
    "changed",
    [{"preprocess": {"size": 64}}, {"adversarial": {"target": 0.5}}],
    ids=lambda changed: next(iter(changed)),
)
def test_what_masks_depend_on_is_more_than_weights(model, changed):
    settings = model.settings()
    before = model.made_by(settings)
    model.config = tiny(**changed)
    assert model.made_by(settings) != before


def test_masks_of_another_denoiser_are_made_anew(model, run):
    settings, path = model.settings(prior="denoiser"), run / DENOISER
    digests = [model.made_by(settings)["denoiser_sha256"]]
    for content_of_it in (b"one", b"another"):
        path.write_bytes(content_of_it)
        digests.append(model.made_by(settings)["denoiser_sha256"])
    path.unlink()
    assert digests[0] is None
    assert len(set(digests)) == 3


def test_an_image_that_memory_does_not_hold_leaves_the_others(model, images, tmp_path, monkeypatch):
    prepare = model.prepare

    def limited(path):
        if path == images[0]:
            raise MemoryError
        return prepare(path)

    monkeypatch.setattr(model, "prepare", limited)
    rows = {row.image: row for row in predict(model, images, tmp_path)}
    first = rows.pop(images[0].name[:-7])
    assert first.status == "failed"
    assert first.message == f"{images[0]}: does not fit into memory; crop it or use another machine"
    assert "failed" not in {row.status for row in rows.values()}


def test_a_failed_image_is_tried_again_and_leaves_no_old_mask(model, images, tmp_path):
    bad = tmp_path / "in" / images[0].name
    bad.parent.mkdir()
    bad.write_bytes(images[0].read_bytes())
    assert predict(model, [bad], tmp_path)[0].status != "failed"
    time.sleep(0.02)
    bad.write_bytes(b"no image")
    assert [row.status for row in predict(model, [bad], tmp_path)] == ["failed"]
    assert content(tmp_path) == {}
    bad.write_bytes(images[0].read_bytes())
    assert predict(model, [bad], tmp_path)[0].status != "failed"
    assert len(content(tmp_path)) == 1


def test_a_killed_predict_goes_on_where_it_was(run, model, images, tmp_path, counted):
    expected = predict(model, images, tmp_path / "whole")
    out = tmp_path / "out"
    command = [sys.executable, "-c", VICTIM, "predict", run, *images, "--out", out]
    victim = subprocess.Popen([*map(str, command), "--device", "cpu"])
    try:
        deadline = time.monotonic() + 60
        while len(read_table(out / PREDICTIONS)) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert len(read_table(out / PREDICTIONS)) == 4
    # A row that was being written, too.
    with (out / PREDICTIONS).open("a") as table:
        table.write("heart002_frame01,done,0.1")

    counted.clear()
    rows = predict(model, images, out)

    assert counted == [path.name[:-7] for path in images[4:]]
    assert [row.image for row in rows] == [row.image for row in expected]
    assert content(out) == content(tmp_path / "whole")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_the_table_survives_strangers(tmp_path):
    path = tmp_path / PREDICTIONS
    assert read_table(path) == []
    rows = [Row("a", "done", 0.5, 0.25, 3, 1.5, 'a, "quoted"\nmessage'), Row("b", "failed")]
    with open_table(path, rows[:1]) as write:
        write(rows[1])
    assert [row.image for row in read_table(path)] == ["a", "b"]
    assert read_table(path)[0].message == rows[0].message
    whole = path.read_text()
    path.write_text(whole + "c,perhaps,,,,,\nd,done\ne,done,1,1,1")
    assert [row.image for row in read_table(path)] == ["a", "b"]
    path.write_text("name\na\n")
    assert read_table(path) == []
    path.write_bytes(np.arange(256, dtype=np.uint8).tobytes())
    assert read_table(path) == []
