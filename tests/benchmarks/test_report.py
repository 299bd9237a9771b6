"""The benchmark of the report on one small patient: what it writes."""

import json

import pytest

from benchmarks.browser import MISSING
from benchmarks.report import app


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_the_json_has_the_size_and_how_long_the_page_took_to_open(tmp_path, capsys):
    file = tmp_path / "results" / "report.json"
    call = ["--patients", "1", "--size", "64", "--repeats", "1", "--json", str(file)]
    app(call, result_action="return_value")
    result = json.loads(file.read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert result["images"] == 2
    assert 0.5 < result["megabytes"] < 2
    assert result["opened_s"] > 0
    assert result["first_paint_s"] > 0
