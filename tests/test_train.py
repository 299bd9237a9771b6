"""The run folder: what a training leaves there, and how it goes on after whatever stops it."""

import csv
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from maskmend.atomic import write_atomically
from maskmend.checkpoint import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    RUN,
    SPLIT,
    WEIGHTS,
    load_run,
    network_tensors,
    read_tensors,
)
from maskmend.config_file import read_config, to_yaml
from maskmend.data.phantom import write_cohort
from maskmend.errors import ConfigError, RunError
from maskmend.train import train
from maskmend.training import Trainer
from tests.tiny import tiny

SIZE = {"size": 40, "spacing_mm": 7}

# Trained in a process of its own, which hangs at a given moment: before a file is put in its
# place, or before an iteration.
VICTIM = """
import sys, time
from pathlib import Path
from maskmend.cli import main
from maskmend.training import Trainer

moment, *arguments = sys.argv[1:]
replace, iterate = Path.replace, Trainer._iterate

def hang(now):
    if now == moment:
        print("hangs", flush=True)
        time.sleep(600)

def hanging_replace(path, target):
    hang(Path(target).name)
    return replace(path, target)

def hanging_iterate(trainer, iteration):
    hang(str(iteration))
    return iterate(trainer, iteration)

Path.replace, Trainer._iterate = hanging_replace, hanging_iterate
main(arguments)
"""


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=5, seed=0, **SIZE)
    return root


def config(**changes):
    training = {"iterations": 6, "batch": 2, "validate_every": 2, "learning_rate": 1e-3}
    return tiny(training={**training, **changes})


def printed(hearts, out, config):
    """Train; what was printed."""
    console = Console(file=StringIO(), width=300)
    train(config, hearts, out, accelerator="cpu", console=console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def finished(hearts, tmp_path_factory):
    """A run that was never stopped, and what it printed; not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, printed(hearts, out, config())


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def looks_at(monkeypatch):
    """Make the looks at the validation patients find the given figures."""

    def give(rows):
        rows = iter(rows)
        plain = {"val_supervised": 0.5, "val_dice": 0.5}
        monkeypatch.setattr(Trainer, "validate", lambda _: plain | next(rows))

    return give


def error_of(kind, function, *arguments, **named):
    with pytest.raises(kind) as caught:
        function(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def contents(folder):
    """The run's own files; TensorBoard's are added to."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def history(folder):
    """The rows of history.csv, but for the time they took."""
    with (folder / HISTORY).open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert all(row.pop("seconds") > 0 for row in rows)
    return rows


def scalars(folder):
    """(step, value) of every curve, as TensorBoard shows them."""
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }


def assert_same_run(ours, other):
    for name in (WEIGHTS, CHECKPOINT):
        (tensors, metadata), (others, expected) = (read_tensors(f / name) for f in (ours, other))
        assert tensors.keys() == others.keys()
        assert [key for key in others if not torch.equal(tensors[key], others[key])] == []
        for progress in (metadata, expected):
            for row in progress.get("progress", {}).get("history", []):
                row.pop("seconds")
        assert metadata == expected
    assert history(ours) == history(other)
    assert (ours / SPLIT).read_bytes() == (other / SPLIT).read_bytes()


# ------------------------------------------------------------------ what is there


def test_the_files_of_a_run(finished):
    out, _ = finished
    names = {CONFIG, SPLIT, WEIGHTS, CHECKPOINT, HISTORY, RUN, "tensorboard"}
    assert {path.name for path in out.iterdir()} == names
    assert read_config(out / CONFIG) == config()
    rows = history(out)
    assert [row["iteration"] for row in rows] == [2, 4, 6]
    assert set(json.loads((out / SPLIT).read_text())["test"]) < {f"heart{n:03d}" for n in range(5)}
    ended = json.loads((out / RUN).read_text())
    assert ended["torch"] == torch.__version__
    assert ended["best"]["val_supervised"] == min(row["val_supervised"] for row in rows)
    _, metadata = read_tensors(out / CHECKPOINT)
    assert metadata["progress"]["finished"]
    assert metadata["progress"]["best_iteration"] == ended["best"]["iteration"]


def test_what_is_printed(finished):
    out, text = finished
    for row in history(out):
        assert (
            f"iteration {row['iteration']:.0f}: validation Dice {row['val_dice']:.4f},"
            f" loss {row['val_supervised']:.4f}; scores real {row['val_score_real']:+.2f}"
        ) in text
    assert "(best)" in text
    assert "warning" not in text


def test_tensorboard_shows_the_history(finished):
    out, _ = finished
    curves, rows = scalars(out), history(out)
    for name in rows[0]:
        curve = curves[name.replace("_", "/", 1)]
        assert [step for step, _ in curve] == [2, 4, 6]
        assert [value for _, value in curve] == pytest.approx([row[name] for row in rows])
    assert {"val/dice", "val/dice_LV", "val/score_corrupted", "train/loss_predicted"} <= set(curves)


def test_the_weights_are_those_of_the_best_look(hearts, looks_at, tmp_path):
    looks_at([{"val_supervised": loss} for loss in (0.5, 0.3, 0.4, 0.3)])
    printed(hearts, tmp_path / "four", config(iterations=4))
    printed(hearts, tmp_path / "two", config(iterations=2))
    looks_at([{"val_supervised": loss} for loss in (0.3, 0.5, 0.6)])
    best = train(config(), hearts, tmp_path / "six", accelerator="cpu", console=Console(quiet=True))
    assert (best["iteration"], best["val_supervised"]) == (2, 0.3)
    two, four, six = (read_tensors(tmp_path / n / WEIGHTS)[0] for n in ("two", "four", "six"))
    assert all(torch.equal(six[name], two[name]) for name in two)
    assert not torch.equal(four["segmentor.head.weight"], two["segmentor.head.weight"])
    _, networks = load_run(tmp_path / "six")
    assert torch.equal(
        network_tensors(networks)["segmentor.head.weight"], two["segmentor.head.weight"]
    )


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_others_may_read_what_the_umask_lets_them(tmp_path, umask):
    path = tmp_path / "folder" / "run.json"
    before = os.umask(umask)
    try:
        write_atomically(path, "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


# -------------------------------------------------------------- stopped, and going on


def kill(moment, arguments):
    """Train in another process, and kill it for good at the given moment."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", VICTIM, moment, *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | threads
    ) as process:
        line = process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert line == "hangs\n"
    assert process.returncode == -signal.SIGKILL


def test_a_run_that_is_killed_twice_ends_as_if_it_never_had_been(hearts, finished, tmp_path):
    out = tmp_path / "run"
    (tmp_path / "config.yaml").write_text(to_yaml(config()))
    arguments = ["train", tmp_path / "config.yaml", "--data", hearts, "--out", out]
    arguments += ["--accelerator", "cpu"]
    # Once when it has looked, but its first checkpoint is not in place.
    kill(CHECKPOINT, arguments)
    assert (out / HISTORY).exists()
    assert not (out / CHECKPOINT).exists()
    # Once on its way from a checkpoint to the next look.
    kill("5", arguments)
    assert read_tensors(out / CHECKPOINT)[1]["progress"]["iteration"] == 4
    time.sleep(1)  # TensorBoard puts files in order by the second they were begun in
    assert f"resuming {out} at iteration 4" in printed(hearts, out, config())
    assert_same_run(out, finished[0])
    curves, expected = scalars(out), scalars(finished[0])
    assert curves.keys() == expected.keys()
    for tag in curves.keys() - {"seconds"}:
        assert curves[tag] == expected[tag]


@pytest.mark.parametrize("write", range(1, 10))
def test_a_full_disk_costs_nothing_but_time(hearts, finished, tmp_path, monkeypatch, write):
    out, whole, fsync = tmp_path / "run", [], os.fsync
    out.mkdir()

    def full(handle):
        whole.append({k: v for k, v in contents(out).items() if not k.startswith(".")})
        if len(whole) >= write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    message = error_of(RunError, printed, hearts, out, config())
    monkeypatch.undo()
    name = Path(message.partition(":")[0]).name
    # The later looks write no weights unless they are better.
    order = (CONFIG, SPLIT, WEIGHTS, HISTORY, CHECKPOINT)
    assert name in (order[write - 1 : write] or order[2:])
    assert message == (
        f"{out / name}: cannot be written (No space left on device);"
        " free space or choose another folder"
    )
    assert contents(out) == whole[-1]
    printed(hearts, out, config())
    assert_same_run(out, finished[0])


def test_a_disk_that_is_full_for_tensorboard_is_named_too(hearts, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SummaryWriter, "flush", full)
    message = error_of(RunError, printed, hearts, tmp_path / "run", config())
    assert message.startswith(f"{tmp_path / 'run' / 'tensorboard'}: cannot be written (No space")


def test_a_finished_run_is_left_alone(hearts, run, monkeypatch):
    (run / RUN).write_text("made elsewhere")
    before = contents(run)
    times = {name: (run / name).stat().st_mtime_ns for name in (WEIGHTS, CHECKPOINT, HISTORY, RUN)}
    curves = scalars(run)
    monkeypatch.delattr(Trainer, "_iterate")
    best = train(config(), hearts, run, accelerator="cpu", console=Console(quiet=True))
    assert best["val_supervised"] == min(row["val_supervised"] for row in history(run))
    assert contents(run) == before
    assert {name: (run / name).stat().st_mtime_ns for name in times} == times
    assert scalars(run) == curves


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint(hearts, run, share):
    path = run / CHECKPOINT
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    before = contents(run)
    message = error_of(RunError, printed, hearts, run, config())
    assert message.startswith(f"{path}: truncated or no safetensors file")
    assert contents(run) == before


# ------------------------------------------------------------- what does not fit


def test_another_configuration_is_refused_by_the_field(hearts, run):
    before = contents(run)
    message = error_of(RunError, printed, hearts, run, config(learning_rate=2e-3))
    assert message == (
        f"{run}: holds a run with another configuration"
        " (training.learning_rate: 0.001 -> 0.002); choose another --out"
    )
    assert "and 1 more)" in error_of(RunError, printed, hearts, run, config(batch=3, patience=1))
    assert contents(run) == before


def test_changed_patients_are_refused(run, tmp_path):
    write_cohort(tmp_path / "more", patients=6, seed=0, **SIZE)
    before = contents(run)
    message = error_of(RunError, printed, tmp_path / "more", run, config())
    assert message.startswith(f"{run / SPLIT}: the patients in the data have changed")
    assert "choose another --out" in message
    assert contents(run) == before


def test_an_accelerator_that_is_not_there(hearts, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    message = error_of(ConfigError, train, config(), hearts, tmp_path / "run", accelerator="cuda")
    assert message == "accelerator: cuda is not available on this machine; choose auto or cpu"
    assert not (tmp_path / "run").exists()


def test_more_devices_than_there_are(hearts, tmp_path, monkeypatch):
    def refuse(**_):
        raise MisconfigurationException(
            "You requested gpu: [0, 1]\n But your machine only has: [0]"
        )

    monkeypatch.setattr(sys.modules["maskmend.train"], "Fabric", refuse)
    message = error_of(ConfigError, train, config(), hearts, tmp_path, devices=2)
    assert "auto with 2 devices is not available on this machine" in message
    assert "fewer --devices" in message


# ------------------------------------------------------------------ in words


WELL = {
    "train_score_real": 0.5,
    "val_score_real": 0.5,
    "val_score_predicted": 0.4,
    "val_score_corrupted": -0.6,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"val_score_corrupted": 0.49}, "the discriminator forgets"),
        ({"train_score_real": 0.9, "val_score_real": -0.4}, "the discriminator memorises"),
    ],
)
def test_a_discriminator_that_is_of_no_use_is_told_of(hearts, looks_at, tmp_path, change, words):
    looks_at([WELL, WELL | change, WELL])
    lines = [line.strip() for line in printed(hearts, tmp_path / "run", config()).splitlines()]
    warnings = [line for line in lines if "warning" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"warning: {words}")
    # Right after the look that it is about.
    assert lines[lines.index(warnings[0]) - 1].startswith("iteration 4: ")


@pytest.mark.parametrize(("vectors", "kind"), [(True, torch.bfloat16), (False, torch.float32)])
def test_automatic_precision_is_what_the_hardware_has(hearts, tmp_path, monkeypatch, vectors, kind):
    kinds = set()

    def see(trainer, iteration, iterate=Trainer._iterate):
        trainer.networks.segmentor.head.register_forward_hook(
            lambda _, images, logits: kinds.add(logits.dtype)
        )
        return iterate(trainer, iteration)

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    monkeypatch.setattr(Trainer, "_iterate", see)
    printed(hearts, tmp_path / "run", config(iterations=1, precision="auto"))
    assert kinds == {kind}
