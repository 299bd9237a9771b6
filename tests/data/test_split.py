import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskmend.data.split import MIN_PATIENTS, Split, published_split, random_split
from maskmend.errors import ConfigError, InputError

cohorts = st.lists(st.text(min_size=1, max_size=8), min_size=MIN_PATIENTS, max_size=60, unique=True)
seeds = st.integers(0, 2**32)
hearts = [f"patient{n:03d}" for n in range(1, 101)]


def apart(split: Split) -> list[str]:
    """Everybody in the four sets that must not overlap."""
    return [
        *split.train_annotated,
        *split.train_unpaired_images,
        *split.validation,
        *split.test,
    ]


@given(cohorts, st.integers(0, 2), seeds)
def test_everybody_is_in_exactly_one_set(patients: list[str], fold: int, seed: int) -> None:
    split = random_split(patients, fold=fold, seed=seed)

    assert sorted(apart(split)) == sorted(patients)
    assert {*split.train_unpaired_masks} == {*split.train_annotated, *split.train_unpaired_images}


@given(cohorts, st.integers(0, 2), seeds)
def test_sizes_are_40_20_40_with_a_quarter_annotated(
    patients: list[str], fold: int, seed: int
) -> None:
    split = random_split(patients, fold=fold, seed=seed)

    n, n_train = len(patients), len(split.train_unpaired_masks)
    assert abs(len(split.test) - 0.4 * n) <= 0.5
    assert abs(len(split.validation) - 0.2 * n) <= 0.5
    assert abs(n_train - 0.4 * n) <= 1
    assert abs(len(split.train_annotated) - n_train / 4) <= 0.5
    for patients_of_use in split.to_dict().values():
        assert patients_of_use


@given(cohorts, st.integers(0, 2), seeds, st.randoms())
def test_order_and_repetition_of_the_input_do_not_matter(
    patients: list[str], fold: int, seed: int, random: Any
) -> None:
    shuffled = random.sample(patients, len(patients)) + patients[:2]

    split = random_split(patients, fold=fold, seed=seed)

    assert random_split(shuffled, fold=fold, seed=seed) == split


@given(cohorts, seeds)
def test_three_folds_test_everybody_once_or_twice(patients: list[str], seed: int) -> None:
    tested = [name for k in range(3) for name in random_split(patients, fold=k, seed=seed).test]

    times_tested = Counter(tested)
    assert set(times_tested) == set(patients)
    assert max(times_tested.values()) <= 2


def test_the_sizes_of_the_paper() -> None:
    split = random_split(hearts, fold=0, seed=0)

    assert {use: len(patients) for use, patients in split.to_dict().items()} == {
        "train_annotated": 10,
        "train_unpaired_images": 30,
        "train_unpaired_masks": 40,
        "validation": 20,
        "test": 40,
    }


def test_a_seed_gives_the_same_split_for_ever() -> None:
    split = random_split(hearts[:8], fold=1, seed=7)

    assert split == Split(
        train_annotated=("patient004",),
        train_unpaired_images=("patient003", "patient007"),
        train_unpaired_masks=("patient003", "patient004", "patient007"),
        validation=("patient002", "patient008"),
        test=("patient001", "patient005", "patient006"),
    )


def test_seeds_differ() -> None:
    splits = [random_split(hearts, fold=0, seed=seed) for seed in range(20)]

    assert len({split.test for split in splits}) == 20
    # Two independent draws of 40 of 100 share 16 on average, with a standard deviation of 2.4.
    shared = [len({*one.test} & {*other.test}) for one, other in pairwise(splits)]
    assert 12 < sum(shared) / len(shared) < 20


def test_folds_test_everybody_and_repeat_as_few_as_possible() -> None:
    folds = [random_split(hearts, fold=fold, seed=3) for fold in range(3)]

    times_tested = Counter(patient for split in folds for patient in split.test)
    assert set(times_tested) == set(hearts)
    assert Counter(times_tested.values()) == {1: 80, 2: 20}  # 3 * 40 = 80 + 2 * 20
    annotated = [patient for split in folds for patient in split.train_annotated]
    assert len(set(annotated)) == 30


def test_five_folds_are_possible() -> None:
    tested = {name for k in range(5) for name in random_split(hearts, fold=k, seed=0, folds=5).test}

    assert tested == set(hearts)


@pytest.mark.parametrize("n", range(MIN_PATIENTS))
def test_too_few_patients(n: int) -> None:
    with pytest.raises(InputError, match=f"{n} annotated patients, expected at least 5"):
        random_split(hearts[:n], fold=0, seed=0)


@pytest.mark.parametrize("fold", [-1, 3])
def test_there_is_no_such_fold(fold: int) -> None:
    with pytest.raises(ConfigError, match=f"^fold: {fold} does not exist; choose from 0 to 2"):
        random_split(hearts, fold=fold, seed=0)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("semi_supervised_fold0", (10, 30, 40, 20, 40)), ("scanner_1p5T_to_3T", (22, 23, 45, 22, 33))],
)
def test_published_splits(name: str, sizes: tuple[int, ...]) -> None:
    split = published_split(name)

    assert tuple(map(len, split.to_dict().values())) == sizes
    assert sorted(apart(split)) == hearts
    assert {*split.train_unpaired_masks} == {*split.train_annotated, *split.train_unpaired_images}


def test_the_published_fold_names_these_patients() -> None:
    split = published_split("semi_supervised_fold0")

    assert split.train_annotated == tuple(
        f"patient{n:03d}" for n in (23, 27, 36, 38, 43, 46, 52, 53, 54, 74)
    )
    assert split.test[0] == "patient003"


def test_an_unpublished_split() -> None:
    with pytest.raises(ConfigError, match="choose from semi_supervised_fold0, scanner_1p5T_to_3T"):
        published_split("fold1")


def uses(**changes: list[str]) -> dict[str, list[str]]:
    return {
        "train_annotated": ["b", "a"],
        "train_unpaired_images": ["c"],
        "train_unpaired_masks": ["a", "b", "c"],
        "validation": ["v"],
        "test": ["t"],
    } | changes


def test_a_split_survives_json_and_is_sorted() -> None:
    split = Split.from_dict(uses())

    assert split.train_annotated == ("a", "b")
    assert Split.from_dict(json.loads(json.dumps(split.to_dict()))) == split


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_unpaired_images": ["a"]}, "^train_annotated: a is also in train_unpaired_images"),
        ({"validation": ["a"]}, "^train_annotated: a is also in validation"),
        ({"test": ["a"]}, "^train_annotated: a is also in test"),
        ({"validation": ["c"]}, "^train_unpaired_images: c is also in validation"),
        ({"test": ["c"]}, "^train_unpaired_images: c is also in test"),
        ({"test": ["v"]}, "^validation: v is also in test"),
        ({"train_unpaired_masks": ["v"]}, "^train_unpaired_masks: v is also in validation"),
        ({"train_unpaired_masks": ["t"]}, "^train_unpaired_masks: t is also in test"),
        ({"tets": ["t"]}, "^tets: is no part of a split"),
        ({"test": "t"}, "^test: is 't'; expected a list"),
        ({"test": [3]}, r"^test: is \[3\]; expected a list"),
    ],
)
def test_a_leaking_or_malformed_split(changes: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Split.from_dict(uses(**changes))

    assert "\n" not in str(error.value)


def test_a_split_with_a_use_missing() -> None:
    incomplete = uses()
    del incomplete["test"]

    with pytest.raises(ConfigError, match=r"^test: is None; expected a list"):
        Split.from_dict(incomplete)
