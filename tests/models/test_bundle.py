"""MONAI bundles: read as data, the same masks as the network's own, and what is refused."""

import json
import warnings

import pytest
import torch

from maskmend.checkpoint import quiet_generator
from maskmend.data.preprocess import grid_of, labels_on_grid, slices_on_grid
from maskmend.data.volume import read_image
from maskmend.errors import ConfigError, RunError
from maskmend.foreign.guest import bring
from maskmend.models import bundle
from tests.models.given import complaint, masks, predict

NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 2,
    "in_channels": "@channels",
    "out_channels": 4,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
    "norm": "instance",
}
INFERENCE = {
    "imports": ["$import os"],
    "channels": 1,
    "device": "$os.abort()",
    "network_def": NETWORK,
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {
                "_target_": "Spacingd",
                "keys": "image",
                "pixdim": [10.0, 10.0, -1],
                "mode": "bilinear",
            },
            {"_target_": "monai.transforms.NormalizeIntensityd", "keys": "image", "nonzero": True},
        ],
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
    },
}
METADATA = {
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "spatial_shape": [32, 32]}},
        "outputs": {
            "pred": {
                "num_channels": 4,
                "channel_def": {"0": "background", "1": "RV", "2": "MYO", "3": "LV"},
            }
        },
    }
}


def network():
    from monai.networks.nets import UNet

    arguments = {k: v for k, v in NETWORK.items() if k not in ("_target_", "in_channels")}
    with quiet_generator(5):
        return UNet(in_channels=1, **arguments).eval()


@pytest.fixture
def folder(tmp_path):
    """A bundle as MONAI's are laid out."""
    for name in ("configs", "models"):
        (tmp_path / "bundle" / name).mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    write(tmp_path / "bundle", INFERENCE)
    torch.save(network().state_dict(), tmp_path / "bundle" / "models" / "model.pt")
    return tmp_path / "bundle"


def write(folder, inference):
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))


def test_without_adaptation_masks_are_the_networks_own(folder, images, tmp_path):
    # No prior: the bundle itself says all that must be known, and none of its code is run.
    predict(folder, images, tmp_path / "out", "--steps", 0)
    made, net = masks(tmp_path / "out"), network()
    preprocess = bundle.read(folder).images.preprocess
    assert (preprocess.size, preprocess.spacing_mm) == (32, 10)
    for image in images:
        volume = read_image(image)
        grid = grid_of(volume, preprocess)
        voxels = volume.voxels.copy()
        inside = voxels != 0
        voxels[inside] = (voxels[inside] - voxels[inside].mean()) / voxels[inside].std()
        # RAS slices run to the right and the front, ours to the left and the back.
        slices = slices_on_grid(voxels, grid).flip(2, 3)
        with torch.no_grad():
            probabilities = net(slices).softmax(1).flip(2, 3)
        expected = labels_on_grid(probabilities, grid)
        assert expected.any()
        assert (made[image.name.removesuffix(".nii.gz")] != expected).mean() < 1e-3


def test_adaptation(folder, images, prior):
    guest = bring(folder, prior, "cpu")
    adapted = guest.predict(images[0], steps=3, learning_rate=0.05)
    assert (adapted.labels != adapted.plain).any()
    assert adapted.realism_after != adapted.realism_before


def test_what_the_bundle_leaves_unsaid_is_the_priors(folder, prior):
    (folder / "configs" / "metadata.json").unlink()
    write(folder, {k: v for k, v in INFERENCE.items() if k != "preprocessing"})
    with pytest.raises(ConfigError, match=r"nothing says its preprocess; write .*maskmend.yaml"):
        bring(folder, None, "cpu")
    read = bring(folder, prior, "cpu").model
    assert read.images.preprocess.size == 32
    assert read.structures == {1: "RV", 2: "MYO", 3: "LV"}


def test_maskmend_yaml_has_the_last_word(folder):
    (folder / "maskmend.yaml").write_text(
        "structures: {1: a, 2: b, 3: c}\npreprocess: {size: 64, spacing_mm: 5}\naxes: LP\n"
    )
    inference = json.loads(json.dumps(INFERENCE))
    inference["preprocessing"]["transforms"].append({"_target_": "bundle.scripts.Mined"})
    write(folder, inference)
    read = bundle.read(folder)
    assert read.structures == {1: "a", 2: "b", 3: "c"}
    assert (read.images.preprocess.size, read.images.intensities) == (64, None)


def test_what_maskmend_yaml_does_not_say_is_as_the_bundle_says(folder):
    assert bundle.read(folder).network.flips  # the bundle's RA
    (folder / "maskmend.yaml").write_text("axes: LP\nintensities: null\n")
    read = bundle.read(folder)
    assert not hasattr(read.network, "flips")
    assert read.images.intensities is None
    assert read.images.preprocess.size == 32


def test_a_misspelt_key_of_maskmend_yaml_is_named(folder):
    (folder / "maskmend.yaml").write_text("preprocess: {sizes: 64}\n")
    with pytest.raises(ConfigError, match=r"unknown key preprocess.sizes; did you mean .*\.size\?"):
        bundle.read(folder)


def test_a_script_instead_of_weights(folder, images, prior, tmp_path):
    predict(folder, images, tmp_path / "weights", "--steps", 0)
    (folder / "models" / "model.pt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network(), torch.randn(2, 1, 32, 32))
        torch.jit.save(traced, folder / "models" / "model.ts")
    inference = json.loads(json.dumps(INFERENCE))
    inference["network_def"] = {"_target_": "bundle.scripts.Mine"}
    write(folder, inference)
    predict(folder, images, tmp_path / "script", "--steps", 0)
    weights, script = masks(tmp_path / "weights"), masks(tmp_path / "script")
    assert all((script[name] != labels).mean() < 1e-4 for name, labels in weights.items())
    assert len(script) == len(images)


# --------------------------------------------------------------------------------- bad input


def changed(**fields):
    return INFERENCE | fields


SPACING = {"_target_": "Spacingd", "keys": "image", "pixdim": [1, 2, -1]}


@pytest.mark.parametrize(
    ("inference", "said"),
    [
        (
            changed(network_def={"_target_": "os.system", "command": "echo"}),
            "network_def is a system, which would run code of the bundle; known are UNet,",
        ),
        (
            changed(network_def=NETWORK | {"act": "$os.abort()"}),
            "'$os.abort()' would run code of the bundle; write a plain value",
        ),
        (
            changed(network_def=NETWORK | {"act": "@nothing"}),
            "'$' would run code",
        ),
        (changed(network_def=NETWORK | {"spatial_dims": 3}), "the network is 3D"),
        (changed(network_def=NETWORK | {"widths": 3}), "must fit this version of MONAI"),
        (
            changed(network_def=NETWORK | {"channels": [4, 16]}),
            "model.pt: cannot be read (Error(s) in loading state_dict for UNet:); its weights must",
        ),
        (changed(preprocessing=[SPACING]), "wants pixels of 1 x 2 mm, and only square ones"),
        (
            changed(preprocessing=[{"_target_": "bundle.scripts.Mined", "keys": "image"}]),
            "prepares images by Mine, which is not known here; say preprocess and intensities in",
        ),
        ({"a": 1}, "has no network_def with a _target_"),
    ],
)
def test_what_would_run_code_or_is_not_known_is_named(folder, inference, said):
    write(folder, inference)
    with pytest.raises(RunError) as caught:
        bundle.read(folder)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["configs/inference.json", "configs/metadata.json", "models/model.pt"]
)
def test_a_damaged_file_is_named(folder, name, images, prior, tmp_path, capsys):
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    status, line = complaint(capsys, folder, images, tmp_path / "out", "--prior", prior)
    assert status == 1
    assert line.startswith(f"maskmend: {folder / name}: cannot be read")


class Payload:
    """What a pickle may do to whoever reads it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('the code of the file ran')",)


def test_weights_that_need_code_are_refused(folder):
    torch.save({"model": network().state_dict(), "more": Payload()}, folder / "models/model.pt")
    with pytest.raises(RunError, match=r"model.pt: needs builtins.exec, and reading that would"):
        bundle.read(folder)


def test_a_missing_file_is_named(folder):
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(RunError, match=r"model.pt: missing"):
        bundle.read(folder)
    (folder / "configs" / "inference.json").unlink()
    with pytest.raises(RunError, match=r"has no configs/inference.json"):
        bundle.read(folder)
