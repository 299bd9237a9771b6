"""A network for small images, run over large ones, with the memory of one window.

Axes: slice or volume, channel or class, then height and width, or depth, height and width.
"""

import warnings
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskmend.outputs import logits_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI's imports speak of others' deprecations
    from monai.inferers.utils import sliding_window_inference


class Windows(nn.Module):
    """Logits of overlapping windows, blended; each is computed again for its gradients.

    Args:
        network: Windows to logits.
        size: Of a window, one number an axis of space.
        overlap: Of neighbouring windows, as a share of their size.
    """

    def __init__(self, network: nn.Module, size: Sequence[int], overlap: float = 0.25):
        super().__init__()
        self.network, self.size, self.overlap = network, tuple(size), overlap

    def forward(
        self, images: Float[Tensor, "slice channel *space"]
    ) -> Float[Tensor, "slice class *space"]:
        """Logits of the whole images."""

        def logits(window: Tensor) -> Tensor:
            return logits_of(checkpoint(self.network, window, use_reentrant=False), window)

        whole = sliding_window_inference(
            images, self.size, 1, logits, overlap=self.overlap, mode="gaussian"
        )
        assert isinstance(whole, Tensor)  # as the predictor's
        return whole
