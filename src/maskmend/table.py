"""What stands in a folder of masks; predictions.csv: how each image went, written as it goes."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from maskmend.atomic import as_input_error, write_atomically
from maskmend.errors import InputError

PREDICTIONS = "predictions.csv"
SETTINGS = "settings.json"
"""Beside it: what the masks depend on, but for the images."""
MASK = "_mask.nii.gz"
"""And what the name of an image's mask ends with."""
Status = Literal["done", "check", "failed"]


@dataclass(frozen=True)
class Row:
    """One line of predictions.csv."""

    image: str
    status: Status
    realism_before: float | str = ""
    realism_after: float | str = ""
    steps: float | str = ""
    seconds: float | str = ""
    decision: str = ""
    message: str = ""


@contextmanager
def open_table(path: Path, rows: Sequence[Row] = ()) -> Iterator[Callable[[Row], None]]:
    """A new table, and a function that adds a row and has it on disk when it returns.

    Args:
        path: The file; its folder is made if need be.
        rows: What the table begins with, written before an old table goes.

    Raises:
        InputError: The file cannot be written.
    """
    start = io.StringIO(newline="")
    csv.writer(start).writerows([_COLUMNS, *map(astuple, rows)])
    with _writing(path):
        write_atomically(path, start.getvalue())
        file = path.open("a", encoding="utf-8", newline="")
    writer = csv.writer(file)

    def write(row: Row) -> None:
        with _writing(path):
            writer.writerow(astuple(row))
            file.flush()

    try:
        yield write
    finally:
        with _writing(path):
            file.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        with as_input_error():
            yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free space or choose another --out"
        ) from error


def read_table(path: Path) -> list[Row]:
    """The rows of a table; those that a stop cut short, and other strangers, are left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    whole = text[: text.rfind("\n") + 1]
    rows: list[Any] = [row for row in csv.reader(io.StringIO(whole, newline="")) if row]
    if rows[:1] != [_COLUMNS]:
        return []
    known = [row for row in rows[1:] if len(row) == len(_COLUMNS) and row[1] in get_args(Status)]
    return [Row(*row) for row in known]


def masked_in(out: Path) -> list[str]:
    """Names of the images with a mask in a folder, without files that a system hides (._NAME)."""
    return sorted(path.name.removesuffix(MASK) for path in out.glob(f"[!.]*{MASK}"))


_COLUMNS = [field.name for field in fields(Row)]
