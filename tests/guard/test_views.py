"""A view turns and enlarges, and is undone."""

import pytest
import torch

from maskmend.guard.views import View


def blob():
    """A round structure right of the middle."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    inside = torch.sigmoid(8 - ((rows - 31.5) ** 2 + (columns - 45.5) ** 2).sqrt())
    return torch.stack([1 - inside, inside])[None]


def centre(masks):
    columns = torch.arange(64.0)
    area = masks[0, 1]
    return (area.sum(1) @ columns / area.sum()).item(), (area.sum(0) @ columns / area.sum()).item()


def test_straight_on_is_the_image_itself():
    images = torch.randn(2, 1, 16, 16)
    assert View().of(images) is images
    assert View().back(images) is images


def test_a_quarter_turn_moves_what_was_right():
    row, column = centre(View(degrees=90).of(blob()))
    assert (row, column) == pytest.approx((17.5, 31.5), abs=0.1)


def test_slices_that_are_no_squares_are_turned_as_they_are():
    """A turn of the whole square, cropped, is one of the crop."""
    square = blob()
    wide = square[:, :, 12:52]
    turned = View(degrees=30).of(square)[:, :, 12:52]
    torch.testing.assert_close(View(degrees=30).of(wide), turned, atol=1e-4, rtol=1e-4)


def test_area_grows_by_the_square_and_distance_by_the_zoom():
    view = View(zoom=1.3)
    small, large = blob(), view.of(blob())
    assert large[0, 1].sum() / small[0, 1].sum() == pytest.approx(1.3**2, rel=0.01)
    assert centre(large)[1] - 31.5 == pytest.approx(1.3 * 14, abs=0.1)


def test_a_move_is_by_whole_pixels():
    images = torch.randn(2, 1, 16, 12)
    moved = View(move=(3, -2)).of(images)
    torch.testing.assert_close(moved[..., 3:, :-2], images[..., :-3, 2:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        moved[..., :3, 0], images[..., :1, 2].expand(2, 1, 3), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    "view",
    [
        View(degrees=20),
        View(zoom=0.87),
        View(degrees=-35, zoom=1.2),
        View(move=(3, -7)),
        View(degrees=-35, zoom=1.2, move=(3, -7)),
    ],
)
def test_back_undoes_it(view):
    masks = view.back(view.of(blob()))
    torch.testing.assert_close(masks.sum(1), torch.ones(1, 64, 64))
    assert (masks - blob())[0, 1].abs().mean() < 0.01
    assert (view.of(blob()) - blob())[0, 1].abs().mean() > 0.011


def test_what_a_view_did_not_show_is_background():
    everywhere = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])[None]
    masks = View(zoom=2.0).back(everywhere)
    assert masks[0, 0, 0].unique() == 1
    assert masks[0, 1, 4, 4] == pytest.approx(1)
