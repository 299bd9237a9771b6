"""Contact sheets of cases before and after, as figure 2 and the supplement show them."""

from collections.abc import Sequence

from maskmend.before_after import examples
from maskmend.evaluate.figures import contact_sheet
from maskmend.evaluate.scores import Evaluation
from maskmend.reproduce.study import Key, Study


def draw_sheet(
    study: Study, key: Key, evaluation: Evaluation, ranks: Sequence[float], name: str
) -> list[dict[str, object]]:
    """Draw the cases of some ranks, as PNG and PDF.

    Args:
        study: Where the masks are.
        key: The run that made them.
        evaluation: Of its masks, without and with adaptation.
        ranks: By gain of mean Dice, from 0, what lost most, to 1.
        name: Of the files.

    Returns:
        What was drawn: image, dice_before, dice_after of each.
    """
    dataset = study.datasets[key.dataset]
    shown = examples(evaluation, dataset.cohort, study.out / "masks" / key.place, ranks)
    for kind in ("png", "pdf"):
        contact_sheet(study.results / f"{name}.{kind}", shown, structures=dataset.structures)
    return [
        {"image": case.name, "dice_before": case.dice_before, "dice_after": case.dice_after}
        for case in shown
    ]
