"""A retouch starts as the identity, undoes what scanners do, and touches nothing else."""

import pytest
import torch

from maskmend.retouch import Retouch, retouch
from maskmend.ways import Way


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 1, 16, 16, generator=generator)


class Threshold(torch.nn.Module):
    """A segmentor that finds what is bright."""

    def forward(self, images):
        return torch.cat([-4 * (images - 0.5), 4 * (images - 0.5)], 1)


def way():
    return Way(
        name="plain", correction=lambda images: images, segmentor=Threshold(), exact=Threshold()
    )


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
    tuned = retouch(way(), changed, target, steps=100)
    assert len(tuned.losses) == 101
    assert tuned.losses[-1] < 0.5 * tuned.losses[0]
    assert (tuned.way.masks(changed) - target).abs().mean() < 0.5 * before


def test_it_stops_by_itself_where_there_is_nothing_to_gain():
    target = way().masks(images())
    short = retouch(way(), images(), target).losses
    assert len(short) < 15
    longer = retouch(way(), images() + 0.6, target).losses
    assert len(short) < len(longer) <= 51


def test_the_step_of_the_lowest_loss_is_kept():
    """From next to the target, steps of this size lead away."""
    shown, target = images() + 1e-3, way().masks(images())
    tuned = retouch(way(), shown, target, steps=10)
    assert tuned.losses[-1] > min(tuned.losses) == tuned.losses[tuned.steps]
    again = retouch(way(), shown, target, steps=0, carried=tuned.adaptor)
    assert again.losses[0] == pytest.approx(tuned.losses[tuned.steps])


def test_no_steps_leave_the_way_as_it_is():
    target = way().masks(images() + 1)
    tuned = retouch(way(), images(), target, steps=0)
    assert len(tuned.losses) == 1
    torch.testing.assert_close(tuned.way.masks(images()), way().masks(images()))


def test_the_exact_masks_have_the_same_retouch():
    tuned = retouch(way(), images() + 0.4, way().masks(images()), steps=20).way
    shown = images() + 0.4
    torch.testing.assert_close(tuned.masks(shown, exact=True), tuned.masks(shown))
    assert (tuned.masks(shown) - way().masks(shown)).abs().max() > 0.05
    assert tuned.name == "plain, retouched"


def test_it_starts_from_another_volumes_retouch_where_that_is_nearer_to_the_target():
    target = way().masks(images())
    carried = retouch(way(), images() + 0.4, target, steps=50)
    again = retouch(way(), images() + 0.4, target, steps=3, carried=carried.adaptor)
    assert again.losses[0] == pytest.approx(min(carried.losses))
    anew = retouch(way(), images() - 0.4, target, steps=3)
    assert (
        retouch(way(), images() - 0.4, target, steps=3, carried=carried.adaptor).losses
        == anew.losses
    )
    assert all(not p.requires_grad for p in carried.adaptor.parameters())
