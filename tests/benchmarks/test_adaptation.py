"""The benchmark of adaptation on a tiny run: what it writes."""

import json
from pathlib import Path
from statistics import median

import pytest
from matplotlib.image import imread

from benchmarks.adaptation import app
from maskmend.data.phantom import write_cohort
from maskmend.train import train
from tests.tiny import tiny

pytestmark = pytest.mark.skipif(
    not Path("/proc").exists(), reason="finds the peak of memory in /proc"
)
TOP = (
    "ratio_same_steps", "ratio_auto", "fraction_of_floor", "peak_memory_ratio", "dice_none",
    "dice_paper_loop", "dice_fast", "dice_auto",
)  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The benchmark's JSON file."""
    root = tmp_path_factory.mktemp("benchmark")
    write_cohort(root / "hearts", patients=5, seed=0, size=40, spacing_mm=7)
    brisk = {"iterations": 60, "batch": 4, "learning_rate": 1e-2, "stop": "dice"}
    config = tiny(training=brisk, adaptation={"learning_rate": 1e-3})
    train(config, root / "hearts", root / "run", accelerator="cpu")
    file = root / "results" / "cpu.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # of the processes that measure
        few = ["--patients", "2", "--steps", "3", "--repeats", "3"]
        where = ["--run", root / "run", "--data", root / "hearts", "--json", file]
        app([*map(str, where), *few], result_action="return_value")
    return file


def test_the_json_has_the_figures_at_its_top(written):
    result = json.loads(written.read_text())
    assert tuple(result)[: len(TOP)] == TOP
    assert all(result[name] > 0 for name in TOP)
    assert (result["patients"], result["steps"], len(result["rounds"])) == (2, 3, 3)


def test_ratios_are_medians_over_rounds_of_what_was_timed_side_by_side(written):
    result = json.loads(written.read_text())
    for name, above, below in (
        ("ratio_same_steps", "paper_loop", "fast"),
        ("ratio_auto", "paper_loop", "auto"),
        ("fraction_of_floor", "floor", "fast"),
    ):
        assert result[name] == median(one[above] / one[below] for one in result["rounds"])


def test_the_fast_path_has_the_masks_of_the_papers_loop(written):
    result = json.loads(written.read_text())
    assert result["dice_fast"] == pytest.approx(result["dice_paper_loop"], abs=0.01)


def test_the_plot_is_beside_it(written):
    assert imread(written.with_suffix(".png")).std() > 0.01
