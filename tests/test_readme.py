"""What the README shows runs as it is shown, on tiny data."""

import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from maskmend.cli import app, main
from maskmend.config import config_from, read_config, to_yaml
from maskmend.data.phantom import write_cohort
from maskmend.train import train
from tests.tiny import tiny

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TINY = tiny(training={"iterations": 2, "batch": 2}, adaptation={"steps": 1})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with what the README's reader has: hearts.yaml, data and an image."""
    monkeypatch.chdir(tmp_path)
    write_cohort(tmp_path / "hearts", patients=10, seed=0, size=32, spacing_mm=9.5)
    first = min((tmp_path / "hearts" / "images").iterdir())
    shutil.copy(first, tmp_path / "image.nii.gz")
    Path("hearts.yaml").write_text(to_yaml(TINY))
    return tmp_path


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_ten_lines_of_python_run(folder, capsys):
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10

    exec(compile(code, "README.md", "exec"), {})

    assert (folder / "mask.nii.gz").exists()
    before, after, *_ = capsys.readouterr().out.split()
    assert float(before) != float(after)


def test_the_command_lines_run_in_the_order_they_are_shown(folder, capsys):
    commands = "".join(block for block in blocks("sh") if "maskmend train" in block)
    images = " ".join(str(path) for path in sorted((folder / "hearts" / "images").iterdir()))
    ran = []
    for line in commands.splitlines():
        shown = line.partition("#")[0].replace("IMAGE.nii.gz ...", images)
        _, verb, *arguments = shlex.split(re.sub(r"\bDATA\b", "hearts", shown))
        again = [verb, *arguments] in ran
        ran.append([verb, *arguments])
        # These are run in test_demo.py, test_cluster.py and test_group.py.
        if verb == "demo" or {"--engine", "--devices"} & set(arguments):
            app.parse_args([verb, *arguments], exit_on_error=False, print_error=False)
            continue
        redirected = arguments[-2:-1] == [">"]
        with pytest.raises(SystemExit) as ended:
            main([verb, *(arguments[:-2] if redirected else arguments)])
        # An untrained network's masks may be empty, which status 1 tells.
        assert ended.value.code in ((0, 1) if verb == "predict" else (0,))
        printed = capsys.readouterr()
        assert ("20 of 20 images are done already" in printed.err) == again
        if redirected:
            assert read_config(Path("hearts.yaml")) == TINY
            assert config_from(yaml.safe_load(printed.out)) == config_from({})

    verbs = ["config", "train", "predict", "predict", "calibrate", "predict", "evaluate", "demo"]
    assert [verb for verb, *_ in ran] == [*verbs, "predict", "predict", "predict", "train"]
    assert ran.count(ran[2]) == 2  # the call that is shown to go on
    assert len(pd.read_csv("masks/predictions.csv")) == 20
    assert {"dice_before", "dice_after"} <= set(pd.read_csv("scores/patients.csv").columns)


def test_the_python_of_the_other_pages_runs(folder):
    train(TINY, folder / "hearts", folder / "runs" / "hearts")
    snippets = [(page, code) for page in docs() for code in blocks("python", page.read_text())]
    assert snippets
    for page, code in snippets:
        exec(compile(code, str(page), "exec"), {})


def test_every_link_to_a_file_leads_somewhere():
    for page in (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *docs()):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def docs():
    return (*(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "experiments").rglob("*.md"))
