import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def acdc_root() -> Path:
    """The real ACDC data: $MASKMEND_ACDC, else shared/data/acdc beside the repository."""
    root = Path(os.environ.get("MASKMEND_ACDC", REPOSITORY.parent / "shared" / "data" / "acdc"))
    if not root.is_dir():
        pytest.skip(f"no ACDC data in {root}; set MASKMEND_ACDC to their folder")
    return root
