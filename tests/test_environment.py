"""What stands beside numbers is of this package, and of nothing around it."""

import shutil
import subprocess

import pytest
import torch

from maskmend import environment as module
from maskmend.environment import environment


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_commit_is_named_only_where_it_holds_the_package(tmp_path, monkeypatch):
    file = tmp_path / "environment.py"
    file.write_text("")
    monkeypatch.setattr(module, "__file__", str(file))

    def git(*command):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *names, *command], check=True, capture_output=True)

    assert environment(torch.device("cpu"))["commit"] is None
    git("init")
    git("commit", "--allow-empty", "-m", "somebody's, around an ignored folder")
    assert environment(torch.device("cpu"))["commit"] is None
    git("add", "environment.py")
    git("commit", "-m", "ours")
    commit = environment(torch.device("cpu"))["commit"]
    assert commit
    file.write_text("changed")
    assert environment(torch.device("cpu"))["commit"] == f"{commit}-dirty"
