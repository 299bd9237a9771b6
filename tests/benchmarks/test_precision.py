"""The benchmark of precision on a tiny configuration: what it writes."""

import json
from statistics import median

from benchmarks.precision import app
from maskmend.config_file import to_yaml
from tests.tiny import tiny


def test_the_json_has_both_times_and_the_median_of_their_ratios(tmp_path):
    path, file = tmp_path / "tiny.yaml", tmp_path / "precision.json"
    path.write_text(to_yaml(tiny()))
    arguments = ["--config", path, "--slices", 2, "--steps", 1, "--rounds", 3, "--json", file]
    app([str(argument) for argument in arguments], result_action="return_value")
    result = json.loads(file.read_text())
    assert set(result["seconds_a_step"]) == {"32-true", "bf16-mixed"}
    assert len(result["speedups"]) == 3
    assert round(result["speedup"], 3) == median(result["speedups"])
