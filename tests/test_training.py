"""The alternation of equations 1 and 2 on drawn squares: who moves, when it looks, when it ends."""

import math

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional

from maskmend import adversary, training
from maskmend.build import build
from maskmend.checkpoint import network_tensors, quiet_generator
from maskmend.data.slices import Pairs, TrainingData
from maskmend.errors import RunError
from maskmend.losses import supervised_loss
from maskmend.priors import DiscriminatorPrior
from maskmend.training import Trainer, volume_dice
from tests.tiny import tiny

BATCH = 3
STILL = {"rotation_deg": [0, 0], "translation": 0, "noise_std": 0}
KINDS = ("real", "predicted", "corrupted")


def config(seed=0, *, training=None, **sections):
    few = {"iterations": 4, "batch": BATCH, "validate_every": 2, "learning_rate": 1e-3}
    return tiny(seed=seed, training={**few, **(training or {})}, **sections)


def squares(lengths, seed):
    """Nested squares at random places, one a structure, in noise."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(sum(lengths), 32, 32, dtype=torch.uint8)
    for mask in masks:
        row, column = rng.integers(4, 12, size=2)
        for structure, (inset, side) in enumerate([(0, 16), (3, 10), (6, 4)], start=1):
            rows, columns = (slice(n + inset, n + inset + side) for n in (row, column))
            mask[rows, columns] = structure
    noise = torch.from_numpy(rng.normal(0, 0.1, (len(masks), 1, 32, 32))).float()
    return Pairs(images=masks[:, None].float() + noise, masks=masks, lengths=lengths)


DATA = TrainingData(
    annotated=squares((4, 3), seed=1),
    unpaired_images=squares((9,), seed=2).images,
    unpaired_masks=squares((8,), seed=3).masks,
    validation=squares((3, 2), seed=4),
)


def trainer_of(config, data=DATA):
    with quiet_generator(config.seed):
        networks = build(config)
    fabric = Fabric(accelerator="cpu", devices=1, precision=config.training.precision)
    return Trainer(config, networks, data, fabric)


def run(trainer):
    """Losses of each iteration, and what each look at the validation patients gave."""
    losses, looks = [], []
    trainer.run(losses.append, lambda row, improved: looks.append((row, improved)))
    return losses, looks


def trained(config):
    trainer = trainer_of(config)
    run(trainer)
    return trainer.tensors()


def snapshot(trainer):
    return {name: tensor.clone() for name, tensor in network_tensors(trainer.networks).items()}


def moved(trainer, before):
    """Networks whose weights or statistics are no longer as they were."""
    after = network_tensors(trainer.networks)
    return {name.split(".")[0] for name in before if not torch.equal(after[name], before[name])}


def assert_same(ours, others):
    assert ours.keys() == others.keys()
    assert [name for name in ours if not torch.equal(ours[name], others[name])] == []


@pytest.fixture
def steps(monkeypatch):
    """Loss of each optimizer's step and the networks whose weights it moved, as they are made."""
    made = []

    def watch(trainer):
        step = trainer._step

        def watched(optimizer, loss):
            modules = trainer.networks.modules()
            before = {n: [p.clone() for p in m.parameters()] for n, m in modules.items()}
            step(optimizer, loss)
            names = {
                name
                for name, module in modules.items()
                if not all(map(torch.equal, module.parameters(), before[name]))
            }
            made.append((loss.item(), names))

        monkeypatch.setattr(trainer, "_step", watched)
        return made

    return watch


@pytest.fixture
def judged():
    """What the discriminator of a trainer is shown, and its scores."""
    calls = []

    def watch(trainer):
        def remember(_, masks, scores):
            calls.append((masks[0].detach().clone(), scores.detach().clone()))

        trainer.networks.discriminator.register_forward_hook(remember)
        return calls

    return watch


# ---------------------------------------------------------------------- who moves


@pytest.mark.parametrize("joint", [False, True])
def test_each_step_moves_its_own_player_alone(steps, joint):
    trainer = trainer_of(config(adaptor={"joint": joint}))
    made = steps(trainer)
    run(trainer)
    predicting = {"segmentor", "adaptor"} if joint else {"segmentor"}
    assert [names for _, names in made] == 4 * [predicting, predicting, {"discriminator"}]


def test_the_discriminators_step_leaves_even_the_segmentors_statistics(monkeypatch):
    trainer = trainer_of(config())
    step, before = trainer._step, []

    def remember(optimizer, loss):
        step(optimizer, loss)
        before.append(snapshot(trainer))

    monkeypatch.setattr(trainer, "_step", remember)
    trainer._iterate(0)
    assert moved(trainer, before[0]) == {"segmentor", "discriminator"}
    # The state after the segmentor's two steps is that after the discriminator's.
    assert moved(trainer, before[1]) == {"discriminator"}


@pytest.mark.parametrize("joint", [False, True])
def test_without_adversary_the_discriminator_is_never_touched(judged, joint):
    trainer = trainer_of(config(adversarial={"enabled": False}, adaptor={"joint": joint}))
    calls, before = judged(trainer), snapshot(trainer)
    losses, looks = run(trainer)
    assert moved(trainer, before) == ({"segmentor", "adaptor"} if joint else {"segmentor"})
    assert calls == []
    assert all(loss.keys() == {"supervised"} for loss in losses)
    for row, _ in looks:
        assert not [name for name in row if "score" in name or "adversarial" in name]


def test_validation_moves_nothing_and_repeats_itself():
    trainer = trainer_of(config(adaptor={"joint": True}))
    trainer._iterate(0)  # leaves the networks in training mode
    before, generator = snapshot(trainer), torch.get_rng_state()
    assert before["segmentor.encoder.0.1.running_mean"].any()
    first = trainer.validate()
    assert trainer.validate() == first
    assert_same(network_tensors(trainer.networks), before)
    assert torch.equal(torch.get_rng_state(), generator)


# --------------------------------------------------------------------- the losses


def test_the_losses_are_those_of_equation_2(judged):
    trainer = trainer_of(config())
    calls = judged(trainer)
    losses = trainer._iterate(0)
    (_, of_predicted), (_, scores) = calls
    assert losses["adversarial"] == pytest.approx(of_predicted.square().mean().item() / 2)
    real, fake = scores[:BATCH], scores[BATCH:]
    expected = (real - 1).square().mean() / 2 + (fake + 1).square().mean() / 2
    assert losses["discriminator"] == pytest.approx(expected.item())


def test_the_discriminator_sees_real_masks_the_same_predictions_and_their_corruptions(judged):
    trainer = trainer_of(config(mask_augmentation=STILL))
    calls = judged(trainer)
    trainer._iterate(0)
    (predicted, _), (shown, _) = calls
    real, again, corrupted = shown.split(BATCH)
    assert torch.equal(again, predicted)
    one_hot = functional.one_hot(DATA.unpaired_masks.long(), 4).movedim(-1, 1)[:, 1:].float()
    assert all(any(torch.equal(mask, known) for known in one_hot) for mask in real)
    assert corrupted.unique().tolist() == [0, 1]
    changed = (real != corrupted).any(1).float().mean((1, 2))
    assert (changed > 0).all()
    assert (changed < 0.5).all()


def test_a_discriminator_that_sees_images_is_shown_pairs_that_match_and_pairs_that_do_not(judged):
    trainer = trainer_of(config(mask_augmentation=STILL, discriminator={"sees_image": True}))
    calls = judged(trainer)
    trainer._iterate(0)
    (predicted, _), (shown, _) = calls
    real, again, corrupted, mismatched = shown.split(BATCH)
    assert torch.equal(again, predicted)
    pairs, unpaired = DATA.annotated, DATA.unpaired_images
    one_hot = functional.one_hot(pairs.masks.long(), 4).movedim(-1, 1)[:, 1:].float()
    known = torch.cat([one_hot, pairs.images], 1)
    assert all(any(torch.equal(pair, one) for one in known) for pair in real)
    assert all(any(torch.equal(pair[3:], one) for one in unpaired) for pair in predicted)
    for kind in (corrupted, mismatched):
        assert torch.equal(kind[:, 3:], real[:, 3:])
    assert torch.equal(mismatched[:, :3], real[:, :3].roll(BATCH // 2, 0))
    assert (corrupted[:, :3] != real[:, :3]).flatten(1).any(1).all()
    assert {"val_score_mismatched", "train_loss_mismatched"} <= trainer.validate().keys()


def test_who_sees_the_image_learns_to_tell_a_mask_of_another():
    trainer = trainer_of(
        config(
            discriminator={"sees_image": True},
            mask_augmentation={**STILL, "noise_std": 0.1},
            training={"discriminator_learning_rate": 3e-3, "batch": 8},
        )
    )
    for iteration in range(150):
        trainer._iterate(iteration)
    trainer.networks.discriminator.eval()
    pairs = DATA.annotated
    with_background = functional.one_hot(pairs.masks.long(), 4).movedim(-1, 1).float()
    prior = DiscriminatorPrior(trainer.networks.discriminator, sees_image=True)
    matching = prior.realism(with_background, pairs.images).mean()
    others = prior.realism(with_background, pairs.images.roll(3, 0)).mean()
    assert matching - others > 0.3


@pytest.mark.parametrize(("kind", "fakes"), [("paper", 2), ("local", 2), ("none", 1)])
def test_without_anchors_there_are_no_corrupted_masks(judged, kind, fakes):
    trainer = trainer_of(config(anchors={"kind": kind}, mask_augmentation=STILL))
    calls = judged(trainer)
    trainer._iterate(0)
    (predicted, _), (shown, _) = calls
    assert [len(predicted), len(shown)] == [BATCH, (1 + fakes) * BATCH]
    assert torch.equal(shown[BATCH : 2 * BATCH], predicted)
    corrupted = [name for name in trainer.validate() if "corrupted" in name]
    assert len(corrupted) == (0 if kind == "none" else 4)


def test_the_adversarial_loss_can_be_balanced_with_the_supervised_one(steps):
    trainer = trainer_of(config(adversarial={"balance": True, "weight": 0.1}))
    made = steps(trainer)
    losses = trainer._iterate(0)
    assert made[0][0] == losses["supervised"]
    assert made[1][0] == pytest.approx(0.1 * losses["supervised"])


def test_the_gradient_penalty_is_added_to_the_discriminators_loss(steps, monkeypatch):
    monkeypatch.setattr(adversary, "gradient_penalty", lambda *_: torch.tensor(0.5))
    trainer = trainer_of(config(adversarial={"gradient_penalty": 10}))
    made = steps(trainer)
    losses = trainer._iterate(0)
    assert made[2][0] == pytest.approx(losses["discriminator"] + 10 * 0.5)


@pytest.mark.parametrize("scheme", ["complement", "inverse"])
def test_classes_weigh_by_their_share_of_the_annotated_masks(scheme):
    share = np.bincount(DATA.annotated.masks.flatten(), minlength=4) / DATA.annotated.masks.numel()
    expected = 1 - share if scheme == "complement" else 1 / share
    weights = trainer_of(config(training={"class_weights": scheme})).weights
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_an_image_and_its_labels_are_augmented_as_one(monkeypatch):
    labels = DATA.annotated.masks
    data = TrainingData(
        annotated=Pairs(images=labels[:, None].float(), masks=labels, lengths=(len(labels),)),
        unpaired_images=DATA.unpaired_images,
        unpaired_masks=DATA.unpaired_masks,
        validation=DATA.validation,
    )
    turned = {"rotation_deg": [30, 60], "translation": 0.1, "scale": 0.2}
    trainer = trainer_of(config(image_augmentation=turned), data)
    seen = []
    trainer.networks.segmentor.register_forward_pre_hook(lambda _, images: seen.append(images[0]))

    def remember(logits, labels, weights, dice):
        seen.append(labels)
        return supervised_loss(logits, labels, weights, dice=dice)

    monkeypatch.setattr(training, "supervised_loss", remember)
    trainer._iterate(0)
    images, targets = seen[0][:, 0], seen[1]
    # Bilinear and nearest interpolation disagree at edges alone.
    assert ((images > 0.5) == (targets > 0)).float().mean() > 0.97
    assert not any(torch.equal(target, mask.long()) for target in targets for mask in labels)


# ----------------------------------------------------------------- the looks


def test_each_row_holds_what_the_discriminator_makes_of_masks():
    _, looks = run(trainer_of(config()))
    wanted = {
        f"{patients}_{figure}_{kind}"
        for patients in ("train", "val")
        for figure in ("score", "loss")
        for kind in KINDS
    }
    wanted |= {"train_supervised", "train_adversarial", "train_discriminator", "seconds"}
    wanted |= {"iteration", "val_supervised", "val_dice"}
    wanted |= {f"val_dice_{structure}" for structure in ("RV", "MYO", "LV")}
    for row, _ in looks:
        assert row.keys() == wanted
        assert all(math.isfinite(value) for value in row.values())


def test_the_figures_of_a_look_are_recomputed():
    trainer = trainer_of(config())
    trainer._iterate(0)
    row, pairs = trainer.validate(), DATA.validation
    logits = trainer.networks.segmentor(pairs.images).detach()
    expected = supervised_loss(logits, pairs.masks.long(), trainer.weights)
    assert row["val_supervised"] == pytest.approx(expected.item(), rel=1e-5)
    dice = volume_dice(logits.argmax(1), pairs, 4)
    assert row["val_dice"] == pytest.approx(dice.mean())
    assert row["val_dice_MYO"] == pytest.approx(dice[:, 1].mean())
    one_hot = functional.one_hot(pairs.masks.long(), 4).movedim(-1, 1).float()
    shown = {"real": (one_hot, 1), "predicted": (logits.softmax(1), -1)}
    for kind, (masks, label) in shown.items():
        scores = trainer.networks.discriminator(masks[:, 1:])
        assert row[f"val_score_{kind}"] == pytest.approx(scores.mean().item(), abs=1e-6)
        loss = (scores - label).square().mean().item()
        assert row[f"val_loss_{kind}"] == pytest.approx(loss, rel=1e-5)


def test_the_last_iteration_is_looked_at_and_losses_are_averaged_between_looks():
    trainer = trainer_of(config(training={"iterations": 5, "validate_every": 3}))
    losses, looks = run(trainer)
    rows = [row for row, _ in looks]
    assert rows == trainer.progress.history
    assert [row["iteration"] for row in rows] == [3, 5]
    for row, between in zip(rows, (losses[:3], losses[3:]), strict=True):
        for name in ("supervised", "adversarial", "discriminator"):
            mean = np.mean([loss[name] for loss in between])
            assert row[f"train_{name}"] == pytest.approx(mean)


@pytest.fixture
def looks_at(monkeypatch):
    """Train without training: what the looks at the validation patients find is given."""

    def go(figures, **changes):
        given = iter(figures)
        monkeypatch.setattr(Trainer, "_iterate", lambda *_: {"supervised": 1.0})
        monkeypatch.setattr(Trainer, "validate", lambda _: next(given))
        trainer = trainer_of(config(training={"iterations": 100, "validate_every": 3, **changes}))
        _, looks = run(trainer)
        return trainer.progress, [improved for _, improved in looks]

    return go


@pytest.mark.parametrize("stop", ["loss", "dice"])
def test_training_ends_after_looks_in_vain(looks_at, stop):
    # As good as before is not better. The figure that is not asked for gets better all the time.
    asked = [3, 4, 2, 1, 1, 1, 1]
    figures = [
        {"val_supervised": value, "val_dice": look}
        if stop == "loss"
        else {"val_supervised": -look, "val_dice": -value}
        for look, value in enumerate(asked)
    ]
    progress, improved = looks_at(figures, stop=stop, patience=2)
    assert improved == [True, False, True, True, False, False]
    assert (progress.iteration, progress.best_iteration) == (18, 12)
    assert progress.best == -1
    assert progress.finished


def test_the_best_look_is_remembered_until_the_iterations_are_used_up(looks_at):
    figures = [{"val_supervised": value, "val_dice": 0.0} for value in (5, 3, 4, 2, 6)]
    progress, improved = looks_at(figures, iterations=13, patience=9)
    assert improved == [True, True, False, True, False]
    assert (progress.iteration, progress.best_iteration, progress.best) == (13, 12, -2)
    assert progress.finished


# ---------------------------------------------------------- rates, seeds, precision


@pytest.mark.parametrize("cosine", [True, False])
def test_step_sizes(cosine):
    rates = {"learning_rate": 1e-2, "discriminator_learning_rate": 3e-3}
    trainer = trainer_of(config(training={"iterations": 4, "cosine": cosine, **rates}))
    optimizers = (trainer.segmentor_optimizer, trainer.discriminator_optimizer)
    seen = []
    trainer.run(
        lambda _: seen.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers]),
        lambda *_: None,
    )
    half = math.sqrt(0.5)
    factors = [1, (1 + half) / 2, 0.5, (1 - half) / 2] if cosine else [1, 1, 1, 1]
    np.testing.assert_allclose(seen, np.outer(factors, list(rates.values())))


def test_the_seed_decides_on_everything():
    states = []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(elsewhere)
        states.append(trained(config(seed)))
    assert_same(states[0], states[1])
    for network in ("segmentor.head", "discriminator.head.parametrizations.weight.original"):
        names = [name for name in states[0] if name.startswith(network)]
        assert names
        assert not any(torch.equal(states[0][name], states[2][name]) for name in names)


AUTHORS = {
    "adaptor": {"joint": True},
    "anchors": {"kind": "authors"},
    "image_augmentation": {"rotation_deg": [-20, 20]},
    "adversarial": {"balance": True, "weight": 0.1, "gradient_penalty": 10},
}


@pytest.mark.parametrize("sections", [{}, AUTHORS, {"adversarial": {"enabled": False}}])
def test_a_restored_trainer_goes_on_bit_for_bit(sections):
    whole = config(**sections, training={"iterations": 6, "cosine": True})
    trainer, saved = trainer_of(whole), []

    def save(*_):
        tensors = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
        progress = {**vars(trainer.progress), "history": list(trainer.progress.history)}
        saved.append((tensors, progress))

    trainer.run(lambda _: None, save)
    assert [progress["iteration"] for _, progress in saved] == [2, 4, 6]
    other = trainer_of(whole)
    other.restore(*saved[0], path="checkpoint")
    run(other)
    assert_same(other.tensors(), trainer.tensors())
    seconds = {"seconds": 0}
    histories = [[row | seconds for row in t.progress.history] for t in (other, trainer)]
    assert histories[0] == histories[1]


def test_a_segmentor_learns():
    brisk = {"iterations": 60, "validate_every": 20, "learning_rate": 1e-2}
    trainer = trainer_of(config(training=brisk))
    before = trainer.validate()
    _, looks = run(trainer)
    assert before["val_dice"] < 0.2
    assert max(row["val_dice"] for row, _ in looks) > 0.5
    assert min(row["val_supervised"] for row, _ in looks) < before["val_supervised"] / 3


def test_mixed_precision_trains():
    kept = {"iterations": 3}
    trainer = trainer_of(config(training={**kept, "precision": "bf16-mixed"}))
    kinds = set()
    trainer.networks.segmentor.head.register_forward_hook(
        lambda _, images, logits: kinds.add(logits.dtype)
    )
    losses, looks = run(trainer)
    assert kinds == {torch.bfloat16}
    numbers = [value for row in (*losses, *(row for row, _ in looks)) for value in row.values()]
    assert all(map(math.isfinite, numbers))
    floating = [t for t in trainer.tensors().values() if t.is_floating_point()]
    assert {t.dtype for t in floating} == {torch.float32}
    assert all(t.isfinite().all() for t in floating)
    full, _ = run(trainer_of(config(training=kept)))
    assert losses != full
    for ours, theirs in zip(losses, full, strict=True):
        assert ours == pytest.approx(theirs, rel=0.1, abs=0.02)


# -------------------------------------------------------------------------- Dice


def test_a_run_that_diverges_ends_with_the_remedy():
    trainer = trainer_of(config(training={"learning_rate": 1e30}))
    with pytest.raises(RunError, match=r"not finite at iteration \d; lower training\.learn"):
        trainer.run(lambda losses: None, lambda row, improved: None)
    assert not trainer.progress.finished


def test_dice_by_volume_and_structure():
    ours, truth = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)
    # The first volume has two slices, which count together: 4 and 2 pixels, 2 of them shared.
    ours[0, 0, :2], ours[1, 0, :2], truth[1, 0, :2] = 1, 1, 1
    truth[0, 3, 0] = 2  # missed
    ours[2, 1, :3], truth[2, 1, 1:] = 2, 2  # 3 and 3, 2 shared
    ours[2, 3] = 3  # invented, in a set whose truth never has it
    pairs = Pairs(images=torch.zeros(3, 1, 4, 4), masks=truth, lengths=(2, 1))
    dice = volume_dice(ours.long(), pairs, 4)
    np.testing.assert_allclose(dice, [[2 / 3, 0, 1], [1, 2 / 3, 0]])


def test_dice_of_empty_masks_is_one():
    empty = torch.zeros(2, 4, 4, dtype=torch.uint8)
    pairs = Pairs(images=torch.zeros(2, 1, 4, 4), masks=empty, lengths=(1, 1))
    assert volume_dice(empty.long(), pairs, 3).tolist() == [[1, 1], [1, 1]]
