"""What the pages claim of the guard is what the committed tables say."""

import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from experiments.shift.sequences import SEQUENCES
from experiments.shift.shifts import FAMILIES, HEADER, SCANNER
from experiments.shift.table import HARMED, beside_plain
from maskmend.evaluate.statistics import compare

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "docs" / "results" / "earlier.md"]
SHIFTS = {
    "in-domain": (["none"], (0,)),
    "nine": (FAMILIES, (2,)),
    "severe": (FAMILIES, (3,)),
    "sequences": (SEQUENCES, (2,)),
    "headers": ([HEADER], (1, 2, 3)),
    "1.5 T to 3 T": ([SCANNER], (0,)),
}
"""A word of a claim about some shifts, and which families and severities these are."""


_TABLE = re.compile(r"\(([\w/]*shift\w*)\.(?:md|csv)\)")


class Claim(NamedTuple):
    """A row of a page's tables of results."""

    page: Path
    data: str
    segmentor: str
    before: str
    after: str
    p: str
    harmed: str
    worst: str
    row: str
    method: str = "ours"


def _claims():
    """Rows that link a table of the shift benchmark."""
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            cells = [page, *line.strip("| ").split(" | ")]
            if len(cells) != len(Claim._fields) - 1 or not _TABLE.search(line):
                continue
            claim = Claim(*cells)
            method = "paper" if "as published" in claim.segmentor else "ours"
            if not claim.segmentor.startswith("the same"):
                first = re.match(r"strong|brought", claim.segmentor)
                segmentor = first[0] if first else "gan"
            yield claim._replace(segmentor=segmentor, method=method)


CLAIMS = list(_claims())


def _measured(claim):
    """The lines of the linked table that a claim is about, of the guard if nothing else is said."""
    (path,) = _TABLE.findall(claim.row)
    table = pd.read_csv((claim.page.parent / path).with_suffix(".csv"), keep_default_na=False)
    (shifts,) = (shifts for word, shifts in SHIFTS.items() if word in claim.data)
    families, severities = shifts
    rows = beside_plain(table.assign(realism_before=""))
    return rows[
        (rows["method"] == claim.method)
        & (rows["segmentor"] == claim.segmentor)
        & rows["shift"].isin(families)
        & rows["severity"].isin(severities)
    ]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.segmentor}, {claim.data}")
def test_a_claim_is_what_its_table_says(claim):
    rows = _measured(claim)
    change = compare(rows["before"], rows["dice"], list(rows["patient"]))
    assert float(claim.before) == pytest.approx(100 * change.before.mean, abs=0.051)
    assert float(claim.after) == pytest.approx(100 * change.after.mean, abs=0.051)
    harmed = (rows["gain"] < HARMED).mean()
    share = "none" if not harmed else f"{100 * harmed:.1f}%"
    assert claim.harmed == f"{share} of {len(rows)}"
    worst = max(0, -rows["gain"].min())
    assert float(claim.worst.replace("none", "0")) == pytest.approx(worst, abs=0.051)
    if claim.p.startswith("<"):
        assert change.p_value < float(claim.p.removeprefix("< "))
    else:
        assert float(claim.p) == pytest.approx(change.p_value, rel=0.2)


def test_every_claim_about_the_guard_under_shift_is_looked_at():
    rows = [
        line
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and _TABLE.search(line)
    ]
    assert len(CLAIMS) == len(rows) >= 14
    expected = {(page, segmentor) for page in PAGES for segmentor in ("gan", "strong")}
    expected.add((PAGES[0], "brought"))
    assert {(claim.page, claim.segmentor) for claim in CLAIMS} == expected
