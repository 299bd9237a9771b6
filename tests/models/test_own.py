"""A run of ours, judged by a prior that was fitted afterwards."""

import numpy as np

from maskmend.data.phantom import write_cohort
from tests.models.given import masks, predict, write_prior
from tests.tiny import tiny, write_run


def test_a_run_with_another_prior(tmp_path):
    (tmp_path / "run").mkdir()
    run = write_run(tmp_path / "run", tiny(adaptation={"precision": "32-true"}))
    write_cohort(tmp_path / "hearts", patients=2, seed=0, size=32, spacing_mm=9.5)
    images = sorted((tmp_path / "hearts" / "images").iterdir())
    # Its grid is another one.
    grid = {"size": 48, "spacing_mm": 7}
    prior = write_prior(tmp_path / "prior", preprocess=grid)
    predict(run, images, tmp_path / "own", "--steps", 0)
    predict(run, images, tmp_path / "plain", "--steps", 0, "--prior", prior)
    predict(
        run, images, tmp_path / "other", "--steps", 5, "--learning-rate", 0.05, "--prior", prior
    )
    own, plain, other = (masks(tmp_path / name) for name in ("own", "plain", "other"))
    assert len(own) == len(plain) == len(other) == 4
    for name, labels in own.items():
        # Batch norms are folded in one of the two.
        assert (plain[name] != labels).mean() < 1e-4
    assert any((other[name] != labels).any() for name, labels in plain.items())
    assert np.unique(np.concatenate([one.ravel() for one in own.values()])).size > 1
