"""Adversarial test-time training (section 3.3): tune the adaptor on one instance, nothing else.

    adaptor <- argmin  prior(segmentor(adaptor(images)))

Axes: slice, channel or class, height, width. The slices of one call are one instance.
"""

import copy
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.augment import draw_augmentation
from maskmend.config import AdaptationConfig, AugmentationConfig
from maskmend.priors import Prior

Images = Float[Tensor, "slice channel height width"]
Masks = Float[Tensor, "slice class height width"]


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What adaptation made of one instance."""

    plain: Masks
    """Probabilities before the first step."""
    masks: Masks
    """Probabilities of the adaptor that is kept."""
    losses: tuple[float, ...]
    """Loss on the images before each step, and after the last: one more than steps."""
    realism_before: float
    """Mean score of the plain masks."""
    realism_after: float
    """Mean score of the returned masks."""
    steps: int
    """Updates behind the returned masks."""
    message: str = ""
    """Why adaptation was given up, if it was."""


def adapt(
    segmentor: nn.Module,
    adaptor: nn.Module,
    prior: Prior,
    images: Images,
    config: AdaptationConfig,
) -> Adapted:
    """Tune a copy of the adaptor until the prior finds the segmentor's masks realistic.

    Args:
        segmentor: Images to logits. It stays as it is: weights, statistics, mode and gradients.
        adaptor: Images to images; it stays as it is, a copy is tuned.
        prior: The loss, and the score that is reported.
        images: All slices of the instance, on the networks' device.
        config: Steps, step size, precision and what is kept.

    Returns:
        Masks before and after. If a loss is not finite, those before, with a message.
    """
    segmentor = copy.deepcopy(segmentor).requires_grad_(False)
    segmentor.train(config.batch_norm == "train")
    adaptor = copy.deepcopy(adaptor).requires_grad_(True)
    optimizer = torch.optim.Adam(adaptor.parameters(), config.learning_rate)
    generator = torch.Generator().manual_seed(0)
    losses: list[float] = []
    for step in range(config.steps + 1):
        masks = _masks(segmentor, adaptor, images, config)
        loss = prior(masks).mean()
        losses.append(loss.item())
        if step == 0:
            plain = kept = masks.detach()
            kept_step = 0
        if not math.isfinite(losses[-1]):
            message = f"the loss was not finite after {step} steps: plain mask"
            return _report(prior, plain, plain, losses, 0, message)
        if config.keep == "last" or losses[-1] < min(losses[:-1], default=math.inf):
            kept, kept_step = masks.detach(), step
        if step == config.steps:
            break
        if config.augmentation != AugmentationConfig():
            drawn = draw_augmentation(images.shape, config.augmentation, generator)
            augmented = drawn.apply(images, padding="border")
            loss = prior(_masks(segmentor, adaptor, augmented, config)).mean()
        optimizer.zero_grad()
        loss.backward(inputs=list(adaptor.parameters()))  # never into the prior
        optimizer.step()
    return _report(prior, plain, kept, losses, kept_step)


def _masks(
    segmentor: nn.Module, adaptor: nn.Module, images: Images, config: AdaptationConfig
) -> Masks:
    mixed = config.precision == "bf16-mixed"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed):
        logits = segmentor(adaptor(images))
    return logits.float().softmax(1)


def _report(
    prior: Prior, plain: Masks, kept: Masks, losses: list[float], steps: int, message: str = ""
) -> Adapted:
    with torch.no_grad():
        before, after = (prior.realism(masks).mean().item() for masks in (plain, kept))
    return Adapted(
        plain=plain,
        masks=kept,
        losses=tuple(losses),
        realism_before=before,
        realism_after=after,
        steps=steps,
        message=message,
    )
