"""``raystudy ui`` and ``raystudy sync``: MLflow on what was recorded."""

import os
import socket
from typing import Annotated

from cyclopts import Parameter

from raystudy.commands.options import STUDIES, Storage, StudyName, TrackingUri, whole
from raystudy.commands.studies import held, running
from raystudy.errors import InputError, unknown
from raystudy.terminal import say, terminal


def sync(study: StudyName, /, *, storage: Storage = STUDIES, tracking_uri: TrackingUri = None) -> int:
    """Brings MLflow up to the ledger."""
    from raystudy.tracking import store
    from raystudy.tracking.sync import sync as brought

    folder = held(storage, study)
    uri = store.absolute(tracking_uri or store.default_uri())
    store.check(uri)
    told = brought(folder, uri, running=running(folder))
    say(terminal(), f"{study} -> {store.public(uri)}: {told}")
    return 0


def ui(
    study: Annotated[str | None, Parameter(help="name of the study")] = None,
    /,
    *,
    storage: Storage = STUDIES,
    tracking_uri: TrackingUri = None,
    host: Annotated[str, Parameter(help="address to listen on (default: 127.0.0.1)")] = "127.0.0.1",
    port: Annotated[int, Parameter(converter=whole, help="port (default: 5000)")] = 5000,
    open_: Annotated[bool, Parameter(name="--open", help="open the browser, on the study if one is named")] = False,
) -> int:
    """Opens the MLflow UI on what was recorded."""
    console = terminal()
    from raystudy.commands import processes
    from raystudy.design.study import study_dir
    from raystudy.tracking import cursor, links, store

    given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if study and not given:
        given = cursor.store_of(study_dir(storage.expanduser().absolute(), study))
    uri = store.absolute(given or store.default_uri())
    store.check(uri)
    server = uri.startswith(("http://", "https://"))
    if not server:
        check_free(host, port)
    base = store.public(uri) if server else links.address(host, port)
    found = links.studies(uri, study)
    if study and not found:
        what = f"study in MLflow at {store.public(uri)} (`raystudy sync` brings it there)"
        raise unknown(what, study, links.studies(uri))

    lines = []
    for name, pages in found.items():
        lines.append(f"  {name}: {base}{pages['study']}")
        lines += [
            f"    {view}: {base}{link}"
            for view, link in pages.items()
            if view != "study" and (study or len(found) == 1)
        ]
    page = base + next(iter(found.values()), {"study": ""})["study"] if open_ else None
    if server:
        processes.show([*lines, "MLflow is already there"], page)
        return 0
    say(console, f"starting MLflow on {store.public(uri)}")
    return links.serve(uri, host, port, [*lines, f"MLflow is on {base}   (Ctrl-C stops it)"], page)


def check_free(host: str, port: int) -> None:
    """Raises InputError where no server can listen there: MLflow's own would say so in forty lines."""
    if not 0 < port < 2**16:
        raise InputError(f"--port is {port}; it must be from 1 to 65535")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as e:
        why = str(e.strerror).partition(" (while")[0]
        raise InputError(f"cannot listen on {host}:{port}: {why}; choose another --port or --host") from None
