"""A run folder: safetensors weights, JSON and YAML beside them, never a pickle.

    RUN/config.yaml               the whole configuration
        split.json                patients by use
        weights.safetensors       the best weights so far, of every network
        checkpoint.safetensors    the latest state, optimizers included, to resume from
        calibration.json          how far masks can be trusted (`maskmend calibrate`)
        students.safetensors      the segmentor's noisy students, made by the same call
        students.part.safetensors those of a call that was stopped, which the next takes up
        history.csv               losses and scores at every look at the validation patients
        run.json                  versions, hardware and how training ended
        tensorboard/              the same as curves

Every file is written under another name and renamed, so that a run killed at any moment leaves
whole files.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from maskmend.atomic import write_atomically
from maskmend.build import Networks, build
from maskmend.config import Config
from maskmend.config_file import read_config
from maskmend.data.split import Split
from maskmend.errors import ConfigError, RunError

CONFIG = "config.yaml"
SPLIT = "split.json"
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.csv"
CALIBRATION = "calibration.json"
RUN = "run.json"

_Part = TypeVar("_Part", bound=nn.Module)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: Any) -> None:
    """Write tensors and JSON metadata into one safetensors file, atomically."""
    # A contiguous copy each: safetensors refuses tensors that share memory.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_atomically(path, save(plain, {key: json.dumps(value) for key, value in metadata.items()}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        RunError: The file is missing, truncated or no safetensors file.
    """
    if not path.is_file():
        raise RunError(f"{path}: missing; is {path.parent} a run folder whose training has begun?")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"{path}: truncated or no safetensors file ({reason}); copy it again or train anew"
        ) from error


def read_network(path: Path, build: Callable[..., _Part], *, name: str, trainer: str) -> _Part:
    """A network that was trained for a run, frozen, from a file of its own.

    Args:
        path: The file; its metadata's "network" are the arguments of `build`.
        build: Makes one with fresh weights.
        name: What it is called in messages.
        trainer: Function that trains it.

    Raises:
        RunError: The file is missing, damaged or of another version.
    """
    if not path.exists():
        raise RunError(f"{path}: missing; train it with {trainer}")
    tensors, shape = read_tensors(path)
    try:
        network = build(**shape["network"])
        network.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{path}: no {name} of this version; remove it and train it anew") from error
    return network.eval().requires_grad_(False)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def network_tensors(networks: Networks) -> dict[str, Tensor]:
    """Weights and statistics of all networks, by network and name."""
    return nn.ModuleDict(networks.modules()).state_dict()


def load_networks(networks: Networks, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put saved weights into networks; raises RunError as `load_tensors` does."""
    load_tensors(nn.ModuleDict(networks.modules()), tensors, path)


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put saved weights into a network.

    Raises:
        RunError: The weights are not of this network; the first odd one is named.
    """
    expected = network.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        ours, theirs = (d[name].shape if name in d else None for d in (expected, tensors))
        if ours != theirs:
            raise RunError(
                f"{path}: weights of another network: {name} is {_shape(theirs)}, the"
                f" configuration asks for {_shape(ours)}; restore the {CONFIG} they were trained"
                " with"
            )
    network.load_state_dict(dict(tensors))


def optimizer_tensors(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """Adam's moments and step counts, by the index of their parameter."""
    return {
        f"{name}.{index}.{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, name: str, tensors: Mapping[str, Tensor]
) -> None:
    """Put saved moments into a fresh optimizer of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{name}."):
            index, field = key.removeprefix(f"{name}.").split(".")
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def load_run(run: Path) -> tuple[Config, Networks]:
    """Configuration and networks, in evaluation mode, of a run folder.

    Raises:
        RunError: The folder is no run, or its weights are missing, truncated or foreign.
    """
    if not run.is_dir():
        raise RunError(f"{run}: no such run folder; train one with `maskmend train`")
    try:
        config = read_config(run / CONFIG)
    except ConfigError as error:
        raise RunError(f"{error}; {run} is no run folder of this version") from error
    with quiet_generator():
        networks = build(config)
    tensors, _ = read_tensors(run / WEIGHTS)
    load_networks(networks, tensors, run / WEIGHTS)
    for module in networks.modules().values():
        module.eval()
    return config, networks


def read_split(run: Path) -> Split:
    """Patients of a run by use; raises RunError if its file is missing or damaged."""
    try:
        return Split.from_dict(json.loads((run / SPLIT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run / SPLIT}: missing or damaged; copy it from where {run} was trained"
        ) from error


def validation_realism(run: Path) -> float | None:
    """Mean score of the validation patients' predictions under the run's weights, if it is known.

    Raises:
        RunError: run.json is damaged.
    """
    try:
        best = json.loads((run / RUN).read_text(encoding="utf-8"))["best"]
        return float(best["val_score_predicted"]) if "val_score_predicted" in best else None
    except FileNotFoundError:  # training has not ended
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{run / RUN}: is damaged; copy it again or remove it") from error


@contextlib.contextmanager
def quiet_generator(seed: int = 0) -> Iterator[None]:
    """Draw from a seeded global generator and give it back as it was."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else f"of shape {tuple(shape)}"
