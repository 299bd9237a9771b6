import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault(
    "GOMP_SPINCOUNT", "10000"
)  # as the command line does, before torch is imported
REPOSITORY = Path(__file__).parents[1]

# A busy machine is no failure.
settings.register_profile("maskmend", deadline=None)
settings.load_profile("maskmend")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Several are slower for networks as small as the tests'."""
    import torch  # here, so that it finds the variable above

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten procedural patients, for networks of `tests.tiny`; only read."""
    from maskmend.data.phantom import write_cohort  # as above

    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=10, seed=0, size=32, spacing_mm=9.5)
    return root


@pytest.fixture(scope="session")
def acdc_root() -> Path:
    """The real ACDC data: $MASKMEND_ACDC, else shared/data/acdc beside the repository."""
    root = Path(os.environ.get("MASKMEND_ACDC", REPOSITORY.parent / "shared" / "data" / "acdc"))
    if not root.is_dir():
        pytest.skip("no ACDC data: set MASKMEND_ACDC")
    return root
