"""Train a denoising autoencoder on the masks of a run's training patients (Karani et al. 2021).

As theirs: soft Dice loss, Adam, one volume a batch, and a jigsaw corruption: 1 to 200 boxes of
half-side 1 to 10 (of 256 pixels), each overwritten by a box from elsewhere in the clean mask.

Unlike theirs: some hundred updates rather than 50 000, which is why the step size is 1e-2, falling
to zero along a half cosine, rather than 1e-3; Dice counts structures alone, and there is no elastic
deformation; volumes are resampled to 16 slices, along which half-sides are at most 4.

Axes: depth, height, width.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from maskmend.augment import draw_augmentation
from maskmend.checkpoint import load_run, quiet_generator, read_split, write_tensors
from maskmend.config import AugmentationConfig, Config
from maskmend.data.layouts import find_cohort
from maskmend.data.slices import read_mask_slices
from maskmend.data.uses import uses_of
from maskmend.denoiser import DENOISER, Denoiser
from maskmend.devices import autocast, device_of
from maskmend.errors import InputError
from maskmend.losses import soft_dice
from maskmend.progress import progress_bar

Labels = UInt8[Tensor, "depth height width"]

_AUGMENTATION = AugmentationConfig(rotation_deg=(-10, 10), translation=0.04, scale=0.1)
"""Of the clean masks, as Karani et al. augment."""


def train_denoiser(
    run: Path,
    data: Path,
    *,
    iterations: int = 300,
    learning_rate: float = 1e-2,
    width: int = 8,
    depth: int = 16,
    device: str | None = None,
    console: Console | None = None,
) -> Denoiser:
    """Train on the masks that the run's discriminator saw as real; kept in the run folder.

    Args:
        run: Folder of a finished training; it decides on the grid, seed and precision.
        data: The data that it was trained on.
        iterations: Updates.
        learning_rate: Adam's step size at the first.
        width: Channels of the first level; Karani et al. have 16.
        depth: Slices that a volume is resampled to.
        device: Where to compute; by default a GPU if there is one.
        console: Where progress is shown; standard error by default.

    Raises:
        InputError: The data have no mask of the run's training patients, or one cannot be used.
        RunError: The folder is no run.
    """
    console = console or Console(stderr=True)
    config, _ = load_run(run)
    volumes = _training_masks(run, data, config, depth)
    network = {"classes": config.data.classes, "width": width, "depth": depth}
    where = device_of(device)
    with quiet_generator(config.seed):
        denoiser = Denoiser(**network).to(where)
    optimizer = torch.optim.Adam(denoiser.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    with progress_bar(console, "training a denoiser", iterations) as advance:
        for iteration in range(iterations):
            rng = np.random.default_rng([config.seed, iteration])
            clean = _augmented(volumes[rng.integers(len(volumes))], rng)
            corrupted = draw_boxes(tuple(clean.shape), rng).applied(clean)
            shown, wanted = (
                functional.one_hot(labels.long().to(where), config.data.classes).movedim(-1, 0)
                for labels in (corrupted, clean)
            )
            with autocast(config.training.precision, where):
                logits = denoiser(shown[None].float())[0]
            mended = logits.float().softmax(0)
            loss = 1 - soft_dice(mended.movedim(0, 1), wanted.movedim(0, 1).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(f"Dice {1 - loss.item():.3f}")
    write_tensors(run / DENOISER, denoiser.state_dict(), network=network)
    return denoiser.eval().requires_grad_(False)


@dataclass(frozen=True)
class Boxes:
    """Boxes of a volume, and those that will overwrite them."""

    corners: Int[np.ndarray, "box 2 3"]
    """First voxel of each, and of the box that is copied there."""
    sides: Int[np.ndarray, "box 3"]

    def applied(self, labels: Labels) -> Labels:
        """The corrupted mask; every copy is made from the clean one."""
        corrupted = labels.clone()
        for (to, source), side in zip(self.corners, self.sides, strict=True):
            there, here = (
                tuple(slice(a, a + n) for a, n in zip(corner, side, strict=True))
                for corner in (to, source)
            )
            corrupted[there] = labels[here]
        return corrupted


def draw_boxes(shape: tuple[int, ...], rng: np.random.Generator) -> Boxes:
    """Draw a corruption.

    Args:
        shape: Depth, height and width of the mask.
        rng: The source of all randomness.
    """
    count = rng.integers(1, 201)
    largest = max(1, round(10 * min(shape[1:]) / 256))
    half = rng.integers(1, largest + 1, size=(count, 1)).clip(max=np.array(shape) // 4)
    sides = 2 * half
    corners = rng.integers(0, (np.array(shape) - sides + 1)[:, None], size=(count, 2, 3))
    return Boxes(corners, sides)


def _training_masks(run: Path, data: Path, config: Config, depth: int) -> list[Labels]:
    """Masks at the run's grid, every volume with as many slices."""
    cohort = find_cohort(data, config.data.layout)
    volumes = []
    for case in uses_of(cohort, read_split(run)).masks:
        assert case.mask is not None
        labels = read_mask_slices(case.mask, config.preprocess, config.data.classes)
        nearest = ((torch.arange(depth) + 0.5) * len(labels) / depth).long()
        volumes.append(labels[nearest])
    if not volumes:
        raise InputError(f"{data}: holds no mask of the training patients of {run}")
    return volumes


def _augmented(labels: Labels, rng: np.random.Generator) -> Labels:
    """All slices moved in the same way."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    stack = labels[None].float()
    drawn = draw_augmentation(stack.shape, _AUGMENTATION, generator)
    return drawn.move(stack, padding="zeros", mode="nearest")[0].to(torch.uint8)
