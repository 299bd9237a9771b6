"""Maskmend: mend medical segmentations at test time with the discriminator they were trained with.

After Valvano, Leo and Tsaftaris, "Stop Throwing Away Discriminators! Re-using Adversaries for
Test-Time Training", 2021 (https://arxiv.org/abs/2108.12280).

    import maskmend as mm
    mask = mm.load("runs/hearts").predict("image.nii.gz")
    mask.save("mask.nii.gz")

Names are imported when they are first used, so that importing the package does not load torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskmend.adapt import adapt
    from maskmend.build import Networks, build
    from maskmend.config import AdaptationConfig, Config
    from maskmend.config_file import read_config
    from maskmend.errors import ConfigError, InputError, MaskmendError, RunError
    from maskmend.evaluate.scores import evaluate
    from maskmend.files import predict_files
    from maskmend.foreign.fit_prior import fit_prior
    from maskmend.foreign.fitted import FittedPrior
    from maskmend.foreign.guest import bring
    from maskmend.foreign.prior_folder import load_prior, save_prior
    from maskmend.instance import Adapted
    from maskmend.predict import Model, load
    from maskmend.prediction import Prediction
    from maskmend.priors import DiscriminatorPrior, EntropyPrior, Prior
    from maskmend.train import train

_HOMES = {
    "Adapted": "instance",
    "AdaptationConfig": "config",
    "Config": "config",
    "ConfigError": "errors",
    "DiscriminatorPrior": "priors",
    "EntropyPrior": "priors",
    "FittedPrior": "foreign.fitted",
    "InputError": "errors",
    "MaskmendError": "errors",
    "Model": "predict",
    "Networks": "build",
    "Prediction": "prediction",
    "Prior": "priors",
    "RunError": "errors",
    "adapt": "adapt",
    "bring": "foreign.guest",
    "build": "build",
    "evaluate": "evaluate.scores",
    "fit_prior": "foreign.fit_prior",
    "load": "predict",
    "load_prior": "foreign.prior_folder",
    "predict_files": "files",
    "read_config": "config_file",
    "save_prior": "foreign.prior_folder",
    "train": "train",
}

__all__ = [  # noqa: RUF022  # as they are met
    "load", "bring", "Model", "Prediction", "predict_files",
    "adapt", "Adapted", "AdaptationConfig", "Prior", "DiscriminatorPrior", "EntropyPrior",
    "fit_prior", "FittedPrior", "load_prior", "save_prior",
    "train", "build", "Networks", "Config", "read_config", "evaluate",
    "MaskmendError", "InputError", "ConfigError", "RunError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'maskmend' has no attribute {name!r}")
    return getattr(import_module(f"maskmend.{_HOMES[name]}"), name)


class _Package(ModuleType):
    """Keeps `maskmend.adapt` the function when Python binds the module of its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
