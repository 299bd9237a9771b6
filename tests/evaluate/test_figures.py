from dataclasses import replace

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.image import imread

from maskmend.evaluate.figures import Row, contact_sheet

SKY_BLUE, ORANGE, PURPLE = "#56B4E9", "#E69F00", "#CC79A7"


def row(labels):
    image = np.linspace(0, 1, labels.size).reshape(labels.shape)
    nothing = np.zeros_like(labels)
    return Row(
        name="a",
        image=image,
        before=nothing,
        after=nothing,
        truth=labels,
        dice_before=0.0,
        dice_after=1.0,
    )


@pytest.fixture
def wide():
    """A bar of label 1 that is long in x and thin in y."""
    labels = np.zeros((64, 48), dtype=np.uint8)
    labels[10:50, 20:26] = 1
    return labels


def coloured(path, colour):
    """Where a picture shows a colour, its legend left out."""
    picture = imread(path)[..., :3]
    near = np.abs(picture - colors.to_rgb(colour)).max(axis=-1) < 0.05
    return near[: int(0.8 * len(near))]


def test_x_runs_to_the_right(tmp_path, wide):
    contact_sheet(tmp_path / "sheet.png", [row(wide)])
    down, right = np.nonzero(coloured(tmp_path / "sheet.png", SKY_BLUE))
    assert np.ptp(right) / np.ptp(down) == pytest.approx(40 / 6, rel=0.1)


def test_each_mask_is_drawn_in_its_own_column(tmp_path, wide):
    plain = row(wide)
    empty = plain.before
    for column, field in enumerate(("before", "after", "truth"), start=1):
        shown = {"before": empty, "after": empty, "truth": empty, field: wide}
        contact_sheet(tmp_path / "sheet.png", [replace(plain, **shown)])
        found = coloured(tmp_path / "sheet.png", SKY_BLUE)
        right = np.nonzero(found)[1]
        assert (4 * right.mean() / found.shape[1]).astype(int) == column


def test_every_structure_has_its_colour(tmp_path, wide):
    labels = wide.copy()
    labels[10:30, 30:36], labels[10:30, 40:44] = 2, 3
    contact_sheet(tmp_path / "sheet.png", [row(labels), row(wide)])
    for colour in (SKY_BLUE, ORANGE, PURPLE):
        assert coloured(tmp_path / "sheet.png", colour).sum() > 50


def test_masks_at_the_edge_and_empty_rows(tmp_path, wide):
    full = np.ones((20, 100), dtype=np.uint8)
    contact_sheet(tmp_path / "sheet.png", [row(full), row(np.zeros_like(wide)), row(wide)])
    assert coloured(tmp_path / "sheet.png", SKY_BLUE).any()
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_what_cannot_be_drawn(tmp_path, wide):
    path = tmp_path / "sheet.png"
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet(path, [])
    with pytest.raises(ValueError, match="a: arrays must have one shape"):
        contact_sheet(path, [replace(row(wide), image=np.zeros((3, 3)))])
    with pytest.raises(ValueError, match="at most 7, got 8"):
        contact_sheet(path, [row(wide)], structures={k: str(k) for k in range(1, 9)})
    assert not path.exists()
