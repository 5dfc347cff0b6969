"""The door ``python -m raystudy.sweep METHOD...``: builds a study, runs it to its end, shows live progress and the leaderboard."""

import sys
from collections.abc import Sequence

from raystudy.commands import app


def main(argv: Sequence[str] | None = None) -> int:
    return app.run(app.sweep, argv)


if __name__ == "__main__":
    sys.exit(main())
