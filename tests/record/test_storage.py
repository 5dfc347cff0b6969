"""Storages: one contract for a local URL, fsspec's memory file system and a real S3 server; working copies, mirrors and checkpoints."""

import contextlib
import itertools
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raystudy.cli import main
from raystudy.errors import InputError
from raystudy.record import checkpoints, models, pieces, storage, usage
from raystudy.record import mirror as mirrors
from raystudy.record.ledger import Ledger, replay

TRIAL = {"event": "trial", "key": "k", "number": 0, "origin": "paper", "point": {"a": 1.0}, "seed": 0}
END = {"event": "end", "key": "k", "state": "complete"}


def record(epoch: int) -> dict:
    return {"event": "record", "key": "k", "epoch": epoch, "metrics": {"acc": 0.5}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "LOOK_SECONDS", 0.05)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of a real S3 server on loopback, as pyarrow names it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {k: os.environ.get(k) for k in keys}
    os.environ |= keys
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1").create_bucket(Bucket="bucket")
    yield f"s3://bucket/{{}}?endpoint_override=http://127.0.0.1:{port}&region=us-east-1"
    server.stop()
    for k, v in before.items():
        if v is None:
            os.environ.pop(k, None)
        else:
            os.environ[k] = v


@pytest.fixture
def counted(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Callable[[], int]]]:
    """A storage on the S3 server behind a wire, and how many bytes have gone through it towards the server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    port = int(s3.rpartition("127.0.0.1:")[2].partition("&")[0])
    sent = [0]

    def pump(source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sent[0] += len(data) * counts
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for a, b, counts in ((client, server, True), (server, client, False)):
                    threading.Thread(target=pump, args=(a, b, counts), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        wire = listener.getsockname()[1]
        yield s3.replace(f"127.0.0.1:{port}", f"127.0.0.1:{wire}").format(tmp_path.name), lambda: sent[0]


@pytest.fixture(params=["file", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage's URL; working copies lie in the test's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "s3":
        return request.getfixturevalue("s3").format(tmp_path.name)
    return {"file": f"file://{tmp_path}/there", "memory": f"memory://{tmp_path.name}"}[request.param]


def begun(address: str) -> tuple[Path, Ledger]:
    """A study with one cell and one running trial, in the working copy of ``address``."""
    folder = storage.folder(address) / "s"
    ledger = Ledger(folder)
    (folder / "study.toml").write_text("name = 's'\n")
    (folder / "masks").mkdir()
    (folder / "masks" / "m.npz").write_bytes(b"mask")
    ledger.open("c", {"cell": {"method": "ce"}})
    ledger.append("c", TRIAL, record(0))
    return folder, ledger


def held(address: str) -> bytes:
    """What the storage has of the cell's ledger."""
    cells = storage.place(address) / "s" / "cells"
    told = pieces.found(cells.files()).get("c.jsonl", {})
    return pieces.read(cells, "c.jsonl", told, 0, pieces.length(told))


def within(seconds: float, condition: Callable[[], bool]) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.02)
    return time.monotonic() - start


def test_names() -> None:
    assert storage.folder("studies") == Path("studies")
    assert storage.url(Path("studies")) is None
    for name in (
        "s3://bucket/a/b",
        "gs://x",
        "file:///nfs/studies",
        "s3://b/../../etc?endpoint_override=http://h:1&x=%2F",
    ):
        folder = storage.folder(name + "/")
        assert storage.url(folder) == name
        assert folder.parent.name == "raystudy"  # one folder, whatever the URL says
        assert storage.told(folder) == name
    assert storage.told(Path("studies")) == "studies"
    assert storage.url(Path("/data/s3%3A%2F%2Fbucket")) is None  # a folder of that name, and no working copy


@pytest.mark.parametrize("name", ["b%20c", "what?", "a#b +&=", "größe"])
def test_a_url_reaches_the_folder_that_it_quotes(tmp_path: Path, name: str) -> None:
    (storage.place((tmp_path / name).as_uri()) / "file").write(b"here")
    assert (tmp_path / name / "file").read_bytes() == b"here"
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize("name", ["s4://bucket/x", "nowhere://x"])
def test_an_unknown_kind_of_storage_is_one_line_with_choices(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown kind of --storage .*choose from: .*\bs3\b") as e:
        storage.place(name)
    assert "\n" not in str(e.value)


def test_a_mirror_and_back(address: str) -> None:
    folder, ledger = begun(address)
    there = storage.place(address) / "s"
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    mine = folder / "cells" / "c.jsonl"
    within(5, lambda: held(address) == mine.read_bytes())
    ledger.append("c", record(1), END)
    assert within(5, lambda: held(address) == mine.read_bytes()) < mirrors.MIRROR_SECONDS  # an end does not wait
    ledger.close()
    mirror.close()
    assert (there / "cells").files() == {"c.jsonl": mine.stat().st_size}  # joined
    assert (there / "cells" / "c.jsonl").read() == mine.read_bytes()
    assert (there / "driver.json").size() is None  # nobody drives it any more
    assert not mirrors.driven(folder)

    kept = mine.read_bytes()
    shutil.rmtree(folder)
    assert storage.studies(folder.parent) == ["s"]
    assert mirrors.pull(folder) == 3
    assert mine.read_bytes() == kept
    assert (folder / "masks" / "m.npz").read_bytes() == b"mask"
    assert replay(mine).trials["k"].state == "complete"
    assert (folder / "study.toml").read_text() == "name = 's'\n"
    assert mirrors.pull(folder) == 0


def test_what_became_of_places_comes_along_as_it_grows(address: str) -> None:
    folder, ledger = begun(address)
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    file, span = usage.file_of(folder, 0), usage.Span(1000, 1, places=2, busy=1)
    usage.append(file, span)
    ledger.close()
    mirror.close()
    there = storage.place(address) / "s" / usage.FOLDER / file.name
    shutil.rmtree(folder)
    mirrors.pull(folder)
    assert usage.read(folder) == [span]
    there.write(there.read() * 2)  # by the driver, meanwhile
    mirrors.pull(folder)
    assert usage.read(folder) == [span, span]
    assert mirrors.pull(folder) == 0


def test_a_change_waits_less_than_ten_seconds(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mirrors.MIRROR_SECONDS < 9
    monkeypatch.setattr(mirrors, "MIRROR_SECONDS", 0.3)
    folder, ledger = begun(address)
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    mine = folder / "cells" / "c.jsonl"
    within(5, lambda: held(address) == mine.read_bytes())
    size = len(held(address))
    with mine.open("ab") as f:  # a torn line is never mirrored
        f.write(b'{"event": "torn')
    time.sleep(0.5)
    assert len(held(address)) == size
    with mine.open("r+b") as f:
        f.truncate(size)
    ledger.append("c", record(1))
    within(9, lambda: held(address) == mine.read_bytes())
    ledger.close()
    mirror.close()


def test_the_longer_ledger_wins_and_a_conflict_is_told(address: str) -> None:
    folder, ledger = begun(address)
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    mine, cell = folder / "cells" / "c.jsonl", storage.place(address) / "s" / "cells" / "c.jsonl"
    old = mine.read_bytes()
    ledger.append("c", record(1))
    ledger.close()
    mirror.close()
    new = mine.read_bytes()

    mine.write_bytes(old + b'{"torn')  # this machine has less, and a torn line
    assert mirrors.pull(folder) == 2
    assert mine.read_bytes() == new

    cell.write(old)  # the storage has less
    assert mirrors.pull(folder) == 0
    assert mine.read_bytes() == new
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    mirror.close()
    assert cell.read() == new

    cell.write(old + new[len(old) :].replace(b'"epoch":1', b'"epoch":7') + b"{}\n")
    with pytest.raises(InputError, match="different stories of one cell") as e:
        mirrors.pull(folder)
    assert "\n" not in str(e.value)
    assert mine.read_bytes() == new


@pytest.mark.slow
def test_only_what_is_new_is_sent(counted: tuple[str, Callable[[], int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """To a real S3 server, by the bytes on the wire, headers and all: a claim and a piece each time, and never the file again until the
    pieces are joined at the end."""
    monkeypatch.setattr(mirrors, "LOOK_SECONDS", 1000)  # its rounds are made here
    address, sent = counted
    folder, ledger = begun(address)
    ledger.append("c", *(record(i) for i in range(1, 8000)))
    mine = folder / "cells" / "c.jsonl"
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    mirror._copy(all_=True)
    size, before = mine.stat().st_size, sent()
    assert before > size
    for i in range(8000, 8040):
        ledger.append("c", record(i))
        mirror._copy(all_=True)
    new = mine.stat().st_size - size
    requests = 40 * 5 + 2 * 2 * 16  # looks at the claim, claims, pieces; and two times sixteen of them joined
    assert not mirror.problem
    assert held(address) == mine.read_bytes()
    assert sent() - before < 4 * new + 1500 * requests
    assert sent() - before < size  # of which whole copies would have sent forty times as much
    before = sent()
    ledger.close()
    mirror.close()
    assert size < sent() - before < 1.5 * size  # joined, once
    assert held(address) == mine.read_bytes()


def test_killed_at_any_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver is killed before its n-th request, for every n, joining included: what is there is the ledger up to some whole line, and no
    less than what was there before; a driver on another machine goes on from it, and the storage ends as it should."""
    monkeypatch.setattr(pieces, "FAN", 3)
    monkeypatch.setattr(mirrors, "LOOK_SECONDS", 1000)
    monkeypatch.setattr(mirrors, "CLOSE_WAITS", ())
    left = [10**9]

    def dying(call: Callable) -> Callable:
        def request(*args: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise OSError("killed")
            return call(*args)

        return request

    monkeypatch.setattr(storage.Place, "write", dying(storage.Place.write))
    monkeypatch.setattr(storage.Place, "remove", dying(storage.Place.remove))
    for n in itertools.count(1):
        left[0] = 10**9
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{n}"))
        address = f"memory://{tmp_path.name}{n}"
        folder, ledger = begun(address)
        mirror = mirrors.mirror(folder)
        assert mirror is not None
        left[0], there = n, b""
        for i in range(1, 8):
            ledger.append("c", record(i))
            mirror._copy(all_=True)
            told = held(address)
            assert told.startswith(there)
            there = told
        ledger.close()
        with contextlib.suppress(InputError):
            mirror.close()
        mine = (folder / "cells" / "c.jsonl").read_bytes()
        there = held(address)
        assert mine.startswith(there)
        assert there[-1:] in (b"", b"\n")
        if left[0] >= 0:
            break  # it was not killed at all
        left[0] = 10**9
        (storage.place(address) / "s" / "driver.json").remove()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{n}-other"))
        other = storage.folder(address) / "s"
        mirrors.pull(other)
        if there:
            assert (other / "cells" / "c.jsonl").read_bytes() == there
        again = Ledger(other)
        again.open("c", {"cell": {"method": "ce"}})
        mirror = mirrors.mirror(other)
        assert mirror is not None
        again.close()
        mirror.close()
        cells = storage.place(address) / "s" / "cells"
        assert cells.files() == {"c.jsonl": (other / "cells" / "c.jsonl").stat().st_size}
    assert n > 15


def test_a_reader_beside_a_driver_that_joins_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "FAN", 2)
    monkeypatch.setattr(mirrors, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(mirrors, "MIRROR_SECONDS", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "driver"))
    address = f"memory://{tmp_path.name}"
    folder, ledger = begun(address)
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    mine, reads = folder / "cells" / "c.jsonl", 0
    for i in range(1, 200):
        ledger.append("c", record(i))
        if i % 4 == 0:
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"reader{i % 8}"))
            mirrors.pull(storage.folder(address) / "s")
            told = storage.folder(address) / "s" / "cells" / "c.jsonl"
            reads += told.exists() and mine.read_bytes().startswith(told.read_bytes())
            assert not told.exists() or mine.read_bytes().startswith(told.read_bytes())
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "driver"))
    ledger.close()
    mirror.close()
    assert reads > 20


def test_a_storage_of_whole_files_goes_on_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one had it before there were pieces."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = f"memory://{tmp_path.name}"
    folder, ledger = begun(address)
    cells, old = storage.place(address) / "s" / "cells", (folder / "cells" / "c.jsonl").read_bytes()
    (cells / "c.jsonl").write(old)
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    ledger.append("c", record(1), END)
    within(5, lambda: held(address) == (folder / "cells" / "c.jsonl").read_bytes())
    assert (cells / "c.jsonl").read() == old  # not sent again
    assert set(cells.files()) == {"c.jsonl", f"c.jsonl.{len(old):012d}"}
    ledger.close()
    mirror.close()
    assert set(cells.files()) == {"c.jsonl"}


def test_a_driver_that_was_taken_for_dead_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "MIRROR_SECONDS", 0.1)
    monkeypatch.setattr(mirrors, "CLOSE_WAITS", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = f"memory://{tmp_path.name}"
    folder, ledger = begun(address)
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    within(5, lambda: held(address) == (folder / "cells" / "c.jsonl").read_bytes())
    theirs = {"id": "x", "host": "elsewhere", "pid": 7, "time": time.time()}
    before = held(address)
    (storage.place(address) / "s" / "driver.json").write(json.dumps(theirs).encode())
    within(5, lambda: "process 7 on elsewhere runs the study now" in mirror.problem)
    ledger.append("c", record(1), END)
    time.sleep(0.3)
    ledger.close()
    with pytest.raises(InputError, match="process 7 on elsewhere runs the study now"):
        mirror.close()
    assert held(address) == before
    assert mirrors.driver(storage.place(address) / "s")["id"] == "x"


def test_a_second_driver_is_refused(address: str) -> None:
    folder, ledger = begun(address)
    there = storage.place(address) / "s"
    theirs = {"id": "x", "host": "elsewhere", "pid": 7, "time": time.time() - 5}
    (there / "driver.json").write(json.dumps(theirs).encode())
    assert mirrors.driven(folder)
    with pytest.raises(InputError, match="is being run by process 7 on elsewhere"):
        mirrors.mirror(folder)
    (there / "driver.json").write(json.dumps(theirs | {"time": time.time() - mirrors.LEASE_SECONDS}).encode())
    mirror = mirrors.mirror(folder)  # not heard of for a minute
    assert mirror is not None
    ledger.close()
    mirror.close()
    gone = {"id": "x", "host": socket.gethostname(), "pid": 2**22 + 1, "time": time.time()}
    (there / "driver.json").write(json.dumps(gone).encode())
    mirror = mirrors.mirror(folder)  # killed a moment ago on this machine
    assert mirror is not None
    mirror.close()


def test_a_storage_that_is_away_never_stops_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "MIRROR_SECONDS", 0.3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, ledger = begun(f"file://{tmp_path}/there")
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    cells = tmp_path / "there" / "s" / "cells"
    within(5, lambda: (cells / "c.jsonl").exists())
    shutil.rmtree(cells)
    cells.write_text("in the way")
    ledger.append("c", record(1), END)
    within(5, lambda: bool(mirror.problem))
    cells.unlink()  # and it is back
    within(10, lambda: (cells / "c.jsonl").exists())
    ledger.close()
    mirror.close()
    assert (cells / "c.jsonl").read_bytes() == (folder / "cells" / "c.jsonl").read_bytes()


def test_what_the_storage_lacks_at_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mirrors, "CLOSE_WAITS", (0.0,))
    folder, ledger = begun(f"file://{tmp_path}/there")
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    within(5, lambda: (tmp_path / "there" / "s" / "cells" / "c.jsonl").exists())
    shutil.rmtree(tmp_path / "there")
    (tmp_path / "there").write_text("in the way")
    ledger.append("c", record(1), END)
    ledger.close()
    with pytest.raises(InputError, match=r"the ledger is whole in .*, but not in file://"):
        mirror.close()


def test_a_storage_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("")
    folder, ledger = begun(f"file://{tmp_path}/file/below")
    with pytest.raises(InputError, match="cannot be written"):
        mirrors.mirror(folder)
    ledger.close()


def test_checkpoints_move_between_nodes(address: str, tmp_path: Path) -> None:
    def node() -> checkpoints.Checkpoints:
        return checkpoints.Checkpoints(Path("/nowhere/k.pt"), address, "s")

    first = node()
    first.fetch()
    assert not first.file.exists()
    for text in (b"one", b"two", b"three"):
        first.file.write_bytes(text)
        assert first.store() == ""
    first.close()
    second = node()
    second.fetch()
    assert second.file.read_bytes() == b"three"
    assert second.file.with_name("k.pt.prev").read_bytes() == b"two"
    second.close()
    assert not second.file.parent.exists()

    folder, ledger = begun(address)  # the trial ends: its checkpoints go
    mirror = mirrors.mirror(folder)
    assert mirror is not None
    ledger.append("c", END)
    held = storage.place(address) / "s" / "checkpoints"
    within(5, lambda: not held.files())
    ledger.close()
    mirror.close()


def test_what_a_trial_leaves_on_another_node_is_brought_back_to_who_asks(address: str) -> None:
    folder = storage.folder(address) / "s"
    node = checkpoints.Checkpoints(folder / "checkpoints" / "k.pt", address, "s")
    with node.leaving(folder / "arrays" / "k.npz") as file:
        file.write_bytes(b"arrays")
    with contextlib.suppress(RuntimeError), node.leaving(folder / "arrays" / "l.npz") as file:
        file.write_bytes(b"half")
        raise RuntimeError
    node.close()
    assert not folder.exists()  # the copy on the node is no working copy
    assert mirrors.pull(folder) == 0
    assert mirrors.pull(folder, arrays=True) == 1
    assert {p.name: p.read_bytes() for p in (folder / "arrays").iterdir()} == {"k.npz": b"arrays"}


@pytest.mark.slow
def test_models_lie_in_the_storage_and_only_those_that_are_kept(address: str) -> None:
    """Trials leave theirs there; the mirror removes what the driver does not keep; a copy has what the storage has."""
    folder, ledger = begun(address)
    node = checkpoints.Checkpoints(folder / "checkpoints" / "k.pt", address, "s")
    for name in ("k.safetensors", "k.json", "l.safetensors", "l.json"):
        with node.leaving(folder / "models" / "c" / name) as file:
            file.write_bytes(name.encode())
    mirrors.pull_models(folder)
    assert models.here(folder, "c") == {"k", "l"}
    assert [p.suffix for p in (folder / "models" / "c").iterdir()] == [".json", ".json"]  # weights on demand

    mirror = mirrors.mirror(folder, lambda cell, trials: {"k"} & set(trials) if cell == "c" else ())
    assert mirror is not None
    held = storage.place(address) / "s" / "models" / "c"
    within(5, lambda: set(held.files()) == {"l.safetensors", "l.json"})  # what an earlier driver left
    with node.leaving(folder / "models" / "c" / "k.json") as file:
        file.write_bytes(b"again")
    ledger.append("c", END)
    within(8, lambda: set(held.files()) == {"l.safetensors", "l.json"})  # and what a trial left that has ended now
    node.close()
    ledger.close()
    mirror.close()
    mirrors.pull(folder, weights=True)
    assert {p.name: p.read_bytes() for p in (folder / "models" / "c").iterdir()} == {
        name: name.encode() for name in ("l.safetensors", "l.json")
    }
    assert [m.key for m in models.listed(folder)] == ["l"]


def test_commands_tell_a_mistake_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command, want in (
        (["status", "x", "--storage", "s4://b"], "unknown kind of --storage 's4'"),
        (["status", "x", "--storage", f"file://{tmp_path}"], "unknown study in file://"),
        (["sweep", "ce", "--storage", "s4://b", "--tracking-uri", "none"], "unknown kind of --storage 's4'"),
    ):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert want in told
        assert len(told.strip().splitlines()) == 1
