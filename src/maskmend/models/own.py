"""A run folder of our own as a model that is brought, for a prior that was fitted afterwards."""

from pathlib import Path

from torch import nn

from maskmend.checkpoint import CONFIG, WEIGHTS, digest_of, load_run
from maskmend.config import PriorConfig
from maskmend.models.brought import BroughtModel
from maskmend.models.sliced import SlicedImages

EXPECTED = "a run folder of maskmend train"


def fits(path: Path) -> bool:
    """Whether a folder is laid out like one."""
    return any((path / name).is_file() for name in (CONFIG, WEIGHTS))


def read(path: Path, prior: PriorConfig | None = None) -> BroughtModel:
    """Read a run folder.

    Args:
        path: The folder.
        prior: Not needed: the run says all that must be known.

    Raises:
        RunError: It is no run, or its weights are missing, truncated or foreign.
    """
    config, networks = load_run(path)
    return BroughtModel(
        path=path,
        digest=digest_of(path / WEIGHTS),
        network=nn.Sequential(networks.adaptor, networks.segmentor).requires_grad_(False),
        channels=config.segmentor.in_channels,
        structures=config.data.structures,
        images=SlicedImages(preprocess=config.preprocess),
    )
