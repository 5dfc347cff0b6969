"""MLflow as a team runs it: with authentication, and on PostgreSQL with eight studies writing at once."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from servers import mlflow, no_postgres, postgres
from test_tracking import CE, ELR, NOISE, end, header, record, trial, two_cells

from raystudy import cli
from raystudy.data.noise import Noise
from raystudy.design.study import Study
from raystudy.errors import InputError
from raystudy.record.ledger import Ledger
from raystudy.tracking import follower
from raystudy.tracking.sync import sync

pytestmark = pytest.mark.slow

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def test_a_server_that_asks_who_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stranger is refused in one line by every command that would write, the ledger keeps all; an account gets it in."""
    pytest.importorskip("flask_wtf", reason="MLflow's authentication needs Flask-WTF (mlflow[auth])")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials of the user's
    study = tmp_path / "studies" / "demo"
    two_cells(study)
    noise = Noise(**NOISE)
    (study / "study.toml").write_text(Study("demo", ("elr", "ce"), ("digits",), (noise,), 5, 1, 3, "mlp").to_toml())
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    secrets = {
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of the test",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "correct horse battery",
    }
    (tmp_path / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{tmp_path}/auth.db\nadmin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    secrets["MLFLOW_AUTH_CONFIG_PATH"] = str(tmp_path / "auth.ini")
    options = ("--app-name", "basic-auth", "--workers", "1")
    with mlflow(tmp_path, f"sqlite:///{tmp_path}/server.db", *options, **secrets) as uri:
        sweep = ["sweep", "ce", "--no-baseline", "--epochs=1", "--name=new", f"--tracking-uri={uri}"]
        for account, told in (
            ({}, "asks who you are (401)"),
            ({USER: "admin", PASSWORD: "guessed"}, "does not take this user and password (401)"),
            ({USER: "nobody", PASSWORD: "correct horse battery"}, "does not take this user and password (401)"),
        ):
            with monkeypatch.context() as m:
                for name, value in account.items():
                    m.setenv(name, value)
                for command in (
                    ["sync", "demo", f"--tracking-uri={uri}"],
                    *(() if account else (sweep, ["ui", f"--tracking-uri={uri}"])),
                ):
                    assert cli.main(command) == 2
                    line = capsys.readouterr().err
                    assert line.count("\n") == 1
                    assert told in line
                    assert USER in line
                    assert "guessed" not in line
                    assert "correct" not in line
                with pytest.raises(InputError, match="401"):  # what the follower of a sweep writes in its log
                    sync(study, uri)
        assert not (tmp_path / "studies" / "new").exists()
        assert {path: path.read_bytes() for path in before} == before

        monkeypatch.setenv(USER, "admin")
        monkeypatch.setenv(PASSWORD, "correct horse battery")
        assert cli.main(["sync", "demo", f"--tracking-uri={uri}"]) == 0
        assert "9 runs created" in capsys.readouterr().out
        named = uri.replace("//", "//admin:correct%20horse%20battery@")
        monkeypatch.delenv(USER)
        monkeypatch.delenv(PASSWORD)
        assert cli.main(["sync", "demo", f"--tracking-uri={named}"]) == 0
        assert "correct" not in capsys.readouterr().out


STUDIES, TRIALS, EPOCHS = 8, 6, 5


def statements(uri: str, text: str) -> list[tuple[Any, ...]]:
    import psycopg

    with psycopg.connect(uri) as connection:
        return connection.execute(text).fetchall()


@pytest.mark.skipif(bool(no_postgres()), reason=no_postgres())
def test_eight_studies_at_once_on_postgres(tmp_path: Path) -> None:
    """Eight followers bring eight studies that are still being written to one server on one database: every value is there once."""
    pytest.importorskip("psycopg", reason="MLflow on PostgreSQL needs psycopg (raystudy[postgres])")
    with postgres() as store, mlflow(tmp_path, store, "--workers", "2") as uri:
        books = [Ledger(tmp_path / "studies" / f"s{i}") for i in range(STUDIES)]
        for book in books:
            for key, method in ((ELR, "elr"), (CE, "ce")):
                book.open(key, header(method))
        followers = [follower.start(book.dir, uri) for book in books]
        for number in range(TRIALS):
            for key in (ELR, CE):
                for book in books:
                    book.append(key, trial(number, "search" if number else "paper", lam=1.0 + number))
                for epoch in range(EPOCHS):
                    for book in books:
                        book.append(key, record(number, epoch, 0.5 + epoch / 10))
                    time.sleep(0.05)
                for book in books:
                    book.append(key, end(number, "complete"))
        for book in books:
            book.close()
        for book, process in zip(books, followers, strict=True):
            assert follower.finish(process, 200) is None, (book.dir / "tracking" / "log.txt").read_text()
            assert (book.dir / "tracking" / "log.txt").read_text() == ""  # nothing was refused, locked or tried again

        shown = Counter(statements(store, "SELECT status FROM runs"))
        assert shown == {("FINISHED",): STUDIES * 2 * (TRIALS + 1)}
        keys = "SELECT count(*), count(DISTINCT (r.experiment_id, t.value, c.value)) FROM runs r "
        keys += "JOIN tags t USING (run_uuid) JOIN tags c USING (run_uuid) WHERE t.key = 'raystudy.key' AND c.key = 'raystudy.cell'"
        assert statements(store, keys) == [(STUDIES * 2 * TRIALS,) * 2]  # one run a trial
        values = "SELECT count(*), count(DISTINCT (run_uuid, step)) FROM metrics WHERE key = 'val/acc'"
        assert statements(store, values) == [(STUDIES * 2 * TRIALS * EPOCHS,) * 2]
        for place in (uri, store):  # through the server, and straight to the database
            again = sync(books[0].dir, place)
            assert (again.runs, again.values) == (0, 0)
