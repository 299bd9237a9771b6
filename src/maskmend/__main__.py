"""`python -m maskmend`, the same as `maskmend`."""

from maskmend.cli import main

main()
