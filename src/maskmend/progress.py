"""How far a long loop is: a bar on a terminal, a line now and then in a log file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

EVERY_S = 30
"""Seconds between two lines in a log file."""


@contextmanager
def progress_bar(
    console: Console, name: str, total: int, completed: int = 0
) -> Iterator[Callable[..., None]]:
    """Show a loop while it runs; nothing of the bar stays behind.

    Args:
        console: Where to. One that is no terminal gets whole lines, and none if the loop is quick.
        name: What is being done, such as "training".
        total: Number of steps.
        completed: How many were done before, if the loop goes on.

    Yields:
        `advance(figures="")`, to be called after every step; the figures stand beside the count.
    """
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        left := TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task(name, total=total, completed=completed, figures="")
    said = time.monotonic()

    def advance(figures: str = "") -> None:
        nonlocal said
        bar.update(task, advance=1, figures=figures)
        if not console.is_interactive and time.monotonic() - said >= EVERY_S:
            said = time.monotonic()
            (shown,) = bar.tasks
            count = f"{name} {shown.completed:.0f}/{total}"
            parts = (count, figures, f"{left.render(shown)} left")
            line = ", ".join(filter(None, parts))
            console.print(line, soft_wrap=True, highlight=False, markup=False)

    with bar if console.is_interactive else nullcontext():
        yield advance
