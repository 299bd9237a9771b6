"""A prior on disk: safetensors weights, YAML and JSON beside them, never a pickle.

PRIOR/config.yaml             how it was fitted, and how masks are prepared for it
      split.json              the patients it was fitted to, and those held out
      weights.safetensors     the discriminator
      prior.json              how realistic is enough, scores of what was held out, versions
      checkpoint.safetensors  the latest state of a fit that has not ended, to resume from
      calibration.json        how far a model's masks can be trusted (`maskmend calibrate`)
      students.safetensors    that model's noisy students, made by the same call
"""

import json
from pathlib import Path

import torch

from maskmend.atomic import write_atomically
from maskmend.build import fresh_discriminator
from maskmend.checkpoint import (
    CONFIG,
    WEIGHTS,
    digest_of,
    load_tensors,
    quiet_generator,
    read_tensors,
    write_tensors,
)
from maskmend.config import PriorConfig
from maskmend.config_file import read_config, to_yaml
from maskmend.environment import environment
from maskmend.errors import ConfigError, RunError
from maskmend.foreign.fitted import FittedPrior

PRIOR = "prior.json"


def save_prior(prior: FittedPrior, folder: str | Path) -> None:
    """Write a prior's folder, made if need be.

    Raises:
        RunError: It cannot be written.
    """
    folder = Path(folder)
    device = next(prior.discriminator.parameters()).device
    write_atomically(folder / CONFIG, to_yaml(prior.config))
    write_tensors(folder / WEIGHTS, prior.discriminator.state_dict())
    told = {**environment(device), "enough": prior.enough, "history": prior.history}
    # Last of all: a folder that has it is whole.
    write_atomically(folder / PRIOR, json.dumps(told, indent=2))


def load_prior(folder: str | Path, device: str | torch.device = "cpu") -> FittedPrior:
    """Read a prior's folder.

    Args:
        folder: What `save_prior` or `maskmend fit-prior` wrote.
        device: Where it is to judge.

    Raises:
        RunError: The folder is no prior, its fit has not ended, or a file is damaged or foreign.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: no such prior folder; make one with `maskmend fit-prior`")
    try:
        config = read_config(folder / CONFIG, kind=PriorConfig)
    except ConfigError as error:
        raise RunError(f"{error}; {folder} is no prior folder of this version") from error
    if not (folder / PRIOR).is_file():
        raise RunError(
            f"{folder}: the prior is not fitted to its end; call `maskmend fit-prior` again"
        )
    try:
        told = json.loads((folder / PRIOR).read_text(encoding="utf-8"))
        enough, history = float(told["enough"]), tuple(dict(row) for row in told["history"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{folder / PRIOR}: is damaged; copy it again or fit anew") from error
    with quiet_generator():
        discriminator = fresh_discriminator(config)
    tensors, _ = read_tensors(folder / WEIGHTS)
    load_tensors(discriminator, tensors, folder / WEIGHTS)
    return FittedPrior(
        config=config,
        discriminator=discriminator.eval().requires_grad_(False).to(device),
        enough=enough,
        history=history,
        digest=digest_of(folder / WEIGHTS),
    )
