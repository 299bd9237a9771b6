"""Drawings of numbers as SVG. Colours are classes of the page's style sheet; text is escaped."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

MARKS = {"mended": "●", "steadied": "◐", "left alone": "○", "check": "▲"}
"""What stands for an image, beside its colour."""

_FEWEST = 5
"""Values that a violin is drawn of; of fewer, only they themselves are."""


@dataclass(frozen=True)
class _Frame:
    """A rectangle with axes, and where values lie in it."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]
    left: int = 54
    bottom: int = 38
    top: int = 8
    right: int = 10

    def at(self, x: float, y: float) -> tuple[float, float]:
        share_x = (x - self.x[0]) / (self.x[1] - self.x[0])
        share_y = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(self.left + share_x * (self.width - self.left - self.right), 1),
            round(self.height - self.bottom - share_y * (self.height - self.bottom - self.top), 1),
        )

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        return "M" + "L".join("{} {}".format(*self.at(x, y)) for x, y in points)

    def around(
        self, content: Iterable[Markup], x_ticks: Markup, x_label: str, y_label: str, title: str
    ) -> Markup:
        """The whole drawing."""
        low, high = self.y
        rules = [
            Markup(
                '<path class="rule" d="{}"/><text class="tick end" x="{}" y="{}">{}</text>'
            ).format(
                self.path([(self.x[0], value), (self.x[1], value)]),
                self.left - 6,
                self.at(0, value)[1] + 4,
                _short(value),
            )
            for value in _ticks(low, high)
        ]
        return Markup(
            '<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {w} {h}" width="{w}"'
            ' height="{h}">{}{}{}<text class="label middle" x="{}" y="{}">{}</text>'
            '<text class="label middle" transform="translate(11 {}) rotate(-90)">{}</text></svg>'
        ).format(
            title,
            Markup("").join(rules),
            x_ticks,
            Markup("").join(content),
            (self.left + self.width - self.right) / 2,
            self.height - 4,
            x_label,
            (self.top + self.height - self.bottom) / 2,
            y_label,
            w=self.width,
            h=self.height,
        )

    def x_ticks(self, named: Iterable[tuple[float, str]]) -> Markup:
        return Markup("").join(
            Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(
                self.at(value, 0)[0], self.height - self.bottom + 16, name
            )
            for value, name in named
        )


def loss_curve(losses: np.ndarray) -> Markup:
    """Loss over steps.

    Args:
        losses: Array [instance, step], NaN after an instance's last step; each is a line.
    """
    shown = losses[np.isfinite(losses)]
    low, high = float(shown.min()), float(shown.max())
    room = 0.06 * (high - low) or 0.5
    steps = losses.shape[1] - 1
    frame = _Frame(340, 200, (0, max(1, steps)), (low - room, high + room))
    lines = []
    for values in losses:
        points = [(step, value) for step, value in enumerate(values) if np.isfinite(value)]
        lines.append(Markup('<path class="line" d="{}"/>').format(frame.path(points)))
        if len(losses) == 1:
            step, lowest = min(points, key=lambda point: point[1])
            x, y = frame.at(step, lowest)
            lines.append(Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(x, y))
    ticks = frame.x_ticks((step, f"{step:.0f}") for step in _ticks(0, max(1, steps), whole=True))
    title = (
        f"Loss over {steps} steps, from {shown[0]:.3g}, at the least {low:.3g}"
        if len(losses) == 1
        else f"Loss of {len(losses)} instances over at most {steps} steps"
    )
    return frame.around(lines, ticks, "step", "loss", title)


def score_bar(before: float, after: float, scale: tuple[float, float]) -> Markup:
    """A line from a score before to one after, the latter with the larger mark."""
    frame = _Frame(96, 14, scale, (0, 1), left=6, right=6, bottom=2, top=2)
    (x0, y), (x1, _) = frame.at(before, 0.5), frame.at(after, 0.5)
    ends = frame.path([(scale[0], 0.5), (scale[1], 0.5)])
    return Markup(
        '<svg class="bar" aria-hidden="true" viewBox="0 0 96 14" width="96" height="14">'
        '<path class="rule" d="{}"/><path class="line" d="M{} {y}H{}"/>'
        '<circle class="hollow" cx="{}" cy="{y}" r="3"/>'
        '<circle class="dot" cx="{}" cy="{y}" r="4"/>'
        "</svg>"
    ).format(ends, x0, x1, x0, x1, y=y)


def before_and_after(
    points: Sequence[tuple[str, str, float, float]], score: str, scale: tuple[float, float]
) -> Markup:
    """A mark for each image: its score before to the right, after upwards.

    Args:
        points: Name, a key of `MARKS`, score before, score after.
        score: What it is called.
        scale: Least and largest score that is shown.
    """
    frame = _Frame(340, 300, scale, scale)
    marks = [
        Markup('<path class="rule strong" d="{}"/>').format(frame.path([(v, v) for v in scale]))
    ]
    for name, kind, before, after in points:
        x, y = frame.at(before, after)
        marks.append(
            Markup('<text class="mark {}" x="{}" y="{}">{}<title>{}</title></text>').format(
                kind.replace(" ", "-"), x, y + 4, MARKS[kind], f"{name}: {before:.2f} → {after:.2f}"
            )
        )
    ticks = frame.x_ticks((value, _short(value)) for value in _ticks(*scale))
    gained = sum(after > before for _, _, before, after in points)
    title = f"{score} of {len(points)} images before and after; it rose in {gained}"
    return frame.around(marks, ticks, f"{score} before", f"{score} after", title)


def violins(values: Mapping[str, Sequence[np.ndarray]], y_label: str) -> Markup:
    """Distributions side by side, before on the left and after on the right of each name.

    Args:
        values: By name: one array, or two, of the same images.
        y_label: What they are; from 0 to 1.
    """
    everything = np.concatenate([array for arrays in values.values() for array in arrays])
    low = math.floor(10 * float(everything.min())) / 10 - 0.02
    frame = _Frame(max(340, 85 * len(values) + 64), 300, (0, len(values)), (low, 1.02))
    drawn, said = [], []
    for place, (name, arrays) in enumerate(values.items()):
        for number, array in enumerate(arrays):
            middle = place + (number + 1) / (len(arrays) + 1)
            kind = "after" if number == len(arrays) - 1 else "before"
            drawn += _violin(frame, middle, array, kind)
        means = " before and ".join(f"{array.mean():.3f}" for array in arrays)
        said.append(f"{name} {means}{' after' if len(arrays) > 1 else ''}")
    ticks = frame.x_ticks((place + 0.5, name) for place, name in enumerate(values))
    return frame.around(drawn, ticks, "", y_label, f"{y_label}, mean: {'; '.join(said)}")


def _violin(frame: _Frame, middle: float, values: np.ndarray, kind: str) -> list[Markup]:
    """Outline of a density, the values, and a bar at their mean."""
    drawn = []
    if len(values) >= _FEWEST and values.std() > 0:
        width = max(0.9 * values.std() * len(values) ** -0.2, 0.004)  # Silverman's rule
        levels = np.linspace(*frame.y, 80).clip(None, 1)
        density = np.exp(-(((levels[:, None] - values) / width) ** 2) / 2).sum(1)
        half = 0.15 * density / density.max()
        keep = half > 0.002
        side = list(zip(middle + half[keep], levels[keep], strict=True))
        back = list(zip(middle - half[keep], levels[keep], strict=True))[::-1]
        drawn.append(
            Markup('<path class="violin {}" d="{}Z"/>').format(kind, frame.path(side + back))
        )
    for number, value in enumerate(np.sort(values)):
        x, y = frame.at(middle + 0.015 * (number % 3 - 1), value)
        drawn.append(Markup('<circle class="point {}" cx="{}" cy="{}" r="2"/>').format(kind, x, y))
    (x, y), reach = frame.at(middle, values.mean()), 12
    drawn.append(
        Markup('<path class="mean {}" d="M{} {}h{}"/>').format(kind, x - reach, y, 2 * reach)
    )
    return drawn


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five round numbers."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def _short(value: float) -> str:
    return f"{value:g}".replace("-", "−")
