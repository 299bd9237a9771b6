"""A prior that was trained on one grid judges masks that were made on another; see `plane`.

Axes: slice, channel or class, height, width.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from maskmend.config import PreprocessConfig
from maskmend.errors import ConfigError
from maskmend.foreign.fitted import FittedPrior
from maskmend.models.brought import BroughtModel
from maskmend.plane import Plane
from maskmend.priors import Prior

Masks = Float[Tensor, "slice class height width"]
Images = Float[Tensor, "slice channel height width"]


class Onto:
    """A prior that judges a model's masks on its own grid, in its own order of structures.

    Args:
        prior: What judges.
        config: Its grid.
        plane: Where the model's slices lie.
        order: The model's classes in the prior's order, the background first.
    """

    def __init__(self, prior: Prior, config: PreprocessConfig, plane: Plane, order: Sequence[int]):
        self.prior, self.config, self.plane, self.order = prior, config, plane, list(order)
        self.enough = getattr(prior, "enough", None)  # which `adapt` looks for

    def __call__(self, masks: Masks, images: Images) -> Float[Tensor, " slice"]:
        """The prior's loss."""
        return self.prior(self._seen(masks), images)

    def realism(self, masks: Masks, images: Images) -> Float[Tensor, " slice"]:
        """The prior's score."""
        return self.prior.realism(self._seen(masks), images)

    def _seen(self, masks: Masks) -> Masks:
        return self.plane.onto(masks[:, self.order], self.config)


def order_of(model: BroughtModel, prior: FittedPrior) -> list[int]:
    """The model's classes in the prior's order: by name if they share all, else by label."""
    theirs, ours = prior.config.data.structures, model.structures
    if len(theirs) != len(ours):
        raise ConfigError(
            f"{model.path}: segments {', '.join(ours.values())}; the prior knows"
            f" {', '.join(theirs.values())}; fit a prior to masks of the same structures"
        )
    labels = {name.lower(): label for label, name in ours.items()}
    if labels.keys() == {name.lower() for name in theirs.values()}:
        return [0, *(labels[theirs[label].lower()] for label in sorted(theirs))]
    return [0, *sorted(ours)]
