"""From the slices that a model sees to those that a prior judges.

A model has its own pixel size, crop and order of axes; a prior has those of its configuration.
Masks are turned and sampled from one to the other, about the image's centre, differentiably.

Axes: slice, class, height, width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from maskmend.config import PreprocessConfig
from maskmend.data.orientation import upright
from maskmend.data.volume import Volume

Masks = Float[Tensor, "slice class height width"]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Where a model's slices lie in those that priors know; see `orientation.upright`."""

    size_mm: tuple[float, float]
    """Height and width of a slice, once turned."""
    transposed: bool = False
    """Whether height and width are to be swapped."""
    flipped: tuple[int, ...] = ()
    """Axes of the masks, once swapped, that are to be turned round."""
    centre_mm: tuple[float, float] = (0.0, 0.0)
    """Of the slice, seen from the centre of the image, once turned."""

    @classmethod
    def of(cls, volume: Volume, *, axes: tuple[int, int], box: tuple[slice, slice]) -> "Plane":
        """The plane of slices that are a box of the image.

        Args:
            volume: The image.
            axes: The file's axes along height and width.
            box: The voxels along them that the slices hold.
        """
        (slices,) = {0, 1, 2}.difference(axes)
        orientation, _ = upright(volume.affine, slices)
        transposed = bool(orientation[axes[0], 0] > orientation[axes[1], 0])
        along = [(axes[0], box[0]), (axes[1], box[1])]
        flipped, sizes, centres = [], [], []
        for axis, (file_axis, part) in enumerate(along[::-1] if transposed else along, start=2):
            flip, mm = orientation[file_axis, 1], volume.spacing_mm[file_axis]
            if flip < 0:
                flipped.append(axis)
            sizes.append((part.stop - part.start) * mm)
            off = (part.start + part.stop - volume.voxels.shape[file_axis]) / 2
            centres.append(float(flip * off * mm))
        return cls(
            transposed=transposed,
            flipped=tuple(flipped),
            size_mm=(sizes[0], sizes[1]),
            centre_mm=(centres[0], centres[1]),
        )

    def onto(
        self, masks: Masks, config: PreprocessConfig
    ) -> Float[Tensor, "slice class size size"]:
        """The same masks on a prior's grid, background where the model does not look."""
        if self.transposed:
            masks = masks.transpose(2, 3)
        masks = masks.flip(self.flipped)
        side = config.size * config.spacing_mm
        (height, width), (down, right) = self.size_mm, self.centre_mm
        theta = torch.tensor(
            [[side / width, 0, -2 * right / width], [0, side / height, -2 * down / height]],
            dtype=torch.float32,
            device=masks.device,
        )
        points = functional.affine_grid(
            theta.expand(len(masks), 2, 3),
            [len(masks), 1, config.size, config.size],
            align_corners=False,
        )
        structures = functional.grid_sample(masks[:, 1:], points, align_corners=False)
        return torch.cat([1 - structures.sum(1, keepdim=True), structures], 1)
