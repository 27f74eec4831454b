"""Runs the command `frameseal` as `python -m frameseal`."""

import sys

from frameseal.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
