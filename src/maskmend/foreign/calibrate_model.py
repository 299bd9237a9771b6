"""Fit a guard to a model that was not trained here."""

from pathlib import Path

from rich.console import Console

from maskmend.calibrate.run import calibrate_teacher
from maskmend.devices import device_of
from maskmend.foreign.prior_folder import load_prior
from maskmend.foreign.ward import Ward
from maskmend.guard.calibration import Calibration
from maskmend.models.formats import read_model


def calibrate_model(
    model: Path,
    folder: Path,
    data: Path,
    *,
    draws: int = 3,
    device: str | None = None,
    console: Console,
) -> Calibration:
    """Fit a guard to a model that was not trained here; kept in the folder of its prior.

    Args:
        model: A TorchScript or torch.export file, or a MONAI bundle of a network of slices.
        folder: A prior that was fitted to it, with the patients that it was not trained on held
            out by name.
        data: The data that the prior was fitted to.
        draws: Degraded copies of each held-out image, and as many with an artefact.
        device: Where to compute; by default a GPU if there is one.
        console: Where progress is shown.

    Raises:
        ConfigError: No guard can be fitted to such a model, or not with this prior.
        InputError: A patient is not in the data, a file cannot be used, or there are fewer than two
            patients held out.
        RunError: The model or the prior cannot be read.
    """
    where = device_of(device)
    prior = load_prior(folder, where)
    ward = Ward(read_model(model.absolute(), prior.config), prior, folder, where)
    ward.check_learns()
    return calibrate_teacher(ward, data, draws=draws, console=console)
