"""What predict keeps for the report is what the networks saw and made."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from maskmend import details as details_module
from maskmend.data.phantom import write_cohort
from maskmend.data.preprocess import labels_on_grid
from maskmend.details import DETAILS, details_of, read_details
from maskmend.files import finished_rows, predict_files
from maskmend.predict import load
from maskmend.prediction import finish
from tests.tiny import tiny, write_run

TINY = tiny(adaptation={"steps": 2, "precision": "32-true", "learning_rate": 0.05})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=1, seed=1, size=32, spacing_mm=9.5)
    return sorted((root / "images").iterdir())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_run(tmp_path_factory.mktemp("run"), TINY), "cpu")


@pytest.fixture(scope="module")
def kept(model, images, tmp_path_factory):
    """The folder of both frames, adapted to together."""
    out = tmp_path_factory.mktemp("masks")
    predict_files(model, images, out, model.settings(), details=True)
    return out


def name(path):
    return path.name.removesuffix(".nii.gz")


def test_image_masks_and_change_are_those_of_the_networks(model, images, kept):
    prepared = [model.prepare(path) for path in images]
    ((_, (adapted,)),) = model.adapt_patients([prepared], model.settings())
    start = 0
    for one, path in zip(prepared, images, strict=True):
        part = slice(start, start := start + len(one.slices))
        details = read_details(kept, name(path))
        assert (details.plain == adapted.plain[part].argmax(1).numpy()).all()
        assert (details.mask == adapted.masks[part].argmax(1).numpy()).all()
        before = model.networks.adaptor(one.slices)
        after = adapted.adaptor(one.slices)
        low, high = np.percentile(before, [0.5, 99.5])
        shown = (before[:, 0].numpy() - low) / (high - low) * 255
        assert np.abs(shown.clip(0, 255) - details.image).max() <= 0.51
        change = (after - before)[:, 0].numpy() / (high - low) * 255
        assert np.abs(change).max() > 0
        assert np.allclose(details.change * details.change_step, change, atol=details.change_step)
        assert details.losses == pytest.approx(np.array([adapted.losses]))
    assert start == len(adapted.plain)


def test_the_grid_leads_back_to_the_image(images, kept):
    for path in images:
        details = read_details(kept, name(path))
        one_hot = torch.nn.functional.one_hot(torch.tensor(details.mask).long(), 4)
        labels = labels_on_grid(one_hot.movedim(-1, 1).float(), details.grid)
        mask = nib.load(kept / f"{name(path)}_mask.nii.gz")
        assert (labels == np.asarray(mask.dataobj)).mean() > 0.95
        # The thickest axis is the slices'.
        assert details.slice_mm == pytest.approx(max(mask.header.get_zooms()))


def test_volumes_and_change_are_those_of_the_files(images, kept):
    for path in images:
        details = read_details(kept, name(path))
        masks = [nib.load(kept / file) for file in (
            f"{DETAILS}/{name(path)}_mask.nii.gz", f"{name(path)}_mask.nii.gz"
        )]  # fmt: skip
        plain, mask = (np.asarray(one.dataobj) for one in masks)
        voxel_ml = np.prod(masks[0].header.get_zooms()) / 1000
        for row, labels in zip(details.volumes_ml, (plain, mask), strict=True):
            counts = [(labels == k).sum() for k in (1, 2, 3)]
            assert row == pytest.approx(np.array(counts) * voxel_ml, rel=1e-4)
        covered = (plain > 0) | (mask > 0)
        assert details.changed == pytest.approx((plain != mask).sum() / covered.sum())


def test_without_a_step_nothing_is_changed(model, images, tmp_path):
    predict_files(model, images, tmp_path, model.settings(steps=0), details=True)
    details = read_details(tmp_path, name(images[0]))
    assert not details.change.any()
    assert details.changed == 0
    assert (details.plain == details.mask).all()


def test_every_slice_has_its_own_losses_where_it_is_the_instance(model, images, tmp_path):
    predict_files(model, images, tmp_path, model.settings(instance="slice", steps=1), details=True)
    for path in images:
        details = read_details(tmp_path, name(path))
        assert details.losses.shape == (len(details.image), 2)
        assert np.unique(details.losses[:, 0]).size > 1


def test_details_are_kept_only_where_they_are_wanted(model, images, tmp_path):
    settings = model.settings(steps=0)
    predict_files(model, images, tmp_path, settings)
    assert not (tmp_path / DETAILS).exists()
    assert len(finished_rows(model, images, tmp_path, settings)) == len(images)
    assert finished_rows(model, images, tmp_path, settings, details=True) == []
    predict_files(model, images, tmp_path, settings, details=True)
    assert len(finished_rows(model, images, tmp_path, settings, details=True)) == len(images)
    # Masks that are made anew without them would be belied by old ones.
    predict_files(model, images, tmp_path, model.settings(steps=1))
    assert list((tmp_path / DETAILS).iterdir()) == []


def test_the_file_of_an_image_that_failed_is_removed(model, images, tmp_path):
    image = tmp_path / "in" / images[0].name
    image.parent.mkdir()
    image.write_bytes(images[0].read_bytes())
    settings = model.settings(steps=0)
    predict_files(model, [image], tmp_path, settings, details=True)
    assert read_details(tmp_path, name(image))
    image.write_bytes(b"no image")
    predict_files(model, [image], tmp_path, settings, details=True)
    assert list((tmp_path / DETAILS).iterdir()) == []


def test_the_file_tells_neither_path_nor_pickles(images, kept):
    content = (kept / DETAILS / f"{name(images[0])}.npz").read_bytes()
    assert str(images[0].parent).encode() not in content
    with np.load(kept / DETAILS / f"{name(images[0])}.npz", allow_pickle=False) as arrays:
        assert all(arrays[key].dtype != object for key in arrays)
        assert json.dumps(arrays["losses"].tolist())


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_file_is_as_good_as_none(images, kept, tmp_path, content):
    (tmp_path / DETAILS).mkdir()
    whole = (kept / DETAILS / f"{name(images[0])}.npz").read_bytes()
    damaged = whole[: len(whole) // 2] if content is None else content
    (tmp_path / DETAILS / "heart.npz").write_bytes(damaged)
    assert read_details(tmp_path, "heart") is None
    assert read_details(tmp_path, "another") is None


def test_slices_of_another_kind_are_shown_on_the_images_own_grid(model, images):
    """As nnU-Net's are: what the network saw is not on a grid that the report knows."""
    prepared = [model.prepare(images[0])]
    ((_, adapted),) = model.adapt_patients([prepared], model.settings())
    predictions = finish(prepared, adapted)
    foreign = [SimpleNamespace(slices=prepared[0].slices, volume=prepared[0].volume)]
    (details,) = details_of(foreign, adapted, predictions)
    assert details.change is None
    shape = predictions[0].labels.shape
    assert details.image.shape[0] in shape
    assert details.image.shape == details.plain.shape == details.mask.shape
    counts = [np.bincount(labels.ravel(), minlength=4)[1:] for labels in (
        details.mask, predictions[0].labels
    )]  # fmt: skip
    assert counts[0] == pytest.approx(counts[1], rel=0.15, abs=20)


def test_a_huge_image_is_shown_coarser(model, images, monkeypatch):
    monkeypatch.setattr(details_module, "_LARGEST", 16)
    prepared = [model.prepare(images[0])]
    ((_, adapted),) = model.adapt_patients([prepared], model.settings())
    foreign = [SimpleNamespace(slices=prepared[0].slices, volume=prepared[0].volume)]
    (made,) = details_of(foreign, adapted, finish(prepared, adapted))
    assert made.image.shape[1:] == made.mask.shape[1:] == (16, 16)
