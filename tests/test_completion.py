"""What a shell completes on Tab."""

import shutil
import subprocess
from pathlib import Path

import pytest

from maskmend.cli import app, main

SHELLS = ("bash", "zsh", "fish")


def script(shell, capsys, *more):
    with pytest.raises(SystemExit) as ended:
        main(["completion", shell, *more])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_is_completed_in_a_script_that_the_shell_takes(shell, capsys, tmp_path):
    text = script(shell, capsys)
    verbs = {name for name in app if not name.startswith("-")}
    assert {"demo", "train", "predict", "doctor", "completion"} <= verbs
    assert not [verb for verb in verbs if verb not in text]
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def completed(text, *words):
    """What bash offers for the last word."""
    code = f"""{text}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
COMP_CWORD={len(words) - 1}
_maskmend
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_offers_verbs_options_and_values(capsys):
    text = script("bash", capsys)
    assert completed(text, "maskmend", "pre") == {"predict"}
    assert completed(text, "maskmend", "train", "--acc") == {"--accelerator"}
    assert completed(text, "maskmend", "predict", "--method", "gua") == {"guarded"}


@pytest.mark.parametrize("shell", SHELLS)
def test_it_is_installed_in_the_home_folder(shell, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    said = script(shell, capsys, "--install")
    where = Path(said.partition(": written")[0])
    assert where.is_relative_to(tmp_path)
    assert "predict" in where.read_text()


def test_a_home_that_cannot_be_written_to_is_told(capsys, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file in the way")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit) as ended:
        main(["completion", "bash", "--install"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"maskmend: {tmp_path / 'home'}")
    assert "cannot be written" in said
    assert said.count("\n") == 1
