"""Largest components and filled holes, by hand."""

import torch

from maskmend.components import clean, one_hot


def test_specks_go_and_holes_are_filled():
    labels = torch.zeros(2, 12, 12, dtype=torch.uint8)
    labels[:, 2:9, 2:9] = 1
    labels[:, 4:6, 4:6] = 0  # a hole
    labels[0, 11, 11] = 1  # a speck
    cleaned = clean(labels)
    expected = torch.zeros_like(labels)
    expected[:, 2:9, 2:9] = 1
    assert torch.equal(cleaned, expected)
    assert labels[0, 11, 11] == 1  # the caller's stay


def test_a_structure_inside_another_is_no_hole():
    labels = torch.zeros(1, 12, 12, dtype=torch.uint8)
    labels[:, 2:10, 2:10] = 1
    labels[:, 4:8, 4:8] = 2
    assert torch.equal(clean(labels), labels)


def test_an_open_bay_is_no_hole():
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[:, 1:7, 1:7] = 1
    labels[:, 3:5, 0:5] = 0
    assert torch.equal(clean(labels), labels)


def test_an_empty_mask_stays_empty():
    assert clean(torch.zeros(2, 4, 4, dtype=torch.uint8)).sum() == 0


def test_one_hot_has_the_class_second():
    hot = one_hot(torch.tensor([[[0, 2]]], dtype=torch.uint8), 3)
    assert hot.tolist() == [[[[1, 0]], [[0, 0]], [[0, 1]]]]
