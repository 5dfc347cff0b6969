"""The door ``raystudy``. What it can do is in ``commands``."""

import sys

from raystudy.commands.app import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
