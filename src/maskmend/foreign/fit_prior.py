"""A prior for a segmentor that was trained without one, from masks and from its own predictions.

Axes: slice, channel or class, height, width.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from maskmend.config import PriorConfig
from maskmend.config_file import config_from
from maskmend.errors import ConfigError, InputError
from maskmend.foreign.fitted import FittedPrior
from maskmend.foreign.fitting import Fitter, FittingData, Segment
from maskmend.outputs import Activation, Probabilities
from maskmend.probe import borrow, check_device, check_masks


def fit_prior(
    masks: Integer[Tensor | np.ndarray, "slice height width"],
    segmentor: nn.Module | None = None,
    images: Float[Tensor, "other_slice channel height width"] | None = None,
    *,
    activation: Activation = "softmax",
    report: Callable[[float], None] = lambda loss: None,
    **sections: Any,
) -> FittedPrior:
    """Train a stable discriminator after the fact (section 3.1), as a prior for `adapt`.

    Real masks are told from their corruptions (fake anchors) and, where a segmentor is given, from
    its predictions on images as they are and degraded at random. The last fifth of masks and images
    (`data.held_out`) is held out: the mean score of its predictions, without a segmentor that of
    its masks, is what is realistic enough; so let a patient's slices be neighbours.

    Args:
        masks: Labels from 0, the background, of square slices. They need not be of the images.
        segmentor: Images to logits, as for `adapt`; it stays as it is.
        images: Prepared for the segmentor, on its device, as large as the masks; needed with it.
        activation: As for `adapt`.
        report: Called with the loss of each iteration.
        **sections: Of `PriorConfig`, such as `fitting={"iterations": 300}`, `seed=1` or
            `degradation={"probability": 0}`. The masks decide on the size, and on the structures
            unless `data` names them.

    Raises:
        ConfigError: A section is wrong, or the segmentor's masks are not of these classes.
        InputError: The masks are no square label maps, or too few.
        RunError: The loss is not finite.
    """
    if (segmentor is None) != (images is None):
        raise ConfigError("fit_prior: segmentor and images belong together; give both or neither")
    labels = torch.as_tensor(masks)
    if labels.dim() != 3 or labels.is_floating_point() or labels.shape[1] != labels.shape[2]:
        raise InputError(
            f"masks: got {labels.dtype} of shape {tuple(labels.shape)}, expected whole labels of"
            " (slice, size, size); pad them to squares"
        )
    config = _config(labels, sections)
    segment, device = None, labels.device
    if segmentor is not None and images is not None:
        device = images.device
        check_device("segmentor", segmentor, images)
        segment = frozen_segment(segmentor, activation)
        check_masks(segment, images, config.data.classes, config.preprocess.size)
    held_out = config.data.held_out
    fit, apart = _cut("masks", labels.to("cpu", torch.uint8), held_out)
    shown, hidden = (None, None) if images is None else _cut("images", images.cpu(), held_out)
    data = FittingData(masks=fit, held_out_masks=apart, images=shown, held_out_images=hidden)
    fitter = Fitter(config, data, segment, device)
    fitter.run(report, lambda row: None)
    return fitter.prior()


def frozen_segment(segmentor: nn.Module, activation: Activation) -> Segment:
    """A copy of a segmentor, to probabilities, without gradients."""
    return torch.no_grad()(Probabilities(borrow(segmentor), activation))


def _config(labels: Tensor, sections: Mapping[str, Any]) -> PriorConfig:
    """Structures and size are the masks' own unless the sections name the structures."""
    if not len(labels) or labels.min() < 0 or labels.max() < 1:
        raise InputError("masks: hold no structure; labels count up from 1")
    structures = {label: f"structure {label}" for label in range(1, int(labels.max()) + 1)}
    tree = {
        **sections,
        "data": {"structures": structures, **sections.get("data", {})},
        "preprocess": {**sections.get("preprocess", {}), "size": labels.shape[1]},
    }
    config = config_from(tree, source="fit_prior", kind=PriorConfig)
    if labels.max() >= config.data.classes:
        raise InputError(
            f"masks: hold label {int(labels.max())}, but data.structures names only"
            f" {len(config.data.structures)}"
        )
    return config


def _cut(name: str, slices: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """All but the last share, and the last share."""
    apart = max(1, round(share * len(slices)))
    if apart >= len(slices):
        raise InputError(f"{name}: {len(slices)} slices are too few to hold some out; give more")
    return slices[:-apart], slices[-apart:]
