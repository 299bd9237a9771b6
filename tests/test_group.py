"""Two processes train as one does with the whole batch."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from torch import distributed, multiprocessing, nn

from maskmend.checkpoint import WEIGHTS, read_tensors
from maskmend.config_file import to_yaml
from maskmend.data.phantom import write_cohort
from maskmend.group import Group
from tests.tiny import tiny

TRAINING = {"iterations": 6, "batch": 4, "validate_every": 3, "learning_rate": 1e-3}

# Ends as hard as by a kill, between the two looks.
VICTIM = """
import os, sys
from maskmend.cli import main
from maskmend.training import Trainer

iterate = Trainer._iterate
Trainer._iterate = lambda self, i: os._exit(9) if i == 4 else iterate(self, i)
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("group")
    write_cohort(root / "hearts", patients=5, seed=0, size=40, spacing_mm=7)
    return root


def config(folder, **training):
    path = folder / f"{len(list(folder.iterdir()))}.yaml"
    settings = tiny(
        adaptor={"joint": True},
        adversarial={"balance": True, "gradient_penalty": 1.0},
        image_augmentation={"rotation_deg": [-10, 10], "noise_std": 0.1},
        training={**TRAINING, **training},
    )
    path.write_text(to_yaml(settings))
    return path


def train(folder, config, out, devices):
    command = [sys.executable, "-m", "maskmend", "train", config, "--data", folder / "hearts"]
    command += ["--out", out, "--accelerator", "cpu", "--devices", devices]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, timeout=120
    )


def history(out):
    with (out / "history.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def alone(folder):
    done = train(folder, config(folder), folder / "alone", 1)
    assert done.returncode == 0, done.stderr
    return folder / "alone"


@pytest.fixture(scope="module")
def together(folder):
    done = train(folder, config(folder), folder / "together", 2)
    assert done.returncode == 0, done.stderr
    return folder / "together", done


def test_the_losses_are_those_of_one_process(alone, together):
    ours, theirs = history(together[0]), history(alone)
    assert [row["iteration"] for row in ours] == [3, 6]
    for a, b in zip(ours, theirs, strict=True):
        # Sums over shares round otherwise than sums over the whole, and six steps amplify it; with
        # gradients that are not averaged losses are 0.01 off.
        assert a == pytest.approx(b, rel=1e-3, abs=1e-3)


def test_the_weights_and_statistics_are_those_of_one_process(alone, together):
    (ours, _), (theirs, _) = (read_tensors(run / WEIGHTS) for run in (together[0], alone))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if tensor.ndim < 2 and not name.endswith("running_var"):
            # A bias before a batch norm has no gradient but rounding, which Adam magnifies; the
            # running mean follows it.
            continue
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-2, atol=1e-3, msg=name)
    moved = [n for n in ours if n.endswith("running_var")]
    assert moved
    assert all((ours[n] - 1).abs().max() > 1e-2 for n in moved)


def test_one_process_writes_and_speaks(alone, together):
    out, done = together
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in alone.iterdir()}
    assert done.stdout.count("best validation Dice") == 1
    assert done.stderr.count("iteration 6: validation Dice") == 1
    assert len(list((out / "tensorboard").iterdir())) == 1


def test_a_run_goes_on_with_another_number_of_processes(folder, alone):
    out, path = folder / "changed", config(folder)
    arguments = map(str, ["train", path, "--data", folder / "hearts", "--out", out])
    command = [sys.executable, "-c", VICTIM, *arguments, "--accelerator", "cpu"]
    assert subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 9
    again = train(folder, path, out, 2)
    assert again.returncode == 0, again.stderr
    assert "resuming" in again.stderr
    assert "at iteration 3" in " ".join(again.stderr.split())
    for a, b in zip(history(out), history(alone), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-3)


def test_an_uneven_batch_is_refused(folder):
    done = train(folder, config(folder, batch=3), folder / "uneven", 2)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "maskmend: training.batch: 3 cannot be shared evenly by 2 processes; change one"
    )


def test_a_bad_file_is_named_once(folder, tmp_path):
    write_cohort(tmp_path / "hearts", patients=5, seed=0, size=40, spacing_mm=7)
    for image in (tmp_path / "hearts" / "images").iterdir():
        image.write_bytes(b"no image")
    done = train(tmp_path, config(folder), tmp_path / "bad", 2)
    assert done.returncode == 1
    assert done.stderr.count("maskmend: ") == 1


def test_alone_everything_stays_as_it_is():
    group, network = Group(), nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    batch = torch.randn(3, 1, 4, 4)
    network(batch).sum().backward()
    before = [p.grad.clone() for p in network.parameters()]
    group.average_gradients(network.parameters())
    group.synchronise(network)
    assert type(network[1]) is nn.BatchNorm2d
    assert group.share(batch) is batch
    assert all(
        torch.equal(p.grad, old) for p, old in zip(network.parameters(), before, strict=True)
    )


def normalised(network, images):
    """Output, gradient of the images and statistics of a batch norm in training."""
    images = images.clone().requires_grad_()
    made = network(images)
    made.square().mul(images.detach()).sum().backward()
    return made.detach(), images.grad, network.running_mean, network.running_var


def normalise_a_share(rank, folder, images):
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    group, network = Group(rank, 2), nn.BatchNorm2d(3)
    group.synchronise(network)
    torch.save(normalised(network, group.share(images)), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_batch_norm_of_two_shares_is_that_of_the_whole(tmp_path):
    torch.manual_seed(0)
    images = torch.randn(4, 3, 5, 5) * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1) + 1
    multiprocessing.spawn(normalise_a_share, (tmp_path, images), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    expected = normalised(nn.BatchNorm2d(3), images)
    for index, whole in enumerate(expected[:2]):
        torch.testing.assert_close(torch.cat([share[index] for share in shares]), whole)
    for index, whole in enumerate(expected[2:], start=2):
        for share in shares:
            torch.testing.assert_close(share[index], whole)


def test_shares_make_up_the_batch():
    batch = torch.arange(6)
    shares = [Group(rank, 3).share(batch) for rank in range(3)]
    assert torch.equal(torch.cat(shares), batch)
    assert [len(share) for share in shares] == [2, 2, 2]
