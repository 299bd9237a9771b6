"""Noisy students: what they learn, that their teacher stays, and how a run keeps them."""

import dataclasses

import pytest
import torch
from rich.console import Console
from torch import nn

from maskmend.build import build
from maskmend.checkpoint import CALIBRATION, CONFIG, quiet_generator
from maskmend.config_file import to_yaml
from maskmend.errors import ConfigError, RunError
from maskmend.guard import student_training
from maskmend.guard.calibrate import calibrate_run
from maskmend.guard.student import STUDENTS, UNFINISHED, read_students, write_students
from maskmend.guard.student_training import Lessons, train_student
from maskmend.predict import load
from tests.tiny import GUARDED, tiny

QUIET = Console(quiet=True)


def teacher(config=GUARDED):
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


def taught(lessons, iterations=3, number=0, **changes):
    adaptation = dataclasses.replace(GUARDED.adaptation, student_iterations=iterations)
    config = dataclasses.replace(GUARDED, adaptation=adaptation, **changes)
    return train_student(teacher(), nn.Identity(), lessons, config, number=number)


def test_it_finds_what_it_was_taught(lessons):
    def dice(segmentor):
        found, true = segmentor(lessons.images).argmax(1) == 1, lessons.labels == 1
        return 2 * (found & true).sum() / (found.sum() + true.sum())

    assert dice(teacher()) < 0.3
    assert dice(taught(lessons, 300)) > 0.7


def test_the_teacher_stays_and_the_student_is_frozen(lessons):
    segmentor = teacher()
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
        "maskmend.guard.student_training.supervised_loss",
        lambda logits, labels, weights, dice: seen.append(labels) or logits.sum(),
    )
    taught(dataclasses.replace(lessons, labels=labels), 20)
    by_people = torch.stack([(batch == 1).flatten(1).any(1) for batch in seen])
    assert by_people[:, :4].all()
    assert 0 < by_people[:, 4:].float().mean() < 1


def test_a_run_keeps_them(lessons, tmp_path):
    students = [taught(lessons, number=number) for number in range(3)]
    path = tmp_path / STUDENTS
    assert not read_students(path, teacher())
    write_students(path, students)
    for student, kept in zip(students, read_students(path, teacher()), strict=True):
        assert not kept.training
        for name, tensor in student.state_dict().items():
            assert torch.equal(kept.state_dict()[name], tensor)


def test_students_of_another_segmentor_are_named(lessons, tmp_path):
    write_students(tmp_path / STUDENTS, [taught(lessons)])
    other = teacher(tiny(segmentor={"width": 6}))
    with pytest.raises(RunError, match=rf"{STUDENTS}: is of another segmentor; remove it"):
        read_students(tmp_path / STUDENTS, other)


def test_students_of_another_teacher_are_not_taken_up(lessons, tmp_path):
    path = tmp_path / UNFINISHED
    write_students(path, [taught(lessons)], weights="a", config="b")
    assert len(read_students(path, teacher(), weights="a", config="b")) == 1
    assert not read_students(path, teacher(), weights="a", config="c")


def test_a_calibrated_run_asks_them_for_their_opinions(run, hearts):
    model = load(run, "cpu")
    calibration = model.calibration
    mender = model.mender(calibration.quantiles, calibration.realistic, model.settings())
    names = [way.name for way in mender.ways]
    assert names[-4:] == [
        "student 1", "student 1 + own statistics", "student 2", "student 2 + own statistics"
    ]  # fmt: skip
    slices = model.prepare(min((hearts / "images").iterdir())).slices
    candidates = mender.candidates(slices)
    assert [one.name for one in candidates[:-1]] == list(mender.names[:-2])
    masks = {one.name: one.masks for one in candidates}
    one = masks["student 1"]
    logits = model.students[0](model.networks.adaptor(slices))
    torch.testing.assert_close(one, logits.softmax(1), atol=1e-5, rtol=1e-4)
    assert (masks["student 1 + own statistics"] - one).abs().max() > 1e-3
    assert (masks["student 2"] - one).abs().max() > 1e-4
    for own in ("", " + own statistics"):
        members = [masks[f"{name}{own}"] for name in ("none", "student 1", "student 2")]
        torch.testing.assert_close(masks[f"committee{own}"], torch.stack(members).mean(0))
    torch.testing.assert_close(
        masks["students' advice"],
        0.6 * masks["none"] + 0.2 * masks["student 1"] + 0.2 * masks["student 2"],
    )
    assert mender.ways[0] in [one.way for one in candidates if one.name == "committee"]


def test_a_calibration_with_other_students_is_named(run, hearts):
    model = load(run, "cpu")
    model.students = model.students[:1]
    with pytest.raises(ConfigError, match=f"{run} was calibrated with other masks .* calibrate it"):
        model.predict(min((hearts / "images").iterdir()))


def test_a_run_may_have_none(run, hearts):
    saved = (run / CALIBRATION).read_bytes(), (run / STUDENTS).read_bytes()
    config = tiny(adaptation={"method": "guarded", "students": 0})
    (run / CONFIG).write_text(to_yaml(config))
    try:
        calibrate_run(run, hearts, draws=1, device="cpu", console=QUIET)
        assert not (run / STUDENTS).exists()
        model = load(run, "cpu")
        assert not model.students
        assert model.calibration is not None
        assert model.predict(min((hearts / "images").iterdir())).decision
    finally:
        (run / CONFIG).write_text(to_yaml(GUARDED))
        (run / CALIBRATION).write_bytes(saved[0])
        (run / STUDENTS).write_bytes(saved[1])


def test_images_are_degraded_in_32_bits_where_networks_are_not(lessons):
    training = dataclasses.replace(GUARDED.training, precision="bf16-mixed")
    student = taught(lessons, iterations=1, training=training)
    assert all(tensor.isfinite().all() for tensor in student.state_dict().values())
