import pytest

from maskmend.config import AdversarialConfig
from maskmend.diagnosis import diagnose

PAPER = AdversarialConfig()
AUTHORS = AdversarialConfig(real=1, fake=0, target=1)


def row(train_real=0.5, real=0.5, predicted=0.45, corrupted: float | None = -0.6):
    scores = {"val_score_real": real, "val_score_predicted": predicted}
    if corrupted is not None:
        scores["val_score_corrupted"] = corrupted
    return {"train_score_real": train_real, **scores}


def test_equilibrium_is_well():
    # Predicted masks score like real ones, corrupted ones do not: the end that is wanted.
    assert diagnose([row(), row(predicted=0.5)], PAPER) is None


def test_too_early_or_unadversarial_is_well():
    assert diagnose([], PAPER) is None
    assert diagnose([{"val_loss": 0.3}], PAPER) is None


def test_memorisation():
    warning = diagnose([row(), row(train_real=0.9, real=-0.5)], PAPER)
    assert "memorises" in warning
    assert "+0.90 in training but -0.50" in warning


@pytest.mark.parametrize(("config", "limit"), [(PAPER, 1.0), (AUTHORS, 0.5)])
def test_memorisation_begins_at_half_the_distance_of_the_labels(config, limit):
    def gap(distance):
        return diagnose([row(train_real=0.4 + distance, real=0.4)], config)

    assert gap(limit - 0.01) is None
    assert "memorises" in gap(limit + 0.01)


def test_memorisation_is_of_the_last_look_alone():
    assert diagnose([row(train_real=0.9, real=-0.9), row()], PAPER) is None


def test_forgetting():
    warning = diagnose([row(), row(corrupted=0.48)], PAPER)
    assert "forgets" in warning
    assert "+0.02 of real ones, once +1.10 apart" in warning


def test_what_was_never_known_is_not_forgotten():
    assert diagnose([row(corrupted=0.3), row(corrupted=0.48)], PAPER) is None


def test_what_was_learned_again_is_not_forgotten():
    assert diagnose([row(), row(corrupted=0.5), row(corrupted=-0.5)], PAPER) is None


def test_the_labels_set_the_scale_of_forgetting():
    history = [row(corrupted=0.1), row(corrupted=0.48)]
    assert diagnose(history, PAPER) is None
    assert "forgets" in diagnose(history, AUTHORS)


def test_without_anchors_equilibrium_cannot_be_told_from_ignorance():
    assert "no fake anchors" in diagnose([row(corrupted=None, predicted=0.49)], PAPER)
    assert diagnose([row(corrupted=None, predicted=-0.2)], PAPER) is None


def test_warnings_are_one_line():
    for history in ([row(train_real=2)], [row(), row(corrupted=0.5)]):
        assert "\n" not in diagnose(history, PAPER)
