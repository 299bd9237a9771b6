"""Whole commands: what they write, what they say in one line, and the status they end with."""

import errno
import gzip
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from maskmend.checkpoint import CHECKPOINT, CONFIG, RUN, SPLIT, WEIGHTS, read_tensors, write_tensors
from maskmend.cli import app, main
from maskmend.config import Config
from maskmend.config_file import config_from, read_config, to_yaml
from maskmend.data.layouts import find_cohort
from maskmend.data.phantom import write_cohort
from maskmend.data.slices import split_of
from maskmend.evaluate.metrics import dice
from maskmend.evaluate.scores import evaluate
from maskmend.files import predict_files
from maskmend.predict import Model, load
from maskmend.table import PREDICTIONS
from maskmend.training import Trainer
from tests.tiny import tiny

REPOSITORY = Path(__file__).parents[1]
SHIPPED = sorted(
    [
        *REPOSITORY.glob("experiments/**/*.yaml"),
        *Path(str(files("maskmend"))).glob("configs/*.yaml"),
    ]
)
VERBS = tuple(name for name in app if not name.startswith("-"))
HEAVY = ("torch", "monai", "lightning_fabric", "pandas", "scipy", "matplotlib", "nibabel")
TINY = tiny(
    training={
        "iterations": 60,
        "batch": 4,
        "validate_every": 30,
        "learning_rate": 1e-2,
        "stop": "dice",
    },
    adaptation={"steps": 2, "learning_rate": 1e-2},
)


def call(*arguments):
    """Run a command; its status."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def failing(capsys):
    """Run a command; its status and what it says on standard error, line by line."""

    def run(*arguments):
        capsys.readouterr()
        status = call(*arguments)
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=5, seed=0, size=40, spacing_mm=7)
    return root


@pytest.fixture(scope="module")
def images(hearts):
    """Two frames each of two patients."""
    return sorted((hearts / "images").iterdir())[:4]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(to_yaml(TINY))
    return path


@pytest.fixture(scope="module")
def run(hearts, config_file, tmp_path_factory):
    """A finished run, not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert call("train", config_file, "--data", hearts, "--out", out, "--accelerator", "cpu") == 0
    return out


@pytest.fixture
def own_run(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def own_hearts(hearts, tmp_path):
    return Path(shutil.copytree(hearts, tmp_path / "hearts"))


def predict_arguments(run, images, out, *more):
    return "predict", run, *images, "--out", out, "--device", "cpu", *more


def train_arguments(config_file, hearts, out, *sets):
    overrides = [item for text in sets for item in ("--set", text)]
    cpu = ("--accelerator", "cpu")
    return "train", config_file, "--data", hearts, "--out", out, *cpu, *overrides


def masks(out):
    """The mask files; equal masks have equal bytes."""
    return {path.name: path.read_bytes() for path in out.glob("*_mask.nii.gz")}


def statuses(out):
    return dict(pd.read_csv(out / PREDICTIONS)[["image", "status"]].to_numpy())


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ------------------------------------------------------------------------ help and version


def python(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_help_is_instant():
    code = (
        "import sys, time\n"
        "from maskmend.cli import main\n"
        "for verb in sys.argv[1].split():\n"
        "    try:\n"
        "        main([verb, '--help'])\n"
        "    except SystemExit as ended:\n"
        "        assert ended.code == 0\n"
        "assert time.process_time() < 0.4 * len(sys.argv[1].split())\n"
        "print('imported:', [name for name in sys.argv[2].split() if name in sys.modules])\n"
    )
    done = python(code, " ".join(VERBS), " ".join(HEAVY))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("imported: []\n")
    assert done.stdout.count("Usage: maskmend ") == len(VERBS)


def test_predict_waits_for_no_library_that_it_does_not_use():
    """They doubled the seconds before its first mask."""
    code = (
        "import sys\n"
        "from maskmend import files, predict\n"
        "from maskmend.foreign import guest\n"
        "print([name for name in ('monai', 'pandas', 'matplotlib') if name in sys.modules])\n"
    )
    done = python(code)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_whole_help_names_every_verb(capsys):
    for arguments in ((), ("--help",)):
        assert call(*arguments) == 0
        text = capsys.readouterr().out
        assert all(f" {verb} " in text for verb in VERBS)


@pytest.mark.parametrize("verb", [(), ("predict",)])
def test_version(verb, capsys):
    assert call(*verb, "--version") == 0
    assert capsys.readouterr().out.strip() == version("maskmend")


# ------------------------------------------------------------------------------ a wrong call


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("nonsense",), '"nonsense"'),
        (("config", "--nonsense"), "--nonsense"),
        (("config", "a.yaml", "b.yaml"), "b.yaml"),
        (("predict",), "requires an argument"),
        (("predict", "run", "--out", "out"), "--images"),
        (("predict", "run", "x.nii", "--out", "out", "--steps", "many"), "--steps"),
        (("predict", "run", "x.nii", "--out", "out", "--steps", "two\nlines"), "two lines"),
        (("predict", "run", "x.nii", "--out", "out", "--prior", "shape"), "--prior"),
        (("predict", "run", "--out", "out", "--empty-images"), "--empty-images"),
        (("evaluate", "--predictions", "p", "--out", "o"), "--references"),
        (("train", "c.yaml", "--data", "d", "--out", "o", "--accelerator", "abacus"), "abacus"),
        (("config", "missing.yaml"), "missing.yaml: no such configuration file"),
        (("config", "."), ".: cannot be read (Is a directory)"),
        (("calibrate", "run", "--data", "d", "--draws", "0"), "--draws"),
        (("completion", "tcsh"), "SHELL"),
        (("train", "missing.yaml", "--data", "d", "--out", "o"), "no such configuration file"),
    ],
)
def test_a_wrong_call_is_explained_in_one_line(
    failing, tmp_path, monkeypatch, arguments, complaint
):
    monkeypatch.chdir(tmp_path)
    status, lines = failing(*arguments)
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("maskmend: ")
    assert complaint in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("segmentor: {widht: 4}", "unknown key segmentor.widht; did you mean segmentor.width?"),
        ("sead: 1", "unknown key sead; did you mean seed?"),
        ("segmentor: {width: wide}", "segmentor.width: Input should be a valid integer"),
        ("training: {batch: 0}", "training.batch: Input should be greater than 1; got 0"),
        ("segmentor: 4", "segmentor: "),
        ("- seed", "expected sections with fields, got list"),
        ("seed: [", "cannot be read as YAML"),
        ("preprocess: {size: 100}", "preprocess.size 100 must be a multiple of 16"),
    ],
)
@pytest.mark.parametrize("verb", ["config", "train"])
def test_a_wrong_configuration_is_explained_in_one_line(failing, tmp_path, verb, text, complaint):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    more = ("--data", tmp_path, "--out", tmp_path / "out") if verb == "train" else ()
    status, lines = failing(verb, path, *more)
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"maskmend: {path}: ")
    assert complaint in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("seed", "--set seed: expected section.field=value"),
        ("=3", "--set =3: expected section.field=value"),
        ("seed=[", "--set seed=[: the value is not valid YAML"),
        ("seed.start=1", "--set seed.start=1: seed is a field, not a section"),
        ("training.iteration=9", "did you mean training.iterations?"),
        ("training.iterations=soon", "training.iterations: Input should be a valid integer"),
    ],
)
def test_a_wrong_override_is_explained(failing, config_file, tmp_path, override, complaint):
    status, lines = failing(*train_arguments(config_file, tmp_path, tmp_path / "out", override))
    assert (status, len(lines)) == (2, 1)
    assert complaint in lines[0]
    assert not (tmp_path / "out").exists()


def test_wrong_settings_of_adaptation(failing, run, images, tmp_path):
    out = tmp_path / "out"
    for option, value, complaint in (
        ("--steps", -1, 'must be a number of steps, 0 or more, or "auto"; got -1'),
        ("--learning-rate", 0, "Input should be greater than 0; got 0"),
    ):
        status, lines = failing(*predict_arguments(run, images, out, option, value))
        field = option.removeprefix("--").replace("-", "_")
        assert (status, len(lines)) == (2, 1)
        assert lines[0].startswith(f"maskmend: settings: adaptation.{field}: {complaint}")
    assert not out.exists()


def test_a_device_that_is_not_there(failing, run, images, tmp_path):
    status, lines = failing("predict", run, *images, "--out", tmp_path / "o", "--device", "abacus")
    expected = "maskmend: device: abacus is not available on this machine; try cpu"
    assert (status, lines) == (2, [expected])


def test_images_whose_masks_would_collide(failing, run, images, tmp_path):
    (tmp_path / "other").mkdir()
    twin = shutil.copy(images[0], tmp_path / "other")
    status, lines = failing(*predict_arguments(run, [images[0], twin], tmp_path / "out"))
    assert (status, len(lines)) == (2, 1)
    assert f"{images[0]} and {twin} would both become" in lines[0]
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------- configurations


def test_the_default_configuration_reads_back(capsys, tmp_path):
    assert call("config") == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert read_config(tmp_path / "config.yaml") == Config()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shipped_configurations_are_printed_whole(path, capsys, tmp_path):
    assert call("config", path) == 0
    text = capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(text)
    assert read_config(tmp_path / "config.yaml") == read_config(path)
    assert "gradient_penalty:" in text  # the defaults, too


# ------------------------------------------------------------------------------------- predict


def test_predict(run, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(*predict_arguments(run, images, out, "--steps", 1, "--instance", "slice")) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == f"{out}: 4 of 4 images done"
    assert printed.err == ""
    names = [image.name.removesuffix(".nii.gz") for image in images]
    assert statuses(out) == dict.fromkeys(names, "done")
    model = load(run, "cpu")
    settings = model.settings(steps=1, instance="slice")
    predict_files(model, images, tmp_path / "direct", settings)
    assert masks(out) == masks(tmp_path / "direct")
    written = json.loads((out / "settings.json").read_text())
    assert written["weights_sha256"] == hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest()
    assert written["structures"] == {"1": "RV", "2": "MYO", "3": "LV"}
    assert config_from({"adaptation": written["adaptation"]}).adaptation == settings


def content_of(image, voxel=None, **fields):
    """The image as the bytes of a .nii file, a voxel or fields of its header overwritten."""
    volume = nib.load(image)
    voxels = np.asanyarray(volume.dataobj)
    if voxel is not None:
        voxels = voxels.astype(np.float32)
        voxels[3, 4, 5] = voxel
    content = nib.Nifti1Image(voxels, volume.affine).to_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    for field, value in fields.items():
        header[field] = value
    return header.binaryblock + content[348:]


def dim(*sizes):
    return [len(sizes), *sizes, *[1] * (7 - len(sizes))]


def pixdim(*spacing):
    return [1, *spacing, 1, 1, 1, 1]


BAD_IMAGES = {
    "missing": (lambda image: None, "there is no such file; check the path"),
    "not NIfTI": (lambda image: b"these are my notes\n" * 40, "is not a NIfTI file"),
    "empty": (lambda image: b"", "is empty"),
    "truncated gzip": (lambda image: gzip.compress(content_of(image))[:-90], "copy or download"),
    "too few voxels": (lambda image: content_of(image)[:-9], "copy or download it again"),
    "30000 cubed": (
        lambda image: content_of(image, dim=dim(30000, 30000, 30000)),
        "promises 27000000000000 voxels",
    ),
    "zero dimension": (lambda image: content_of(image, dim=dim(40, 0, 9)), "has shape 40x0x9"),
    "negative dimension": (lambda image: content_of(image, dim=dim(40, -4, 9)), "40x-4x9"),
    "4D": (lambda image: content_of(image, dim=dim(40, 40, 2, 4)), "holds 4 volumes"),
    "NaN voxel": (lambda image: content_of(image, np.nan), "holds a voxel of nan"),
    "infinite voxel": (lambda image: content_of(image, np.inf), "holds a voxel of inf"),
    "NaN spacing": (lambda image: content_of(image, pixdim=pixdim(np.nan, 7, 9)), "spacing nan"),
    "zero spacing": (
        lambda image: content_of(image, pixdim=pixdim(7, 7, 0)),
        "spacing 7.0, 7.0, 0",
    ),
    "constant": (lambda image: content_of(image, scl_slope=1e-38, scl_inter=5), "every voxel is 5"),
}


@pytest.mark.parametrize(("make", "complaint"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_is_named_and_the_others_are_done(
    failing, run, images, tmp_path, make, complaint
):
    bad, out = tmp_path / "bad.nii.gz", tmp_path / "out"
    if (content := make(images[0])) is not None:
        bad.write_bytes(content)
    status, lines = failing(*predict_arguments(run, [bad, images[0]], out, "--steps", 0))
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"{bad}: ")
    assert complaint in lines[0]
    assert ";" in lines[0], "the remedy is missing"
    assert statuses(out) == {"bad": "failed", "heart000_frame01": "done"}
    (mask,) = out.glob("*_mask.nii.gz")
    assert mask.name == "heart000_frame01_mask.nii.gz"
    assert nib.load(mask).shape == nib.load(images[0]).shape


def test_every_bad_image_is_named_once(failing, run, images, tmp_path):
    bad = [tmp_path / f"[red]bad{number}[red].nii" for number in range(3)]
    bad[1].write_bytes(b"no image")
    arguments = predict_arguments(run, [bad[0], images[0], *bad[1:]], tmp_path / "out")
    status, lines = failing(*arguments)
    assert status == 1
    assert [line.partition(":")[0] for line in lines] == [str(path) for path in bad]


def test_a_mask_that_needs_a_look_is_named(failing, own_run, images, tmp_path):
    tensors, _ = read_tensors(own_run / WEIGHTS)
    tensors["segmentor.head.bias"][0] += 1e3  # everything is background
    write_tensors(own_run / WEIGHTS, tensors)
    status, lines = failing(*predict_arguments(own_run, images[:1], tmp_path / "out"))
    assert status == 1
    assert lines == [f"{images[0]}: no structure was found: the mask is empty; look at the image"]
    assert statuses(tmp_path / "out") == {"heart000_frame01": "check"}
    assert len(masks(tmp_path / "out")) == 1


def test_a_full_disk_during_predict(failing, run, images, tmp_path, monkeypatch):
    out, replace = tmp_path / "out", Path.replace
    full = out / "heart000_frame10_mask.nii.gz"
    monkeypatch.setattr(
        Path, "replace", lambda path, to: full_disk() if to == full else replace(path, to)
    )
    status, lines = failing(*predict_arguments(run, images, out))
    assert status == 1
    assert lines == [
        f"{full}: cannot be written (No space left on device); free some space or choose another"
        " folder"
    ]
    assert list(statuses(out).values()) == ["done", "failed", "done", "done"]
    assert len(masks(out)) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_is_full_for_the_table(failing, run, images, tmp_path, monkeypatch):
    def full(path, mode="r", *others, **named):
        return path_open(Path("/dev/full") if mode == "a" else path, mode, *others, **named)

    path_open = Path.open
    monkeypatch.setattr(Path, "open", full)
    status, lines = failing(*predict_arguments(run, images, tmp_path))
    assert (status, len(lines)) == (1, 1)
    assert f"{tmp_path / PREDICTIONS}: cannot be written (No space left on device)" in lines[0]


def test_a_stopped_predict_keeps_what_is_finished(failing, run, images, tmp_path, monkeypatch):
    adapt_patients = Model.adapt_patients

    def stopped(model, patients, settings):
        yield next(adapt_patients(model, patients, settings))
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "adapt_patients", stopped)
    status, lines = failing(*predict_arguments(run, images, tmp_path))
    assert status == 130
    assert len(lines) == 1
    assert "the same command goes on with the images that are left" in lines[0]
    assert list(statuses(tmp_path).values()) == ["done", "done"]
    assert len(masks(tmp_path)) == 2
    assert (tmp_path / "settings.json").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def of_another_network(path):
    tensors, _ = read_tensors(path)
    write_tensors(path, {f"foreign.{name}": tensor for name, tensor in tensors.items()})


@pytest.mark.parametrize(
    ("name", "spoil", "complaint"),
    [
        (WEIGHTS, Path.unlink, "missing; is"),
        (WEIGHTS, truncate, "truncated or no safetensors file"),
        (WEIGHTS, of_another_network, "weights of another network"),
        (CONFIG, Path.unlink, "no such configuration file"),
        (CONFIG, truncate, "is no run folder of this version"),
    ],
)
def test_a_spoilt_run_is_named(failing, own_run, images, tmp_path, name, spoil, complaint):
    spoil(own_run / name)
    status, lines = failing(*predict_arguments(own_run, images, tmp_path / "out"))
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"maskmend: {own_run / name}: ")
    assert complaint in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spoil", [Path.unlink, truncate])
def test_a_run_without_its_split_is_not_calibrated(failing, own_run, hearts, spoil):
    spoil(own_run / SPLIT)
    status, lines = failing("calibrate", own_run, "--data", hearts, "--device", "cpu")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith(f"maskmend: {own_run / SPLIT}: missing or damaged; copy it from")


def test_no_run(failing, images, tmp_path):
    status, lines = failing(*predict_arguments(tmp_path / "run", images, tmp_path / "out"))
    expected = f"{tmp_path / 'run'}: no such run folder; train one with `maskmend train`"
    assert (status, lines) == (1, [f"maskmend: {expected}"])


# --------------------------------------------------------------------------------------- train


def test_train(hearts, run, config_file, tmp_path, capsys):
    assert {CONFIG, SPLIT, WEIGHTS, CHECKPOINT, RUN} <= {path.name for path in run.iterdir()}
    arguments = train_arguments(
        config_file, hearts, tmp_path / "run", "training.iterations=2", "seed=5"
    )
    assert call(*arguments) == 0
    changed = read_config(tmp_path / "run" / CONFIG)
    assert (changed.training.iterations, changed.seed) == (2, 5)
    assert changed.segmentor == TINY.segmentor
    best = json.loads((tmp_path / "run" / RUN).read_text())["best"]
    expected = f"best validation Dice {best['val_dice']:.4f}, iteration 2"
    assert capsys.readouterr().out.strip() == f"{tmp_path / 'run'}: {expected}"


SHORT = ("training.iterations=4", "training.validate_every=2")


def annotated(hearts, use="train_annotated"):
    """Image and mask of a patient that training reads as a pair."""
    cohort = find_cohort(hearts)
    patient = getattr(split_of(cohort, TINY), use)[0]
    case = next(case for case in cohort.cases if case.patient == patient)
    return case.image, case.mask


def rewrite(path, change, affine=None):
    volume = nib.load(path)
    voxels = change(np.asanyarray(volume.dataobj).copy())
    nib.save(nib.Nifti1Image(voxels, volume.affine if affine is None else affine), path)


def with_corner(labels):
    labels[0, :, 4] = 1
    return labels


def with_label(labels):
    labels[20, 20, 4] = 9
    return labels


BAD_MASKS = {
    "other shape": (lambda mask: rewrite(mask, lambda v: v[:-1]), "is not on the grid of"),
    "other grid": (lambda mask: rewrite(mask, lambda v: v, np.eye(4)), "is not on the grid of"),
    "unknown label": (
        lambda mask: rewrite(mask, with_label),
        "holds unknown labels 9, expected only 0, 1, 2, 3; relabel the mask",
    ),
    "no labels": (lambda mask: rewrite(mask, lambda v: v + np.float32(0.5)), "whole-numbered"),
    "truncated": (truncate, "copy or download it again"),
    "missing": (Path.unlink, "has no mask"),
}


@pytest.mark.parametrize("use", ["train_annotated", "validation"])
@pytest.mark.parametrize(("spoil", "complaint"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_a_bad_mask_in_training_is_named(
    failing, own_hearts, config_file, tmp_path, spoil, complaint, use
):
    image, mask = annotated(own_hearts, use)
    spoil(mask)
    status, lines = failing(*train_arguments(config_file, own_hearts, tmp_path / "run", *SHORT))
    assert status == 1
    assert [line for line in lines if complaint in line] == lines[-1:]
    named = image if complaint == "has no mask" else mask
    assert lines[-1].startswith(f"maskmend: {named}: ")
    assert not (tmp_path / "run" / WEIGHTS).exists()


def test_a_bad_image_in_training_is_named(failing, own_hearts, config_file, tmp_path):
    image, _ = annotated(own_hearts)
    image.write_bytes(content_of(image, np.nan))
    status, lines = failing(*train_arguments(config_file, own_hearts, tmp_path / "run", *SHORT))
    assert status == 1
    assert [line for line in lines if str(image) in line] == lines[-1:]
    assert "holds a voxel of nan" in lines[-1]


def test_a_structure_outside_the_crop_is_named_with_the_size_that_fits(
    failing, own_hearts, config_file, tmp_path
):
    _, mask = annotated(own_hearts)
    rewrite(mask, with_corner)
    narrow = (*SHORT, "preprocess.spacing_mm=8")
    status, lines = failing(*train_arguments(config_file, own_hearts, tmp_path / "one", *narrow))
    assert status == 1
    assert [line for line in lines if str(mask) in line] == lines[-1:]
    message, _, remedy = lines[-1].partition("; ")
    assert message == (
        f"maskmend: {mask}: a structure lies outside the 32 x 32 pixels of 8.0 mm around the centre"
    )
    assert remedy == "set preprocess.size to 48 or more"
    wide = (*narrow, "preprocess.size=48")
    assert call(*train_arguments(config_file, own_hearts, tmp_path / "one", *wide)) == 0


def test_a_segmentor_of_several_channels_is_refused(failing, own_hearts, config_file, tmp_path):
    channels = (*SHORT, "segmentor.in_channels=2")
    status, lines = failing(*train_arguments(config_file, own_hearts, tmp_path / "run", *channels))
    assert (status, lines[-1].partition(":")[0]) == (2, "maskmend")
    assert "segmentor.in_channels: 2, but image files have one channel" in lines[-1]


@pytest.mark.parametrize("emptied", [slice(0, 2), slice(None)], ids=["some slices", "a volume"])
def test_slices_without_a_heart_are_trained_on(own_hearts, config_file, tmp_path, emptied):
    def without(labels):
        labels[:, :, emptied] = 0
        return labels

    _, mask = annotated(own_hearts)
    rewrite(mask, without)
    out = tmp_path / "run"
    assert call(*train_arguments(config_file, own_hearts, out, *SHORT)) == 0
    weights, _ = read_tensors(out / WEIGHTS)
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (shutil.rmtree, "is no folder, expected one with images; check the path"),
        (lambda root: shutil.rmtree(root / "images"), "has no image"),
        (
            lambda root: (
                [path.unlink() for path in root.rglob("heart00[34]*")]
                and (root / "patients.csv").unlink()
            ),
            "3 annotated patients, expected at least 5",
        ),
    ],
    ids=["no folder", "no images", "too few patients"],
)
def test_data_that_cannot_be_trained_on(
    failing, own_hearts, config_file, tmp_path, spoil, complaint
):
    spoil(own_hearts)
    status, lines = failing(*train_arguments(config_file, own_hearts, tmp_path / "run"))
    assert (status, len(lines)) == (1, 1)
    assert complaint in lines[0]


def test_training_goes_on_after_a_full_disk(failing, hearts, config_file, tmp_path, monkeypatch):
    """Full at the sixth file, when the checkpoint of the first look is in place."""
    synced, fsync = [], os.fsync

    def full(handle):
        synced.append(handle)
        if len(synced) == 6:
            full_disk()
        fsync(handle)

    arguments = train_arguments(config_file, hearts, tmp_path / "run", *SHORT)
    monkeypatch.setattr(os, "fsync", full)
    status, lines = failing(*arguments)
    monkeypatch.undo()
    assert status == 1
    assert [line for line in lines if "No space left" in line] == lines[-1:]
    assert lines[-1].startswith(f"maskmend: {tmp_path / 'run'}/")
    assert lines[-1].endswith("; free space or choose another folder")
    assert_goes_on(failing, arguments, tmp_path, hearts, config_file)


def test_training_goes_on_after_a_stop(failing, hearts, config_file, tmp_path, monkeypatch):
    iterate = Trainer._iterate

    def stopped(trainer, iteration):
        if iteration == 3:
            raise KeyboardInterrupt
        return iterate(trainer, iteration)

    arguments = train_arguments(config_file, hearts, tmp_path / "run", *SHORT)
    monkeypatch.setattr(Trainer, "_iterate", stopped)
    status, lines = failing(*arguments)
    monkeypatch.undo()
    assert status == 130
    assert lines[-1].startswith("maskmend: stopped; all files are whole, and the same command goes")
    assert_goes_on(failing, arguments, tmp_path, hearts, config_file)


def assert_goes_on(failing, arguments, tmp_path, hearts, config_file):
    """The same command resumes at the checkpoint and ends as if nothing had happened."""
    status, lines = failing(*arguments)
    assert status == 0
    assert "resuming" in "".join(lines)
    assert call(*train_arguments(config_file, hearts, tmp_path / "whole", *SHORT)) == 0
    (ours, _), (whole, _) = (read_tensors(tmp_path / name / WEIGHTS) for name in ("run", "whole"))
    assert ours.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(ours[name], whole[name])] == []


def test_another_configuration_does_not_overwrite_a_run(failing, own_run, hearts, config_file):
    before = (own_run / WEIGHTS).read_bytes()
    status, lines = failing(*train_arguments(config_file, hearts, own_run, "seed=1"))
    assert (status, len(lines)) == (1, 1)
    assert "another configuration (seed: 0 -> 1); choose another --out" in lines[0]
    assert (own_run / WEIGHTS).read_bytes() == before


# ------------------------------------------------------------------------------------ evaluate


@pytest.fixture(scope="module")
def predictions(run, images, tmp_path_factory):
    """Masks after and before adaptation."""
    root = tmp_path_factory.mktemp("predictions")
    for name, steps in (("after", 3), ("before", 0)):
        assert call(*predict_arguments(run, images, root / name, "--steps", steps)) == 0
    return root


def evaluate_arguments(predictions, references, out, *more):
    folders = ("--predictions", predictions / "after", "--baseline", predictions / "before")
    return "evaluate", *folders, "--references", references, "--out", out, *more


@pytest.mark.parametrize("unit", ["volume", "slice"])
def test_evaluate(predictions, hearts, images, tmp_path, capsys, unit):
    out = tmp_path / "scores"
    assert call(*evaluate_arguments(predictions, hearts, out, "--unit", unit)) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    slices = sum(nib.load(image).shape[2] for image in images)
    assert f"{slices if unit == 'slice' else 4} {unit}s of 2 patients" in printed.out
    direct = evaluate(
        predictions / "after",
        hearts,
        tmp_path / "direct",
        baseline=predictions / "before",
        unit=unit,
        structures={1: "RV", 2: "MYO", 3: "LV"},
    )
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "direct").iterdir()}
    assert len(written) == 2
    assert direct.summary["images"] == 4


def test_evaluated_numbers_are_those_of_the_masks(predictions, hearts, images, tmp_path):
    assert call(*evaluate_arguments(predictions, hearts, tmp_path)) == 0
    rows = pd.read_csv(tmp_path / "patients.csv").set_index(["image", "structure"])
    for image in images:
        name = image.name.removesuffix(".nii.gz")
        truth = np.asanyarray(nib.load(hearts / "masks" / image.name).dataobj)
        for when in ("before", "after"):
            mask = nib.load(predictions / when / f"{name}_mask.nii.gz")
            labels = np.asanyarray(mask.dataobj)
            for label, structure in {1: "RV", 2: "MYO", 3: "LV"}.items():
                expected = dice(labels == label, truth == label)
                assert rows.loc[(name, structure), f"dice_{when}"] == pytest.approx(expected)
    assert not (rows["dice_before"] == rows["dice_after"]).all()


def test_a_missing_reference_is_named_and_the_others_are_scored(
    failing, predictions, own_hearts, tmp_path
):
    for folder in ("images", "masks"):
        (own_hearts / folder / "heart001_frame10.nii.gz").unlink()
    (own_hearts / "patients.csv").unlink()
    status, lines = failing(*evaluate_arguments(predictions, own_hearts, tmp_path / "scores"))
    assert status == 1
    mask = predictions / "after" / "heart001_frame10_mask.nii.gz"
    assert lines == [
        f"{mask}: has no reference in {own_hearts}; add the reference or remove the mask"
    ]
    rows = pd.read_csv(tmp_path / "scores" / "patients.csv")
    scored = ["heart000_frame01", "heart000_frame10", "heart001_frame01"]
    assert sorted(set(rows["image"])) == scored


def test_no_predictions(failing, hearts, tmp_path):
    status, lines = failing(*evaluate_arguments(tmp_path, hearts, tmp_path / "scores"))
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith(f"maskmend: {tmp_path / 'after'}: holds no NAME_mask.nii.gz")


# ---------------------------------------------------------------------- the demo, and bugs


def test_the_demo_gets_its_options(monkeypatch, tmp_path):
    calls = []
    module = importlib.import_module("maskmend.demo")
    monkeypatch.setattr(module, "run_demo", lambda out, seed, console: calls.append((out, seed)))
    assert call("demo", "--out", tmp_path, "--seed", 3) == 0
    assert call("demo") == 0
    assert calls == [(tmp_path, 3), (Path("demo"), 0)]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(("config", "missing.yaml"), "ConfigError"), (("config", "--nonsense"), "UnknownOptionError")],
)
def test_debug_adds_the_traceback(arguments, error):
    code = "from maskmend.cli import main; main()"
    done = python(code, *arguments, "--debug")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert error in done.stderr.splitlines()[-1]
    assert "Traceback" not in python(code, *arguments).stderr


def test_a_bug_is_not_taken_for_a_mistake_of_the_user(run, images, tmp_path, monkeypatch):
    def bug(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(Model, "adapt_patients", bug)
    with pytest.raises(ZeroDivisionError):
        main([str(a) for a in predict_arguments(run, images, tmp_path)])
