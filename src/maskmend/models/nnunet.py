"""nnU-Net v2's results: plans.json, dataset.json and a fold_N/checkpoint_final.pth for each fold.

    DATASET/TRAINER__PLANS__2d/plans.json
                               dataset.json
                               fold_0/checkpoint_final.pth ...

Written against nnU-Net 2.8 and its own files. Its checkpoints are pickles; they are read with
`weights_only`, and with numpy's scalars, which they hold, allowed. No code of nnU-Net is used.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from maskmend.checkpoint import digest_of
from maskmend.config import PriorConfig
from maskmend.errors import RunError
from maskmend.models.brought import BroughtModel, load_pickled, reading
from maskmend.models.nnunet_images import SCHEMES, NnunetImages
from maskmend.models.nnunet_network import PlannedUNet, build_planned, load_planned
from maskmend.models.nnunet_windows import Windows

EXPECTED = "an nnU-Net v2 results folder (plans.json, dataset.json, fold_0, ...)"

_PLANS, _DATASET, _CHECKPOINT = "plans.json", "dataset.json", "checkpoint_final.pth"
_ALLOWED = [
    np.dtype,
    np.ndarray,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
]
"""What their logs hold: losses and scores as numpy's numbers, under its old names as well."""
_FILE_READERS = {"SimpleITKIO", "NibabelIO"}
_RESAMPLING = {"resample_data_or_seg_to_shape": True, "no_resampling_hack": False}


def fits(path: Path) -> bool:
    """Whether a folder is laid out like one."""
    return (path / _PLANS).is_file() or any(path.glob(f"fold_*/{_CHECKPOINT}"))


def read(path: Path, prior: PriorConfig | None = None) -> BroughtModel:
    """Read a folder, all its folds as one ensemble, as nnU-Net does by default.

    Args:
        path: The folder.
        prior: Not needed: the plans say all that must be known.

    Raises:
        RunError: A file is missing or damaged, or asks for what is not known here.
    """
    plans, dataset = _json(path / _PLANS), _json(path / _DATASET)
    files = _checkpoints(path)
    checkpoints = [_checkpoint(file) for file in files]
    name = str(checkpoints[0]["init_args"]["configuration"])
    with reading(path / _PLANS, "copy it again"):
        configuration = _configuration(plans, name)
        patch = [int(side) for side in configuration["patch_size"]]
        if len(patch) != 2:
            _refuse(path / _PLANS, f"configuration {name} is 3D", "train the 2d one")
        if configuration.get("previous_stage"):
            _refuse(path / _PLANS, f"configuration {name} is a cascade", "choose another")
        side = (patch[0], patch[1])
        images = _images(path / _PLANS, plans, configuration, side)
    with reading(path / _DATASET, "copy it again"):
        structures = _structures(path / _DATASET, dataset["labels"])
        channels = len(dataset.get("modality") or dataset["channel_names"])
    networks = [
        _network(path, file, checkpoint, configuration, channels, len(structures) + 1)
        for file, checkpoint in zip(files, checkpoints, strict=True)
    ]
    mirrored = checkpoints[0].get("inference_allowed_mirroring_axes") or ()
    return BroughtModel(
        path=path,
        digest=_digest([path / _PLANS, path / _DATASET, *files]),
        network=Windows(networks, side, mirrored, exact=False),
        members=[Windows([one], side, mirrored, exact=False) for one in networks],
        exact=Windows(networks, side, mirrored, exact=True),
        channels=channels,
        structures=structures,
        images=images,
    )


def _checkpoints(path: Path) -> list[Path]:
    """Of the numbered folds, else of the one that was trained on all data."""
    found = sorted(path.glob(f"fold_*/{_CHECKPOINT}"))
    numbered = [file for file in found if file.parent.name != "fold_all"]
    if not found:
        raise RunError(f"{path}: no fold_*/{_CHECKPOINT}; train a fold to its end")
    return numbered or found


def _checkpoint(file: Path) -> Mapping[str, Any]:
    checkpoint = load_pickled(file, _ALLOWED)
    if not isinstance(checkpoint, dict) or not {"network_weights", "init_args"} <= set(checkpoint):
        raise RunError(f"{file}: no checkpoint of nnU-Net v2; copy the model's folder again")
    return checkpoint


def _network(
    path: Path,
    file: Path,
    checkpoint: Mapping[str, Any],
    configuration: Mapping[str, Any],
    channels: int,
    classes: int,
) -> PlannedUNet:
    plan = _architecture(configuration)
    try:
        network = build_planned(
            plan["network_class_name"].rpartition(".")[2], plan["arch_kwargs"], channels, classes
        )
    except ValueError as error:
        _refuse(path / _PLANS, f"asks for {error}", "only nnU-Net's own two UNets are known")
    try:
        load_planned(network, checkpoint["network_weights"])
    except ValueError as error:
        trainer = checkpoint.get("trainer_name", "its trainer")
        _refuse(file, f"holds another network ({error})", f"{trainer} may have changed the plan")
    return network.eval().requires_grad_(False)


def _architecture(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    """A plan's network; plans from before nnU-Net 2.4 say the same in other words."""
    if "architecture" in configuration:
        return configuration["architecture"]
    residual = configuration["UNet_class_name"] == "ResidualEncoderUNet"
    counts = configuration["n_conv_per_stage_encoder"]
    most, base = configuration["unet_max_num_features"], configuration["UNet_base_num_features"]
    return {
        "network_class_name": configuration["UNet_class_name"],
        "arch_kwargs": {
            "n_stages": len(counts),
            "features_per_stage": [min(base * 2**stage, most) for stage in range(len(counts))],
            "conv_op": "Conv2d",
            "kernel_sizes": configuration["conv_kernel_sizes"],
            "strides": configuration["pool_op_kernel_sizes"],
            "n_blocks_per_stage" if residual else "n_conv_per_stage": counts,
            "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": "InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
    }


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A plan's configuration with what it inherits."""
    own = plans["configurations"][name]
    parent = own.get("inherits_from")
    return {**(_configuration(plans, parent) if parent else {}), **own}


def _images(
    file: Path, plans: Mapping[str, Any], configuration: Mapping[str, Any], size: tuple[int, int]
) -> NnunetImages:
    if plans["image_reader_writer"] not in _FILE_READERS:
        _refuse(file, f"reads images by {plans['image_reader_writer']}", "only NIfTI is read here")
    schemes = configuration["normalization_schemes"]
    if unknown := sorted(set(schemes) - SCHEMES):
        _refuse(file, f"normalises images by {unknown[0]}", "only nnU-Net's own schemes are known")
    resampling = {configuration[f"resampling_fn_{what}"] for what in ("data", "probabilities")}
    if unknown := sorted(resampling - _RESAMPLING.keys()):
        _refuse(file, f"resamples by {unknown[0]}", "only nnU-Net's default is known")
    orders = []
    for what in ("data", "probabilities"):
        arguments = configuration.get(f"resampling_fn_{what}_kwargs", {})
        if arguments.get("force_separate_z") is not None:
            _refuse(file, "sets force_separate_z", "only nnU-Net's default, null, is known")
        orders.append((arguments.get("order", 3), arguments.get("order_z", 0)))
    first, second, third = plans["transpose_forward"]
    height, width = configuration["spacing"]
    known = plans.get("foreground_intensity_properties_per_channel")
    if known is None:
        known = plans["foreground_intensity_properties_by_modality"]
    return NnunetImages(
        size=size,
        transposed=(first, second, third),
        spacing_mm=(height, width),
        schemes=schemes,
        masked=configuration["use_mask_for_norm"],
        intensities=[known[str(channel)] for channel in range(len(schemes))],
        resampled=all(_RESAMPLING[name] for name in resampling),
        orders=(orders[0], orders[1]),
    )


def _structures(file: Path, labels: Mapping[str, Any]) -> dict[int, str]:
    """Labels but the background's and, which no network predicts, the ignored one."""
    if any(isinstance(label, list) for label in labels.values()):
        _refuse(file, "has regions, which overlap", "train on plain labels")
    structures = {int(label): name for name, label in labels.items() if name != "ignore"}
    if structures.pop(0, None) is None or sorted(structures) != [*range(1, len(structures) + 1)]:
        _refuse(file, f"has labels {labels}", "they must count up from the background's 0")
    return dict(sorted(structures.items()))


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise RunError(f"{file}: missing; copy the model's folder whole")
    with reading(file, "copy it again"):
        read = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise ValueError("no mapping")
        return read


def _refuse(file: Path, what: str, remedy: str) -> NoReturn:
    raise RunError(f"{file}: {what}; {remedy}")


def _digest(files: list[Path]) -> str:
    return hashlib.sha256("".join(map(digest_of, files)).encode()).hexdigest()
