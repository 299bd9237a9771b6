"""Ctrl-C: every verb ends with status 130 and a line that says how to go on; files are whole."""

import signal
import subprocess
import sys
import time

import nibabel as nib
import pytest

from maskmend.checkpoint import CALIBRATION, CHECKPOINT, read_tensors
from maskmend.config_file import to_yaml
from maskmend.table import PREDICTIONS
from tests.tiny import tiny, write_run

TINY = tiny(
    training={"iterations": 10**6, "batch": 2, "validate_every": 2},
    adaptation={"steps": 10**6, "precision": "32-true"},
)
HANGS = """
import importlib, pathlib, sys, time

def hang(*given, **named):
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(600)

setattr(importlib.import_module("{module}"), "{function}", hang)
from maskmend.cli import main
main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def run(hearts, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), TINY, hearts)


def stop(begun, *arguments, hanging=None):
    """Start a command, press Ctrl-C once a file is there; its last line on standard error.

    Args:
        begun: The file.
        *arguments: Of the command line.
        hanging: Module and function that touches the file and hangs, where a verb writes none
            before it ends.
    """
    command = [sys.executable, "-m", "maskmend"]
    if hanging:
        code = HANGS.format(module=hanging[0], function=hanging[1])
        command = [sys.executable, "-c", code, str(begun)]
    started = subprocess.Popen(
        [*command, *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background jobs, as these tests may be one, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not begun.exists() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 130, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


def assert_whole(folder):
    """No file was left under a temporary name."""
    assert folder.is_dir()
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_train_goes_on(hearts, tmp_path):
    (tmp_path / "tiny.yaml").write_text(to_yaml(TINY))
    out = tmp_path / "run"
    arguments = ("train", tmp_path / "tiny.yaml", "--data", hearts, "--out", out)
    line = stop(out / CHECKPOINT, *arguments, "--accelerator", "cpu")
    assert line == (
        "maskmend: stopped; all files are whole, and the same command goes on at the last look at"
        " the validation patients"
    )
    assert_whole(out)
    assert read_tensors(out / CHECKPOINT)[0]


def test_predict_goes_on(hearts, run, tmp_path):
    images = sorted((hearts / "images").iterdir())[:2]
    arguments = ("predict", run, *images, "--out", tmp_path, "--device", "cpu")
    line = stop(tmp_path / PREDICTIONS, *arguments)
    assert line.endswith("and the same command goes on with the images that are left")
    assert_whole(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {PREDICTIONS, "settings.json"}


def test_calibrate_leaves_the_run_as_it_was(hearts, run, tmp_path):
    arguments = ("calibrate", run, "--data", hearts, "--device", "cpu")
    line = stop(tmp_path / "begun", *arguments, hanging=("maskmend.calibrate.teach", "quantiles"))
    assert line.endswith("as it was, and the same command goes on with finished students")
    assert not (run / CALIBRATION).exists()
    assert_whole(run)


def test_evaluate_writes_no_scores(hearts, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for mask in (hearts / "masks").iterdir():
        (masks / mask.name.replace(".nii", "_mask.nii")).write_bytes(mask.read_bytes())
    arguments = ("evaluate", "--predictions", masks, "--references", hearts, "--out")
    hanging = ("maskmend.evaluate.scores", "score")
    line = stop(tmp_path / "begun", *arguments, tmp_path / "scores", hanging=hanging)
    assert line.endswith("no scores were written, and the same command starts again")
    assert not (tmp_path / "scores").exists()


def test_the_demo_goes_on(tmp_path):
    hearts = tmp_path / "hearts" / "in-domain"
    line = stop(hearts / "masks" / "heart000_frame01.nii.gz", "demo", "--out", tmp_path)
    assert line.endswith("and the same command goes on where it was")
    assert_whole(tmp_path)
    assert not (hearts / "patients.csv").exists()  # which would say that all hearts are there
    for path in hearts.rglob("*.nii.gz"):
        nib.load(path).get_fdata()
