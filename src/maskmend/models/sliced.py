"""Images for models whose files say little of them: sliced and standardised as for a run of ours.

Axes: slice, channel, height, width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskmend.config import PreprocessConfig
from maskmend.data.preprocess import SliceGrid, grid_of, image_slices, slices_on_grid
from maskmend.data.volume import Volume
from maskmend.errors import ConfigError, InputError
from maskmend.prediction import Prepared

INTENSITIES = (
    "NormalizeIntensity",
    "ScaleIntensity",
    "ScaleIntensityRange",
    "ScaleIntensityRangePercentiles",
)
"""MONAI's transforms of intensities that are known; they are given a whole volume."""


@dataclass(frozen=True, kw_only=True)
class SlicedImages:
    """Volumes resampled, cropped and standardised (see `maskmend.data.preprocess`)."""

    preprocess: PreprocessConfig
    intensities: Sequence[tuple[str, dict[str, Any]]] | None = None
    """MONAI's transforms by name, with their arguments; None: median and interquartile range."""

    def __post_init__(self) -> None:
        for name, arguments in self.intensities or ():
            self._transform(name, arguments)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of all slices."""
        return self.preprocess.size, self.preprocess.size

    def prepare(self, channels: Sequence[Volume]) -> Prepared:
        """Slices for the network, each channel standardised alone."""
        grid = grid_of(channels[0], self.preprocess)
        stacks = [self._slices(one, grid) for one in channels]
        return Prepared(volume=channels[0], grid=grid, slices=torch.cat(stacks, 1))

    def _slices(self, volume: Volume, grid: SliceGrid) -> Tensor:
        if self.intensities is None:
            return image_slices(volume, grid, self.preprocess)
        voxels = torch.from_numpy(volume.voxels)[None]
        for name, arguments in self.intensities:
            voxels = self._transform(name, arguments)(voxels)
        if not torch.isfinite(voxels).all():
            raise InputError(
                f"{volume.path}: is not finite once normalised; give the model other intensities"
            )
        return slices_on_grid(np.asarray(voxels[0], np.float32), grid)

    @staticmethod
    def _transform(name: str, arguments: dict[str, Any]) -> Any:
        if name not in INTENSITIES:
            raise ConfigError(
                f"intensities: {name} is none of {', '.join(INTENSITIES)}; leave it out, and"
                " normalise the images before"
            )
        from monai import transforms  # seconds of imports

        try:
            return getattr(transforms, name)(**arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"intensities: {name}: {error}") from error
