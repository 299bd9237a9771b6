"""Adversarial test-time training (section 3.3): tune the adaptor on one instance, nothing else.

    adaptor <- argmin  prior(segmentor(adaptor(images)))

Instances are tuned side by side: each has an adaptor and an optimizer of its own, and shares the
passes through the frozen networks with the others. One that is finished leaves, one that waits
enters, so that memory does not grow with their number.

Axes: slice, channel or class, height, width. The slices of one instance are tuned on together.
"""

import copy
import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.augment import draw_augmentation
from maskmend.config import AdaptationConfig, AugmentationConfig
from maskmend.priors import Prior

Images = Float[Tensor, "slice channel height width"]
Masks = Float[Tensor, "slice class height width"]

_PLATEAU = 5
"""Steps in which an automatic run wants the lowest loss to fall by a hundredth."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What adaptation made of one instance."""

    plain: Masks
    """Probabilities before the first step."""
    masks: Masks
    """Probabilities of the adaptor that is kept."""
    losses: tuple[float, ...]
    """Loss on the images before each step, and after the last: one more than steps were taken."""
    plain_scores: Float[Tensor, " slice"]
    """The prior's score of each plain mask."""
    scores: Float[Tensor, " slice"]
    """Its score of each returned mask."""
    steps: int
    """Updates behind the returned masks."""
    seconds: float
    """Time of its share of the passes through the networks."""
    message: str = ""
    """Why adaptation was given up, if it was."""

    @property
    def realism_before(self) -> float:
        """Mean score of the plain masks."""
        return self.plain_scores.mean().item()

    @property
    def realism_after(self) -> float:
        """Mean score of the returned masks."""
        return self.scores.mean().item()


def adapt(
    segmentor: nn.Module,
    adaptor: nn.Module,
    prior: Prior,
    images: Images,
    config: AdaptationConfig,
    *,
    enough: float | None = None,
) -> Adapted:
    """Tune a copy of the adaptor until the prior finds the segmentor's masks realistic.

    Args:
        segmentor: Images to logits. It stays as it is: weights, statistics, mode and gradients.
        adaptor: Images to images; it stays as it is, a copy is tuned.
        prior: The loss, and the score that is reported.
        images: All slices of the instance, on the networks' device.
        config: Steps, step size, precision and what is kept.
        enough: Mean score from which masks are left alone, where the number of steps is automatic.

    Returns:
        Masks before and after. If a loss is not finite, those before, with a message.
    """
    ((_, adapted),) = adapt_all(segmentor, adaptor, prior, [images], config, enough=enough)
    return adapted


def adapt_all(
    segmentor: nn.Module,
    adaptor: nn.Module,
    prior: Prior,
    instances: Iterable[Images],
    config: AdaptationConfig,
    *,
    enough: float | None = None,
    slices: int = 64,
    exact: nn.Module | None = None,
) -> Iterator[tuple[int, Adapted]]:
    """As `adapt`, for many instances; their results do not depend on their company.

    Args:
        segmentor: As for `adapt`, as are the others.
        adaptor: Where every instance starts.
        prior: The loss.
        instances: Drawn when there is room for another.
        config: How to adapt.
        enough: As for `adapt`.
        slices: Most slices in one pass through the networks; halved when memory runs out. With
            `batch_norm="train"` an instance has a pass of its own, whatever its size.
        exact: The segmentor in 32 bits, which makes the masks that are returned; by default they
            are those that adaptation saw.

    Yields:
        Number of an instance, from 0, and its result, as they finish.
    """
    segmentor = copy.deepcopy(segmentor).requires_grad_(False)
    segmentor.train(config.batch_norm == "train")
    batch = _Batch(segmentor, prior, config, slices, exact)
    waiting = enumerate(instances)
    live: dict[int, _Instance] = {}
    exhausted = False
    while live or not exhausted:
        while not exhausted and batch.has_room(live.values()):
            number, images = next(waiting, (-1, None))
            if images is None:
                exhausted = True
            else:
                live[number] = _Instance(images, adaptor, config, enough)
        batch.advance(list(live.values()))
        for number in [number for number, instance in live.items() if instance.finished]:
            yield number, batch.result(live.pop(number))


class _Instance:
    """One adaptor on its way."""

    def __init__(
        self, images: Images, adaptor: nn.Module, config: AdaptationConfig, enough: float | None
    ):
        self.images, self.config, self.enough = images, config, enough
        self.start = adaptor
        self.adaptor = copy.deepcopy(adaptor).requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.adaptor.parameters(), config.learning_rate)
        self.generator = torch.Generator().manual_seed(0)
        self.losses: list[float] = []
        self.steps = 0
        self.kept_step = 0
        self.kept_weights: dict[str, Tensor] = {}
        self.finished = False
        self.seconds = 0.0
        self.message = ""
        self.plain = self.kept = images.new_empty(0)

    @property
    def stepping(self) -> bool:
        """Whether another step is to be taken; an automatic one only after a look."""
        looked = bool(self.losses) or self.config.steps != "auto"
        return looked and not self.finished and self.steps < self.config.most_steps

    def augmented(self) -> Images:
        """Another augmented copy of the images."""
        drawn = draw_augmentation(self.images.shape, self.config.augmentation, self.generator)
        return drawn.apply(self.images, padding="border")

    def step(self) -> None:
        """Update the adaptor along its gradients."""
        self.optimizer.step()
        self.steps += 1

    def look(self, masks: Masks, loss: float, realism: float) -> None:
        """Take note of the masks of the present weights, and decide whether to go on."""
        if not self.losses:
            self.plain = masks
        elif len(self.losses) > self.steps:
            return  # seen already, before the first step
        lowest = min(self.losses, default=math.inf)
        self.losses.append(loss)
        if not math.isfinite(loss):
            self.message = f"the loss was not finite after {self.steps} steps: plain mask"
            self.kept, self.kept_step, self.finished = self.plain, 0, True
            return
        if self.config.keep == "last" or loss < lowest:
            self.kept, self.kept_step = masks, self.steps
            if self.config.keep == "best":
                self.kept_weights = copy.deepcopy(self.adaptor.state_dict())
        self.finished = self.steps == self.config.most_steps
        if self.config.steps == "auto":
            self.finished |= self.enough is not None and realism >= self.enough
            earlier = min(self.losses[:-_PLATEAU], default=math.inf)
            self.finished |= min(self.losses) > 0.99 * earlier


class _Batch:
    """Passes of several instances through the frozen networks."""

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

    def has_room(self, live: Collection[_Instance]) -> bool:
        """Whether another instance may enter."""
        if self.config.batch_norm == "train":  # slices of another would move the statistics
            return not live
        return not live or sum(len(instance.images) for instance in live) < self.slices

    def advance(self, live: Sequence[_Instance]) -> None:
        """A look at the masks of every instance, and a step of those that have one to take."""
        augmented = self.config.augmentation != AugmentationConfig()
        looking = [one for one in live if augmented or not one.stepping]
        for one, seen in zip(
            looking, self._pass(looking, [i.images for i in looking]), strict=True
        ):
            one.look(*seen)
        stepping = [one for one in live if one.stepping]
        images = [one.augmented() for one in stepping] if augmented else None
        for one, seen in zip(stepping, self._pass(stepping, images, learn=True), strict=True):
            if not augmented:  # or seen were the masks of other images
                one.look(*seen)
            if one.stepping:
                one.step()

    def result(self, one: _Instance) -> Adapted:
        """What is left of an instance that is finished."""
        if self.exact is not None:
            one.plain = one.kept = self._exactly(self.exact, one.start, one.images)
            if one.kept_step:
                one.adaptor.load_state_dict(one.kept_weights or one.adaptor.state_dict())
                one.kept = self._exactly(self.exact, one.adaptor, one.images)
        with torch.no_grad(), self._autocast(one.images.device):
            plain_scores, scores = (self.prior.realism(masks) for masks in (one.plain, one.kept))
        return Adapted(
            plain=one.plain,
            masks=one.kept,
            losses=tuple(one.losses),
            plain_scores=plain_scores,
            scores=scores,
            steps=one.kept_step,
            seconds=one.seconds,
            message=one.message,
        )

    @torch.no_grad()
    def _exactly(self, segmentor: nn.Module, adaptor: nn.Module, images: Images) -> Masks:
        parts = images.split(self.slices)
        return torch.cat([segmentor(adaptor(part)).softmax(1) for part in parts])

    def _pass(
        self,
        instances: Sequence[_Instance],
        images: Sequence[Images] | None = None,
        *,
        learn: bool = False,
    ) -> list[tuple[Masks, float, float]]:
        """Masks, loss and score of each instance; gradients of its adaptor, too, to learn."""
        images = [one.images for one in instances] if images is None else images
        while True:
            try:
                return self._pass_in_chunks(instances, images, learn)
            except torch.OutOfMemoryError:
                if self.slices == 1 or self.config.batch_norm == "train":
                    raise
                self.slices = self.slices // 2

    def _pass_in_chunks(
        self, instances: Sequence[_Instance], images: Sequence[Images], learn: bool
    ) -> list[tuple[Masks, float, float]]:
        masks: list[list[Tensor]] = [[] for _ in instances]
        losses, scores = [0.0] * len(instances), [0.0] * len(instances)
        for one in instances:
            one.optimizer.zero_grad()
        for chunk in self._chunks(images):
            start = time.perf_counter()
            lengths = [len(part) for _, part in chunk]
            share = [1 / len(images[number]) for number, _ in chunk]
            with torch.set_grad_enabled(learn), self._autocast(images[0].device):
                adapted = torch.cat([instances[number].adaptor(part) for number, part in chunk])
                probabilities = self.segmentor(adapted).float().softmax(1)
                loss = _sums(self.prior(probabilities), lengths, share)
                if learn:
                    loss.sum().backward(
                        inputs=[p for n, _ in chunk for p in instances[n].adaptor.parameters()]
                    )
                probabilities = probabilities.detach()
                score = loss.new_zeros(len(chunk))
                if self.config.steps == "auto":
                    score = _sums(self.prior.realism(probabilities), lengths, share)
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

    def _autocast(self, device: torch.device) -> torch.autocast:
        mixed = resolve_precision(self.config.precision, device) == "bf16-mixed"
        return torch.autocast(device.type, torch.bfloat16, enabled=mixed)


def resolve_precision(precision: str, device: torch.device) -> str:
    """What "auto" means on a device: bfloat16 where it has units for its matrix products."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_units = torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if has_units else "32-true"


def _sums(
    values: Float[Tensor, " slice"], lengths: Sequence[int], share: Sequence[float]
) -> Float[Tensor, " instance"]:
    """Weighted sum of the values of each instance."""
    parts = values.split(list(lengths))
    return torch.stack([part.sum() * s for part, s in zip(parts, share, strict=True)])
