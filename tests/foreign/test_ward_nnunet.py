"""A guard for nnU-Net, whose slices are of another size in each image."""

import numpy as np
import pandas as pd
import pytest
import torch

from maskmend.data.phantom import write_cohort
from maskmend.data.volume import read_image, read_mask
from maskmend.foreign.guest import bring
from maskmend.foreign.standard import Padded, centred
from maskmend.models import nnunet
from tests.models.given import NNUNET, masks, predict
from tests.test_cli import call

MODEL = NNUNET / "plain" / "model"
HELD_OUT = ("heart002", "heart003")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=4, seed=0, size=36, spacing_mm=8.5)
    for path in root.glob("*/*_frame10.nii.gz"):  # one is enough
        path.unlink()
    table = pd.read_csv(root / "patients.csv")
    table[table["name"].str.endswith("_frame01")].to_csv(root / "patients.csv", index=False)
    return root


@pytest.fixture(scope="module")
def prior(data, tmp_path_factory):
    """Fitted to masks alone, as nnU-Net's has to be, and calibrated for a folder of its."""
    folder = tmp_path_factory.mktemp("nnunet") / "prior"
    options = [
        *("fitting.iterations=2", "fitting.look_every=2", "fitting.batch=2"),
        *("segmentor.width=4", "segmentor.depth=3", "adaptation.student_iterations=2"),
        *("discriminator.widths=[4, 8]", "discriminator.strides=[2, 2]"),
        *("preprocess.size=32", "preprocess.spacing_mm=10"),
    ]
    settings = [word for option in options for word in ("--set", option)]
    given = ("--data", data, "--out", folder, "--held-out", *HELD_OUT, *settings)
    assert call("fit-prior", *given) == 0
    given = ("--data", data, "--model", MODEL, "--draws", 1, "--device", "cpu")
    assert call("calibrate", folder, *given) == 0
    return folder


@pytest.fixture
def images(data):
    return sorted((data / "images").iterdir())[:2]


def test_its_masks_are_judged_on_its_own_slices(prior, images, tmp_path):
    assert set(pd.read_csv(prior / "trials.csv")["patient"]) == {*HELD_OUT}
    predict(MODEL, images, tmp_path, "--prior", prior, "--method", "guarded")
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert len(table) == len(images)
    assert table["decision"].str.startswith(("mended", "steadied", "left alone")).all()
    for path, image in zip(sorted(tmp_path.glob("*_mask.nii.gz")), images, strict=True):
        assert read_mask(path).voxels.shape == read_image(image).voxels.shape


def test_a_mask_that_is_left_alone_is_nnunets_own(prior, images, tmp_path):
    guest = bring(MODEL, prior, "cpu")
    prepared = [guest.prepare(image) for image in images]
    settings = guest.settings(method="guarded")
    ((_, adapted),) = guest.adapt_patients([prepared], settings)
    predict(MODEL, images, tmp_path, "--steps", 0)
    expected = masks(tmp_path)
    for image, seen, made in zip(images, prepared, adapted, strict=True):
        plain = expected[image.name.removesuffix(".nii.gz")]
        assert np.array_equal(seen.labels(made.plain), plain)


def test_a_true_mask_comes_back_from_its_slices(images, data):
    brought = nnunet.read(MODEL)
    for image in images:
        truth = read_mask(data / "masks" / image.name)
        seen = brought.images.prepare([read_image(image)])
        labels = seen.truth(truth, 4)
        assert labels.shape == (len(seen.slices), *seen.slices.shape[2:])
        again = seen.labels(torch.stack([labels == c for c in range(4)], 1).float())
        assert (again == truth.voxels).mean() > 0.97
        for structure in (1, 2, 3):
            both = ((again == structure) & (truth.voxels == structure)).sum()
            assert (
                2 * both / ((again == structure).sum() + (truth.voxels == structure).sum()) > 0.85
            )


@pytest.mark.parametrize(("height", "width"), [(7, 10), (8, 12)])
def test_students_see_any_size(height, width):
    shapes = []

    class Network(torch.nn.Module):
        def forward(self, slices):
            shapes.append(slices.shape[2:])
            return slices * 2

    slices = torch.randn(2, 1, height, width)
    assert torch.equal(Padded(Network(), 4)(slices), slices * 2)
    assert all(side % 4 == 0 for side in shapes[0])


def test_lessons_are_the_middle():
    slices = torch.arange(5 * 8).view(1, 1, 5, 8).float()
    middle = centred(slices, (6, 4))
    assert middle.shape == (1, 1, 6, 4)
    assert torch.equal(middle[0, 0, :5], slices[0, 0, :, 2:6])
    assert torch.equal(middle[0, 0, 5], slices[0, 0, 4, 2:6])
