"""What adaptation may change, and what it must leave as it is."""

import copy
import math

import pytest
import torch

from maskmend.adapt import adapt_all
from maskmend.adaptor import Adaptor
from maskmend.config import AdaptationConfig
from maskmend.discriminator import MaskDiscriminator
from maskmend.priors import DiscriminatorPrior, EntropyPrior
from maskmend.segmentor import UNet

AUGMENTATION = {"rotation_deg": (-10.0, 10.0), "noise_std": 0.1}


class Area:
    """A toy prior: the foreground ought to cover a given share of the slice."""

    def __init__(self, share=0.5):
        self.share = share

    def __call__(self, masks, images=None):
        return (self.realism(masks) - self.share).square()

    def realism(self, masks, images=None):
        return masks[:, 1:].sum(1).mean((1, 2))


class Failing(Area):
    """Not finite from the given call on."""

    def __init__(self, call, value=math.nan):
        super().__init__()
        self.call, self.value, self.calls = call, value, 0

    def __call__(self, masks, images=None):
        loss = super().__call__(masks)
        self.calls += 1
        return loss * self.value if self.calls >= self.call else loss


def networks():
    """A segmentor whose statistics have moved, an adaptor, and slices."""
    torch.manual_seed(0)
    segmentor = UNet(in_channels=1, classes=3, width=4, depth=3)
    images = torch.randn(4, 1, 32, 32)
    with torch.no_grad():
        for _ in range(3):
            segmentor(images + 0.3)
        segmentor.head.weight.mul_(5)
    return segmentor, Adaptor(widths=(4, 4)), images


def discriminator():
    torch.manual_seed(1)
    return MaskDiscriminator(channels=2, size=32, widths=(4, 4), strides=(2, 2))


def settings(**changes):
    few = {"steps": 5, "learning_rate": 1e-2, "precision": "32-true"}
    return AdaptationConfig(**few | changes)


def adapt_one(*parts, **more):
    """Segmentor, adaptor, prior, images and settings, to what is made of the images alone."""
    *networks, images, config = parts
    ((_, done),) = adapt_all(*networks, [images], config, **more)
    return done


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(module, before):
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(after[name], before[name])] == []


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
@pytest.mark.parametrize("training", [True, False])
def test_the_callers_networks_stay_bit_for_bit(batch_norm, training):
    segmentor, adaptor, images = networks()
    judge = discriminator().eval()
    modules = [segmentor.train(training), adaptor.train(training), judge]
    frozen = segmentor.head.bias.requires_grad_(False)
    adaptor.layers[0].bias.requires_grad_(False)
    before = [snapshot(module) for module in modules]
    modes = [[m.training for m in module.modules()] for module in modules]
    flags = [[p.requires_grad for p in module.parameters()] for module in modules]
    given = images.clone()
    done = adapt_one(
        segmentor, adaptor, DiscriminatorPrior(judge), images, settings(batch_norm=batch_norm)
    )
    assert not torch.equal(done.masks, done.plain)  # it did adapt
    for module, old in zip(modules, before, strict=True):
        assert_same(module, old)
        assert all(p.grad is None for p in module.parameters())
    assert [[m.training for m in module.modules()] for module in modules] == modes
    assert [[p.requires_grad for p in module.parameters()] for module in modules] == flags
    assert not frozen.requires_grad
    assert torch.equal(images, given)
    assert images.grad is None


def test_gradients_that_the_caller_has_stay():
    segmentor, adaptor, images = networks()
    adaptor(images).sum().backward()
    before = [p.grad.clone() for p in adaptor.parameters()]
    adapt_one(segmentor, adaptor, Area(), images, settings())
    after = [p.grad for p in adaptor.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("keep", ["last", "best"])
def test_no_steps_are_plain_inference_exactly(keep):
    segmentor, adaptor, images = networks()
    done = adapt_one(segmentor, adaptor, Area(), images, settings(steps=0, keep=keep))
    with torch.no_grad():
        plain = segmentor.eval()(adaptor(images)).softmax(1)
    assert torch.equal(done.masks, plain)
    assert torch.equal(done.plain, plain)
    assert (done.steps, len(done.losses), done.message) == (0, 1, "")
    assert done.realism_before == done.realism_after


def test_plain_masks_are_those_before_the_first_step():
    segmentor, adaptor, images = networks()
    none = adapt_one(segmentor, adaptor, Area(), images, settings(steps=0))
    done = adapt_one(segmentor, adaptor, Area(), images, settings())
    assert torch.equal(done.plain, none.masks)
    assert done.losses[0] == none.losses[0]


def test_masks_are_probabilities_without_a_graph():
    done = adapt_one(*networks()[:2], EntropyPrior(), networks()[2], settings())
    for masks in (done.plain, done.masks):
        torch.testing.assert_close(masks.sum(1), torch.ones(4, 32, 32))
        assert masks.min() >= 0
        assert not masks.requires_grad


@pytest.mark.parametrize("prior", [Area(0.1), Area(0.9), EntropyPrior()])
def test_the_loss_falls(prior):
    segmentor, adaptor, images = networks()
    done = adapt_one(segmentor, adaptor, prior, images, settings(steps=25))
    assert len(done.losses) == 26
    assert done.steps == 25
    assert done.losses[-1] < done.losses[0] - 1e-4


def test_the_last_masks_are_those_of_the_last_weights():
    segmentor, adaptor, images = networks()
    done = adapt_one(segmentor, adaptor, Area(0.1), images, settings())
    assert Area(0.1)(done.masks).mean().item() == done.losses[-1]
    assert done.realism_after == Area().realism(done.masks).mean().item()
    assert done.realism_before == Area().realism(done.plain).mean().item()


def test_the_first_step_is_adams():
    """Adam's first step moves a weight by its step size against the gradient's sign."""
    segmentor, adaptor, images = networks()
    rate = 1e-2
    done = adapt_one(segmentor, adaptor, Area(0.1), images, settings(steps=1, learning_rate=rate))
    twin, frozen = copy.deepcopy(adaptor), copy.deepcopy(segmentor).eval()
    Area(0.1)(frozen(twin(images)).softmax(1)).mean().backward()
    with torch.no_grad():
        for p in twin.parameters():
            p -= rate * p.grad / (p.grad.abs() + 1e-8)
        expected = frozen(twin(images)).softmax(1)
    torch.testing.assert_close(done.masks, expected, atol=1e-4, rtol=1e-3)


class Once(Failing):
    """Negative at the given call alone."""

    def __call__(self, masks, images=None):
        self.calls += 1
        loss = Area.__call__(self, masks)
        return loss - 10 if self.calls == self.call else loss


def test_best_returns_the_lowest_loss():
    segmentor, adaptor, images = networks()
    # The third loss, after two steps, is the only one that is negative.
    best, last = (
        adapt_one(segmentor, adaptor, Once(3), images, settings(keep=keep))
        for keep in ("best", "last")
    )
    two = adapt_one(segmentor, adaptor, Area(), images, settings(steps=2))
    assert best.losses == last.losses
    assert best.losses[2] == min(best.losses) < 0
    assert (best.steps, last.steps) == (2, 5)
    assert torch.equal(best.masks, two.masks)
    assert not torch.equal(last.masks, two.masks)


@pytest.mark.parametrize("call", [1, 2, 4, 6])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_loss_that_is_not_finite_gives_the_plain_masks(call, value, keep):
    segmentor, adaptor, images = networks()
    done = adapt_one(segmentor, adaptor, Failing(call, value), images, settings(keep=keep))
    assert torch.equal(done.masks, done.plain)
    assert done.steps == 0
    assert done.message == f"the loss was not finite after {call - 1} steps: plain mask"
    assert len(done.losses) == call
    assert not math.isfinite(done.losses[-1])
    assert done.realism_after == done.realism_before


def test_weights_that_explode_give_finite_masks():
    segmentor, adaptor, images = networks()
    done = adapt_one(segmentor, adaptor, Area(), images, settings(learning_rate=1e30))
    assert done.masks.isfinite().all()


@pytest.mark.parametrize("augmentation", [{}, AUGMENTATION])
@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_deterministic_whatever_the_global_generator(augmentation, batch_norm):
    segmentor, adaptor, images = networks()
    config = settings(augmentation=augmentation, batch_norm=batch_norm)
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        runs.append(adapt_one(segmentor, adaptor, Area(), images, config))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(runs[0].masks, runs[1].masks)
    assert runs[0].losses == runs[1].losses


def test_augmented_steps_differ_but_the_loss_is_that_of_the_clean_images():
    segmentor, adaptor, images = networks()
    clean = adapt_one(segmentor, adaptor, Area(0.1), images, settings())
    done = adapt_one(segmentor, adaptor, Area(0.1), images, settings(augmentation=AUGMENTATION))
    assert done.losses[0] == clean.losses[0]
    assert done.losses[1:] != clean.losses[1:]
    assert Area(0.1)(done.masks).mean().item() == done.losses[-1]


def test_the_instance_is_tuned_as_one():
    segmentor, adaptor, images = networks()
    together = adapt_one(segmentor, adaptor, Area(0.1), images, settings())
    alone = adapt_one(segmentor, adaptor, Area(0.1), images[:1], settings())
    assert torch.allclose(together.plain[:1], alone.plain, atol=1e-5)
    assert not torch.allclose(together.masks[:1], alone.masks, atol=1e-4)


def test_batch_norm_with_the_instances_own_statistics():
    segmentor, adaptor, images = networks()
    done = adapt_one(segmentor, adaptor, Area(), images, settings(steps=0, batch_norm="train"))
    with torch.no_grad():
        expected = copy.deepcopy(segmentor).train()(images).softmax(1)
        other = copy.deepcopy(segmentor).eval()(images).softmax(1)
    torch.testing.assert_close(done.masks, expected)
    assert not torch.allclose(done.masks, other, atol=1e-3)


def test_mixed_precision_follows_the_full_one():
    segmentor, adaptor, images = networks()
    full = adapt_one(segmentor, adaptor, Area(0.1), images, settings())
    mixed = adapt_one(segmentor, adaptor, Area(0.1), images, settings(precision="bf16-mixed"))
    assert mixed.masks.dtype == torch.float32
    assert (mixed.plain - full.plain).abs().mean() < 0.02
    assert mixed.losses != full.losses
    assert mixed.losses == pytest.approx(full.losses, abs=0.03)


def instances():
    """Three instances of different sizes."""
    torch.manual_seed(2)
    return [torch.randn(n, 1, 32, 32) + shift for n, shift in ((4, 0.0), (1, 0.5), (3, -0.5))]


def assert_alike(done, expected):
    assert done.losses == pytest.approx(expected.losses, rel=1e-4)
    torch.testing.assert_close(done.masks, expected.masks, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(done.plain, expected.plain, atol=1e-5, rtol=1e-3)
    assert (done.steps, done.message) == (expected.steps, expected.message)


@pytest.mark.parametrize("slices", [1, 2, 3, 5, 64])
@pytest.mark.parametrize(
    "changes", [{}, {"keep": "best"}, {"augmentation": AUGMENTATION}, {"batch_norm": "train"}]
)
def test_many_at_once_are_each_as_alone(slices, changes):
    """Whatever the batch, also one smaller than an instance, and in whatever order."""
    segmentor, adaptor, _ = networks()
    config, stacks = settings(**changes), instances()
    alone = [adapt_one(segmentor, adaptor, Area(0.1), images, config) for images in stacks]
    for order in ((0, 1, 2), (2, 0, 1)):
        given = [stacks[number] for number in order]
        done = dict(adapt_all(segmentor, adaptor, Area(0.1), given, config, slices=slices))
        assert sorted(done) == [0, 1, 2]
        for place, number in enumerate(order):
            assert_alike(done[place], alone[number])


def test_one_that_fails_does_not_touch_its_company():
    segmentor, adaptor, _ = networks()
    bad, good = torch.full((1, 1, 32, 32), math.nan), instances()[0]
    done = dict(adapt_all(segmentor, adaptor, Area(0.1), [bad, good], settings()))
    assert done[0].message == "the loss was not finite after 0 steps: plain mask"
    assert_alike(done[1], adapt_one(segmentor, adaptor, Area(0.1), good, settings()))


def test_memory_that_runs_out_halves_the_batch_and_goes_on():
    class Small(Area):
        largest = 0

        def __call__(self, masks, images=None):
            if len(masks) > 2:
                raise torch.OutOfMemoryError
            self.largest = max(self.largest, len(masks))
            return super().__call__(masks)

        def realism(self, masks, images=None):
            if len(masks) > 2:
                raise torch.OutOfMemoryError
            return super().realism(masks)

    segmentor, adaptor, _ = networks()
    small, stacks = Small(0.1), instances()
    done = dict(adapt_all(segmentor, adaptor, small, stacks, settings(), slices=8))
    assert small.largest == 2
    for number, images in enumerate(stacks):
        assert_alike(done[number], adapt_one(segmentor, adaptor, Area(0.1), images, settings()))


def test_memory_that_does_not_even_hold_a_slice_is_the_callers_concern():
    class Full(Area):
        def __call__(self, masks, images=None):
            raise torch.OutOfMemoryError

    segmentor, adaptor, images = networks()
    with pytest.raises(torch.OutOfMemoryError):
        adapt_one(segmentor, adaptor, Full(), images, settings())


def test_instances_are_drawn_when_there_is_room():
    """So that a cohort of any size needs the memory of one batch."""
    segmentor, adaptor, _ = networks()
    drawn, left = 0, 0

    def cohort():
        nonlocal drawn
        for _ in range(12):
            drawn += 1
            yield torch.randn(2, 1, 32, 32)

    for _ in adapt_all(segmentor, adaptor, Area(), cohort(), settings(), slices=4):
        left += 1
        assert drawn - left < 3
    assert left == 12


def test_masks_that_are_realistic_cost_one_pass():
    class Counting(Area):
        calls = 0

        def __call__(self, masks, images=None):
            self.calls += 1
            return super().__call__(masks)

    segmentor, adaptor, images = networks()
    prior, config = Counting(0.1), settings(steps="auto")
    plain = prior.realism(adapt_one(segmentor, adaptor, Area(), images, settings(steps=0)).plain)
    done = adapt_one(segmentor, adaptor, prior, images, config, enough=plain.mean().item() - 1e-3)
    assert prior.calls == 1
    assert (done.steps, len(done.losses)) == (0, 1)
    assert torch.equal(done.masks, done.plain)


def test_automatic_steps_end_once_the_masks_are_realistic():
    """Realism is the foreground's share here, which the loss pulls up."""
    segmentor, adaptor, images = networks()
    prior, rising = Area(1.0), settings(steps="auto", learning_rate=1e-2)
    fixed = adapt_one(segmentor, adaptor, prior, images, settings(steps=50, learning_rate=1e-2))
    enough = (fixed.realism_before + fixed.realism_after) / 2
    done = adapt_one(segmentor, adaptor, prior, images, rising, enough=enough)
    assert 0 < done.steps < 50
    assert done.realism_after >= enough
    assert done.losses == pytest.approx(fixed.losses[: done.steps + 1])
    # One step fewer was not enough.
    before = adapt_one(
        segmentor, adaptor, prior, images, settings(steps=done.steps - 1, learning_rate=1e-2)
    )
    assert before.realism_after < enough


def test_automatic_steps_end_where_the_loss_no_longer_falls():
    class Flat(Area):
        def __call__(self, masks, images=None):
            return 0 * super().__call__(masks) + 1

    segmentor, adaptor, images = networks()
    done = adapt_one(segmentor, adaptor, Flat(), images, settings(steps="auto"))
    assert done.steps == 5
    falling = adapt_one(
        segmentor, adaptor, Area(1.0), images, settings(steps="auto", learning_rate=1e-2)
    )
    assert falling.steps > 5


@pytest.mark.parametrize("keep", ["last", "best"])
def test_masks_can_be_made_by_the_exact_segmentor(keep):
    """Adaptation sees one segmentor; another makes the masks, from the adaptor that is kept."""
    segmentor, adaptor, _ = networks()
    config, stacks = settings(keep=keep), instances()
    twin = copy.deepcopy(segmentor).eval()
    alone = [adapt_one(segmentor, adaptor, Area(0.1), images, config) for images in stacks]
    done = dict(
        adapt_all(segmentor, adaptor, Area(0.1), stacks, config, exact=lambda x: twin(x) + 0.0)
    )
    for number, expected in enumerate(alone):
        assert_alike(done[number], expected)

    shifted = dict(
        adapt_all(segmentor, adaptor, Area(0.1), stacks, config, exact=lambda x: 2 * twin(x))
    )
    for number, expected in enumerate(alone):
        assert shifted[number].losses == pytest.approx(expected.losses, rel=1e-4)
        sharper = expected.masks.square() / expected.masks.square().sum(1, keepdim=True)
        torch.testing.assert_close(shifted[number].masks, sharper, atol=1e-3, rtol=1e-2)


def test_exact_masks_of_an_instance_that_was_given_up_are_plain():
    segmentor, adaptor, images = networks()
    twin = copy.deepcopy(segmentor).eval()
    ((_, done),) = adapt_all(segmentor, adaptor, Failing(3), [images], settings(), exact=twin)
    assert torch.equal(done.masks, done.plain)
    assert done.steps == 0
