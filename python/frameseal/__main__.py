"""`python -m frameseal` is `frameseal`."""

import sys

from frameseal.cli import main

if __name__ == "__main__":
    sys.exit(main())
