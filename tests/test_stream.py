"""A stream: what was tuned is carried on, and let go where a fresh start has the lower loss."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from maskmend.adapt import adapt
from maskmend.config import AdaptationConfig
from maskmend.data.phantom import write_cohort
from maskmend.errors import ConfigError
from maskmend.files import predict_files
from maskmend.predict import load
from maskmend.stream import adapt_onward
from tests.tiny import tiny, write_run

CONFIG = AdaptationConfig(steps=4, learning_rate=0.1, precision="32-true")


class Shift(nn.Module):
    """Adds one number to an image."""

    def __init__(self, by=0.0):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, images):
        return images + self.by


class Level:
    """Wants the foreground's probability to be a half."""

    def __call__(self, masks, images=None):
        return (masks[:, 1].mean((1, 2)) - 0.5).square()

    def realism(self, masks, images=None):
        return -self(masks)


class Brightness(nn.Module):
    def forward(self, images):
        return torch.cat([-images, images], 1)


def run(images, start, steps):
    config = CONFIG if steps is None else dataclasses.replace(CONFIG, steps=steps)
    return adapt(Brightness(), Level(), images, config, adaptor=start)


def dark(level):
    return torch.full((2, 1, 8, 8), level)


def test_what_goes_astray_leaves_the_plain_mask():
    carried = Shift(0.9)

    def stray(images, start, steps):
        made = run(images, start, steps)
        astray = steps is None and start is carried
        return dataclasses.replace(made, message="not finite") if astray else made

    made = adapt_onward(stray, dark(-1.0), Shift(), carried)
    plain = run(dark(-1.0), Shift(), 0)
    assert made.message == "not finite"
    assert torch.equal(made.masks, plain.masks)
    assert made.adaptor.by == 0
    assert adapt_onward(run, dark(-1.0), Shift(), carried).adaptor.by > 0.5  # else it goes on


def test_the_next_image_of_a_scanner_goes_on_where_the_last_one_ended():
    fresh = Shift()
    first = run(dark(-1.0), fresh, None)
    second = adapt_onward(run, dark(-1.0), fresh, first.adaptor)
    assert second.losses[0] == pytest.approx(first.losses[-1])
    assert second.losses[-1] < first.losses[-1]
    assert fresh.by.item() == 0
    torch.testing.assert_close(second.plain, first.plain)
    torch.testing.assert_close(second.plain_scores, first.plain_scores)


def test_another_scanner_begins_anew():
    first = run(dark(-1.0), Shift(), None)
    second = adapt_onward(run, dark(1.0), Shift(), first.adaptor)
    assert second.losses == run(dark(1.0), Shift(), None).losses


def test_what_is_not_finite_is_let_go():
    second = adapt_onward(run, dark(1.0), Shift(), Shift(math.nan))
    assert second.losses == run(dark(1.0), Shift(), None).losses


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=2, seed=0, size=32, spacing_mm=9.5)
    return sorted((root / "images").iterdir())


@pytest.mark.parametrize("instance", ["patient", "slice"])
def test_a_cohort_is_a_stream_in_the_order_it_is_given(images, instance, tmp_path):
    folder = write_run(tmp_path, tiny(adaptation={"steps": 3, "learning_rate": 0.03}))
    model = load(folder, "cpu")
    patients = [[model.prepare(image)] for image in (images[0], images[2])]

    def masks(order, *, continual):
        settings = model.settings(continual=continual, instance=instance, precision="32-true")
        made = model.adapt_patients([patients[number] for number in order], settings)
        return {order[n]: torch.cat([one.masks for one in parts]) for n, parts in made}

    alone, forth, back = masks([0, 1], continual=False), masks([0, 1], continual=True), None
    back = masks([1, 0], continual=True)
    if instance == "patient":  # the first has nothing to go on from
        torch.testing.assert_close(forth[0], alone[0])
        torch.testing.assert_close(back[1], alone[1])
    assert any((forth[n] - alone[n]).abs().max() > 1e-4 for n in (0, 1))
    assert (forth[0] - back[0]).abs().max() > 1e-4 or (forth[1] - back[1]).abs().max() > 1e-4


def test_several_workers_have_no_order(images, tmp_path):
    model = load(write_run(tmp_path, tiny()), "cpu")
    with pytest.raises(ConfigError, match="ray keeps no order"):
        predict_files(model, images, tmp_path / "out", model.settings(continual=True), engine="ray")
