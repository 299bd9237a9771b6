"""Test-time training on an auxiliary task: how far has the image been turned?

Sun et al., "Test-time training with self-supervision for generalization under distribution shifts",
ICML 2020: a head on the network's shared first part tells rotations by 0, 90, 180 and 270 degrees;
at test time the shared part is tuned until it can tell those of the test image.

As theirs: ten steps of plain SGD at 1e-3, every image anew from the trained weights, and the main
head stays. Unlike theirs: the head is trained after the fact, on features of an encoder that has
never seen the task (joint training is what they find essential: expect less of it here); the shared
part is the UNet's encoder, skip connections included; all slices of a volume in all four rotations
are one batch, where they draw augmented copies of one image; batch norm keeps the training's
statistics.

Axes: batch or slice, channel or class, height, width.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from maskmend.checkpoint import load_run, quiet_generator, read_network, read_split, write_tensors
from maskmend.data.layouts import find_cohort
from maskmend.data.preprocess import grid_of, image_slices
from maskmend.data.uses import uses_of
from maskmend.data.volume import read_image
from maskmend.devices import autocast, device_of
from maskmend.errors import InputError
from maskmend.progress import progress_bar
from maskmend.segmentor import UNet

ROTATION = "rotation.safetensors"
"""In a run folder, once the head has been trained."""

_PARTS = 4
"""Rows and columns that features are averaged in: what lies where tells how an image is turned."""

Images = Float[Tensor, "slice channel height width"]


class RotationHead(nn.Module):
    """The encoder's deepest features to logits of the four rotations.

    Args:
        channels: Of the features.
        width: Of its two 3x3 convolutions.
    """

    def __init__(self, *, channels: int, width: int = 64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(_PARTS),
            nn.Flatten(),
            nn.Linear(width * _PARTS**2, 4),
        )

    def forward(
        self, features: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch rotation"]:
        """Logits of 0, 90, 180 and 270 degrees."""
        return self.layers(features)


def turned(images: Images, quarters: Int[Tensor, " slice"]) -> Images:
    """Each image turned by so many quarters."""
    return torch.stack(
        [
            image.rot90(int(quarter), (-2, -1))
            for image, quarter in zip(images, quarters, strict=True)
        ]
    )


def rotation_loss(
    segmentor: UNet, adaptor: nn.Module, head: RotationHead, images: Images, quarters: Tensor
) -> Float[Tensor, ""]:
    """Cross-entropy of the rotations that the head sees in turned images."""
    features = segmentor.encode(adaptor(turned(images, quarters)))[-1]
    return functional.cross_entropy(head(features).float(), quarters)


def train_rotation_head(
    run: Path,
    data: Path,
    *,
    iterations: int = 400,
    batch: int = 32,
    device: str | None = None,
    console: Console | None = None,
) -> RotationHead:
    """Train a head on a run's frozen encoder, with the images of its training patients.

    Args:
        run: Folder of a finished training; its networks stay as they are.
        data: The data that it was trained on.
        iterations: Updates (Adam, 1e-3).
        batch: Slices each.
        device: Where to compute; by default a GPU if there is one.
        console: Where progress is shown; standard error by default.

    Raises:
        InputError: The data have no image of the run's training patients, or one cannot be used.
        RunError: The folder is no run.
    """
    console = console or Console(stderr=True)
    config, networks = load_run(run)
    uses = uses_of(find_cohort(data, config.data.layout), read_split(run))
    stacks = []
    for case in sorted([*uses.annotated, *uses.images], key=lambda case: case.name):
        assert case.image is not None
        volume = read_image(case.image)
        grid = grid_of(volume, config.preprocess)
        stacks.append(image_slices(volume, grid, config.preprocess))
    if not stacks:
        raise InputError(f"{data}: holds no image of the training patients of {run}")
    images = torch.cat(stacks)
    where = device_of(device)
    segmentor = networks.segmentor.to(where).requires_grad_(False)
    adaptor = networks.adaptor.to(where).requires_grad_(False)
    channels = config.segmentor.width * 2 ** (config.segmentor.depth - 1)
    with quiet_generator(config.seed):
        head = RotationHead(channels=channels).to(where)
    optimizer = torch.optim.Adam(head.parameters(), 1e-3)
    rng = np.random.default_rng(config.seed)
    with progress_bar(console, "training a rotation head", iterations) as advance:
        for _ in range(iterations):
            chosen = images[torch.from_numpy(rng.integers(len(images), size=batch))].to(where)
            quarters = torch.from_numpy(rng.integers(4, size=batch)).to(where)
            with autocast(config.training.precision, where):
                loss = rotation_loss(segmentor, adaptor, head, chosen, quarters)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            advance(f"loss {loss.item():.3f}")
    write_tensors(run / ROTATION, head.state_dict(), network={"channels": channels})
    return head.eval().requires_grad_(False)


def read_rotation_head(run: Path) -> RotationHead:
    """The trained head of a run, frozen.

    Raises:
        RunError: There is none, or the file is damaged.
    """
    return read_network(
        run / ROTATION,
        RotationHead,
        name="head",
        trainer="maskmend.rivals.rotation.train_rotation_head",
    )


def learn_rotations(
    segmentor: UNet,
    adaptor: nn.Module,
    head: RotationHead,
    images: Images,
    *,
    steps: int = 10,
    learning_rate: float = 1e-3,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Float[Tensor, "slice class height width"]:
    """Probabilities after tuning a copy of the segmentor's encoder; the caller's stays as it is.

    Args:
        segmentor: Its encoder is shared with the head.
        adaptor: What stands in front of it, not tuned.
        head: Of the same run.
        images: All slices of a volume, square.
        steps: Updates.
        learning_rate: Of plain SGD.
        autocast: The precision of the passes.
    """
    tuned = copy.deepcopy(segmentor).eval().requires_grad_(False)
    tuned.encoder.requires_grad_(True)
    optimizer = torch.optim.SGD(tuned.encoder.parameters(), learning_rate)
    quarters = torch.arange(4, device=images.device).repeat_interleave(len(images))
    copies = images.repeat(4, 1, 1, 1)
    for _ in range(steps):
        with autocast():
            loss = rotation_loss(tuned, adaptor, head, copies, quarters)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad(), autocast():
        return tuned(adaptor(images)).float().softmax(1)
