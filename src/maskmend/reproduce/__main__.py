"""Write the page of results anew: `python -m maskmend.reproduce RESULTS PAGE`."""

import sys
from pathlib import Path

from maskmend.reproduce.page import write_page

if __name__ == "__main__":
    write_page(Path(sys.argv[1]), Path(sys.argv[2]))
