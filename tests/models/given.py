"""What the tests of models that are brought share: a prior folder, a network, and the command."""

import copy
import warnings
from pathlib import Path

import torch

from maskmend.build import fresh_discriminator
from maskmend.checkpoint import quiet_generator
from maskmend.cli import main
from maskmend.config import PriorConfig
from maskmend.config_file import config_from
from maskmend.data.volume import read_mask
from maskmend.foreign.fitted import FittedPrior
from maskmend.foreign.prior_folder import save_prior

NNUNET = Path(__file__).parents[1] / "fixtures" / "nnunet"
_PRIOR = {
    "preprocess": {"size": 32, "spacing_mm": 10},
    "discriminator": {"widths": [4, 8], "strides": [2, 2]},
}


def write_prior(folder, *, enough=0.5, **sections):
    """A prior folder with random weights; its score of any mask is below what is enough."""
    config = config_from({**copy.deepcopy(_PRIOR), **sections}, kind=PriorConfig)
    with quiet_generator(1):
        discriminator = fresh_discriminator(config).eval()
    save_prior(FittedPrior(config=config, discriminator=discriminator, enough=enough), folder)
    return folder


def predict(model, images, out, *options):
    """Status of `maskmend predict`."""
    try:
        main(["predict", str(model), *map(str, images), "--out", str(out), *map(str, options)])
    except SystemExit as ended:
        return ended.code


def complaint(capsys, model, images, out, *options):
    """Status of a call that fails, and the line that it says."""
    capsys.readouterr()
    status = predict(model, images, out, *options)
    (line,) = capsys.readouterr().err.splitlines()
    return status, line


def masks(out):
    """Labels by the name of their image."""
    return {
        path.name.removesuffix("_mask.nii.gz"): read_mask(path).voxels
        for path in out.glob("*_mask.nii.gz")
    }


def network(classes=4, channels=1):
    """Random weights, by which every class is found."""
    with quiet_generator(3):
        made = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 6, 3, padding=1),
            torch.nn.InstanceNorm2d(6),
            torch.nn.ReLU(),
            torch.nn.Conv2d(6, classes, 3, padding=1),
        )
    return made.eval()


def save(net, path, *, slices=(2, 1, 32, 32), any_number=True):
    """Write a network in the format that the name says."""
    example = torch.randn(slices)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's deprecation
        if path.suffix == ".pt2":
            any_batch = ({0: torch.export.Dim.AUTO},) if any_number else None
            torch.export.save(torch.export.export(net, (example,), dynamic_shapes=any_batch), path)
        else:
            torch.jit.save(torch.jit.trace(net, example), path)
    return path
