"""A run as a MONAI bundle: `monai.bundle run` makes the masks that `predict` makes, to the bit."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from maskmend.bundled import MendingInferer
from maskmend.cli import main
from maskmend.data.phantom import write_cohort
from maskmend.data.volume import read_image, read_mask
from maskmend.denoiser import DENOISER
from maskmend.errors import ConfigError, RunError
from maskmend.export import export_bundle
from maskmend.files import predict_files
from maskmend.predict import load
from tests.tiny import tiny, write_run

TINY = tiny(adversarial={"target": 0.5}, adaptation={"steps": 3, "learning_rate": 0.05})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image each of two patients."""
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=2, seed=0, size=32, spacing_mm=9.5)
    for image in (root / "images").glob("*_frame10.nii.gz"):
        image.unlink()
    return root / "images"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"), TINY)
    (folder / DENOISER).write_bytes(b"is copied, and not asked here")
    return folder


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "bundle"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(run), "--out", str(out)])
    assert ended.value.code == 0
    return out


def predicted(run, images, out, **adaptation):
    model = load(run, "cpu")
    predict_files(model, sorted(images.iterdir()), out, model.settings(**adaptation))
    return {path.name: read_mask(path) for path in sorted(out.glob("*_mask.nii.gz"))}


def test_monai_makes_the_same_masks(run, bundle, images, tmp_path):
    call = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    options = {
        "config_file": bundle / "configs" / "inference.json",
        "bundle_root": bundle,
        "dataset_dir": images,
        "output_dir": tmp_path / "masks",
        "device": "cpu",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([*call, *flags], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = predicted(run, images, tmp_path / "expected")
    plain = predicted(run, images, tmp_path / "plain", steps=0)
    made = {path.name: read_mask(path) for path in sorted((tmp_path / "masks").iterdir())}
    assert made.keys() == expected.keys()
    assert len(made) == 2
    for name, mask in expected.items():
        assert np.array_equal(made[name].voxels, mask.voxels)
        assert np.allclose(made[name].affine, mask.affine, atol=1e-5)
    assert any((plain[name].voxels != mask.voxels).any() for name, mask in expected.items())


def test_other_tools_find_the_parts_that_they_look_for(run, bundle, images):
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    parser["bundle_root"], parser["device"], parser["steps"] = str(bundle), "cpu", 0
    image = sorted(images.iterdir())[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's, of DICOM readers that are not installed
        load_image = parser.get_parsed_content("preprocessing")
    loaded = load_image({"image": str(image)})
    inferer, network = (parser.get_parsed_content(name) for name in ("inferer", "network_def"))
    with torch.no_grad():
        labels = inferer(loaded["image"][None], network)
    assert labels.shape == (1, 1, *read_image(image).voxels.shape)
    assert torch.equal(labels.affine, loaded["image"].affine)
    expected = load(run, "cpu").predict(image, steps=0).labels
    assert np.array_equal(labels[0, 0].as_tensor().numpy(), expected)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    told = json.loads((bundle / "configs" / "metadata.json").read_text())
    output = told["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "background", "1": "RV", "2": "MYO", "3": "LV"}


def test_a_bundle_holds_what_masks_depend_on_and_how_it_is_run(run, bundle):
    assert (bundle / "models" / "weights.safetensors").read_bytes() == (
        run / "weights.safetensors"
    ).read_bytes()
    assert (bundle / "models" / DENOISER).read_bytes() == (run / DENOISER).read_bytes()
    assert "python -m monai.bundle run" in (bundle / "docs" / "README.md").read_text()
    assert "Apache License" in (bundle / "LICENSE").read_text()


def test_images_that_do_not_know_their_place_are_refused(run):
    inferer = MendingInferer(run, "cpu")
    with pytest.raises(TypeError, match="load them by MONAI's LoadImaged"):
        inferer(torch.randn(1, 1, 8, 8, 2), None)


def test_nothing_is_overwritten_and_no_other_folder_exported(run, bundle, tmp_path):
    with pytest.raises(ConfigError, match=r"holds something already; choose another folder"):
        export_bundle(run, bundle)
    with pytest.raises(RunError, match="is no run folder"):
        export_bundle(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
