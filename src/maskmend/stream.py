"""Learning from a stream: adaptation starts where that of the instance before ended.

What a scanner did to one image it does to the next. When the stream changes scanner, what was
carried is wrong: then the start is fresh again, because that has the lower loss.

Axes: slice, channel or class, height, width.
"""

import dataclasses
from collections.abc import Callable

from torch import nn

from maskmend.instance import Adapted, Images

Adapt = Callable[[Images, nn.Module, int | None], Adapted]
"""Images, start, and number of steps if that is not the configuration's, to what was made."""


def adapt_onward(adapt: Adapt, images: Images, fresh: nn.Module, carried: nn.Module) -> Adapted:
    """Adapt from one of two starts, whichever has the lower loss on these images.

    Args:
        adapt: How.
        images: All slices of the instance.
        fresh: The trained start; the plain masks are its own.
        carried: What was tuned on the instance before.
    """
    plain, onward = adapt(images, fresh, 0), adapt(images, carried, 0)
    if not onward.losses[0] < plain.losses[0]:
        return adapt(images, fresh, None)
    made = adapt(images, carried, None)
    seconds = plain.seconds + onward.seconds + made.seconds
    if made.message:  # it went astray, where there was nothing to fall back on but what was carried
        return dataclasses.replace(plain, message=made.message, seconds=seconds)
    return dataclasses.replace(
        made,
        plain=plain.plain,
        plain_scores=plain.plain_scores,
        seconds=seconds,
        plain_shown=plain.plain_shown,
        shown=made.plain_shown if made.shown is None else made.shown,
    )
