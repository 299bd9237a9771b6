"""A tidy table that grows line by line, so that a stop loses none and nothing is made twice."""

import csv
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any


def keys_of(path: Path, row: type, length: int) -> set[tuple[str, ...]]:
    """What the lines of a table are about, as text; those that a stop cut short are left out.

    Args:
        path: The table; empty if it is not there.
        row: The dataclass of a line.
        length: How many of its fields, the first ones, say what it is about.
    """
    if not path.exists():
        return set()
    with path.open(encoding="utf-8", newline="") as file:
        rows: Sequence[list[str]] = list(csv.reader(file))
    return {tuple(line[:length]) for line in rows[1:] if len(line) == len(fields(row))}


def append(path: Path, row: Any) -> None:
    """Add a line to a table, which gets its heading with the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow([field.name for field in fields(row)])
        writer.writerow(astuple(row))
