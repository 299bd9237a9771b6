"""The losses of training (section 3.2, equations 1 and 2)."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskmend.components import one_hot


def class_weights(
    pixels: Int[Tensor, " class"], scheme: Literal["complement", "inverse"] = "complement"
) -> Float[Tensor, " class"]:
    """Weights of the classes in equation 1.

    Args:
        pixels: Number of pixels with each label in the annotated training images.
        scheme: "complement" is the paper's 1 - n_i / n_tot; "inverse" the authors' code's
            n_tot / n_i, where a class that never occurs counts as one pixel.
    """
    share = pixels.float() / pixels.sum()
    return 1 - share if scheme == "complement" else 1 / share.clamp(min=1 / pixels.sum())


def supervised_loss(
    logits: Float[Tensor, "batch class height width"],
    labels: Int[Tensor, "batch height width"],
    weights: Float[Tensor, " class"],
    *,
    dice: float = 0.0,
) -> Float[Tensor, ""]:
    """Weighted cross-entropy (equation 1), averaged over pixels, and soft Dice beside it.

    Args:
        logits: Of the segmentor.
        labels: What people said.
        weights: Of the classes in the cross-entropy.
        dice: Weight of 1 - soft Dice over the whole batch; the paper has none.
    """
    logits = logits.float()
    entropy = nn.functional.cross_entropy(logits, labels, weights, reduction="none").mean()
    if not dice:
        return entropy
    truth = one_hot(labels, logits.shape[1]).to(logits)
    return entropy + dice * (1 - soft_dice(logits.softmax(1), truth))


def discriminator_loss(
    real: Float[Tensor, " real"],
    fake: Float[Tensor, " fake"],
    *,
    real_label: float = 1.0,
    fake_label: float = -1.0,
) -> Float[Tensor, ""]:
    """Least-squares loss of the discriminator (equation 2, first line).

    Args:
        real: Scores of real masks.
        fake: Scores of predicted masks and fake anchors, which weigh the same (section 3.1).
        real_label: What real masks ought to score.
        fake_label: What the others ought to score.
    """
    return (real - real_label).square().mean() / 2 + (fake - fake_label).square().mean() / 2


def adversarial_loss(
    scores: Float[Tensor, " batch"], target: float = 0.0, *, one_sided: bool = False
) -> Float[Tensor, " batch"]:
    """Least-squares loss of the segmentor (equation 2, second line), one for each mask.

    Args:
        scores: Of predicted masks.
        target: What they ought to score.
        one_sided: Let those that score more be. The paper's loss pulls them back.
    """
    short = scores - target
    return (short.clamp(max=0) if one_sided else short).square() / 2


def gradient_penalty(
    discriminator: nn.Module,
    real: Float[Tensor, "batch structure height width"],
    corrupted: Float[Tensor, "batch structure height width"],
    mix: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, ""]:
    """(|gradient| - 1)^2 on the lines between real and corrupted masks (authors' code only).

    Args:
        discriminator: Masks to scores.
        real: Real masks.
        corrupted: Fake anchors.
        mix: Where on its line each pair is judged, from 0 (corrupted) to 1 (real).
    """
    between = (mix * real + (1 - mix) * corrupted).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def soft_dice(
    masks: Float[Tensor, "slice class height width"],
    target: Float[Tensor, "slice class height width"],
) -> Float[Tensor, ""]:
    """Soft Dice of a volume, the mean over structures; 0 for one that is in neither.

    Args:
        masks: Probabilities, the background first.
        target: Probabilities, or one-hot masks.
    """
    both = (masks * target).sum((0, 2, 3))
    size = (masks + target).sum((0, 2, 3))
    return (2 * both / size.clamp(min=1e-6))[1:].mean()
