"""`python -m pmpjax` is the command `pmpjax`."""

import sys

from pmpjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
