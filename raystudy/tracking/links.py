"""Where a study is looked at in MLflow's UI: the links that ``raystudy ui`` prints, and the browser on them.

Here belong asking a store what studies it holds and the way to their pages; what a page shows is in ``views``.
"""

import subprocess
import sys

from raystudy.errors import InputError
from raystudy.tracking import store, views


def studies(uri: str, study: str | None = None) -> dict[str, dict[str, str]]:
    """What can be looked at of each study in a store (``views.links``), or of one, by the name of its experiment, newest first.

    Raises InputError, one line, if the store does not answer.
    """
    found: dict[str, dict[str, str]] = {}
    file = store.sqlite_file(uri)
    if file and not file.exists():
        return found
    try:
        client = store.connect(uri)
        for experiment in client.search_experiments(order_by=["last_update_time DESC"]):
            name = experiment.tags.get("raystudy.study")
            if name is None or study not in (None, name, experiment.name):
                continue
            told = client.search_runs([experiment.experiment_id], "tags.`raystudy.role` = 'cell'", max_results=1000)
            runs = sorted(told, key=lambda r: (r.info.start_time, r.info.run_name))
            methods = dict.fromkeys(r.data.tags["method"] for r in runs)
            found[experiment.name] = views.links(experiment.experiment_id, methods, [r.info.run_id for r in runs])
    except Exception as e:
        raise InputError(f"MLflow at {store.public(uri)}: {store.one_line(e)}") from e
    return found


def open_when_up(base: str, place: str) -> None:
    """Opens the browser on a page as soon as the server answers, from a process of its own that waits two minutes for it."""
    code = (
        "import sys, time, urllib.request, webbrowser\n"
        "for _ in range(240):\n"
        "    try:\n"
        "        urllib.request.urlopen(sys.argv[1] + '/health', timeout=2).close()\n"
        "    except OSError:\n"
        "        time.sleep(0.5)\n"
        "    else:\n"
        "        sys.exit(not webbrowser.open(sys.argv[1] + sys.argv[2]))\n"
    )
    subprocess.Popen([sys.executable, "-c", code, base, place], stdin=subprocess.DEVNULL, start_new_session=True)
