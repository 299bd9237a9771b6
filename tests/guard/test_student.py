"""The noisy student: what it learns, that its teacher stays, and how a run keeps it."""

import dataclasses
import json

import pytest
import torch
from rich.console import Console
from torch import nn

from maskmend.build import build
from maskmend.checkpoint import CALIBRATION, CONFIG, SPLIT, quiet_generator
from maskmend.config import to_yaml
from maskmend.data.phantom import write_cohort
from maskmend.data.split import random_split
from maskmend.errors import RunError
from maskmend.guard import student as student_module
from maskmend.guard.calibrate import calibrate_run
from maskmend.guard.student import STUDENT, Lessons, read_student, train_student, write_student
from maskmend.predict import load
from tests.tiny import tiny, write_run

CONFIG_OF_RUN = tiny(adaptation={"method": "guarded", "precision": "32-true"})
QUIET = Console(quiet=True)


def teacher(config=CONFIG_OF_RUN):
    with quiet_generator(0):
        return build(config).segmentor.eval()


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


def taught(lessons, iterations=3, **changes):
    config = dataclasses.replace(CONFIG_OF_RUN, **changes)
    return train_student(teacher(), nn.Identity(), lessons, config, iterations=iterations)


def test_it_finds_what_it_was_taught(lessons):
    def dice(segmentor):
        found, true = segmentor(lessons.images).argmax(1) == 1, lessons.labels == 1
        return 2 * (found & true).sum() / (found.sum() + true.sum())

    assert dice(teacher()) < 0.3
    assert dice(taught(lessons, 300)) > 0.7


def test_the_teacher_stays_and_the_student_is_frozen(lessons):
    segmentor = teacher()
    before = {name: tensor.clone() for name, tensor in segmentor.state_dict().items()}
    student = train_student(segmentor, nn.Identity(), lessons, CONFIG_OF_RUN, iterations=3)
    for name, tensor in segmentor.state_dict().items():
        assert torch.equal(tensor, before[name])
    changed = [n for n, t in student.state_dict().items() if not torch.equal(t, before[n])]
    assert "head.weight" in changed
    assert not student.training
    assert not any(p.requires_grad for p in student.parameters())


def test_the_seed_decides(lessons):
    one, same, other = taught(lessons), taught(lessons), taught(lessons, seed=1)
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_one_strange_batch_at_the_end_does_not_spoil_it(lessons, monkeypatch):
    """Batch norm's running statistics alone would be those of the last few batches."""

    def spread():
        student = taught(lessons, 10)
        norm = next(m for m in student.modules() if isinstance(m, nn.BatchNorm2d))
        return norm.running_var

    usual = spread()
    draw, batches = student_module._draw, []

    def strange(*given):
        images, labels = draw(*given)
        batches.append(images)
        return images * (100 if len(batches) == 10 else 1), labels

    monkeypatch.setattr(student_module, "_draw", strange)
    torch.testing.assert_close(spread(), usual, rtol=0.5, atol=0.1)
    assert len(batches) > 10


def test_half_a_batch_has_peoples_masks(lessons, monkeypatch):
    """The last twelve say 2, and are half of the other half at the least."""
    labels = lessons.labels.clone()
    labels[12:] *= 2
    seen = []
    monkeypatch.setattr(
        "maskmend.guard.student.supervised_loss",
        lambda logits, labels, weights: seen.append(labels) or logits.sum(),
    )
    taught(dataclasses.replace(lessons, labels=labels), 20)
    by_people = torch.stack([(batch == 1).flatten(1).any(1) for batch in seen])
    assert by_people[:, :4].all()
    assert 0 < by_people[:, 4:].float().mean() < 1


def test_a_run_keeps_it(lessons, tmp_path):
    student = taught(lessons)
    assert read_student(tmp_path, teacher()) is None
    write_student(tmp_path, student)
    kept = read_student(tmp_path, teacher())
    for name, tensor in student.state_dict().items():
        assert torch.equal(kept.state_dict()[name], tensor)


def test_another_segmentors_student_is_named(lessons, tmp_path):
    write_student(tmp_path, taught(lessons))
    other = teacher(tiny(segmentor={"width": 6}))
    with pytest.raises(RunError, match=rf"{STUDENT}: is of another segmentor; remove it"):
        read_student(tmp_path, other)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """Data, and a run that was calibrated with a student."""
    root = tmp_path_factory.mktemp("student")
    write_cohort(root / "hearts", patients=10, seed=0, size=32, spacing_mm=9.5)
    (root / "run").mkdir()
    run = write_run(root / "run", CONFIG_OF_RUN)
    images = (root / "hearts" / "images").iterdir()
    patients = sorted({path.name.split("_frame")[0] for path in images})
    (run / SPLIT).write_text(json.dumps(random_split(patients, fold=0, seed=0).to_dict()))
    calibrate_run(run, root / "hearts", draws=0, device="cpu", console=QUIET)
    return root / "hearts", run


def test_a_calibrated_run_asks_it_for_its_opinion(calibrated):
    hearts, run = calibrated
    model = load(run, "cpu")
    calibration = model.calibration
    mender = model.mender(calibration.quantiles, calibration.realistic, model.settings())
    names = [way.name for way in mender.ways]
    assert names[-3:] == ["student", "student + own statistics", "student and segmentor"]
    slices = model.prepare(min((hearts / "images").iterdir())).slices
    alone, own, both = (way.masks(slices) for way in mender.ways[-3:])
    logits = model.student(model.networks.adaptor(slices))
    torch.testing.assert_close(alone, logits.softmax(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both, (alone + mender.ways[0].masks(slices)) / 2)
    assert (own - alone).abs().max() > 1e-3


def test_without_iterations_there_is_none(calibrated):
    hearts, run = calibrated
    saved = (run / CALIBRATION).read_bytes(), (run / STUDENT).read_bytes()
    config = tiny(adaptation={"method": "guarded", "student_iterations": 0})
    (run / CONFIG).write_text(to_yaml(config))
    try:
        calibrate_run(run, hearts, draws=0, device="cpu", console=QUIET)
        assert not (run / STUDENT).exists()
        model = load(run, "cpu")
        assert model.student is None
        assert model.calibration is not None
        assert model.predict(min((hearts / "images").iterdir())).decision
    finally:
        (run / CONFIG).write_text(to_yaml(CONFIG_OF_RUN))
        (run / CALIBRATION).write_bytes(saved[0])
        (run / STUDENT).write_bytes(saved[1])
