import math
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage

from maskmend.evaluate.metrics import dice, hausdorff95_mm, hausdorff_mm, iou, score

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MedPy's own, at import
    from medpy.metric import binary as medpy


def mask(shape, *voxels):
    result = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        result[voxel] = True
    return result


def blob(rng, shape):
    """A few lumps: smooth noise, cut so that a tenth to a half of it stands out."""
    field = ndimage.gaussian_filter(rng.random(shape), sigma=1.5)
    return field > np.quantile(field, rng.uniform(0.5, 0.9))


@st.composite
def blob_pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dims = draw(st.integers(2, 3))
    shape = draw(st.tuples(*[st.integers(3, 20)] * dims))
    spacing = draw(st.tuples(*[st.floats(0.3, 10)] * dims))
    return blob(rng, shape), blob(rng, shape), spacing


def test_overlap_counted_by_hand():
    prediction = mask((4, 4, 1), (0, 0, 0), (0, 1, 0), (0, 2, 0))
    reference = mask((4, 4, 1), (0, 1, 0), (0, 2, 0), (0, 3, 0), (1, 3, 0), (2, 3, 0))
    assert dice(prediction, reference) == 2 * 2 / (3 + 5)
    assert iou(prediction, reference) == 2 / 6


def test_distance_measured_by_hand():
    # One voxel against two: the far one is 3 voxels of 2 mm and 1 voxel of 8 mm away.
    near, far = (1, 1, 1), (4, 1, 2)
    assert hausdorff_mm(
        mask((6, 3, 3), near), mask((6, 3, 3), near, far), (2.0, 1.0, 8.0)
    ) == pytest.approx(10.0)


def test_hausdorff_is_the_larger_direction_and_symmetric():
    small = mask((9, 9), (slice(0, 2), slice(0, 2)))
    large = mask((9, 9), (slice(0, 2), slice(0, 9)))
    assert hausdorff_mm(small, large, (1, 1.5)) == hausdorff_mm(large, small, (1, 1.5)) == 7 * 1.5


def test_percentile_of_each_direction_by_hand():
    # Points at 0 .. 20 mm on a line against the point at 0: percentile 95 of 0 .. 20 is 19, while
    # pooling both directions (MedPy) takes it of 0, 0, 1 .. 20 and finds 18.95.
    line, point = np.ones((21, 1), dtype=bool), mask((21, 1), (0, 0))
    assert hausdorff95_mm(line, point, (1.0, 1.0)) == pytest.approx(19.0)
    assert medpy.hd95(line, point) == pytest.approx(18.95)


def test_distances_run_between_borders_not_between_sets():
    # Inside the solid square nothing is border, so the hole's rim is 2 voxels from the outside.
    solid = np.ones((7, 7), dtype=bool)
    holed = solid.copy()
    holed[3, 3] = False
    assert hausdorff_mm(solid, holed, (1.0, 1.0)) == 2.0


def test_a_slice_is_scored_in_its_plane():
    rng = np.random.default_rng(3)
    a, b = blob(rng, (20, 24)), blob(rng, (20, 24))
    in_plane = score(a, b, (1.5, 0.8))
    assert score(a[..., None], b[..., None], (1.5, 0.8, 10.0)) == in_plane
    assert in_plane.hausdorff_mm == pytest.approx(medpy.hd(a, b, voxelspacing=(1.5, 0.8)))


@pytest.mark.parametrize("shape", [(5, 9, 3), (5, 9, 1), (5, 9), (1, 1, 1)])
def test_empty_masks(shape):
    spacing = (2.0, 0.5, 10.0)[: len(shape)]
    diagonal = math.hypot(*((n - 1) * s for n, s in zip(shape, spacing, strict=True)))
    empty, full = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)

    both = score(empty, empty, spacing)
    assert (both.dice, both.iou, both.hausdorff_mm, both.hausdorff95_mm) == (1, 1, 0, 0)
    for one in (score(empty, full, spacing), score(full, empty, spacing)):
        assert (one.dice, one.iou) == (0, 0)
        assert one.hausdorff_mm == one.hausdorff95_mm == pytest.approx(diagonal)


@settings(deadline=None)  # a busy machine is no failure
@given(blob_pairs())
def test_no_distance_exceeds_that_of_an_empty_mask(pair):
    a, b, spacing = pair
    assert hausdorff_mm(a, b, spacing) <= hausdorff_mm(a, np.zeros_like(a), spacing) * (1 + 1e-12)


@settings(deadline=None)
@given(blob_pairs())
def test_agrees_with_medpy(pair):
    a, b, spacing = pair
    ours = score(a, b, spacing)
    assert ours.dice == pytest.approx(medpy.dc(a, b))
    assert ours.iou == pytest.approx(medpy.jc(a, b))
    assert ours.hausdorff_mm == pytest.approx(medpy.hd(a, b, voxelspacing=spacing))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call
@settings(deadline=None)
@given(blob_pairs())
def test_agrees_with_monai(pair):
    a, b, spacing = pair
    tensors = [torch.from_numpy(m)[None, None] for m in (a, b)]
    for percentile, ours in ((None, hausdorff_mm), (95, hausdorff95_mm)):
        theirs = compute_hausdorff_distance(
            *tensors, include_background=True, percentile=percentile, spacing=list(spacing)
        )
        assert ours(a, b, spacing) == pytest.approx(theirs.item(), rel=1e-5)  # theirs is float32


@settings(deadline=None)
@given(blob_pairs())
def test_single_scores_equal_the_joint_one(pair):
    a, b, spacing = pair
    joint = score(a, b, spacing)
    assert joint.dice == dice(a, b)
    assert joint.iou == iou(a, b)
    assert joint.hausdorff_mm == hausdorff_mm(a, b, spacing)
    assert joint.hausdorff95_mm == hausdorff95_mm(a, b, spacing) <= joint.hausdorff_mm
    assert score(b, a, spacing) == joint


def test_a_stray_voxel_does_not_make_it_slow():
    """It takes less than one distance transform of the whole volume; the usual way takes two."""
    x, y, _ = np.indices((216, 256, 10))
    radius = np.hypot(x - 100, y - 120)
    reference = (radius < 40) & (radius > 28)
    prediction = np.roll(reference, 3, axis=0)
    prediction[0, 0, 0] = prediction[-1, -1, -1] = True
    spacing = (1.4, 1.4, 10.0)
    ours = usual = math.inf
    for _ in range(5):  # side by side, so that a busy machine slows both
        start = time.perf_counter()
        score(prediction, reference, spacing)
        ours, start = min(ours, time.perf_counter() - start), time.perf_counter()
        ndimage.distance_transform_edt(~reference, spacing)
        usual = min(usual, time.perf_counter() - start)
    assert ours < usual


@pytest.mark.parametrize("function", [dice, iou])
def test_label_arrays_are_refused(function):
    labels = np.array([[0, 3], [1, 2]], dtype=np.uint8)
    with pytest.raises(ValueError, match="labels == 3"):
        function(labels, labels)


def test_shapes_and_spacing_must_fit():
    a = np.ones((3, 3), dtype=bool)
    with pytest.raises(ValueError, match="one shape"):
        score(a, a[:2], (1, 1))
    with pytest.raises(ValueError, match="2 axes"):
        score(a, a, (1, 1, 1))
