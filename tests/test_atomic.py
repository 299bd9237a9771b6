"""Files appear whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from maskmend.atomic import write_atomically
from maskmend.errors import RunError


def error_of(path, content):
    with pytest.raises(RunError) as error:
        write_atomically(path, content)
    return str(error.value)


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch, broken):
    path = tmp_path / "run.json"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((Path, "replace") if broken == "replace" else (os, "fsync")), fail)
    message = error_of(path, "new")
    assert str(path) in message
    assert "No space left" in message
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_write_replaces_whole_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_atomically(path, json.dumps(list(range(1000))))
    write_atomically(path, b"[]")
    assert path.read_bytes() == b"[]"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file" / "x") in error_of(tmp_path / "file" / "x", "")
