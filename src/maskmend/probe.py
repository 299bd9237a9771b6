"""A segmentor that was brought and a prior put together, and one clear line where they do not fit.

Axes: slice or patch, channel or class, then height and width, or depth, height and width.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskmend.adaptor import Adaptor
from maskmend.checkpoint import quiet_generator
from maskmend.config import AdaptationConfig
from maskmend.errors import ConfigError, InputError, MaskmendError
from maskmend.outputs import Activation, Probabilities, tensors_in
from maskmend.priors import Prior, Slicewise


class Parts(NamedTuple):
    """What fits together."""

    masks_of: nn.Module
    """The segmentor: images to probabilities."""
    adaptor: nn.Module
    prior: Prior


def fit_together(
    segmentor: nn.Module,
    prior: Prior,
    images: Tensor,
    config: AdaptationConfig,
    adaptor: nn.Module | None,
    activation: Activation,
    window: Sequence[int] | None,
) -> Parts:
    """Parts that `adapt` can use, tried on one slice or patch.

    Args are those of `adapt`, as are the errors.
    """
    if images.dim() not in (4, 5) or not images.is_floating_point() or not len(images):
        raise InputError(
            f"images: got {images.dtype} of shape {tuple(images.shape)}, expected floating point of"
            " (slice, channel, height, width) or (patch, channel, depth, height, width)"
        )
    dimensions = images.dim() - 2
    if window and len(window) != dimensions:
        raise ConfigError(f"window: {tuple(window)} must have {dimensions} numbers, as the images")
    augmentation = config.augmentation
    moves = any(augmentation.rotation_deg) or augmentation.translation or augmentation.scale
    if dimensions == 3 and moves:
        raise ConfigError("augmentation: volumes are not moved; choose noise_std alone")
    network = borrow(segmentor, batch_norm=config.batch_norm)
    if window:
        from maskmend.windows import Windows  # seconds of imports

        network = Windows(network, window)
    if adaptor is None:
        with quiet_generator():
            adaptor = Adaptor(channels=images.shape[1], dimensions=dimensions).to(images.device)
    parts = Parts(
        masks_of=Probabilities(network, activation),
        adaptor=adaptor,
        prior=Slicewise(prior) if dimensions == 3 else prior,
    )
    _check(parts, images)
    return parts


def borrow(segmentor: nn.Module, *, batch_norm: str = "eval") -> nn.Module:
    """A copy in evaluation mode that takes no gradients for its weights.

    Args:
        segmentor: Stays as it is.
        batch_norm: "train" lets batch norms have the statistics of what they are shown.

    Raises:
        ConfigError: It cannot be copied.
    """
    # Some networks keep what they last returned, with its graph, which cannot be copied.
    kept = {
        id(tensor): tensor.detach()
        for module in segmentor.modules()
        for tensor in tensors_in(list(vars(module).values()))
        if tensor.grad_fn is not None
    }
    with _naming("segmentor: cannot be copied"):
        twin = copy.deepcopy(segmentor, kept).eval().requires_grad_(False)
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(batch_norm == "train")
    return twin


def _check(parts: Parts, images: Tensor) -> None:
    """Send one slice or patch all the way, and its gradient back to the adaptor."""
    for name, part in (("segmentor", parts.masks_of), ("adaptor", parts.adaptor)):
        check_device(name, part, images)
    one, start = images[:1], copy.deepcopy(parts.adaptor).requires_grad_(True)
    shape = tuple(one.shape)
    with torch.enable_grad():
        with _naming(f"adaptor: cannot take images of shape {shape}"):
            adapted = start(one)
        with _naming(f"segmentor: cannot take images of shape {shape}"):
            masks = parts.masks_of(adapted)
        if not masks.requires_grad:
            raise ConfigError(
                "segmentor: its output cannot be differentiated by the image; bring the network"
                " itself, to its logits, without torch.no_grad or argmax inside"
            )
        with _naming(f"prior: cannot judge masks of shape {tuple(masks.shape)}"):
            loss = parts.prior(masks, one)
        if loss.shape != (1,) or not loss.requires_grad:
            raise ConfigError(
                f"prior: its loss is of shape {tuple(loss.shape)}, expected one value a slice that"
                " can be differentiated by the masks"
            )
        with _naming("segmentor: its output cannot be differentiated by the image"):
            torch.autograd.grad(loss.sum(), list(start.parameters()), allow_unused=True)


def check_device(name: str, network: nn.Module, images: Tensor) -> None:
    """Raises ConfigError if a network and the images are on different devices."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.device != images.device:
            raise ConfigError(
                f"{name}: is on {tensor.device}, the images are on {images.device}; move one of"
                " them to the other's device"
            )


def check_masks(
    masks_of: Callable[[Tensor], Tensor], images: Tensor, classes: int, size: int
) -> None:
    """Raises ConfigError unless the masks of an image are such as a prior judges.

    Args:
        masks_of: Images to probabilities.
        images: One is tried.
        classes: That the prior knows, the background included.
        size: Height and width of its masks.
    """
    one = images[:1]
    with _naming(f"segmentor: cannot take images of shape {tuple(one.shape)}"):
        masks = masks_of(one)
    if masks.shape[1:] != (classes, size, size):
        raise ConfigError(
            f"segmentor: gives masks of (classes, height, width) {tuple(masks.shape[1:])}, but the"
            f" prior's are {(classes, size, size)}, the background included; bring masks of the"
            " same classes and size"
        )


@contextlib.contextmanager
def _naming(problem: str) -> Iterator[None]:
    """Turn what torch says into one line."""
    try:
        yield
    except (MaskmendError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(f"{problem}: {said}") from error
