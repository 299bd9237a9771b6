"""The fast path computes what the paper's loop does: the same losses and the same masks."""

import pytest
import torch

from benchmarks.paper_loop import paper_loop
from maskmend.adapt import adapt_all
from maskmend.build import build
from maskmend.checkpoint import quiet_generator
from maskmend.config import AdaptationConfig
from maskmend.evaluate.metrics import dice
from maskmend.frozen import frozen
from maskmend.priors import DiscriminatorPrior
from tests.tiny import tiny

STEPS = 10
TARGET = 0.3
# With larger steps the first update of a weight with next to no gradient, which Adam makes as large
# as any other, tells processors apart.
RATES = pytest.mark.parametrize("rate", [1e-4, 5e-3])


@pytest.fixture(params=[False, True], ids=["identity", "joint"])
def networks(request):
    """Networks in evaluation mode, statistics moved, under which every class is found."""
    with quiet_generator(0):
        made = build(tiny(adaptor={"joint": request.param}))
    segmentor, images = made.segmentor, torch.cat(patients())
    with torch.no_grad():
        for _ in range(20):
            segmentor(images)
        segmentor.eval()
        segmentor.head.weight.mul_(5)
        segmentor.head.bias.sub_(segmentor(images).mean((0, 2, 3)))
    made.discriminator.eval()
    return made


def patients():
    """Patients with different numbers of slices."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(slices, 1, 32, 32, generator=generator) for slices in (4, 1, 3)]


def literally(networks, rate, target=TARGET):
    """Masks and losses of each patient, one patient after another."""
    parts = (networks.segmentor, networks.adaptor, networks.discriminator)
    return [
        paper_loop(*parts, images, steps=STEPS, learning_rate=rate, target=target)
        for images in patients()
    ]


def fast(networks, rate, slices):
    settings = AdaptationConfig(steps=STEPS, learning_rate=rate, precision="32-true")
    prior = DiscriminatorPrior(frozen(networks.discriminator), TARGET)
    segmentor = frozen(networks.segmentor)
    done = dict(adapt_all(segmentor, networks.adaptor, prior, patients(), settings, slices=slices))
    return [(done[number].masks, done[number].losses) for number in range(len(done))]


def loss_difference(ours, theirs):
    """Largest relative difference of a loss."""
    return max(
        abs(a - b) / b
        for (_, one), (_, other) in zip(ours, theirs, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def lowest_dice(ours, theirs):
    """Lowest Dice of a class between the hard masks of a patient."""
    return min(
        dice((one.argmax(1) == k).numpy(), (other.argmax(1) == k).numpy())
        for (one, _), (other, _) in zip(ours, theirs, strict=True)
        for k in range(4)
    )


@RATES
@pytest.mark.parametrize("slices", [3, 64], ids=["in chunks", "together"])
def test_the_fast_path_is_the_papers_loop(networks, rate, slices):
    ours, theirs = fast(networks, rate, slices), literally(networks, rate)
    assert loss_difference(ours, theirs) < 1e-4
    assert lowest_dice(ours, theirs) > 0.999


@RATES
def test_another_step_size_or_target_would_be_told_apart(networks, rate):
    ours = fast(networks, rate, 64)
    longer = literally(networks, 1.5 * rate)
    assert loss_difference(ours, longer) > 1e-3
    assert lowest_dice(ours, longer) < 0.999
    assert loss_difference(ours, literally(networks, rate, target=TARGET + 0.001)) > 1e-3
