"""Star files, read and written to the letter as RELION 3.1.3 does (metadata_table.cpp, strings.cpp).

A quote or a `#` counts at the beginning of a value only: `Bob's_grid` and `a#b` are values. A quoted value ends at its
quote followed by a blank. The first empty line after a row ends a table; empty lines before the rows do not. Tables
without quotes and comments, which is nearly every one, go through pandas' C parser.
"""

import functools
import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from equipose.errors import ConfigError, FileWarning

SAMPLED = 1000
"""Rows from which the type of a column is guessed; a later row of another type makes the column text."""

SIGNIFICANT = 1e-7
"""Relative error that six decimals may make; a column with smaller numbers is written with ten digits."""

EXTRA = "\0"
"""A column after the last one, for the surplus values of rows."""

TEXT = re.compile("Name|File|Image$|Path")
"""Labels of text, also where it looks like a number."""

_BLOCK = re.compile(rb"^[ \t]*data_(\S*)[^\n]*\n?", re.MULTILINE)
_EMPTY = re.compile(rb"\n[ \t]*(?=\n|\Z)")
_SPECIAL = re.compile(rb"[ \t\n][\"'#]")
_TOKEN = re.compile(
    r"""\s*(?:(?P<comment>\#.*)|(?P<quote>["'])(?P<quoted>.*?)(?<!\a)(?P=quote)(?=[ \t]|$)|(?P<plain>\S+))"""
)
_UNQUOTED = re.compile(r"""[^\s"'#_;][^\s]*""")
_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
_LONG = re.compile(r"[+-]?[0-9]{16,}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?nan|[+-]?inf")


def read_star(path: Path, as_text: bool = False) -> dict[str, pd.DataFrame]:
    """The tables of a star file by their names without `data_`; a list of labels is a table of one row.

    Columns are numbers where all of their values are, or all text with `as_text`. Line ends may be those of Unix, DOS
    or old Macs. Raises ConfigError, with the line's number, for a row with too few or too many values, a quote without
    an end, a column that is there twice, and bytes that are no text. Warns of rows after the empty line that ends a
    table, and of a second table of one name: RELION leaves them out too.
    """
    whole = _read_bytes(path)
    tables: dict[str, pd.DataFrame] = {}
    place = 0
    while block := _BLOCK.search(whole, place):
        name = block[1].decode(errors="replace")
        labels, start, place = _labels(whole, block.end())
        if labels is None:
            table, place = _list(path, whole, block.end(), as_text)
        else:
            if twice := [label for label in labels if labels.count(label) > 1]:
                raise ConfigError(f"star file {path}: table data_{name} has the column {twice[0]} twice: remove one")
            end = _EMPTY.search(whole, start - 1) if place == start else None
            place = end.start() + 1 if end else (len(whole) if place == start else place)
            table = _table(path, whole, start, place, labels, as_text)
            _warn_of_rows_left_out(path, whole, place, name)
        if name not in tables and table is not None:
            tables[name] = table
        elif table is not None:
            warnings.warn(
                f"star file {path} has table data_{name} again: the first counts, as for RELION, and {len(table)} rows"
                " are left out; join star files with relion_star_handler --combine",
                FileWarning,
                stacklevel=2,
            )
    return tables


def star_text(tables: dict[str, pd.DataFrame]) -> str:
    """A star file as RELION 3.1 writes them; numbers with six decimals, or ten digits where six decimals lose some."""
    parts = []
    for name, table in tables.items():
        labels = "".join(f"_{label} #{number} \n" for number, label in enumerate(table, start=1))
        columns = [_texts(table[label]) for label in table]
        rows = "".join(" ".join(row) + " \n" for row in zip(*columns, strict=True))
        parts.append(f"\n# version 30001\n\ndata_{name}\n\nloop_ \n{labels}{rows} \n")
    return "".join(parts)


def _read_bytes(path: Path) -> bytes:
    """The file with the line ends of Unix. Raises ConfigError where it is no text in UTF-8."""
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"star file {path} cannot be read ({error.strerror})") from error
    if whole[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(f"star file {path} cannot be read: it is UTF-16 text: save it as UTF-8")
    if b"\0" in whole:
        raise ConfigError(f"star file {path} cannot be read: it has bytes of zero: it is no text, or was damaged")
    whole = whole.replace(b"\r", b" " if b"\n" in whole else b"\n")  # as blanks at the ends of lines they do no harm
    try:
        whole.isascii() or whole.decode()
    except UnicodeDecodeError as error:
        line = whole[: error.start].count(b"\n") + 1
        raise ConfigError(f"star file {path} cannot be read: line {line} is not UTF-8 text: mend it") from error
    return whole.removeprefix(b"\xef\xbb\xbf")


def _lines(whole: bytes, start: int, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Place and text of each line that begins between two places."""
    stop = len(whole) if stop is None else stop
    while start < stop:
        end = whole.find(b"\n", start)
        end = len(whole) if end < 0 else end
        yield start, whole[start:end].strip()
        start = end + 1


def _labels(whole: bytes, start: int) -> tuple[list[str] | None, int, int]:
    """Labels of the loop after a block's name, where its rows start, and the next place to read on from.

    No labels: the block is a list. The two places differ where the loop has no rows.
    """
    labels: list[str] = []
    looped = False
    for begin, line in _lines(whole, start):
        if not looped:
            if line.startswith(b"loop_"):
                looped = True
            elif line.startswith(b"_") or line.startswith(b"data_"):
                return None, start, start
        elif line.startswith(b"_"):
            labels.append(line[1:].split()[0].split(b"#")[0].decode() if len(line) > 1 else "")
        elif line.startswith(b"data_") and len(line.split(b"#")[0].split()) == 1:  # not a row that begins so
            return labels, begin, begin - 1
        elif line and line[:1] not in b"#;":
            return labels, begin, begin
    return (labels, len(whole), len(whole)) if looped else (None, start, start)


def _list(path: Path, whole: bytes, start: int, as_text: bool) -> tuple[pd.DataFrame | None, int]:
    """A block of `_label value` lines as a table of one row, and where it ends."""
    row: dict[str, str] = {}
    end, stray = len(whole), 0
    for begin, line in _lines(whole, start):
        if line.startswith((b"data_", b"loop_")):
            end = begin
            break
        if line.startswith(b"_") and len(line) > 1:
            label, *values = _tokens(path, line.decode(), functools.partial(_line_number, whole, begin))
            row.setdefault(label[1:], values[0] if values else "")
        elif line and line[:1] not in b"#;":
            stray = stray or begin
    if stray and not any(row.values()):
        raise ConfigError(
            f"star file {path}: line {_line_number(whole, stray)} is no label: write a line loop_ before the labels of"
            " a table with rows"
        )
    table = pd.DataFrame([row], dtype=object) if row else None
    return (table if as_text or table is None else _typed(table)), end


def _table(path: Path, whole: bytes, start: int, end: int, labels: list[str], as_text: bool) -> pd.DataFrame:
    """Rows between two places as columns of text or numbers."""
    if not labels or not whole[start:end].strip():
        return pd.DataFrame({label: [] for label in labels})
    special = any(whole.find(mark, start, end) >= 0 for mark in (b'"', b"'", b"#"))
    if special and _SPECIAL.search(whole, max(0, start - 1), end):
        rows = _rows(path, whole, start, end, len(labels))
        table = pd.DataFrame(rows, columns=labels, dtype=str)
        return table if as_text else _typed(table)
    sample = [line.split() for _, line in itertools.islice(_lines(whole, start, end), SAMPLED)]
    if any(len(row) != len(labels) for row in sample):
        raise _ragged(path, whole, start, end, len(labels))
    kinds = {
        label: str if as_text else _kind(label, [row[column].decode() for row in sample])
        for column, label in enumerate(labels)
    }
    try:
        return _plain(whole, start, end, kinds)
    except (ValueError, OverflowError):  # a row of another type, or of too many values
        pass
    try:
        table = _plain(whole, start, end, dict.fromkeys(labels, str))
    except (ValueError, OverflowError):
        raise _ragged(path, whole, start, end, len(labels)) from None
    return table if as_text else _typed(table)


def _plain(whole: bytes, start: int, end: int, kinds: dict[str, type]) -> pd.DataFrame:
    """A table without quotes and comments. Raises ValueError for a ragged row, and for a value of another kind."""
    source = io.BytesIO(whole)  # shares the bytes
    source.seek(start)
    last = next(reversed(kinds))
    table = pd.read_csv(
        source,
        sep=r"\s+",
        header=None,
        names=[*kinds, EXTRA],
        index_col=False,
        dtype=kinds | {EXTRA: str},
        nrows=whole.count(b"\n", start, end) + (whole[end - 1 : end] != b"\n"),
        quoting=3,
        na_filter=False,
        engine="c",
        float_precision="high",
    )
    if (table.pop(EXTRA) != "").any() or (kinds[last] is str and (table[last] == "").any()):
        raise ValueError("ragged")
    return table


def _rows(path: Path, whole: bytes, start: int, end: int, columns: int) -> list[list[str]]:
    """Values of a table with quotes or comments, row by row."""
    rows = []
    for begin, line in _lines(whole, start, end):
        row = _tokens(path, line.decode(), functools.partial(_line_number, whole, begin))
        if row:
            if len(row) != columns:
                raise _wrong_count(path, _line_number(whole, begin), row, columns)
            rows.append(row)
    return rows


def _tokens(path: Path, line: str, number: Callable[[], int]) -> list[str]:
    """Values of one line, without their quotes and without a comment at its end."""
    values, place = [], 0
    line = line.rstrip()
    while place < len(line):
        found = _TOKEN.match(line, place)
        if found is None or (found["plain"] and found["plain"][0] in "\"'"):
            raise ConfigError(f"star file {path}: line {number()} has a quote that does not end: close it")
        if found["comment"]:
            break
        values.append(found["plain"] or found["quoted"].replace("\a", ""))
        place = found.end()
    return values


def _ragged(path: Path, whole: bytes, start: int, end: int, columns: int) -> ConfigError:
    """The error that names the first row with too few or too many values."""
    for begin, line in _lines(whole, start, end):
        if len(row := line.decode().split()) != columns:
            return _wrong_count(path, _line_number(whole, begin), row, columns)
    return ConfigError(f"star file {path} cannot be read: its rows are not what its labels say: write it again")


def _wrong_count(path: Path, line: int, row: list[str], columns: int) -> ConfigError:
    """The error of a line that has not one value for each of the columns, with what it seems to be."""
    if row[0].startswith("data_"):
        return ConfigError(
            f"star file {path}: line {line}, {row[0]}, follows the rows of another table at once: put an empty line"
            " before it, without which RELION takes it for a row"
        )
    if row[0].startswith("rln") and len(row) <= 2:
        return ConfigError(f"star file {path}: line {line} is a label without its underscore: write _{row[0]}")
    return ConfigError(
        f"star file {path}: line {line} has {len(row)} values, and its table has {columns} columns: mend the line"
        + (" (a name with blanks in it must stand in quotes)" if len(row) > columns else "")
    )


def _line_number(whole: bytes, place: int) -> int:
    return whole.count(b"\n", 0, place) + 1


def _warn_of_rows_left_out(path: Path, whole: bytes, place: int, name: str) -> None:
    """Rows after the empty line that ended a table, before the next one."""
    first, count = 0, 0
    for begin, line in _lines(whole, place):
        if line.startswith((b"data_", b"loop_", b"_")):
            break
        if line and not line.startswith((b"#", b";")):
            first, count = first or begin, count + 1
    if count:
        warnings.warn(
            f"star file {path}: the empty line before line {_line_number(whole, first)} ends table data_{name}, as it"
            f" does for RELION: {count} rows after it are left out; remove the empty line if they belong to it",
            FileWarning,
            stacklevel=2,
        )


def _kind(label: str, values: list[str]) -> type:
    if TEXT.search(label):
        return str
    if all(map(_INTEGER.fullmatch, values)):
        return np.int64
    if any(map(_LONG.fullmatch, values)):  # an identity, such as cryoSPARC's: a float would lose its last digits
        return str
    return np.float64 if all(_NUMBER.fullmatch(value.lower()) for value in values) else str


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of text as numbers, where all of their values are."""
    for label in table:
        kind = _kind(label, list(table[label]))
        if kind is not str:
            table[label] = table[label].astype(kind)
    return table


def _texts(column: pd.Series) -> list[str]:
    if column.dtype.kind == "f":
        values = column.to_numpy(np.float64)
        exact = np.allclose(np.round(values, 6), values, rtol=SIGNIFICANT, atol=0, equal_nan=True)
        form = "%.6f" if exact else "%.10g"
        return [form % value for value in values.tolist()]
    if column.dtype.kind == "b":
        column = column.astype(int)
    if column.dtype.kind in "iu":
        return list(map(str, column.tolist()))
    return [text if _UNQUOTED.fullmatch(text) else _quoted(text) for text in map(str, column)]


def _quoted(text: str) -> str:
    """In quotes that do not end the value too early. RELION 3.1 escapes quotes by bells, but cannot read these."""
    if "\n" in text:
        raise ConfigError(f"{text!r} cannot stand in a star file: it has a line end")
    for quote in "\"'":
        if not re.search(rf"{quote}([ \t]|$)", text):
            return quote + text + quote
    return '"' + re.sub(r'"(?=[ \t]|$)', '\a"', text) + '"'
