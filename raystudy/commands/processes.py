"""The processes that raystudy starts for itself (``tracking.sync.OURS``): following a study into MLflow, and keeping MLflow's server.

    python -P -m raystudy.commands.processes follow STUDY_DIR     until standard input ends
    python -P -m raystudy.commands.processes once STUDY_DIR [--running]     one pass; prints what it wrote, as JSON
    python -P -m raystudy.commands.processes serve                what RAYSTUDY_UI says

The store's address comes by MLFLOW_TRACKING_URI, since it may hold a password and others can read command lines.
"""

import contextlib
import json
import os
import sys
import webbrowser
from dataclasses import asdict
from pathlib import Path

from raystudy import packages
from raystudy.errors import InputError
from raystudy.terminal import lenient, printable
from raystudy.tracking import store


def follow(study_dir: Path) -> int:
    """Beside a running study. Its last word goes to standard output, all else to the log that standard error is."""
    from raystudy.tracking import follower

    sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]  # a log file
    os.nice(10)  # training comes first
    word, sys.stdout = sys.stdout.fileno(), sys.stderr  # what else is printed goes to the log
    problem = follower.follow(study_dir, store.default_uri(), lambda line: print(line, file=sys.stderr, flush=True))
    if problem:
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.write(word, problem.encode(errors="replace"))
    return int(problem is not None)


def once(study_dir: Path, running: bool) -> int:
    """One pass."""
    from raystudy.tracking.sync import sync

    print(json.dumps(asdict(sync(study_dir, store.default_uri(), running))))
    return 0


def serve() -> int:
    """Keeps a server for ``raystudy ui`` until it is stopped; prints its lines, and opens its page, when it answers."""
    from raystudy.tracking import links

    told = json.loads(os.environ.pop(links.TOLD))
    with links.server(store.default_uri(), told["host"], told["port"]) as process:
        links.answered(process, links.address(told["host"], told["port"]))
        show(told["lines"], told["page"])
        links.kept(process)
    return 0


def show(lines: list[str], page: str | None) -> None:
    """Prints links, and opens the browser on a page."""
    for line in lines:
        print(printable(line), flush=True)
    if page:
        webbrowser.open(page)


def main() -> int:
    lenient()
    packages.pin()
    what, *rest = sys.argv[1:]
    try:
        if what == "serve":
            return serve()
        return follow(Path(rest[0])) if what == "follow" else once(Path(rest[0]), "--running" in rest)
    except InputError as e:
        print(f"raystudy: {e}" if what == "serve" else e, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
