"""A delimited file whose ids are whole numbers, read as numbers: a third of the time that the same cells take as text.

What a number hides must not be hidden from the caller: `007`, `+7` and `7` are three ids as text and one as numbers. So
a file is read here only where every id is written as numbers are; any other is left to be read as text, which can also
say what is wrong with it.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from crslib.data.readers import Opened, Plain

_MOST = 1_500_000_000  # bytes of a file, of which the numbers take about as much memory
_SHORT = 1 << 31
_CHUNK = 1 << 18  # bytes, so that what is computed of them stays in a core's cache
_ODD = np.zeros(256, bool)  # bytes at which no number begins here
_ODD[list(b"+- \t\v\f")] = True


def read(opened: Opened, columns: Mapping[str, str]) -> pl.DataFrame | None:
    """The rows of a file as numbers, or None where they have to be read as text.

    `columns`: user_id, item_id and perhaps rating and rated_at → column of the file. Columns `columns` as Int64 (ids
    as Int32 where they fit), rating as Float64, and row (from 0); null: an empty cell.
    """
    plain = opened.plain
    if plain is None or plain.path.stat().st_size > _MOST or len(set(columns.values())) < len(columns):
        return None
    names = {opened.columns.index(column): name for name, column in columns.items()}
    types = {"rating": pl.Float64, **dict.fromkeys(("user_id", "item_id", "rated_at"), pl.Int64)}
    schema = {name: types.get(name, pl.String) for name in (names.get(n, f"#{n}") for n in range(len(opened.columns)))}
    scan = pl.scan_csv(
        plain.path, separator=plain.delimiter, has_header=False, skip_rows=plain.skip, quote_char=None, schema=schema
    )
    with ThreadPoolExecutor(1) as beside:
        looking = beside.submit(_rows, plain, len(opened.columns))
        try:
            frame = scan.select(list(columns)).collect()
        except pl.exceptions.PolarsError:
            return None
    if len(frame) != looking.result():
        return None
    short = [name for name in ("user_id", "item_id") if (frame[name] < _SHORT).all()]
    return frame.with_columns(pl.col(short).cast(pl.Int32)).with_row_index("row")


def _rows(plain: Plain, n_columns: int) -> int | None:
    """The number of rows of a file in which each has `n_columns` cells, and no cell is quoted or begins with a
    blank, a sign or a needless zero; None of any other file."""
    delimiter = plain.delimiter.encode()
    n_lines = n_delimiters = 0
    before = b"\n"
    with plain.path.open("rb") as file:
        for _ in range(plain.skip):
            file.readline()
        while chunk := file.read(_CHUNK):
            if b'"' in chunk:
                return None
            data = np.frombuffer(before + chunk, np.uint8)
            ends, parts = data == ord("\n"), data == delimiter[0]
            n_lines += int(np.count_nonzero(ends[len(before) :]))
            n_delimiters += int(np.count_nonzero(parts[len(before) :]))
            begins = np.flatnonzero((ends | parts)[:-2])
            first, second = data[begins + 1], data[begins + 2] - np.uint8(ord("0"))
            if (((first == ord("0")) & (second < 10)) | (_ODD[first] & (first != delimiter[0]))).any():
                return None
            before = bytes(data[-2:])
    n_lines += before[-1:] != b"\n"
    return n_lines if n_delimiters == n_lines * (n_columns - 1) else None
