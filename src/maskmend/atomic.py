"""Files that appear whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from maskmend.errors import InputError, RunError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a kill, sees the old content or the new one, whole.

    Raises:
        RunError: The disk is full or the folder cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    # Not by tempfile, whose files nobody but their owner may read, whatever the umask.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line, as a RunError, why a file or folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another"
            " folder"
        ) from error


@contextlib.contextmanager
def as_input_error() -> Iterator[None]:
    """Say of files that a caller asked for, and of no run, as an InputError what went wrong."""
    try:
        yield
    except RunError as error:
        raise InputError(str(error)) from error
