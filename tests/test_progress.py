import io
import itertools
import re

import pytest
from rich.console import Console

from maskmend import progress as module
from maskmend.progress import EVERY_S, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock finds it ten seconds later."""
    ticks = itertools.count(0, 10)
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(ticks)))


def run(console, steps, completed=0):
    with progress_bar(console, "training", completed + steps, completed) as advance:
        for step in range(steps):
            advance(f"loss {step}")


def test_a_log_file_gets_a_line_now_and_then(clock):
    log = io.StringIO()
    run(Console(file=log, width=20), steps=7, completed=100)
    # Three ticks a line, of which one is its own.
    assert EVERY_S == 30
    lines = log.getvalue().splitlines()
    assert [line.rpartition(", ")[0] for line in lines] == [
        "training 103/107, loss 2",
        "training 106/107, loss 5",
    ]
    assert all(re.fullmatch(r".* [-\d:]+ left", line) for line in lines)
    assert not set("\r\x1b") & set(log.getvalue())


def test_a_quick_loop_leaves_no_trace_in_a_log_file():
    log = io.StringIO()
    run(Console(file=log), steps=50)
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar_that_vanishes():
    screen = io.StringIO()
    run(Console(file=screen, force_terminal=True, width=80), steps=5, completed=3)
    assert "training" in screen.getvalue()
    assert "8/8" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")  # the line is erased


def test_a_stop_gives_the_terminal_back():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), progress_bar(console, "training", 9) as advance:
        advance()
        raise KeyboardInterrupt
    shown, hidden = (screen.getvalue().rfind(f"\x1b[?25{how}") for how in "hl")
    assert shown > hidden > -1  # the cursor
