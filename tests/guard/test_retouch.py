"""A retouch starts as the identity, undoes what scanners do, and touches nothing else."""

import pytest
import torch

from maskmend.guard.retouch import STEPS, Aim, Retouch, retouch
from maskmend.guard.views import View
from maskmend.guard.ways import Way


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 1, 16, 16, generator=generator)


class Threshold(torch.nn.Module):
    """A segmentor that finds what is bright."""

    def forward(self, images):
        return torch.cat([-4 * (images - 0.5), 4 * (images - 0.5)], 1)


def way():
    return Way(name="plain", correction=lambda images: images, view=View(), segmentor=Threshold())


def aim(masks, score=lambda masks, images: torch.ones(len(masks)), realistic=0.0):
    """By default whatever is near the masks is realistic."""
    return Aim(masks=masks, score=score, realistic=realistic)


def test_it_starts_as_the_identity_and_every_weight_can_move():
    adaptor = Retouch()
    torch.testing.assert_close(adaptor(images()), images())
    adaptor(images()).square().mean().backward()
    assert sum(p.numel() for p in adaptor.parameters()) == 24
    assert all(p.grad.abs().min() > 0 for p in adaptor.parameters())


def test_shading_multiplies_and_spares_the_darkest_pixel():
    adaptor = Retouch()
    adaptor.shading.data.fill_(0.5)
    seen = images()
    torch.testing.assert_close(adaptor(seen), seen + 0.5 * (seen - seen.min()))


def test_softness_of_one_is_a_mean_filter():
    adaptor = Retouch()
    adaptor.softness.data[0] = 1
    expected = torch.nn.functional.avg_pool2d(images(), 3, 1)
    torch.testing.assert_close(adaptor(images())[..., 1:-1, 1:-1], expected)


@pytest.mark.parametrize("change", [lambda x: x + 0.4, lambda x: 1.3 * x])
def test_it_undoes_a_change_of_contrast(change):
    target = way().masks(images())
    changed = change(images())
    before = (way().masks(changed) - target).abs().mean()
    tuned = retouch(way(), changed, aim(target), steps=100)
    assert len(tuned.losses) == 101
    assert tuned.losses[-1] < 0.5 * tuned.losses[0]
    assert (tuned.way.masks(changed) - target).abs().mean() < 0.5 * before
    assert tuned.way.name == "plain, retouched"


def test_the_loss_is_distance_and_missing_realism():
    target = way().masks(images())
    masks = way().masks(images() + 0.5)
    near = aim(target).loss(masks, images())
    assert 0 < near < 1
    assert aim(target).loss(target, images()) == pytest.approx(0, abs=1e-6)
    scored = aim(target, score=lambda masks, images: torch.tensor([1.0, 0.0, 3.0]), realistic=2.0)
    missing = (1.0 + 4.0 + 0.0) / 3  # what scores more than true masks is left alone
    assert scored.loss(masks, images()) == pytest.approx((near + 0.3 * missing).item())


def test_it_is_tuned_until_the_masks_are_realistic():
    """A discriminator that wants more foreground than the masks that it starts at have."""

    def score(masks, images):
        return 10 * masks[:, 1].mean((1, 2))

    shown = images() - 0.5
    tuned = retouch(way(), shown, aim(way().masks(shown), score, realistic=5.0), steps=20)
    more = score(tuned.way.masks(shown), shown).mean() - score(way().masks(shown), shown).mean()
    assert more > 0.5
    content = retouch(way(), shown, aim(way().masks(shown), score, realistic=-1.0), steps=5)
    assert content.steps == 0


def test_the_step_of_the_lowest_loss_is_kept():
    """From next to the target, steps of this size lead away."""
    shown, target = images() + 1e-3, way().masks(images())
    tuned = retouch(way(), shown, aim(target), steps=10)
    assert tuned.losses[-1] > min(tuned.losses) == tuned.losses[tuned.steps]
    again = retouch(way(), shown, aim(target), steps=0, carried=tuned.adaptor)
    assert again.losses[0] == pytest.approx(tuned.losses[tuned.steps])


def test_no_steps_leave_the_way_as_it_is():
    target = way().masks(images() + 1)
    tuned = retouch(way(), images(), aim(target), steps=0)
    assert len(tuned.losses) == 1
    torch.testing.assert_close(tuned.way.masks(images()), way().masks(images()))


def test_it_starts_from_another_volumes_retouch_where_that_is_nearer_to_the_target():
    near = aim(way().masks(images()))
    carried = retouch(way(), images() + 0.4, near, steps=50)
    again = retouch(way(), images() + 0.4, near, steps=3, carried=carried.adaptor)
    assert again.losses[0] == pytest.approx(min(carried.losses))
    anew = retouch(way(), images() - 0.4, near)
    assert len(anew.losses) == STEPS + 1
    onward = retouch(way(), images() - 0.4, near, carried=carried.adaptor)
    assert onward.losses == anew.losses
    assert all(not p.requires_grad for p in carried.adaptor.parameters())
