"""What an exported bundle calls: a trained run as an inferer of MONAI's, adaptation included.

Axes: batch, channel, then the axes of the image's file, x, y and, of a volume, z.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer

from maskmend.data.volume import Volume
from maskmend.predict import load
from maskmend.prediction import finish


class MendingInferer(Inferer):
    """Images to labels on their own grids, each image an instance of its own.

    Args:
        run: Run folder; a bundle has it in models/.
        device: Where to compute; by default a GPU if there is one.
        **adaptation: Fields of `AdaptationConfig` that differ from the run's, such as steps=0;
            None is the run's.

    Raises:
        RunError: The folder is no run, or damaged.
        ConfigError: A setting is wrong.
    """

    def __init__(self, run: str | Path, device: str | None = None, **adaptation: Any):
        super().__init__()
        self.model = load(run, device)
        self.settings = self.model.settings(**adaptation)

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Segment a batch.

        Args:
            inputs: Images as they were loaded, a `MetaTensor` that knows where voxels lie: neither
                resampled nor normalised.
            network: Not used: the run has the network, its adaptor and its discriminator.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            Labels, with what the images know of themselves.

        Raises:
            TypeError: The images do not know where their voxels lie.
            InputError: One of them has no contrast.
        """
        if not isinstance(inputs, MetaTensor):
            raise TypeError("images must be MetaTensors: load them by MONAI's LoadImaged")
        labels = torch.zeros_like(inputs, dtype=torch.uint8)
        for number in range(len(inputs)):
            # Evaluation forbids gradients, which adaptation needs.
            with torch.enable_grad():
                mask = self._segment(_volume(inputs, number))
            labels[number, 0] = torch.from_numpy(mask).view(labels.shape[2:])
        return labels

    def _segment(self, volume: Volume) -> np.ndarray:
        prepared = [self.model.prepare_volume(volume)]
        ((_, adapted),) = self.model.adapt_patients([prepared], self.settings)
        return finish(prepared, adapted)[0].labels


def _volume(images: MetaTensor, number: int) -> Volume:
    """An image of a batch, which has an affine of its own unless all share one."""
    affines = images.affine.cpu().numpy().astype(np.float64)
    affine = affines[number] if affines.ndim == 3 else affines
    voxels = images.as_tensor()[number, 0].cpu().numpy().astype(np.float32)
    names = images.meta.get("filename_or_obj", "image")
    return Volume(
        path=Path(str(names if isinstance(names, str) else names[number])),
        voxels=voxels if voxels.ndim == 3 else voxels[..., None],
        affine=affine,
        header=nib.Nifti1Image(voxels, affine).header,
    )
