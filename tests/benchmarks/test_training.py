"""The benchmark of training on a tiny configuration: what it writes."""

import json

import pytest

from benchmarks.training import app
from maskmend.config_file import to_yaml
from tests.tiny import tiny


def test_the_json_has_both_rates_and_their_ratio(tmp_path):
    path, file = tmp_path / "tiny.yaml", tmp_path / "training.json"
    path.write_text(to_yaml(tiny(training={"batch": 3})))
    app(
        ["--config", str(path), "--iterations", "3", "--json", str(file)],
        result_action="return_value",
    )
    result = json.loads(file.read_text())
    assert result["images_a_second"] > 0
    assert result["ratio"] == pytest.approx(
        result["images_a_second"] / result["images_a_second_plain"]
    )
    assert (result["iterations"], result["config"]) == (3, str(path))
