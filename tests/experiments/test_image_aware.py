"""Masks that are realistic and wrong, and how well they are told apart."""

import pandas as pd
import torch

from experiments.image_aware import summary, wrong_masks


def heart(slices, row=20, column=24):
    labels = torch.zeros(slices, 48, 48, dtype=torch.uint8)
    labels[:, row : row + 8, column : column + 6] = 1
    labels[:, row + 2 : row + 4, column + 1 : column + 3] = 3
    return labels


def test_wrong_masks_are_true_ones_elsewhere():
    labels, other = heart(3), torch.stack([torch.full((48, 48), n) for n in range(5)])
    wrong = dict(wrong_masks(labels, other, spacing_mm=5))
    assert wrong["another patient's"].flatten(1).max(1).values.tolist() == [0, 2, 4]
    assert torch.equal(wrong["moved 25 mm"], heart(3, column=29))
    assert torch.equal(wrong["mirrored"], labels.flip(2))
    grown = wrong["enlarged by 1.4"]
    assert grown.unique().tolist() == [0, 1, 3]
    assert 1.7 < (grown > 0).sum() / (labels > 0).sum() < 2.2
    for axis in (1, 2):
        where = [(mask > 0).any(3 - axis).float()[0] for mask in (labels, grown)]
        first, second = ((w * torch.arange(48)).sum() / w.sum() for w in where)
        assert abs(first - second) <= 0.5


def test_told_apart_is_the_area_under_the_curve():
    rows = [
        {"discriminator": "a", "mask": "moved", "true": 1.0, "wrong": 0.5},
        {"discriminator": "a", "mask": "moved", "true": 0.8, "wrong": 0.9},
        {"discriminator": "b", "mask": "moved", "true": 2.0, "wrong": 1.0},
    ]
    table = summary(pd.DataFrame(rows))
    assert table.loc["moved", "a"] == 0.75
    assert table.loc["moved", "b"] == 1
