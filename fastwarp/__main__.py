"""`python -m fastwarp` is `fastwarp`."""

import sys

from fastwarp.cli import main

if __name__ == "__main__":
    sys.exit(main())
