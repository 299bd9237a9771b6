"""Which format a model comes in."""

from pathlib import Path
from types import ModuleType

from maskmend.config import PriorConfig
from maskmend.errors import RunError
from maskmend.models import bundle, exported, nnunet, own, torchscript
from maskmend.models.brought import BroughtModel

FORMATS: tuple[ModuleType, ...] = (own, nnunet, bundle, exported, torchscript)
"""Each with `fits`, `read` and `EXPECTED`."""


def read_model(path: Path, prior: PriorConfig | None = None) -> BroughtModel:
    """Read a model of any format.

    Args:
        path: A file or a folder.
        prior: Says what the model's own files do not.

    Raises:
        RunError: It is no model, or cannot be read.
        ConfigError: What must be known of it is said nowhere, or wrong.
    """
    if not path.exists():
        raise RunError(f"{path}: no such file or folder; give a run folder or a model")
    for kind in FORMATS:
        if kind.fits(path):
            model: BroughtModel = kind.read(path, prior)
            return model
    known = ", ".join(kind.EXPECTED for kind in FORMATS)
    raise RunError(f"{path}: no model of a known format; expected {known}")
