"""Is the discriminator still of use? Equilibrium, forgetting and memorisation, in words.

Section 3.1 names three ends of adversarial training; the supplement (section 2) tells them apart by
the losses on real and fake masks of training and validation patients.
"""

from collections.abc import Mapping, Sequence

from maskmend.config import AdversarialConfig


def diagnose(history: Sequence[Mapping[str, float]], config: AdversarialConfig) -> str | None:
    """A warning about the last look at the validation patients, or None if all is well.

    Memorisation: real masks score as real in training but as fake in validation, more than half the
    distance between the two labels apart (supplement, figure 3). Forgetting: fake anchors that were
    once told from real masks no longer are (section 3.1, ii). At equilibrium predicted masks score
    like real ones while corrupted ones do not, which is as it should be.

    Args:
        history: Rows of `Trainer.validate`, oldest first.
        config: The labels of real and fake masks.
    """
    if not history or "val_score_real" not in history[-1]:
        return None
    distance = abs(config.real - config.fake)
    last = history[-1]
    gap = last["train_score_real"] - last["val_score_real"]
    if gap > distance / 2:
        return (
            "the discriminator memorises: real masks score"
            f" {last['train_score_real']:+.2f} in training but {last['val_score_real']:+.2f} in"
            " validation; use more masks, more mask_augmentation or spectral_norm: all"
        )
    if "val_score_corrupted" in last:
        told_apart = [row["val_score_real"] - row["val_score_corrupted"] for row in history]
        if max(told_apart) > distance / 4 and told_apart[-1] < distance / 20:
            return (
                "the discriminator forgets: corrupted masks score within"
                f" {told_apart[-1]:+.2f} of real ones, once {max(told_apart):+.2f} apart; check"
                " anchors.kind and lower training.discriminator_learning_rate"
            )
    elif distance / 20 > abs(last["val_score_real"] - last["val_score_predicted"]):
        return (
            "the discriminator scores real and predicted masks alike and has no fake anchors:"
            " whether it still knows unrealistic masks cannot be seen; set anchors.kind"
        )
    return None
