"""What tells who a patient is, and blanking it out of what is shown.

The headers of a DICOM file say what to look for: its folder may be named after the patient.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

BLANK = "***"

NAMES = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
)
NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber")
DATES = (
    "PatientBirthDate",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "InstanceCreationDate",
)
TAGS = (*NAMES, *NUMBERS, *DATES, "PatientIdentityRemoved")
"""What a header must have been read with."""

_SHORT = 4
"""Letters from which a name or number counts inside a word, too."""


class Identity:
    """Names, numbers and dates of the patients of some DICOM headers.

    A header that says that the patient's identity was removed has none: what stands there is a
    pseudonym, or was never secret.

    Args:
        headers: Keyword of DICOM -> value, of at least `TAGS`.
    """

    def __init__(self, headers: Iterable[Mapping[str, Any]]):
        pieces = {piece for header in headers for piece in _pieces(header)}
        longest_first = sorted(pieces, key=len, reverse=True)
        self._pattern = re.compile("|".join(longest_first), re.IGNORECASE) if pieces else None

    def blank(self, text: str) -> str:
        """The text with `BLANK` for all that tells who the patient is, in letters of any case."""
        if self._pattern is None:
            return text
        return self._pattern.sub(BLANK, unicodedata.normalize("NFC", text))


def _pieces(header: Mapping[str, Any]) -> Iterable[str]:
    """Regular expressions of what a header tells."""
    if _values(header, "PatientIdentityRemoved") == ["YES"]:
        return
    for keyword in NAMES:
        for name in _values(header, keyword):
            for part in re.split(r"[\W_]+", name):
                if len(part) > 1:  # an initial would blank every such letter that stands alone
                    yield _word(part)
    for keyword in NUMBERS:
        yield from map(_word, _values(header, keyword))
    for keyword in DATES:
        for date in _values(header, keyword):
            if match := re.fullmatch(r"(\d{4})(\d\d)(\d\d)", date):
                year, month, day = match.groups()
                for order in ((year, month, day), (day, month, year), (month, day, year)):
                    yield r"[-_./ ]?".join(order)


def _values(header: Mapping[str, Any], keyword: str) -> list[str]:
    """The one or several values under a keyword, empty ones left out."""
    value: Any = header.get(keyword)
    several = value if hasattr(value, "append") else [value]
    texts = (unicodedata.normalize("NFC", str(one or "")).strip() for one in several)
    return [text for text in texts if text]


def _word(text: str) -> str:
    escaped = re.escape(text)
    return escaped if len(text) >= _SHORT else rf"(?<![^\W_]){escaped}(?![^\W_])"
