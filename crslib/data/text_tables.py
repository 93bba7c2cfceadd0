"""CSV and Parquet files as tables of text: every cell stays as it is in the file, so that an error can show it.

Knows nothing of columns and their meaning.
"""

import csv
import glob
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import polars as pl

from crslib.dialogue.utterances import one_line
from crslib.errors import CrsError


def read(path: Path, label: Path) -> pl.DataFrame:
    """A CSV file (UTF-8, with a header) or a Parquet file, recognised by its first bytes. Null: an empty cell.

    `label`: the path in error messages, such as a member of an archive. Raises `CrsError` when the file is neither or
    is damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4096)
        if not start.strip():
            raise CrsError(f"{label} is empty; it must hold a header and rows")
        if start.startswith(b"PAR1"):
            return _read_parquet(path)
        if start.startswith(b"PK\x03\x04"):
            raise CrsError(f"{label} is a ZIP archive, not CSV or Parquet; unpack it, or import it as MovieLens data")
        if b"\0" in start:
            raise CrsError(f"{label} is neither CSV text (UTF-8) nor Parquet; export it as one of them")
        with path.open("rb") as file:
            line = re.split(r"[\r\n]", file.readline(1 << 20).decode("utf-8-sig"))[0]
        delimiter = max(",;\t|", key=line.count)
        header = next(csv.reader([line], delimiter=delimiter))
        if not header:
            raise CrsError(f"{label} begins with an empty line; its first line must be the header")
    except OSError as error:
        raise CrsError(f"cannot read {label}: {error.strerror}; check the path") from None
    except (UnicodeDecodeError, csv.Error):
        raise CrsError(
            f"{label} does not begin with a header in UTF-8; save it as CSV in UTF-8 or as Parquet"
        ) from None
    except pl.exceptions.PolarsError as error:
        raise CrsError(f"{label} is not a readable Parquet file ({_brief(error)}); export it again") from None
    return read_delimited(path, label, header, delimiter, quote='"', skip=1)


def _read_parquet(path: Path) -> pl.DataFrame:
    frame = pl.read_parquet(path, glob=False)
    texts = []
    for name, dtype in frame.schema.items():
        column = pl.col(name)
        if isinstance(dtype, pl.List):
            column = column.list.eval(pl.element().cast(pl.String)).list.join("|")
        elif isinstance(dtype, pl.Datetime):
            column = column.dt.epoch("s")
        elif dtype.is_float() and frame[name].is_finite().all() and (frame[name].drop_nulls() % 1 == 0).all():
            column = column.cast(pl.Int64)  # an id 7 is stored as 7.0 in a column with missing ones
        elif not (dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Date)):
            continue
        texts.append(column.cast(pl.String).str.strip_chars().replace("", None))
    return frame.select(texts)


def read_delimited(
    path: Path, label: Path, header: Sequence[str], delimiter: str, quote: str, skip: int, encoding: str = "utf-8"
) -> pl.DataFrame:
    """A file of fields between `delimiter`, with the names of `header`; the first `skip` lines are not read.

    `quote`: empty for none. Raises `CrsError` with the line that cannot be read, and for two columns of one name.
    """
    # The query names columns by number, so that no header is part of it.
    columns = ", ".join(f"'{number}': 'VARCHAR'" for number in range(len(header)))
    query = f"""
        SELECT * FROM read_csv($path, auto_detect = false, columns = {{{columns}}}, delim = $delimiter, quote = $quote,
                               escape = $quote, header = false, skip = $skip, encoding = $encoding)
    """
    values = {"path": glob.escape(str(path)), "delimiter": delimiter, "quote": quote}
    try:
        with duckdb.connect() as con:
            con.sql("SET threads = 1")
            frame = con.sql(query, params={**values, "skip": skip, "encoding": encoding}).pl()
    except duckdb.Error as error:
        raise CrsError(_csv_error(label, str(error), len(header))) from None
    frame = frame.select(pl.all().str.strip_chars().replace("", None))
    names = [name.strip() or f"#{number}" for number, name in enumerate(header, start=1)]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise CrsError(f"{label} has two columns {duplicate!r}; rename one of them")
    return frame.rename(dict(zip(frame.columns, names, strict=True)))


def _csv_error(label: Path, message: str, width: int) -> str:
    """The sentence for an error of DuckDB in a file of `width` columns."""
    where = re.search(r"Line: (\d+)", message)
    place = f"{label}, line {where[1]}" if where else str(label)
    if fields := re.search(r"Found: (\d+)", message):
        return f"{place}: {fields[1]} fields where the header has {width}; quote text that holds the separator"
    if "unterminated quote" in message:
        return f"{place}: a quoted field does not end; close the quote, and double quotes inside the text"
    if "state machine" in message:
        return f"{place} ends its lines in different ways, or not as CSV does; save it again as CSV in UTF-8"
    if "unicode" in message.lower() or "utf-8" in message.lower():
        return f"{place}: this is not UTF-8 text; save the file in UTF-8"
    return f"{place} cannot be read as CSV ({_brief(message)}); export it again"


def _brief(error: object) -> str:
    return one_line(str(error))[:120]
