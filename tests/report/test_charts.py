"""Drawings put values where they belong, and say in words what they show."""

import re

import numpy as np
import pytest

from maskmend.report.charts import before_and_after, loss_curve, score_bar, violins


def numbers(path):
    return np.array(re.findall(r"-?[\d.]+", path), float).reshape(-1, 2)


def label(drawing):
    return re.search('aria-label="([^"]*)"', drawing)[1]


def test_a_loss_that_falls_goes_down_the_page_and_has_its_lowest_marked():
    drawing = loss_curve(np.array([[4.0, 2.0, 1.0, 3.0]]))
    (line,) = re.findall('class="line" d="([^"]*)"', drawing)
    x, y = numbers(line).T
    assert (np.diff(x) > 0).all()
    assert y[0] < y[3] < y[1] < y[2]
    (dot,) = re.findall('class="dot" cx="([^"]*)" cy="([^"]*)"', drawing)
    assert [float(value) for value in dot] == [x[2], y[2]]
    assert label(drawing) == "Loss over 3 steps, from 4, at the least 1"


def test_an_instance_that_ended_early_has_a_shorter_line():
    drawing = loss_curve(np.array([[4.0, 2.0, 1.0], [3.0, 2.5, np.nan]]))
    lines = re.findall('class="line" d="([^"]*)"', drawing)
    assert [len(numbers(line)) for line in lines] == [3, 2]
    assert 'class="dot"' not in drawing


def test_a_loss_that_stays_can_be_drawn():
    assert "<svg" in loss_curve(np.array([[1.0, 1.0]]))


def test_a_bar_leads_from_before_to_after():
    drawing = score_bar(0.25, 0.75, (0, 1))
    hollow, dot = (
        float(re.search(f'class="{name}" cx="([^"]*)"', drawing)[1]) for name in ("hollow", "dot")
    )
    assert dot - hollow == pytest.approx((96 - 12) / 2, abs=0.2)


def test_a_mark_lies_above_the_line_where_the_score_rose():
    points = [
        ("up", "mended", 0.2, 0.8),
        ("same", "left alone", 0.5, 0.5),
        ("x", "check", 0.6, 0.4),
    ]
    drawing = before_and_after(points, "Realism", (0, 1))
    line = numbers(re.search('class="rule strong" d="([^"]*)"', drawing)[1])
    marks = re.findall('class="mark ([^"]*)" x="([^"]*)" y="([^"]*)">(.)<title>([^<]*)', drawing)
    signs = []
    for _, x, y, _, _ in marks:
        on_line = np.interp(float(x), *line.T)
        signs.append(np.sign(round(on_line + 4 - float(y), 1)))
    assert signs == [1, 0, -1]
    assert [mark[3] for mark in marks] == ["●", "○", "▲"]
    assert label(drawing) == "Realism of 3 images before and after; it rose in 1"


def test_a_violin_is_wide_where_the_values_are():
    values = np.array([0.5] * 3 + [0.8] * 20 + [0.9])
    values += np.linspace(0, 0.001, len(values))
    drawing = violins({"LV": [values]}, "Dice")
    outline = numbers(re.search('class="violin after" d="([^Z]*)Z', drawing)[1])
    (mean,) = re.findall('class="mean after" d="M([^ ]*) ([^h]*)h', drawing)
    width = {y: np.ptp(outline[outline[:, 1] == y][:, 0]) for y in set(outline[:, 1])}
    points = np.array(re.findall('class="point after" cx="([^"]*)" cy="([^"]*)"', drawing), float)
    widest = max(width, key=width.get)
    assert abs(widest - np.median(points[:, 1])) < 8
    assert np.ptp(points[:, 0]) < width[widest]
    assert label(drawing) == f"Dice, mean: LV {values.mean():.3f}"
    assert points[:, 1].min() < float(mean[1]) < points[:, 1].max()


def test_few_values_are_no_distribution():
    drawing = violins({"LV": [np.array([0.5, 0.7]), np.array([0.6, 0.8])]}, "Dice")
    assert "violin" not in drawing
    assert drawing.count('class="point') == 4
    assert label(drawing) == "Dice, mean: LV 0.600 before and 0.700 after"


def test_a_foreign_name_is_text():
    drawing = violins({"<script>": [np.array([0.5, 0.7])]}, "Dice")
    assert "<script>" not in drawing
    assert "&lt;script&gt;" in drawing
