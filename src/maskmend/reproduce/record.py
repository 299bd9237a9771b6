"""What stands beside every picture: the numbers, and what they depend on."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskmend.atomic import write_atomically
from maskmend.data.volume import appearing_whole
from maskmend.environment import environment
from maskmend.reproduce.study import Key, Study

BEFORE, AFTER, THIRD = "#999999", "#0072B2", "#E69F00"
"""Of Okabe and Ito's palette, told apart with any colour vision and in grey."""
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "pdf.fonttype": 42,  # text stays text
}


def record(
    study: Study, target: str, table: pd.DataFrame, numbers: dict[str, Any], keys: list[Key]
) -> None:
    """Write a target's CSV, and its JSON with seed, splits, commit and hardware.

    Args:
        study: The runs.
        target: Names the files.
        table: What was drawn.
        numbers: What the table amounts to.
        keys: The runs behind it.
    """
    about = {
        "target": target,
        "scale": study.scale,
        "seed": study.seed,
        "folds": study.folds,
        "runs": {str(key.place): study.about(key) for key in keys},
        "environment": environment(study.device),
        "numbers": numbers,
    }
    write_atomically(study.results / f"{target}.csv", table.to_csv(index=False))
    text = json.dumps(about, indent=2, allow_nan=False)
    write_atomically(study.results / f"{target}.json", text + "\n")


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, readable at half a page."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: nothing global, nothing to close
    return figure


def styled() -> Any:
    """The style of all figures, as a context."""
    return mpl.rc_context(_STYLE)


def save(figure: Figure, folder: Path, name: str) -> None:
    """NAME.png and NAME.pdf, each whole or not at all."""
    for kind in ("png", "pdf"):
        with appearing_whole(folder / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=200)


def stars(p_value: float) -> str:
    """The paper's asterisk: p below 0.01."""
    return "*" if p_value < 0.01 else "n.s."
