from tests.calibrated import run, untried

__all__ = ["run", "untried"]
