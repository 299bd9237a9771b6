"""torch.export files (.pt2): a network as a graph.

How images are prepared stands in a YAML file of the same name beside it (see `ModelConfig`).

Torch unpickles, evaluates or loads as a library some of the parts that an archive may have; one
with such a part is refused before torch sees it.
"""

import copy
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskmend.checkpoint import digest_of
from maskmend.config import PriorConfig
from maskmend.errors import RunError
from maskmend.models.brought import BroughtModel, reading
from maskmend.models.described import OneByOne, described, description

EXPECTED = "a torch.export file (.pt2)"

_FOLDERS = {"", ".data", "models", "data/weights", "data/constants", "data/sample_inputs"}
_WORDS = {
    *("Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod"),
    *("FloorDiv", "CleanDiv", "True", "False", "positive", "nonnegative", "integer"),
}


def fits(path: Path) -> bool:
    """Whether a file is named like one."""
    return path.is_file() and path.suffix == ".pt2"


def read(path: Path, prior: PriorConfig | None = None) -> BroughtModel:
    """Read a file.

    Args:
        path: The file.
        prior: Says what the YAML file does not.

    Raises:
        RunError: It is damaged, or holds objects that would run code.
        ConfigError: What must be known of it is said nowhere, or wrong.
    """
    with reading(path, "copy it again, or save it again by torch.export.save"):
        for part in _dangerous(path):
            raise RunError(
                f"{path}: reading its part {part} could run code; export a network of plain tensors"
            )
        program = torch.export.load(str(path))
        batch = _shape(program)[0]
        network: nn.Module = Exported(program.module()).requires_grad_(False)
    if isinstance(batch, int) and batch != 1:
        raise RunError(
            f"{path}: was exported for {batch} slices at a time; export it for one, or for any"
            " number (dynamic_shapes)"
        )
    network = OneByOne(network) if isinstance(batch, int) else network
    beside = path.with_suffix(".yaml")
    return described(path, network, digest_of(path), description(beside, {}), beside, prior)


class Exported(nn.Module):
    """A graph in a module, which can be told to be in evaluation mode, as it always is."""

    def __init__(self, graph: nn.Module):
        super().__init__()
        self.graph = graph

    def __deepcopy__(self, memo: dict[int, Any]) -> "Exported":
        """A copy, whose weights may learn."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, about itself
            return Exported(copy.deepcopy(self.graph, memo))

    def train(self, mode: bool = True) -> "Exported":
        """Nothing: the mode is that of the export."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """What the graph returns; raises ValueError for images of a shape that it is not for."""
        try:
            return self.graph(images)
        except AssertionError as error:
            raise ValueError(f"it was exported for others ({error})") from error


def _shape(program: torch.export.ExportedProgram) -> torch.Size:
    """Shape of the images, of numbers and, where any will do, symbols."""
    (name,) = program.graph_signature.user_inputs
    (images,) = (node for node in program.graph.nodes if node.name == name)
    return images.meta["val"].shape


def _dangerous(path: Path) -> Iterator[str]:
    """Parts of the archive that could run code."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            inside = name.partition("/")[2]
            folder, _, file = inside.rpartition("/")
            if folder not in _FOLDERS:
                yield name
            elif folder in ("data/weights", "data/constants") and file.endswith(".json"):
                for entry in json.loads(archive.read(name))["config"].values():
                    plain = entry["path_name"].startswith(("weight_", "tensor_"))
                    if entry["use_pickle"] or not plain:
                        yield str(entry["path_name"])
            elif folder == "models":
                yield from (e for e in _expressions(json.loads(archive.read(name))) if _odd(e))
            elif file.endswith(".pt") and (content := archive.read(name)):
                try:
                    torch.load(io.BytesIO(content), weights_only=True)
                except Exception:  # whatever is wrong with it
                    yield name


def _expressions(tree: Any) -> Iterator[str]:
    """Sizes of tensors, as sympy writes and evaluates them."""
    if isinstance(tree, dict):
        yield from (str(value) for key, value in tree.items() if key == "expr_str")
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _expressions(value)


def _odd(expression: str) -> bool:
    """Whether an expression is more than arithmetic on symbols such as s31."""
    words = re.findall(r"[A-Za-z_]\w*", re.sub(r"'[su]\d+'", "", expression))
    return not (set(words) <= _WORDS and re.fullmatch(r"[\w\s(),=.'+*/-]*", expression))
