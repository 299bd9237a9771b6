"""Passes of several instances through the frozen networks, and the precision they have.

Axes: slice, channel or class, height, width; or patch, channel or class, depth, height, width.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.config import AdaptationConfig
from maskmend.devices import autocast
from maskmend.instance import Adapted, Images, Instance, Masks
from maskmend.priors import Prior

_Made = TypeVar("_Made")


class Passes:
    """Passes of several instances through the frozen networks, no larger than memory allows.

    Args:
        segmentor: Images to probabilities, in the mode that it is to have.
        prior: The loss.
        config: How to adapt.
        slices: Most slices in one pass; halved when memory runs out.
        exact: The segmentor in 32 bits, which makes the masks that are returned, if not None.
    """

    def __init__(
        self,
        segmentor: nn.Module,
        prior: Prior,
        config: AdaptationConfig,
        slices: int,
        exact: nn.Module | None,
    ):
        self.segmentor, self.prior, self.config, self.slices = segmentor, prior, config, slices
        self.exact = exact

    def has_room(self, live: Collection[Instance]) -> bool:
        """Whether another instance may enter."""
        if self.config.batch_norm == "train":  # slices of another would move the statistics
            return not live
        return not live or sum(len(instance.images) for instance in live) < self.slices

    def run(
        self,
        instances: Sequence[Instance],
        images: Sequence[Images] | None = None,
        *,
        learn: bool = False,
    ) -> list[tuple[Masks, float, float]]:
        """Send instances through the networks.

        Args:
            instances: Any number of them.
            images: What each is seen with; by default its own images.
            learn: Leave the gradients of its loss in each adaptor.

        Returns:
            Masks, loss and score of each; the score is 0 where no automatic run needs it.

        Raises:
            torch.OutOfMemoryError: A pass of a single slice does not fit, or one of all slices
                where batch norm has the instance's own statistics.
        """
        seen = [one.images for one in instances] if images is None else images
        return self._with_less(lambda: self._pass_in_chunks(instances, seen, learn))

    def result(self, one: Instance) -> Adapted:
        """What is left of an instance that is finished; raises torch.OutOfMemoryError as `run`."""
        return self._with_less(lambda: self._result(one))

    def _with_less(self, work: Callable[[], _Made]) -> _Made:
        """Work that is tried again with half the slices in a pass where memory runs out."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                if self.slices == 1 or self.config.batch_norm == "train":
                    raise
                self.slices = self.slices // 2

    def _result(self, one: Instance) -> Adapted:
        if self.exact is not None:
            one.plain = one.kept = self._exactly(self.exact, one.start, one.images)
            if one.kept_step:
                one.kept = self._exactly(self.exact, one.kept_adaptor, one.images)
        plain_scores, scores = (self._judged(masks, one.images) for masks in (one.plain, one.kept))
        return Adapted(
            plain=one.plain,
            masks=one.kept,
            losses=tuple(one.losses),
            plain_scores=plain_scores,
            scores=scores,
            steps=one.kept_step,
            seconds=one.seconds,
            message=one.message,
            adaptor=one.kept_adaptor.requires_grad_(False),
            plain_shown=self._shown(one.start, one.images),
            shown=self._shown(one.kept_adaptor, one.images) if one.kept_step else None,
        )

    @torch.no_grad()
    def _judged(self, masks: Masks, images: Images) -> Float[Tensor, " slice"]:
        parts = zip(masks.split(self.slices), images.split(self.slices), strict=True)
        with autocast(self.config.precision, images.device):
            return torch.cat([self.prior.realism(*part) for part in parts])

    @torch.no_grad()
    def _exactly(self, segmentor: nn.Module, adaptor: nn.Module, images: Images) -> Masks:
        parts = images.split(self.slices)
        return torch.cat([segmentor(adaptor(part)) for part in parts])

    @torch.no_grad()
    def _shown(self, adaptor: nn.Module, images: Images) -> Images:
        return torch.cat([adaptor(part) for part in images.split(self.slices)])

    def _pass_in_chunks(
        self, instances: Sequence[Instance], images: Sequence[Images], learn: bool
    ) -> list[tuple[Masks, float, float]]:
        masks: list[list[Tensor]] = [[] for _ in instances]
        losses, scores = [0.0] * len(instances), [0.0] * len(instances)
        for one in instances:
            one.optimizer.zero_grad()
        for chunk in self._chunks(images):
            start = time.perf_counter()
            lengths = [len(part) for _, part in chunk]
            share = [1 / len(images[number]) for number, _ in chunk]
            with torch.set_grad_enabled(learn), autocast(self.config.precision, images[0].device):
                shown = torch.cat([part for _, part in chunk])
                adapted = torch.cat([instances[number].adaptor(part) for number, part in chunk])
                probabilities = self.segmentor(adapted)
                loss = _sums(self.prior(probabilities, shown), lengths, share)
                if learn:
                    loss.sum().backward(
                        inputs=[p for n, _ in chunk for p in instances[n].adaptor.parameters()]
                    )
                probabilities = probabilities.detach()
                score = loss.new_zeros(len(chunk))
                if self.config.steps == "auto":
                    score = _sums(self.prior.realism(probabilities, shown), lengths, share)
            figures = torch.stack([loss, score]).tolist()  # the one wait for the device
            seconds = (time.perf_counter() - start) / sum(lengths)
            for (number, _), part, a, b in zip(
                chunk, probabilities.split(lengths), *figures, strict=True
            ):
                masks[number].append(part)
                losses[number] += a
                scores[number] += b
                instances[number].seconds += seconds * len(part)
        whole = [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in masks]
        return list(zip(whole, losses, scores, strict=True))

    def _chunks(self, images: Sequence[Images]) -> Iterator[list[tuple[int, Images]]]:
        """Number of an instance and slices of it, no more in a chunk than one pass takes."""
        whole = self.config.batch_norm == "train"
        chunk, room = list[tuple[int, Images]](), self.slices
        for number, stack in enumerate(images):
            while len(stack):
                part = stack if whole else stack[:room]
                chunk.append((number, part))
                stack, room = stack[len(part) :], room - len(part)
                if room <= 0:
                    yield chunk
                    chunk, room = [], self.slices
        if chunk:
            yield chunk


def _sums(
    values: Float[Tensor, " slice"], lengths: Sequence[int], share: Sequence[float]
) -> Float[Tensor, " instance"]:
    """Weighted sum of the values of each instance."""
    parts = values.split(list(lengths))
    return torch.stack([part.sum() * s for part, s in zip(parts, share, strict=True)])
