"""A trained run as a MONAI bundle, which other tools can run, adaptation included.

BUNDLE/configs/metadata.json     what it segments, and what it needs
configs/inference.json    from a folder of images to a folder of masks
models/                   the run: config.yaml, weights.safetensors, ...
models/model.pt           the segmentor alone, for tools that look for it
docs/README.md            how it is run
LICENSE
"""

import io
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from maskmend.atomic import write_atomically, writing
from maskmend.checkpoint import CALIBRATION, CONFIG, RUN, WEIGHTS, load_run
from maskmend.config import Config
from maskmend.denoiser import DENOISER
from maskmend.errors import ConfigError
from maskmend.guard.student import STUDENTS

_KEPT = (CONFIG, WEIGHTS, RUN, CALIBRATION, STUDENTS, DENOISER)
"""Files of a run that masks depend on."""


def export_bundle(run: Path, out: Path) -> None:
    """Write a run as a bundle.

    Args:
        run: Run folder of a training.
        out: Folder of the bundle, made if need be.

    Raises:
        ConfigError: The folder of the bundle holds something.
        RunError: The folder is no run, or the bundle cannot be written.
    """
    config, networks = load_run(run)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: holds something already; choose another folder")
    weights = io.BytesIO()
    torch.save(networks.segmentor.state_dict(), weights)
    with writing(out):
        (out / "models").mkdir(parents=True)
        for name in _KEPT:
            if (run / name).is_file():
                shutil.copyfile(run / name, out / "models" / name)
    write_atomically(out / "models" / "model.pt", weights.getvalue())
    write_atomically(out / "configs" / "metadata.json", json.dumps(_metadata(config), indent=2))
    write_atomically(out / "configs" / "inference.json", json.dumps(_inference(config), indent=2))
    write_atomically(out / "docs" / "README.md", _readme(config))
    write_atomically(out / "LICENSE", _LICENSE)


def _metadata(config: Config) -> dict[str, Any]:
    structures = config.data.structures
    classes = {"0": "background", **{str(label): name for label, name in structures.items()}}
    side = config.preprocess.size
    image = {
        "type": "image",
        "format": "magnitude",
        "num_channels": config.segmentor.in_channels,
        "spatial_shape": [side, side],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {"0": "image"},
    }
    mask = {
        **image,
        "format": "segmentation",
        "num_channels": len(classes),
        "channel_def": classes,
    }
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by maskmend export"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "maskmend": version("maskmend"),
            "nibabel": version("nibabel"),
            "pytorch-ignite": "0.5",
            "fire": "0.7",
        },
        "name": "Maskmend",
        "task": f"Segmentation of {', '.join(structures.values())}, adapted to each image",
        "description": "A UNet whose masks a discriminator judges; an adaptor in front of it is"
        " tuned on each image until they are realistic (Valvano et al. 2021).",
        "authors": "whoever trained the run",
        "copyright": "whoever trained the run",
        "data_type": "nibabel",
        "image_classes": "one channel, as it was stored",
        "label_classes": "one channel, a label a voxel",
        "pred_classes": "one channel, a label a voxel",
        "intended_use": "Research. A person must look at every mask.",
        "references": ["https://arxiv.org/abs/2108.12280"],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": mask}},
    }


def _inference(config: Config) -> dict[str, Any]:
    """The program of a bundle; other tools take its parts, by the names that MONAI gives them."""
    return {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/masks'",
        "images": "$sorted(glob.glob(@dataset_dir + '/*.nii*'))",
        "device": "$'cuda' if torch.cuda.is_available() else 'cpu'",
        "method": None,
        "steps": None,
        "network_def": {
            "_target_": "maskmend.segmentor.UNet",
            "in_channels": config.segmentor.in_channels,
            "classes": config.data.classes,
            "width": config.segmentor.width,
            "depth": config.segmentor.depth,
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
            ],
        },
        "inferer": {
            "_target_": "maskmend.bundled.MendingInferer",
            "run": "$@bundle_root + '/models'",
            "device": "@device",
            "method": "@method",
            "steps": "@steps",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "mask",
                    "output_ext": ".nii.gz",
                    "output_dtype": "$torch.uint8",
                    "resample": False,
                    "separate_folder": False,
                }
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': image} for image in @images]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "$torch.device(@device)",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _readme(config: Config) -> str:
    return f"""# A Maskmend run as a MONAI bundle

It segments {", ".join(config.data.structures.values())}. Each image is an instance of its own: an
adaptor in front of the network is tuned on it, as the run's own configuration, models/config.yaml,
says.

    pip install 'maskmend[bundle]'
    python -m monai.bundle run --config_file configs/inference.json \\
        --bundle_root . --dataset_dir IMAGES --output_dir MASKS

writes NAME_mask.nii.gz for each NIfTI file of IMAGES: the masks of `maskmend predict`, given one
image at a time. `--steps 0` leaves adaptation out, `--steps 10` takes ten.

The inferer takes images as they were loaded, and finds its own pixel size and intensities.
models/model.pt is the segmentor alone. MONAI runs what configs/inference.json says: run bundles of
people whom you trust.

A research tool, no medical device: a person must look at every mask.
"""


_LICENSE = """Maskmend, which this bundle calls, is licensed under the Apache License, Version 2.0.

The weights in models/ belong to whoever trained them, under the terms of the data that they were
trained on. Say here what those are before the bundle is handed on.
"""
