"""Noisy students: what they learn, and that their teacher stays."""

import dataclasses

import pytest
import torch
from torch import nn

from maskmend.calibrate import student_training
from maskmend.calibrate.student_training import Lessons, train_student
from tests.tiny import GUARDED, random_segmentor


@pytest.fixture
def lessons():
    """Bright squares, whose label is 1, on noise."""
    generator = torch.Generator().manual_seed(0)
    images = 0.3 * torch.randn(24, 1, 32, 32, generator=generator)
    labels = torch.zeros(24, 32, 32, dtype=torch.uint8)
    for number in range(24):
        row, column = torch.randint(4, 18, (2,), generator=generator).tolist()
        labels[number, row : row + 10, column : column + 10] = 1
    images[:, 0] += 2 * labels
    return Lessons(images=images, labels=labels, annotated=12)


def taught(lessons, iterations=3, number=0, precision="32-true", **changes):
    adaptation = dataclasses.replace(GUARDED.adaptation, student_iterations=iterations)
    config = dataclasses.replace(GUARDED, adaptation=adaptation, **changes)
    return train_student(
        random_segmentor(), nn.Identity(), lessons, config, precision=precision, number=number
    )


def test_it_finds_what_it_was_taught(lessons):
    def dice(segmentor):
        found, true = segmentor(lessons.images).argmax(1) == 1, lessons.labels == 1
        return 2 * (found & true).sum() / (found.sum() + true.sum())

    assert dice(random_segmentor()) < 0.3
    assert dice(taught(lessons, 300)) > 0.7


def test_the_teacher_stays_and_the_student_is_frozen(lessons):
    segmentor = random_segmentor()
    before = {name: tensor.clone() for name, tensor in segmentor.state_dict().items()}
    student = train_student(segmentor, nn.Identity(), lessons, GUARDED)
    for name, tensor in segmentor.state_dict().items():
        assert torch.equal(tensor, before[name])
    changed = [n for n, t in student.state_dict().items() if not torch.equal(t, before[n])]
    assert "head.weight" in changed
    assert not student.training
    assert not any(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("change", [{"seed": 1}, {"number": 1}])
def test_seed_and_number_decide(lessons, change):
    one, same, other = taught(lessons), taught(lessons), taught(lessons, **change)
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_one_strange_batch_at_the_end_does_not_spoil_it(lessons, monkeypatch):
    """Batch norm's running statistics alone would be those of the last few batches."""

    def spread():
        student = taught(lessons, 10)
        norm = next(m for m in student.modules() if isinstance(m, nn.BatchNorm2d))
        return norm.running_var

    usual = spread()
    draw, batches = student_training._draw, []

    def strange(*given):
        images, labels = draw(*given)
        batches.append(images)
        return images * (100 if len(batches) == 10 else 1), labels

    monkeypatch.setattr(student_training, "_draw", strange)
    torch.testing.assert_close(spread(), usual, rtol=0.5, atol=0.1)
    assert len(batches) > 10


def test_half_a_batch_has_peoples_masks(lessons, monkeypatch):
    """The last twelve say 2, and are half of the other half at the least."""
    labels = lessons.labels.clone()
    labels[12:] *= 2
    seen = []
    monkeypatch.setattr(
        "maskmend.calibrate.student_training.supervised_loss",
        lambda logits, labels, weights, dice: seen.append(labels) or logits.sum(),
    )
    taught(dataclasses.replace(lessons, labels=labels), 20)
    by_people = torch.stack([(batch == 1).flatten(1).any(1) for batch in seen])
    assert by_people[:, :4].all()
    assert 0 < by_people[:, 4:].float().mean() < 1


def test_images_are_degraded_in_32_bits_where_networks_are_not(lessons):
    student = taught(lessons, iterations=1, precision="bf16-mixed")
    assert all(tensor.isfinite().all() for tensor in student.state_dict().values())
