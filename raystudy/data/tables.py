"""A user's table of labels (.csv, .parquet) -> columns of text, each row with its place in the file. What is not clear is refused."""

import csv
import io
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from raystudy.data.files import one_line
from raystudy.errors import InputError

NEEDED, OPTIONAL = ("path", "label"), ("clean_label", "split")
SEPARATORS = (",", ";", "\t")
# Byte order mark -> encoding; the longer ones first. Without a mark a table is UTF-8.
MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


@dataclass(frozen=True)
class Table:
    """The columns that count, trimmed and in Unicode's composed form (NFC; paths as they are), none of them with an empty field."""

    file: Path
    columns: dict[str, list[str]]  # name -> [N]
    places: list[str]  # [N] where each row stands: "line 7" of a .csv, "row 6" of a .parquet

    def where(self, i: int) -> str:
        return f"{self.file}, {self.places[i]}"


def read(file: Path) -> Table:
    """Reads a table. Raises InputError, one line with the file, the line or row and its first fault."""
    if file.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{file}: labels are read from a .csv or a .parquet file")
    if not file.is_file():
        raise InputError(f"{file}: no such file; --labels names a .csv or .parquet with the columns path, label")
    header, rows, places = (_csv if file.suffix.lower() == ".csv" else _parquet)(file)
    if missing := [name for name in NEEDED if name not in header]:
        raise InputError(
            f"{file}: no column {', '.join(missing)}; needed are {', '.join(NEEDED)} (optional: {', '.join(OPTIONAL)}), "
            f"the file has: {', '.join(filter(None, header)) or '(nothing)'}"
        )
    kept = [name for name in (*NEEDED, *OPTIONAL) if name in header]
    if twice := [name for name in kept if header.count(name) > 1]:
        raise InputError(f"{file}: has {header.count(twice[0])} columns {twice[0]}; leave one")
    if not rows:
        raise InputError(f"{file}: has no rows")
    columns: dict[str, list[str]] = {}
    for name in kept:
        at = header.index(name)
        columns[name] = [row[at].strip() if name == "path" else composed(row[at]) for row in rows]
        for i, value in enumerate(columns[name]):
            if not value:
                raise InputError(
                    f"{file}, {places[i]}: {name} is empty; fill it everywhere, or leave an optional column out"
                )
            if "\0" in value:
                raise InputError(f"{file}, {places[i]}: {name} has a zero byte in it; is this a table of text?")
    return Table(file, columns, places)


def every(
    file: Path, needed: Collection[str], dropped: Collection[str] = ()
) -> tuple[list[str], list[list[str]], list[str]]:
    """A table's header, its rows, each as long as that, and their places; fields of ``dropped`` are not looked at. InputError."""
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    return _parquet(file, None, dropped) if file.suffix.lower() == ".parquet" else _csv(file, needed)


def whole(file: Path, target: str, dropped: Collection[str] = ()) -> tuple[list[str], list[list[str]], list[str]]:
    """A table of features, with the column ``target`` in it: its header, its rows, each as long as that, and their places.

    Fields of ``dropped`` are not looked at. Raises InputError, one line with the file.
    """
    header, rows, places = every(file, (target,), dropped)
    if header.count(target) != 1:
        found = ", ".join(filter(None, header)) or "(nothing)"
        raise InputError(
            f"{file}: has {header.count(target) or 'no'} column{'s' * (header.count(target) > 1)} {target!r}, the labels; "
            f"name another with target=COLUMN, the file has: {found[:300]}"
        )
    if not rows:
        raise InputError(f"{file}: has no rows")
    return header, rows, places


def composed(label: str) -> str:
    """A name as it is compared: names that look alike, but for space around them, are one."""
    return unicodedata.normalize("NFC", label).strip()


def _csv(file: Path, needed: Collection[str] = NEEDED) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and their lines. The separator is the one that splits the header into the columns that are needed."""
    text = _text(file)
    found = {separator: _header(text, separator) for separator in SEPARATORS}
    separator = next((s for s, header in found.items() if set(needed) <= set(header)), ",")
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t", strict=True
    )
    header: list[str] = []
    rows, places, line = [], [], 1
    try:
        for row in reader:
            start, line = line, reader.line_num + 1
            if not any(field.strip() for field in row) and len(row) < 2:  # an empty line
                continue
            if not header:
                header = [composed(name) for name in row]
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{file}, line {start}: has {len(row)} fields, the header has {len(header)} ({', '.join(header)}); "
                    f"quote a field that has {separator!r} in it"
                )
            rows.append(row)
            places.append(f"line {start}")
    except csv.Error as error:
        raise InputError(f"{file}, line {line}: cannot be read as a table ({one_line(error)})") from None
    return header, rows, places


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({one_line(error)})") from None
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}, line {line}: is not {encoding.removesuffix('-sig').upper()}; save the table as UTF-8 (it may be Latin-1 or another "
            "encoding of one byte, whose letters nobody can tell)"
        ) from None


def _header(text: str, separator: str) -> list[str]:
    """The first line that is not empty, split; nothing where it cannot be."""
    lines = io.StringIO(text, newline="")
    try:
        for row in csv.reader(lines, delimiter=separator, skipinitialspace=separator != "\t", strict=True):
            if any(field.strip() for field in row):
                return [composed(name) for name in row]
    except csv.Error:
        pass
    return []


def _parquet(
    file: Path, wanted: Collection[str] | None = (*NEEDED, *OPTIONAL), dropped: Collection[str] = ()
) -> tuple[list[str], list[list[str]], list[str]]:
    import pyarrow.parquet as pq  # not at the top: it is slow to import

    try:
        table = pq.ParquetFile(file).read()
        header = [str(name) for name in table.column_names]
        at = [i for i, name in enumerate(header) if (wanted is None or name in wanted) and name not in dropped]
        columns = {i: table.column(i).to_pylist() for i in at}
    except Exception as error:  # pyarrow has many of its own
        raise InputError(f"{file}: cannot be read as a table ({one_line(error)})") from None
    rows = [["" for _ in header] for _ in range(table.num_rows)]
    for i, column in columns.items():
        for row, value in zip(rows, column, strict=True):
            row[i] = value
    places = [f"row {i}" for i in range(1, len(rows) + 1)]
    for i in at:
        for place, row in zip(places, rows, strict=True):
            row[i] = field(row[i], f"{file}, {place}: {header[i]}")
    return header, rows, places


def field(value: object, where: str) -> str:
    """A value of a .parquet as text; empty where there is none."""
    if value is None or value != value:  # a float that is no number
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InputError(f"{where} is bytes that are no text") from None
    if not isinstance(value, str | int | float):
        raise InputError(f"{where} is a {type(value).__name__}, not a text or a number")
    return str(value)
