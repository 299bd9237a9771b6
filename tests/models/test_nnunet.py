"""nnU-Net's own folders: the same masks as nnU-Net's, to the voxel, and what cannot be read."""

import csv
import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from maskmend.config_file import config_from
from maskmend.data.volume import read_image, read_mask
from maskmend.errors import RunError
from maskmend.foreign.guest import bring
from maskmend.models import nnunet
from maskmend.models.nnunet_images import resample
from tests.models.given import NNUNET, complaint, masks, predict, write_prior

KINDS = pytest.mark.parametrize("kind", ["plain", "residual"])


def images(kind):
    return sorted((NNUNET / kind / "images").glob("*_0000.nii.gz"))


@pytest.fixture
def folder(tmp_path):
    """A copy of nnU-Net's folder, to be spoilt."""
    return shutil.copytree(NNUNET / "plain" / "model", tmp_path / "model")


@KINDS
def test_without_adaptation_masks_are_those_of_nnunet(kind, tmp_path):
    status = predict(NNUNET / kind / "model", images(kind), tmp_path / "out", "--steps", "0")
    made = masks(tmp_path / "out")
    assert len(made) == 2
    for image in images(kind):
        name = image.name.removesuffix(".nii.gz")
        expected = read_mask(NNUNET / kind / "expected" / f"{name.removesuffix('_0000')}.nii.gz")
        assert expected.voxels.any()
        assert np.array_equal(made[name], expected.voxels)
        affine = read_mask(tmp_path / "out" / f"{name}_mask.nii.gz").affine
        assert np.allclose(affine, read_image(image).affine, atol=1e-5)
    assert status == 0


@KINDS
def test_adaptation_goes_through_folds_and_windows(kind, prior, tmp_path):
    out = tmp_path / "out"
    options = ("--prior", prior, "--steps", 3, "--learning-rate", 0.05)
    assert predict(NNUNET / kind / "model", images(kind), out, *options) == 0
    plain = bring(NNUNET / kind / "model", prior, "cpu")
    before = [p.clone() for p in plain.model.network.parameters()]
    prediction = plain.predict(images(kind)[0], steps=3, learning_rate=0.05)
    after = plain.model.network.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    name = images(kind)[0].name.removesuffix(".nii.gz")
    assert np.array_equal(prediction.labels, masks(out)[name])
    assert (prediction.labels != prediction.plain).any()
    with (out / "predictions.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert rows[name]["steps"] == "3"
    assert rows[name]["realism_before"] != rows[name]["realism_after"]


def test_frames_of_a_patient_that_lie_otherwise_are_adapted_to_apart(prior, tmp_path):
    frames = []
    for number, image in enumerate(images("plain")):
        frames.append(shutil.copy(image, tmp_path / f"heart_frame{number:02d}.nii.gz"))
    guest = bring(NNUNET / "plain" / "model", prior, "cpu")
    prepared = [guest.prepare(frame) for frame in frames]
    settings = guest.settings(steps=1)
    ((_, made),) = guest.adapt_patients([prepared], settings)
    assert [len(one.masks) for one in made] == [len(one.slices) for one in prepared]
    assert predict(guest.model.path, frames, tmp_path / "out", "--steps", 1, "--prior", prior) == 0
    assert len(masks(tmp_path / "out")) == 2


def test_the_fold_of_all_data_counts_where_there_are_no_others(folder):
    assert len(nnunet.read(folder).network.networks) == 2
    shutil.move(folder / "fold_0", folder / "fold_all")
    assert len(nnunet.read(folder).network.networks) == 1
    shutil.rmtree(folder / "fold_1")
    assert len(nnunet.read(folder).network.networks) == 1


def test_plans_of_earlier_versions_say_the_same_in_other_words(folder):
    new = nnunet.read(folder)
    plans = json.loads((folder / "plans.json").read_text())
    plan = plans["configurations"]["2d"]
    network = plan.pop("architecture")["arch_kwargs"]
    plan |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 6,
        "unet_max_num_features": 12,
        "n_conv_per_stage_encoder": network["n_conv_per_stage"],
        "n_conv_per_stage_decoder": network["n_conv_per_stage_decoder"],
        "conv_kernel_sizes": network["kernel_sizes"],
        "pool_op_kernel_sizes": network["strides"],
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    slices = torch.randn(1, 1, 40, 40)
    assert torch.equal(nnunet.read(folder).exact(slices), new.exact(slices))


def test_thick_slices_are_resampled_apart():
    steps = np.zeros((1, 3, 8, 8))
    steps[0, 1] = 1
    apart = resample(steps, (3, 4, 4), (9, 1, 1), (9, 2, 2), (3, 0))
    assert (apart[0, :, 0, 0] == [0, 1, 0]).all()
    across = resample(steps, (6, 4, 4), (9, 1, 1), (4.5, 2, 2), (3, 0))
    assert (across[0, :, 0, 0] == [0, 0, 1, 1, 0, 0]).all()
    together = resample(steps, (6, 4, 4), (2, 1, 1), (1, 2, 2), (1, 0))
    assert np.allclose(together[0, :, 0, 0], [0, 0.25, 0.75, 0.75, 0.25, 0])


# --------------------------------------------------------------------------------- bad input


def without(*keys):
    def spoil(plans):
        for key in keys[:-1]:
            plans = plans[key]
        del plans[keys[-1]]

    return spoil


def setting(value, *keys):
    def spoil(plans):
        for key in keys[:-1]:
            plans = plans[key]
        plans[keys[-1]] = value

    return spoil


PLAN = ("configurations", "2d")
NETWORK = (*PLAN, "architecture")


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("plans.json", setting([8, 8, 8], *PLAN, "patch_size"), "is 3D; train the 2d one"),
        ("plans.json", setting("lowres", *PLAN, "previous_stage"), "is a cascade"),
        ("plans.json", setting(["Mine"], *PLAN, "normalization_schemes"), "normalises images by M"),
        ("plans.json", setting("mine", *PLAN, "resampling_fn_data"), "resamples by mine"),
        ("plans.json", setting("Tiff3DIO", "image_reader_writer"), "reads images by Tiff3DIO"),
        ("plans.json", setting("a.Primus", *NETWORK, "network_class_name"), "of class Primus"),
        ("plans.json", setting("os.system", *NETWORK, "arch_kwargs", "nonlin"), "of class os.sy"),
        (
            "plans.json",
            setting([6, 12, 24], *NETWORK, "arch_kwargs", "features_per_stage"),
            "checkpoint_final.pth: holds another network (decoder.transpconvs",
        ),
        ("plans.json", without(*PLAN, "spacing"), "cannot be read ('spacing'); copy it again"),
        ("dataset.json", setting([1, 2], "labels", "heart"), "has regions"),
        ("dataset.json", setting({"background": 0, "LV": 3}, "labels"), "must count up"),
    ],
)
def test_what_is_not_known_is_named(folder, file, spoil, said):
    tree = json.loads((folder / file).read_text())
    spoil(tree)
    (folder / file).write_text(json.dumps(tree))
    with pytest.raises(RunError) as caught:
        nnunet.read(folder)
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
@pytest.mark.parametrize("cut", [0, 40])
def test_a_damaged_file_is_named(folder, name, cut, tmp_path, capsys):
    (folder / name).write_bytes((folder / name).read_bytes()[:cut])
    status, line = complaint(capsys, folder, images("plain"), tmp_path / "out", "--steps", "0")
    assert status == 1
    assert line.startswith(f"maskmend: {folder / name}: cannot be read")
    assert line.endswith("copy it again")


def test_a_missing_file_is_named(folder):
    (folder / "dataset.json").unlink()
    with pytest.raises(RunError, match=r"dataset.json: missing; copy the model's folder whole"):
        nnunet.read(folder)


class Payload:
    """What a pickle may do to whoever reads it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('the code of the file ran')",)


def test_a_checkpoint_that_needs_code_is_refused_and_its_code_does_not_run(folder):
    file = folder / "fold_1" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    torch.save({**checkpoint, "logging": Payload()}, file)
    with pytest.raises(RunError) as caught:
        nnunet.read(folder)
    assert str(caught.value).startswith(f"{file}: needs builtins.exec")
    file.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(RunError, match="cannot be read"):
        nnunet.read(folder)


def test_another_checkpoint_is_named(folder):
    torch.save({"model": {}}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(RunError, match="no checkpoint of nnU-Net v2"):
        nnunet.read(folder)


def test_channels_that_are_missing_or_lie_elsewhere_fail_alone(tmp_path, capsys):
    first, second = (shutil.copy(image, tmp_path / image.name) for image in images("residual"))
    other = NNUNET / "residual" / "images" / second.name.replace("_0000", "_0001")
    shutil.copy(other, tmp_path / first.name.replace("_0000", "_0001"))
    alone = shutil.copy(first, tmp_path / "alone.nii.gz")
    out, model = tmp_path / "out", NNUNET / "residual" / "model"
    assert predict(model, [first, second, alone], out, "--steps", "0") == 1
    with (out / "predictions.csv").open(newline="") as file:
        said = {row["image"]: row["message"] for row in csv.DictReader(file)}
    assert "is not on the grid of" in said[first.name.removesuffix(".nii.gz")]
    assert "there is no such file" in said[second.name.removesuffix(".nii.gz")]
    assert "name the first NAME_0000.nii.gz" in said["alone"]
    assert masks(out) == {}


def test_a_prior_of_other_structures_is_refused(tmp_path, capsys):
    two = config_from({}).data.structures | {4: "aorta"}
    prior = write_prior(tmp_path / "prior", data={"structures": two})
    model = NNUNET / "plain" / "model"
    status, line = complaint(capsys, model, images("plain"), tmp_path / "out", "--prior", prior)
    assert status == 2
    assert line == (
        f"maskmend: {model}: segments RV, MYO, LV; the prior knows RV, MYO, LV, aorta; fit a prior"
        " to masks of the same structures"
    )


def test_adaptation_without_a_prior_is_refused(tmp_path, capsys):
    model = NNUNET / "plain" / "model"
    status, line = complaint(capsys, model, images("plain"), tmp_path / "out")
    assert status == 2
    assert "give --prior the folder of maskmend fit-prior" in line
