import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmend.anchors import Blobs, Copy, Fill, Noise, Swap, corrupt, draw_corruption
from maskmend.config import AnchorConfig

KINDS = ["paper", "local", "authors", "none"]


def heart(size=64):
    rows, columns = np.mgrid[:size, :size] - size / 2
    radius = np.hypot(rows, columns)
    labels = np.zeros((size, size), np.uint8)
    labels[radius < size / 4] = 2
    labels[radius < size / 6] = 3
    labels[(radius < size / 4) & (columns < -size / 6)] = 1
    return labels


def draw(kind, seed, labels, **changes):
    config = AnchorConfig(kind=kind, **changes)
    return draw_corruption(labels, config, 4, np.random.default_rng(seed))


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32), empty=st.booleans())
@settings(max_examples=100, deadline=None)
def test_replay_is_bit_exact_and_the_input_stays(kind, seed, empty):
    labels = np.zeros((64, 64), np.uint8) if empty else heart()
    before = labels.copy()
    steps = draw(kind, seed, labels)
    first, second = corrupt(labels, steps), corrupt(labels, steps)
    assert np.array_equal(first, second)
    assert np.array_equal(corrupt(labels, draw(kind, seed, labels)), first)
    assert np.array_equal(labels, before)
    assert not np.shares_memory(first, labels)
    assert first.dtype == np.uint8
    assert first.max() < 4


@pytest.mark.parametrize("kind", KINDS)
def test_only_none_leaves_the_mask(kind):
    masks = [corrupt(heart(), draw(kind, seed, heart())) for seed in range(100)]
    changed = np.mean([np.any(mask != heart()) for mask in masks])
    # A lone swap or a blob of background may hit background alone.
    low, high = {"none": (0, 0), "local": (0.9, 1)}.get(kind, (1, 1))
    assert low <= changed <= high


def test_seeds_differ():
    first, second = (corrupt(heart(), draw("paper", seed, heart())) for seed in (0, 1))
    assert not np.array_equal(first, second)


@given(
    seed=st.integers(0, 2**32),
    first=st.tuples(st.integers(0, 48), st.integers(0, 16)),
    second=st.tuples(st.integers(0, 48), st.integers(32, 48)),
)
@settings(max_examples=50, deadline=None)
def test_swap_keeps_the_number_of_each_label(seed, first, second):
    labels = np.random.default_rng(seed).integers(4, size=(64, 64), dtype=np.uint8)
    swap = Swap(first, second, 16)
    swapped = corrupt(labels, [swap])
    assert np.array_equal(np.bincount(swapped.ravel()), np.bincount(labels.ravel()))
    patches = [(slice(r, r + 16), slice(c, c + 16)) for r, c in (first, second)]
    assert np.array_equal(swapped[patches[0]], labels[patches[1]])
    assert np.array_equal(swapped[patches[1]], labels[patches[0]])
    assert np.count_nonzero(swapped != labels) <= 2 * 16 * 16
    assert np.array_equal(corrupt(swapped, [swap]), labels)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_share_of_noise(share):
    labels = np.full((512, 512), 2, np.uint8)
    noisy = corrupt(labels, [Noise(share=share, classes=4, seed=1)])
    # A quarter of the random labels is the old one.
    assert np.mean(noisy != labels) == pytest.approx(0.75 * share, abs=0.004)
    if share:
        hit = np.bincount(noisy[noisy != labels], minlength=4) / np.sum(noisy != labels)
        assert hit == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.03)


def test_copy_comes_from_the_clean_mask():
    clean = heart()
    steps = [Fill((0, 0), 64, 1), Copy(source=(20, 22), target=(1, 40), side=20)]
    expected = np.ones_like(clean)
    expected[1:21, 40:60] = clean[20:40, 22:42]
    assert np.array_equal(corrupt(clean, steps), expected)
    assert len(np.unique(expected)) > 2


def test_fill_makes_a_hole():
    hole = corrupt(heart(), [Fill((30, 30), 4, 0)])
    changed = np.argwhere(hole != heart())
    assert len(changed) == 16
    assert (changed.min(), changed.max()) == (30, 33)
    assert not hole[30:34, 30:34].any()


def test_blobs_are_smooth_regions_of_one_label():
    labels = np.zeros((96, 64), np.uint8)
    blobs = corrupt(labels, [Blobs(cells=6, threshold=0.5, label=3, seed=0)])
    assert set(np.unique(blobs)) == {0, 3}
    borders = np.mean(blobs[1:] != blobs[:-1])
    share = np.mean(blobs == 3)
    # Single pixels of the same share would have borders at 2 p (1 - p) of all neighbours.
    assert borders < 0.4 * 2 * share * (1 - share)


def test_paper_swaps_patches_of_a_tenth_and_adds_noise():
    for seed in range(20):
        *swaps, noise = draw("paper", seed, heart(224), swaps=(2, 5))
        assert all(isinstance(step, Swap) and step.side == 22 for step in swaps)
        assert 2 <= len(swaps) <= 5
        assert isinstance(noise, Noise)
        assert 0.002 <= noise.share <= 0.05
    drawn = {len(draw("paper", seed, heart(), swaps=(1, 3))) - 1 for seed in range(50)}
    assert drawn == {1, 2, 3}


def test_authors_do_ten_rounds_of_dot_copy_hole():
    sides = {Fill: [], Copy: [], "hole": []}
    for seed in range(60):
        steps = draw("authors", seed, heart(224))
        assert [type(step) for step in steps] == [Fill, Copy, Fill] * 10
        sides[Fill] += [s.side for s in steps[::3]]
        sides[Copy] += [s.side for s in steps[1::3]]
        sides["hole"] += [s.side for s in steps[2::3]]
        assert {s.label for s in steps[2::3]} == {0}
    assert set(sides[Fill]) == {0, 1, 2}
    assert set(sides[Copy]) == set(range(22, 43))
    assert set(sides["hole"]) == set(range(9))


def test_local_swaps_lie_nearer_the_structures():
    labels = np.zeros((128, 128), np.uint8)
    labels[60:68, 60:68] = 1

    def distance(kind):
        steps = [s for seed in range(200) for s in draw(kind, seed, labels) if isinstance(s, Swap)]
        corners = np.array([corner for s in steps for corner in (s.first, s.second)])
        return np.median(np.abs(corners + steps[0].side / 2 - 64).max(axis=1))

    assert distance("local") < 20 < 35 < distance("paper")


@given(seed=st.integers(0, 2**32), corner=st.sampled_from([(0, 0), (0, 40), (40, 63)]))
@settings(max_examples=50, deadline=None)
def test_local_patches_stay_inside(seed, corner):
    labels = np.zeros((64, 64), np.uint8)
    labels[corner] = 1
    for step in draw("local", seed, labels):
        if isinstance(step, Swap):
            corners = np.array([step.first, step.second])
            assert corners.min() >= 0
            assert corners.max() + step.side <= 64
