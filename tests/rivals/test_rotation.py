"""Rotation as auxiliary task: turning, the head, and tuning of a copy of the encoder alone."""

import contextlib

import pytest
import torch
from torch import nn

from maskmend.build import build
from maskmend.checkpoint import load_run, quiet_generator
from maskmend.data.phantom import write_cohort
from maskmend.errors import InputError, RunError
from maskmend.predict import load
from maskmend.rivals.rotation import (
    RotationHead,
    learn_rotations,
    read_rotation_head,
    rotation_loss,
    train_rotation_head,
    turned,
)
from tests.tiny import tiny, write_run, write_split


@pytest.fixture
def parts():
    """Segmentor, adaptor, head and images."""
    with quiet_generator(0):
        networks = build(tiny())
        head = RotationHead(channels=8, width=8).requires_grad_(False)
        images = torch.randn(3, 1, 32, 32)
    segmentor = networks.segmentor.eval().requires_grad_(False)
    return segmentor, networks.adaptor.eval(), head, images


def test_images_turn_by_quarters():
    image = torch.tensor([[1.0, 2], [3, 4]])[None, None].repeat(4, 1, 1, 1)
    made = turned(image, torch.arange(4))[:, 0]
    assert made.tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]


def loss_of(segmentor, adaptor, head, images):
    quarters = torch.arange(4).repeat_interleave(len(images))
    return rotation_loss(segmentor, adaptor, head, images.repeat(4, 1, 1, 1), quarters)


def test_only_a_copy_of_the_encoder_is_tuned(parts, monkeypatch):
    segmentor, adaptor, head, images = parts
    before = {k: v.clone() for k, v in segmentor.state_dict().items()}
    tuned = []
    forward = type(segmentor).forward

    def spy(self, shown):
        tuned.append(self)
        return forward(self, shown)

    monkeypatch.setattr(type(segmentor), "forward", spy)
    masks = learn_rotations(
        segmentor, adaptor, head, images, learning_rate=0.1, autocast=contextlib.nullcontext
    )
    assert masks.shape == (3, 4, 32, 32)
    assert all(torch.equal(before[k], v) for k, v in segmentor.state_dict().items())
    (after,) = tuned
    moved = {k for k, v in after.state_dict().items() if not torch.equal(before[k], v)}
    assert moved == {k for k, _ in segmentor.named_parameters() if k.startswith("encoder")}
    assert loss_of(after, adaptor, head, images) < loss_of(segmentor, adaptor, head, images)


def test_without_steps_the_masks_are_plain(parts):
    segmentor, adaptor, head, images = parts
    masks = learn_rotations(
        segmentor, adaptor, head, images, steps=0, autocast=contextlib.nullcontext
    )
    torch.testing.assert_close(masks, segmentor(adaptor(images)).softmax(1))


def test_a_head_is_trained_on_the_frozen_encoder_and_kept(tmp_path):
    write_cohort(tmp_path / "hearts", patients=2, seed=0, size=32, spacing_mm=9.5)
    (tmp_path / "run").mkdir()
    run = write_run(tmp_path / "run", tiny())
    with pytest.raises(RunError, match="missing"):
        read_rotation_head(run)
    write_split(run, train_annotated=["heart000"], train_unpaired_images=["heart001"])
    weights = (run / "weights.safetensors").read_bytes()
    train_rotation_head(run, tmp_path / "hearts", iterations=100, batch=16)
    assert (run / "weights.safetensors").read_bytes() == weights
    _, networks = load_run(run)
    images = load(run, "cpu").prepare(tmp_path / "hearts/images/heart001_frame01.nii.gz").slices
    assert loss_of(networks.segmentor, networks.adaptor, read_rotation_head(run), images) < 1.2

    write_split(run, test=["heart000"])
    with pytest.raises(InputError, match="no image of the training patients"):
        train_rotation_head(run, tmp_path / "hearts", iterations=1)


def test_encoder_and_decoder_are_the_whole_segmentor(parts):
    segmentor, _, _, images = parts
    levels = segmentor.encode(images)
    assert [tuple(level.shape) for level in levels] == [(3, 4, 32, 32), (3, 8, 16, 16)]
    assert isinstance(segmentor.head, nn.Conv2d)
