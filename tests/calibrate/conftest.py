from tests.calibrated import hearts, run, untried

__all__ = ["hearts", "run", "untried"]
