"""``python -m raystudy`` is the ``raystudy`` command."""

import sys

from raystudy.cli import main

sys.exit(main())
