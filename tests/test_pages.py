"""What the pages show runs as it is shown, on tiny data; see tests/snippets.py."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from docs.build import GENERATED
from maskmend import config_file
from maskmend.calibrate import run as calibration
from maskmend.calibrate.run import calibrate_run
from maskmend.config import Config
from maskmend.config_file import config_from, to_yaml
from maskmend.data.phantom import write_cohort
from maskmend.train import train
from tests.snippets import IMAGES, RUN, SHOWN, blocks, copy_reader, run_page, tiny_version

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
PAGES = [
    README,
    REPOSITORY / "CONTRIBUTING.md",
    *sorted(path for name in ("docs", "experiments", "benchmarks")
            for path in (REPOSITORY / name).rglob("*.md")),
]  # fmt: skip
pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """What every page's reader has, made once."""
    root = tmp_path_factory.mktemp("reader")
    config = tiny_version(config_from({}))
    write_cohort(root / "hearts", patients=10, seed=0, size=32, spacing_mm=9.5)
    (root / "DATA").symlink_to("hearts")
    for name in ("IMAGE.nii.gz", "image.nii.gz"):
        shutil.copy(root / IMAGES[0], root / name)
    (root / "hearts.yaml").write_text(to_yaml(config))
    quiet = Console(quiet=True)
    train(config, root / "hearts", root / "runs" / "hearts", console=quiet)
    calibrate_run(root / "runs" / "hearts", data=root / "hearts", draws=1, console=quiet)
    return root


@pytest.fixture
def folder(made, page, tmp_path, monkeypatch):
    """The working directory of a page's reader, whose trainings and calibrations are tiny."""
    copy_reader(made, page, tmp_path)
    monkeypatch.chdir(tmp_path)
    read = config_file.read_config

    def read_tiny(*given, **named):
        config = read(*given, **named)
        return tiny_version(config) if isinstance(config, Config) else config

    monkeypatch.setattr(config_file, "read_config", read_tiny)
    quick = {"draws": 1}
    monkeypatch.setattr(
        calibration, "calibrate_run", lambda *runs, **named: calibrate_run(*runs, **named | quick)
    )
    return tmp_path


@pages
def test_what_a_page_shows_runs(page, folder):
    run_page(page)
    if page == README:
        assert (folder / "mask.nii.gz").exists()
        assert {path.name for path in (folder / "masks").glob("*.nii.gz")} == {
            Path(image).name.replace(".nii", "_mask.nii") for image in IMAGES
        }
        assert (folder / "scores" / "summary.json").exists()


@pages
def test_every_block_is_run_or_known_not_to_be_code(page):
    for block in blocks(page):
        assert block.language in RUN | SHOWN, f"{block}: write python or sh, not {block.language}"
        if block.language == "yaml":  # a configuration, or a part of one
            config_from(yaml.safe_load(block.code), source=str(block))


def test_few_blocks_are_not_run():
    shown = [b for p in PAGES if "docs" in p.parts or p == README for b in blocks(p)]
    code = [block for block in shown if block.language in RUN]
    spared = [f"{block}: {block.not_run}" for block in code if block.not_run]
    assert len(spared) < len(code) / 3, spared


def test_the_readme_has_ten_lines_of_python():
    (code,) = (block.code for block in blocks(README) if block.language == "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


@pages
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            file = (page.parent / target).resolve()
            written = [REPOSITORY / "docs" / name for name in GENERATED]  # by `make docs`
            assert file.exists() or file in written, f"{page.name}: {target}"
