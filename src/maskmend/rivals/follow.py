"""Follow a denoising autoencoder at test time (Karani et al. 2021, section 3.3).

The adaptor alone is tuned on the slices of one volume, until the masks are what the denoiser makes
of them. What it makes of them is asked anew every 25 steps; the adaptor with the best agreement at
these looks is kept. Their code takes Dice slice by slice and counts the background; here it is that
of the volume, over structures.

Axes: slice, channel or class, height, width.
"""

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.instance import Adapted
from maskmend.priors import DenoiserPrior


def follow_denoiser(
    segmentor: nn.Module,
    adaptor: nn.Module,
    prior: DenoiserPrior,
    images: Float[Tensor, "slice channel height width"],
    *,
    steps: int = 50,
    every: int = 25,
    learning_rate: float = 1e-3,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Adapted:
    """Tune a copy of the adaptor until masks and denoised masks agree.

    Args:
        segmentor: Images to logits, frozen and in evaluation mode.
        adaptor: Images to images; it stays as it is.
        prior: The denoiser.
        images: All slices of one volume, on the networks' device.
        steps: Updates. Theirs: 100 and more; 50 is what the paper takes with the discriminator.
        every: Steps from one look at the denoiser's masks to the next.
        learning_rate: Adam's step size.
        autocast: The precision of the passes.
    """
    start = time.perf_counter()
    tuned = copy.deepcopy(adaptor).requires_grad_(True)
    optimizer = torch.optim.Adam(tuned.parameters(), learning_rate)

    def masks() -> Tensor:
        with autocast():
            return segmentor(tuned(images)).float().softmax(1)

    losses: list[float] = []
    looks: list[tuple[float, int, Tensor, nn.Module]] = []
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            with torch.no_grad(), autocast():
                seen = masks()
                agreement = prior.refresh(seen)
            looks.append((agreement, step, seen, copy.deepcopy(tuned).requires_grad_(False)))
        if step == steps:
            losses.append(1 - agreement)
            break
        loss = prior(masks(), images).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    plain_agreement, _, plain, _ = looks[0]
    agreement, kept_step, kept, kept_adaptor = max(looks, key=lambda look: look[0])
    return Adapted(
        plain=plain,
        masks=kept,
        losses=tuple(losses),
        plain_scores=plain.new_full((len(plain),), plain_agreement),
        scores=plain.new_full((len(plain),), agreement),
        steps=kept_step,
        seconds=time.perf_counter() - start,
        adaptor=kept_adaptor,
    )
