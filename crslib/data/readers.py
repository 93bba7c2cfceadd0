"""Files of rows, told apart by their first bytes, as tables of text in DuckDB: every cell stays as it is in the file,
so that an error can show it. Streams through a database on disk, so that memory is bounded.

Knows nothing of columns' meaning. Delimited text (also RecBole's atomic files), JSON lines (also one Python literal a
line), Parquet; text may be packed by gzip or zstd.
"""

import ast
import contextlib
import csv
import glob
import gzip
import json
import re
import stat
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb
import polars as pl

from crslib.dialogue.utterances import one_line
from crslib.errors import CrsError

MEMORY = "2500MB"  # of DuckDB; what does not fit goes to the temporary folder
_HEAD = 1 << 16  # bytes by which a file is known
_CHUNK = 1 << 24
_MAX_LITERAL = 1 << 20  # characters of a line that is read as a Python literal
_N_SAMPLED = 1000  # JSON lines whose keys are the columns
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_REFUSED = {
    b"PK": "a ZIP archive, not CSV, JSON lines or Parquet; unpack it, or import it as MovieLens data",
    b"BZh": "packed by bzip2; unpack it",
    b"\xfd7zXZ": "packed by xz; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"\xff\xfe": "UTF-16 text; save it in UTF-8",
    b"\xfe\xff": "UTF-16 text; save it in UTF-8",
}
_TYPED = re.compile(r"(.+):(token|token_seq|float|float_seq)")  # a column of RecBole


@dataclass(frozen=True)
class Workspace:
    """A DuckDB database on disk and a folder for what is unpacked; both vanish afterwards."""

    con: duckdb.DuckDBPyConnection
    folder: Path


@contextlib.contextmanager
def workspace() -> Iterator[Workspace]:
    """A workspace in the system's temporary folder, which needs about twice the size of the data."""
    with tempfile.TemporaryDirectory(prefix="crs-import-") as name:
        folder = Path(name)
        with duckdb.connect(str(folder / "rows.duckdb")) as con:
            con.sql(f"SET memory_limit = '{MEMORY}'")
            con.sql(f"SET temp_directory = {literal(str(folder / 'spill'))}")
            con.sql("SET TimeZone = 'UTC'")
            con.sql("SET force_compression = 'uncompressed'")  # it is read once or twice
            try:
                yield Workspace(con, folder)
            except duckdb.Error as error:
                raise CrsError(
                    f"the import stopped ({_brief(error)}); free memory, or space in {folder.parent}"
                ) from None


@dataclass(frozen=True)
class Plain:
    """Text that is not packed: fields between `delimiter` (one byte), after `skip` lines."""

    path: Path
    delimiter: str
    skip: int


@dataclass(frozen=True)
class Opened:
    """A file whose columns are known. `label`: its path in error messages, such as a member of an archive.

    `typed`: the type of each column that RecBole's header gives. `remarks`: how the file was read, where that is not
    obvious. `source`: what DuckDB reads; `cells`: each column's expression in it. `others`: further ways to read it,
    tried in turn. `plain`: where it is text that is not packed.
    """

    label: Path
    columns: Sequence[str]
    source: str
    cells: Mapping[str, str]
    typed: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    others: Sequence[str] = ()
    plain: Plain | None = None

    def query(self, chosen: Mapping[str, str], source: str | None = None, trimmed: bool = True) -> str:
        """A query of the columns `chosen` (name → column of the file) as text; null: an empty cell. `trimmed`: without
        blanks around it."""
        form = "nullif(trim({}), '')" if trimmed else "{}"
        picked = (f"{form.format(self.cells[column])} AS {quoted(name)}" for name, column in chosen.items())
        return f"SELECT {', '.join(picked)} FROM {source or self.source}"

    def load(self, con: duckdb.DuckDBPyConnection, chosen: Mapping[str, str], table: str) -> None:
        """Makes `table` of `query`. Its rowid is the number of the row, from 0.

        Raises `CrsError` with the line that cannot be read.
        """
        first = None
        for source in (self.source, *self.others):
            try:
                con.sql(f"CREATE OR REPLACE TABLE {quoted(table)} AS {self.query(chosen, source)}")
                return
            except duckdb.Error as error:
                first = first or str(error)
        raise CrsError(_reason(self.label, first or "", len(self.columns)))


def text_of(con: duckdb.DuckDBPyConnection, table: str) -> pl.DataFrame:
    """A loaded table in the order of its file, also without other white space than blanks around its cells."""
    frame = con.sql(f"SELECT * FROM {quoted(table)} ORDER BY rowid").pl()
    return frame.select(pl.all().str.strip_chars().replace("", None))


def literal(text: str) -> str:
    """`text` as a string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """`name` as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


# ── telling files apart ─────────────────────────────────────────────────────────────────────────────────────────


def open_file(work: Workspace, path: Path, label: Path) -> Opened:
    """The file at `path`, whose kind its first bytes tell.

    Raises `CrsError` when it is of another kind, a folder or a pipe, empty or damaged.
    """
    try:
        if stat.S_ISFIFO(path.stat().st_mode):
            raise CrsError(
                f"{label} is a pipe, which can be read only once; give the file, packed by gzip or zstd or not"
            )
        with path.open("rb") as file:
            start = file.read(_HEAD)
        packing = next((name for magic, name in _PACKED.items() if start.startswith(magic)), "none")
        if start.startswith(b"PAR1"):
            return _parquet(work, path, label)
        if packing == "gzip":
            with gzip.open(path) as unpacked:
                start = unpacked.read(_HEAD)
        elif packing == "zstd":
            start = _zstd_head(work, path)
    except OSError as error:
        if error.errno is None:
            raise CrsError(f"{label} is no whole gzip file ({_brief(error)}); download it again") from None
        raise CrsError(f"cannot read {label}: {error.strerror}; check the path") from None
    except (EOFError, zlib.error, duckdb.Error) as error:
        raise CrsError(f"{label} is no whole packed file ({_brief(error)}); download it again") from None
    for magic, what in _REFUSED.items():
        if start.startswith(magic):
            raise CrsError(f"{label} is {what}")
    if not start.strip():
        raise CrsError(f"{label} is empty; it must hold a header and rows")
    if b"\0" in start:
        utf16 = start[1::2].count(0) > len(start) // 4 or start[::2].count(0) > len(start) // 4
        what = "UTF-16 text; save it" if utf16 else "neither CSV or JSON lines (UTF-8) nor Parquet; export it"
        raise CrsError(f"{label} is {what} {'in UTF-8' if utf16 else 'as one of them'}")
    remarks = [] if packing == "none" else [f"packed by {packing}"]
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return _json_lines(work, path, label, start, packing, remarks)
    return _delimited(work, path, label, start, packing, remarks)


def _zstd_head(work: Workspace, path: Path) -> bytes:
    lines = work.con.sql(f"SELECT line FROM {_lines(path, 'zstd')} LIMIT 50").fetchall()
    return "\n".join(line or "" for (line,) in lines).encode()


def _lines(path: Path, packing: str) -> str:
    """The lines of a file as a source of DuckDB."""
    return (
        f"read_csv({literal(glob.escape(str(path)))}, auto_detect = false, columns = {{'line': 'VARCHAR'}}, delim = "
        f"'\x01', quote = '', escape = '', header = false, compression = '{packing}', max_line_size = 16777216)"
    )


# ── Parquet ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _parquet(work: Workspace, path: Path, label: Path) -> Opened:
    source = f"read_parquet({literal(glob.escape(str(path)))})"
    try:
        described = work.con.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()
    except duckdb.Error as error:
        raise CrsError(f"{label} is not a readable Parquet file ({_brief(error)}); export it again") from None
    cells = {name: cell for name, kind, *_ in described if (cell := _parquet_cell(quoted(name), kind))}
    return Opened(label, tuple(cells), source, cells)


def _parquet_cell(name: str, kind: str) -> str | None:
    """A column of Parquet as text: lists joined by `|`, times as seconds, whole numbers without a fraction (an id 7 is
    stored as 7.0 in a column with missing ones); None for what has no such form."""
    if kind.endswith("[]"):
        return f"array_to_string(list_transform({name}, lambda x: x::VARCHAR), '|')" if "(" not in kind else None
    if kind.startswith("TIMESTAMP"):
        return f"(epoch_ms({name}) // 1000)::VARCHAR"
    if kind in ("FLOAT", "DOUBLE"):
        whole = f"isfinite({name}) AND {name} = floor({name}) AND abs({name}) < 1e15"
        return f"CASE WHEN {whole} THEN {name}::BIGINT::VARCHAR ELSE {name}::VARCHAR END"
    if kind.startswith(("STRUCT", "MAP", "UNION", "BLOB", "INTERVAL")):
        return None
    return f"{name}::VARCHAR"


# ── JSON lines ──────────────────────────────────────────────────────────────────────────────────────────────────


def _json_lines(work: Workspace, path: Path, label: Path, start: bytes, packing: str, remarks: Sequence[str]) -> Opened:
    line = re.split(rb"\r?\n", start.removeprefix(b"\xef\xbb\xbf").lstrip(), maxsplit=1)[0]
    if start.lstrip().startswith(b"["):
        raise CrsError(f"{label} is one JSON list; write one record a line (JSON lines)")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        if _is_literal(line):
            path, packing = _literals(work, path, label, packing), "none"
            remarks = [*remarks, "each line is a Python literal"]
    objects = (
        f"{literal(glob.escape(str(path)))}, format = 'newline_delimited', compression = '{packing}', "
        "maximum_object_size = 16777216"
    )
    try:
        sampled = work.con.sql(
            f"SELECT json_keys(json) FROM read_json_objects({objects}) LIMIT {_N_SAMPLED}"
        ).fetchall()
    except duckdb.Error as error:
        raise CrsError(_reason(label, str(error), 0)) from None
    columns = tuple(dict.fromkeys(key for (keys,) in sampled for key in keys or ()))
    if not columns:
        raise CrsError(f"{label} does not hold one JSON object a line; write one record a line")
    numbered = {name: f"c{number}" for number, name in enumerate(columns)}
    cells = {name: f"json_extract_string(json, {literal('$.' + quoted(name))})" for name in numbered}
    return Opened(label, columns, f"read_json_objects({objects})", cells, remarks=remarks)


def _is_literal(line: bytes) -> bool:
    """Whether a line, or the beginning of one, is how Python writes a mapping."""
    return re.match(rb"\{\s*u?['\"][^'\"]+['\"]\s*:", line) is not None


def _literals(work: Workspace, path: Path, label: Path, packing: str) -> Path:
    """A file of Python literals, one mapping a line, as JSON lines in the workspace. Evaluates no code."""
    to = work.folder / f"{len(list(work.folder.iterdir()))}.jsonl"
    if packing == "zstd":
        raise CrsError(f"{label} holds Python literals packed by zstd; unpack it, or pack it by gzip")
    number = 0
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8") if packing == "gzip" else path.open(encoding="utf-8") as lines,
            to.open("w", encoding="utf-8") as written,
        ):
            while line := lines.readline(_MAX_LITERAL):
                number += 1
                if line.strip():
                    row = ast.literal_eval(line.strip())
                    if not isinstance(row, dict):
                        raise ValueError("it is no mapping")
                    written.write(
                        json.dumps({str(key): value for key, value in row.items()}, default=str, allow_nan=False) + "\n"
                    )
    except UnicodeDecodeError:
        raise CrsError(f"{label}: after line {number} this is not UTF-8 text; save the file in UTF-8") from None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        place = f"{label}, line {number}"
        raise CrsError(f"{place}: neither JSON nor a Python literal ({_brief(error)}); correct the line") from None
    except (EOFError, zlib.error, OSError) as error:
        raise CrsError(f"{label} cannot be read to its end ({_brief(error)}); download it again") from None
    return to


# ── delimited text ──────────────────────────────────────────────────────────────────────────────────────────────


def _delimited(work: Workspace, path: Path, label: Path, start: bytes, packing: str, remarks: Sequence[str]) -> Opened:
    """Text with a header. RecBole's header has types; nothing is quoted in such a file, and values of a sequence are
    separated by spaces."""
    path, encoding = in_utf8(work, path) if packing == "none" else (path, None)
    text = start.decode(encoding or "utf-8-sig", errors="replace")
    line = re.split(r"[\r\n]", text)[0]
    delimiter = max(",;\t|", key=line.count)
    if not encoding and "\ufffd" in line:
        raise CrsError(f"{label} does not begin with a header in UTF-8; save it as CSV in UTF-8 or as Parquet")
    try:
        header = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        raise CrsError(f"{label} does not begin with a header; save it as CSV in UTF-8 or as Parquet") from None
    if not header:
        raise CrsError(f"{label} begins with an empty line; its first line must be the header")
    if encoding:
        remarks = [*remarks, f"read as {encoding}, because it is not UTF-8"]
    matched = [_TYPED.fullmatch(name.strip()) for name in header]
    if all(matched):
        names = [match[1] for match in matched if match]
        typed = {match[1]: match[2] for match in matched if match}
        return replace(delimited(path, label, names, delimiter, "", 1, packing, remarks), typed=typed)
    return delimited(path, label, header, delimiter, '"', 1, packing, remarks)


def delimited(
    path: Path,
    label: Path,
    header: Sequence[str],
    delimiter: str,
    quote: str,
    skip: int,
    packing: str = "none",
    remarks: Sequence[str] = (),
) -> Opened:
    """Fields between `delimiter` under the names of `header`; the first `skip` lines are not read.

    `quote`: empty for none; quotes inside a quoted field are doubled, else escaped by a backslash, and where neither
    fits, quotes between tabs are text. Raises `CrsError` for two columns of one name.
    """
    names = [name.strip() or f"#{number}" for number, name in enumerate(header, start=1)]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise CrsError(f"{label} has two columns {duplicate!r}; rename one of them")
    columns = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(len(names)))

    def source(quote: str, escape: str) -> str:
        # The query names columns by number, so that no header is part of it.
        return (
            f"read_csv({literal(glob.escape(str(path)))}, auto_detect = false, columns = {{{columns}}}, "
            f"delim = {literal(delimiter)}, quote = {literal(quote)}, escape = {literal(escape)}, header = false, "
            f"skip = {skip}, compression = '{packing}')"
        )

    others = [source(quote, "\\")] if quote else []
    if quote and delimiter == "\t":
        others.append(source("", ""))
    cells = {name: f"c{number}" for number, name in enumerate(names)}
    plain = Plain(path, delimiter, skip) if packing == "none" and len(delimiter.encode()) == 1 else None
    return Opened(label, tuple(names), source(quote, quote), cells, remarks=remarks, others=others, plain=plain)


def in_utf8(work: Workspace, path: Path) -> tuple[Path, str | None]:
    """The file itself, or a copy in UTF-8 in the workspace and the encoding that it had: Windows-1252, else Latin-1."""
    if is_utf8(path):
        return path, None
    for encoding in ("cp1252", "latin-1"):
        to = work.folder / f"{len(list(work.folder.iterdir()))}.txt"
        try:
            with path.open("rb") as file, to.open("w", encoding="utf-8", newline="") as written:
                while chunk := file.read(_CHUNK):
                    written.write(chunk.decode(encoding))
            return to, encoding
        except UnicodeDecodeError:
            continue
    raise AssertionError("every byte is a character of Latin-1")


def is_utf8(path: Path) -> bool:
    """Whether the whole file is UTF-8."""
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            if not rest and chunk.isascii():
                continue
            chunk, rest = rest + chunk, b""
            try:
                chunk.decode()
            except UnicodeDecodeError as error:
                if error.reason != "unexpected end of data":
                    return False
                rest = chunk[error.start :]
    return not rest


def _reason(label: Path, message: str, width: int) -> str:
    """The sentence for an error of DuckDB in a file of `width` columns."""
    where = re.search(r"[Ll]ine:? (\d+)", message)
    place = f"{label}, line {where[1]}" if where else str(label)
    if "Malformed JSON" in message:
        number = int(where[1]) - 1 if where else 0  # DuckDB counts from 2
        return f"{label}, line {number}: this is no JSON object; write one whole record a line"
    if "maximum_object_size" in message or "Maximum line size" in message:
        return f"{place}: a line is longer than {'16' if 'object' in message else '2'} MB; shorten or split it"
    if fields := re.search(r"Found: (\d+)", message):
        return f"{place}: {fields[1]} fields where the header has {width}; quote text that holds the separator"
    if "unterminated quote" in message:
        return f"{place}: a quoted field does not end; close the quote, and double quotes inside the text"
    if "state machine" in message:
        return f"{place} ends its lines in different ways, or not as CSV does; save it again as CSV in UTF-8"
    if "unicode" in message.lower() or "utf-8" in message.lower():
        return f"{place}: this is not UTF-8 text; unpack the file if it is packed, or save it in UTF-8"
    if "gzip" in message.lower() or "zstd" in message.lower():
        return f"{label} is no whole packed file ({_brief(message)}); download it again"
    return f"{place} cannot be read ({_brief(message)}); export it again"


def _brief(error: object) -> str:
    return one_line(str(error))[:120]
