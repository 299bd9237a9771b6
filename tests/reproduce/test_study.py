"""Configurations of the runs at the scales that nobody trains in a test."""

from pathlib import Path

import pytest
from rich.console import Console

from maskmend.config_file import differences, read_config
from maskmend.data.cohort import Case, Cohort
from maskmend.reproduce import TARGETS
from maskmend.reproduce.datasets import Dataset
from maskmend.reproduce.study import Key, Study

REPOSITORY = Path(__file__).parents[2]


class Acdc(Dataset):
    """The names of its hundred patients."""

    @property
    def cohort(self):
        names = [f"patient{n:03d}" for n in range(1, 101)]
        cases = [Case(name=f"{n}_frame01", patient=n, image=Path(n), mask=Path(n)) for n in names]
        return Cohort(layout="acdc", root=self.root, cases=tuple(cases))


@pytest.fixture
def small():
    return study_at("small")


def study_at(scale):
    acdc = Acdc(
        name="acdc", root=Path("acdc"), layout="acdc", structures={1: "RV", 2: "MYO", 3: "LV"}
    )
    return Study(
        [acdc],
        Path("out"),
        scale=scale,
        presets=("paper", "ours"),
        seed=0,
        folds=None,
        training=True,
        patients=None,
        console=Console(quiet=True),
    )


def test_ours_at_the_small_scale_is_the_shift_benchmarks_trained_shorter_with_soft_dice(small):
    theirs = read_config(REPOSITORY / "experiments" / "shift" / "gan.yaml")
    changed = differences(theirs, small.config(Key("acdc", 0, "ours")))
    assert [line.split()[0] for line in changed] == ["training.iterations:", "training.dice:"]


def test_the_papers_scale_is_the_papers_in_all_but_optimisation():
    theirs = read_config(REPOSITORY / "experiments" / "acdc" / "paper.yaml")
    changed = differences(theirs, study_at("paper").config(Key("acdc", 0, "paper")))
    sections = {line.split(".")[0] for line in changed}
    assert sections == {"adversarial", "training", "adaptation"}


def test_the_first_fold_is_the_published_one_and_the_others_are_drawn(small):
    data = [small.config(Key("acdc", fold, "paper")).data for fold in (0, 1, 2)]
    assert [d.split for d in data] == ["semi_supervised_fold0", "random", "random"]
    assert [d.fold for d in data] == [0, 1, 2]


def test_targets_share_their_runs(small):
    asked = {need.key for target in TARGETS.values() for need in target.needs(small)}
    # Table 1 has four runs of the paper's a fold and one of ours; the first fold has the two
    # that memorise; nothing else asks for more on the first data set.
    assert len(asked) == 3 * (4 + 1) + 2
    assert all(k.variant in ("full", "memorising") for k in asked if k.preset == "ours")
