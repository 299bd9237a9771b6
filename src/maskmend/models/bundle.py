"""MONAI bundles, read without running code from them.

    BUNDLE/configs/metadata.json      channels and labels
           configs/inference.json     network_def, and how images are prepared (or .yaml)
           models/model.pt            weights; or model.ts, network and weights
           maskmend.yaml              what is not said there, or said wrongly (see `ModelConfig`)

MONAI itself would import and evaluate what the configuration says. Here it is data: the network is
one of MONAI's own, by name, with plain arguments; transforms are those that are known, by name.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from maskmend.checkpoint import digest_of
from maskmend.config import PriorConfig
from maskmend.errors import RunError
from maskmend.models.brought import BroughtModel, load_pickled, reading
from maskmend.models.described import described, description
from maskmend.models.sliced import INTENSITIES
from maskmend.models.torchscript import read_network

EXPECTED = "a MONAI bundle (configs/metadata.json, configs/inference.json, models/model.pt)"

_METADATA = "configs/metadata.json"
_INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
_NETWORKS = (
    *("UNet", "BasicUNet", "BasicUNetPlusPlus", "AttentionUnet", "DynUNet", "SegResNet"),
    *("SegResNetVAE", "SegResNetDS", "VNet", "UNETR", "SwinUNETR", "HighResNet", "FlexibleUNet"),
)
_HARMLESS = {
    *("Compose", "LoadImage", "EnsureChannelFirst", "EnsureType", "CastToType", "ToTensor"),
    *("Orientation", "Spacing", "CropForeground"),
}
"""Transforms that are done here in another way, or are not needed."""
_COPY = "copy the bundle again"


def fits(path: Path) -> bool:
    """Whether a folder is laid out like one."""
    return (path / _METADATA).is_file() or any((path / name).is_file() for name in _INFERENCE)


def read(path: Path, prior: PriorConfig | None = None) -> BroughtModel:
    """Read a bundle.

    Args:
        path: Its folder.
        prior: Says what neither the bundle nor maskmend.yaml does.

    Raises:
        RunError: A file is missing or damaged, or asks for more than is known here.
        ConfigError: What must be known of it is said nowhere, or wrong.
    """
    inference = next((path / name for name in _INFERENCE if (path / name).is_file()), None)
    if inference is None:
        raise RunError(f"{path}: has no {_INFERENCE[0]}; {_COPY}")
    config, beside = _mapping(inference), path / "maskmend.yaml"
    metadata = _mapping(path / _METADATA) if (path / _METADATA).is_file() else {}
    override = description(beside, {})
    found = _outputs(metadata, config)
    if override.preprocess is None and override.intensities is None:
        found |= _preparation(inference, config, metadata, prior)
    weights, script = path / "models/model.pt", path / "models/model.ts"
    if weights.is_file() or not script.is_file():
        network, used = _built(inference, config, weights), weights
    else:
        network, used = read_network(script), script
    digests = [digest_of(inference), digest_of(used)]
    return described(
        path,
        network,
        hashlib.sha256("".join(digests).encode()).hexdigest(),
        description(beside, found),
        beside,
        prior,
    )


def _built(inference: Path, config: Mapping[str, Any], weights: Path) -> nn.Module:
    definition = next(
        (config[name] for name in ("network_def", "network", "net") if name in config), None
    )
    plain = _plain(inference, config, definition)
    if not isinstance(plain, dict) or "_target_" not in plain:
        raise RunError(f"{inference}: has no network_def with a _target_; {_COPY}")
    name = str(plain.pop("_target_")).rpartition(".")[2]
    if name not in _NETWORKS:
        raise RunError(
            f"{inference}: network_def is a {name}, which would run code of the bundle; known are"
            f" {', '.join(_NETWORKS)}; or save the network as models/model.ts, without model.pt"
        )
    if plain.get("spatial_dims") == 3:
        raise RunError(f"{inference}: the network is 3D; give one that takes slices")
    from monai.networks import nets  # seconds of imports

    arguments = {k: v for k, v in plain.items() if k not in ("_requires_", "_disabled_", "_desc_")}
    with reading(inference, "network_def must fit this version of MONAI"):
        network: nn.Module = getattr(nets, name)(**arguments)
    saved = load_pickled(weights)
    with reading(weights, "its weights must be those of network_def"):
        network.load_state_dict(_state(saved))
    return network.eval().requires_grad_(False)


def _state(saved: Any) -> Mapping[str, Tensor]:
    """Weights by name, from what trainers wrap them in."""
    for key in ("model", "state_dict", "network", "net"):
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            return saved[key]
    return saved


def _outputs(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Structures, channels and activation, as far as they are told."""
    image, output = _format(metadata, "inputs"), _format(metadata, "outputs")
    found: dict[str, Any] = {}
    if isinstance(image.get("num_channels"), int):
        found["channels"] = image["num_channels"]
    named = [name for _, name in sorted(output.get("channel_def", {}).items(), key=_number)]
    sigmoid = any(
        transform.get("sigmoid")
        for name, transform in _transforms(config.get("postprocessing"))
        if name == "Activations"
    )
    if sigmoid or output.get("num_channels") == 1:
        found["activation"] = "sigmoid"
    structures = [name for name in named if str(name).lower() != "background"]
    if structures:
        found["structures"] = dict(enumerate(map(str, structures), start=1))
    return found


def _format(metadata: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """What is said of the first input or output."""
    formats: Mapping[str, Any] = metadata.get("network_data_format", {}).get(side, {})
    return next(iter(formats.values()), {})


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])


def _preparation(
    inference: Path,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    prior: PriorConfig | None,
) -> dict[str, Any]:
    """Pixel size, crop, axes and intensities, as far as they are told."""
    found: dict[str, Any] = {"intensities": []}
    preprocess: dict[str, Any] = dict(vars(prior.preprocess)) if prior else {}
    shape = _format(metadata, "inputs").get("spatial_shape", ())
    if len(shape) == 2 and all(isinstance(side, int) for side in shape):
        preprocess["size"] = max(shape)
    for name, transform in _transforms(config.get("preprocessing")):
        arguments = _plain(inference, config, _arguments(transform))
        if name == "Spacing":
            sides = arguments["pixdim"][:2]
            if len(set(sides)) != 1:
                raise RunError(
                    f"{inference}: wants pixels of {sides[0]} x {sides[1]} mm, and only square ones"
                    " are known; say preprocess and intensities in maskmend.yaml"
                )
            preprocess["spacing_mm"] = sides[0]
        elif name == "Orientation":
            found["axes"] = str(arguments["axcodes"])[:2]
        elif name in INTENSITIES:
            found["intensities"].append({name: arguments})
        elif name not in _HARMLESS:
            raise RunError(
                f"{inference}: prepares images by {name}, which is not known here; say preprocess"
                " and intensities in maskmend.yaml"
            )
    if {"size", "spacing_mm"} <= preprocess.keys():
        found["preprocess"] = preprocess
    return found


def _transforms(tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Transforms of a composition, by the name that they have without their dictionary's d."""
    if isinstance(tree, dict) and "transforms" in tree:
        tree = tree["transforms"]
    for transform in tree if isinstance(tree, list) else ():
        if isinstance(transform, dict) and "_target_" in transform:
            name = str(transform["_target_"]).rpartition(".")[2]
            yield name.removesuffix("Dict").removesuffix("d").removesuffix("D"), transform


def _arguments(transform: Mapping[str, Any]) -> dict[str, Any]:
    """Of a transform of a dictionary's items, those that the same transform of an array has."""
    dictionary = {"keys", "allow_missing_keys", "mode", "meta_keys", "meta_key_postfix"}
    return {k: v for k, v in transform.items() if k not in dictionary and not k.startswith("_")}


def _plain(inference: Path, config: Mapping[str, Any], value: Any) -> Any:
    """A value with its references to other values resolved; raises RunError for an expression."""
    if isinstance(value, dict):
        return {key: _plain(inference, config, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(inference, config, one) for one in value]
    if isinstance(value, str) and value.startswith("@"):
        found: Any = config
        for part in value[1:].replace("::", "#").split("#"):
            found = found.get(part, "$") if isinstance(found, dict) else "$"
        return _plain(inference, config, found if found != value else "$")
    if isinstance(value, str) and value.startswith(("$", "%")):
        raise RunError(f"{inference}: {value!r} would run code of the bundle; write a plain value")
    return value


def _mapping(file: Path) -> dict[str, Any]:
    with reading(file, _COPY):
        text = file.read_text(encoding="utf-8")
        tree = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        if not isinstance(tree, dict):
            raise ValueError("no mapping")
        return tree
