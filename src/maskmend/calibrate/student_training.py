"""How a segmentor's noisy students are taught; see `student`.

Axes: slice, channel or class, height, width.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from maskmend.augment import draw_augmentation
from maskmend.config import Config, DegradationConfig, Precision, PriorConfig
from maskmend.degrade import degrade
from maskmend.devices import autocast
from maskmend.losses import supervised_loss

BATCH = 8
_DEGRADED = DegradationConfig(probability=0.8, appearance=0.6)
_LEARNING_RATE = 5e-4
_SETTLING = 40
"""Batches that the statistics of batch norm are averaged over; no more than it learnt from."""


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Standardised slices of the training patients, and what to say of them."""

    images: Float[Tensor, "slice 1 height width"]
    labels: UInt8[Tensor, "slice height width"]
    annotated: int
    """So many, the first ones, have people's masks; the others the segmentor's."""


def train_student(
    segmentor: nn.Module,
    adaptor: nn.Module,
    lessons: Lessons,
    config: Config | PriorConfig,
    *,
    precision: Precision = "32-true",
    number: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Tune a copy of the segmentor on degraded images, half of a batch annotated.

    There are `adaptation.student_iterations` updates (Adam, a step size that falls to zero along a
    half cosine).

    Args:
        segmentor: Where the student starts, as a rule its teacher; stays as it is, and tells the
            device.
        adaptor: What stands in front of both, not tuned.
        lessons: What is learnt.
        config: Seed, augmentation, how slices are standardised.
        precision: Arithmetic of the networks.
        number: Which student; each draws other batches.
        advance: Called after each update.

    Returns:
        The student, frozen.
    """
    iterations = config.adaptation.student_iterations
    device = next(segmentor.parameters()).device
    student = copy.deepcopy(segmentor).train().requires_grad_(True)
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(student.parameters(), _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    rng = np.random.default_rng([config.seed, number])
    equal = torch.ones(config.data.classes, device=device)
    for _ in range(iterations):
        images, labels = _draw(lessons, config, rng)
        with autocast(precision, device):
            logits = student(adaptor(images.to(device)))
        loss = supervised_loss(logits, labels.to(device), equal, dice=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance()
    # Running statistics are those of the last few batches, and one strange image spoils them.
    settling = min(_SETTLING, iterations)
    batches = [_draw(lessons, config, rng)[0] for _ in range(settling)]  # in 32 bits
    with autocast(precision, device):
        update_bn((adaptor(images.to(device)) for images in batches), student)
    return student.eval().requires_grad_(False)


def _draw(
    lessons: Lessons, config: Config | PriorConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A batch of degraded images and their labels, moved together."""
    annotated = rng.integers(lessons.annotated, size=BATCH // 2)
    any_of_them = rng.integers(len(lessons.images), size=BATCH - BATCH // 2)
    chosen = torch.from_numpy(np.concatenate([annotated, any_of_them]))
    images, labels = lessons.images[chosen], lessons.labels[chosen]
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    drawn = draw_augmentation(images.shape, config.image_augmentation, generator)
    images = degrade(drawn.apply(images, padding="border"), _DEGRADED, config.preprocess, rng)
    labels = drawn.move(labels[:, None].float(), padding="zeros", mode="nearest")[:, 0]
    return images, labels.long()
